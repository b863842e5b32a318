//! The fold: from frames to series.
//!
//! A call produces thousands of frames from dozens of clients. Some clients crash, some repeat
//! themselves, and the pipeline may deliver twice or fall behind. The result is small: the present
//! state of each live session, and the totals of everything.
//!
//! The core is pure: a frame, its stream time and the present go in, and changes to the series come
//! out. It does no I/O and has no clock, so live serving and replay are the same code under another
//! clock.
//!
//! Invariants:
//! - A session belongs to the meeting and participant that began it. A frame of another one under
//!   its `session_id` changes nothing.
//! - The highest `seq` of a session is its watermark. A frame at or below it changes nothing, nor
//!   does one more than [`MAX_SEQ_JUMP`] above it.
//! - Cumulative counters count as growth since the last folded frame, so a gap is harmless.
//!   Rates, which packets have instead, become counts.
//! - A frame older than the idle timeout feeds the counters, never the gauges.
//! - A session that ends, falls idle or moves loses all of its series; a peer that a frame lacks
//!   loses those of its pair.

#![warn(missing_docs)]

mod budget;
mod counters;
mod degraded;
mod detail;
mod expiry;
mod population;
mod rates;
pub mod series;
mod session;
mod settings;
#[cfg(test)]
mod tests;
mod time;
mod view;

use std::sync::Arc;
use std::time::Duration;

use hashbrown::hash_map::EntryRef;
use hashbrown::{DefaultHashBuilder, HashMap};

use budget::Holding;
pub use budget::SessionBudget;
use expiry::Expiry;
use population::shrink;
use session::Session;
pub use settings::{DetailLevel, FoldSettings, Limits, Thresholds};
pub use time::StreamTime;
pub use view::Unfolded;
use view::{Step, View};

use callsight_frame::subject::Region;
use callsight_frame::{Frame, Seq};
pub use series::aggregates::Refusal;
use series::aggregates::{AggregateRecorder, RegionSeries, Removal};
use series::detail::DetailStore;

/// How long a session's watermark and counters are remembered after its last frame, live or not: as
/// long as the stream's duplicate window, in which a publisher may still resend a frame.
pub const REMEMBERED: Duration = Duration::from_secs(120);

/// How many entries of the expiry may be stale beside one for each session.
const STALE_ENTRIES: usize = 1024;

/// How far above its session's watermark a frame may be. More frames can't have been lost while the
/// session was remembered, even if `seq` counts milliseconds, so the number is wrong: as a
/// watermark it would hide the session.
pub const MAX_SEQ_JUMP: u64 = 10_000_000;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It changed the series.
    Folded,
    /// It fed the counters alone, because it was older than the idle timeout.
    Late,
    /// It was at or below its session's watermark and changed nothing.
    Repeated,
    /// It was valid and changed nothing, for a reason.
    Refused(Refusal),
}

/// The fold of one region.
pub struct Fold {
    sessions: HashMap<Arc<str>, Box<Session>>,
    /// Hashes the owners of ended sessions, with a seed that nobody knows.
    owners: DefaultHashBuilder,
    budget: SessionBudget,
    expiry: Expiry,
    view: View,
}

impl Fold {
    /// Makes an empty fold. Aggregates are registered with `recorder`, detail rows are opened in
    /// `detail`, and sessions take their places in `budget`; folds may share all three.
    #[must_use]
    pub fn new(
        region: &Region,
        settings: FoldSettings,
        (recorder, detail, budget): (Arc<AggregateRecorder>, DetailStore, SessionBudget),
        own: Arc<RegionSeries>,
    ) -> Self {
        let view = View::new(region, settings, recorder, detail, budget.clone(), own);
        Self {
            sessions: HashMap::new(),
            owners: DefaultHashBuilder::default(),
            budget,
            expiry: Expiry::default(),
            view,
        }
    }

    /// The number of live sessions.
    #[must_use]
    pub const fn live_sessions(&self) -> usize {
        self.view.live_sessions()
    }

    /// What the budget for sessions has refused.
    #[must_use]
    pub const fn unfolded(&self) -> Unfolded {
        self.view.unfolded
    }

    /// Folds a frame that the stream received `at`, at the present moment `now`.
    pub fn frame(&mut self, frame: &Frame<'_>, at: StreamTime, now: StreamTime) -> Outcome {
        let outcome = self.fold(frame, at, now, true);
        self.view.count(outcome, frame, at, now);
        outcome
    }

    /// Takes the gauges, watermark and counters of a frame without counting anything: a restart
    /// does so with the frames that were folded before it. A row that finds no room is still
    /// counted as refused.
    pub fn warm(&mut self, frame: &Frame<'_>, at: StreamTime, now: StreamTime) -> Outcome {
        self.fold(frame, at, now, false)
    }

    /// Removes the sessions that have been idle for the idle timeout, and the servers, releases and
    /// paths that nobody has used for theirs. To be called about once per second.
    pub fn tick(&mut self, now: StreamTime) {
        let idle_timeout = self.view.settings().idle_timeout;
        while let Some((session_id, due)) = self.expiry.take_due(now) {
            let Some(session) = self.sessions.get_mut(&session_id) else { continue };
            if session.due != due {
                continue;
            }
            let before = Holding::of(session);
            let idle_at = session.last_seen + idle_timeout;
            let next = if session.live.is_some() && idle_at > now {
                idle_at
            } else {
                self.view.leave(session, Removal::Idle, idle_at, true);
                session.touched + REMEMBERED
            };
            self.budget.replace(before, Holding::NONE);
            if next > now && (session.live.is_some() || self.budget.may_remember(session)) {
                self.budget.replace(Holding::NONE, Holding::of(session));
                session.due = next;
                self.expiry.put(next, session_id);
            } else {
                self.sessions.remove(&session_id);
            }
        }
        self.view.remove_idle_groups(now);
        shrink(&mut self.sessions);
        self.expiry.shrink();
    }

    fn fold(&mut self, frame: &Frame<'_>, at: StreamTime, now: StreamTime, counting: bool) -> Outcome {
        let idle_timeout = self.view.settings().idle_timeout;
        let entry = self.sessions.entry_ref(frame.session_id.as_str());
        let (watermark, last_seen, live) = match &entry {
            EntryRef::Occupied(entry) => {
                let session = entry.get();
                if !session.belongs_to(frame, &self.owners) {
                    return Outcome::Refused(Refusal::NotOwner);
                }
                if frame.seq.get().saturating_sub(session.watermark) > MAX_SEQ_JUMP {
                    return Outcome::Refused(Refusal::SeqJump);
                }
                (session.watermark, session.last_seen, session.live.is_some())
            }
            EntryRef::Vacant(_) => (0, StreamTime::default(), false),
        };
        if frame.seq.get() <= watermark {
            return Outcome::Repeated;
        }
        // A stream whose clock is ahead must not keep a session longer than one whose clock is
        // right.
        let last_seen = last_seen.max(at.min(now));
        let idle_at = last_seen + idle_timeout;
        let (late, ended) = (idle_at <= now, frame.ended == Some(true));
        let alive = !late && !ended;
        if alive && !live && !self.budget.enter() {
            self.view.unfolded.frames += 1;
            return Outcome::Refused(Refusal::MaxSessions);
        }
        let (session, known) = match entry {
            EntryRef::Occupied(entry) => (entry.into_mut(), true),
            EntryRef::Vacant(entry) => (
                entry.insert_with_key(frame.session_id.as_str().into(), Box::new(Session::new(frame))),
                false,
            ),
        };
        let before = if known { Holding::of(session) } else { Holding::NONE };
        let passed = if known { last_seen.since(session.last_seen) } else { Duration::ZERO };
        session.revive(frame);
        let watermark = std::mem::replace(&mut session.watermark, frame.seq.get());
        session.last_seen = last_seen;
        session.touched = now;

        let due = if alive { idle_at } else { now + idle_timeout };
        let comes_forward = !known || (alive && !live && due < session.due);
        if comes_forward {
            session.due = due;
        }
        // A session first seen midway, or back after its end, has counters from before, of which an
        // unknown part was folded elsewhere. Its first frame is only the baseline of the next one.
        let growing = session.followed || frame.seq == Seq::FIRST;
        session.followed = true;
        self.view.fold(session, frame, Step { alive, growing, counting, passed, watermark });
        if !alive {
            self.view.leave(session, if ended { Removal::Ended } else { Removal::Idle }, now, counting);
            if ended {
                session.end(&self.owners);
            }
        }
        self.budget.replace(before, Holding::NONE);
        if alive || self.budget.may_remember(session) {
            self.budget.replace(Holding::NONE, Holding::of(session));
            // The queue shares the name with the map: a copy would cost a stranger's session 144
            // bytes more.
            if comes_forward && let Some((id, _)) = self.sessions.get_key_value(frame.session_id.as_str()) {
                self.expiry.put(due, Arc::clone(id));
            }
        } else {
            self.sessions.remove(frame.session_id.as_str());
        }
        // Sessions that were forgotten have left their entries.
        if self.expiry.len() > 2 * self.sessions.len() + STALE_ENTRIES {
            let sessions = &self.sessions;
            self.expiry.retain(|due, id| sessions.get(id).is_some_and(|session| session.due == due));
        }
        if late { Outcome::Late } else { Outcome::Folded }
    }
}
