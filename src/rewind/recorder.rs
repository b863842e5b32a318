//! A replay's output that keeps the page of each step.
//!
//! Invariant: a step is judged by those before it in its window, as a live page is by its looks.

use std::path::PathBuf;
use std::sync::Arc;

use time::OffsetDateTime;

use super::tape::{Mark, Shot, Tape};
use crate::consume::HealthReport;
use crate::insight::spell::Clocks;
use crate::insight::state::State;
use crate::replay::account::Account;
use crate::replay::engine::Moment;
use crate::replay::sink::{Sink, SinkError};
use crate::triage::{Drill, Fixed, Memory, Summary, View};
use callsight_fold::StreamTime;

pub(super) struct Recorder {
    fixed: Fixed,
    tape: Arc<Tape>,
    /// Where the tape is, for errors.
    folder: PathBuf,
    /// The most bytes that the tape may have.
    max_bytes: u64,
    memory: Memory,
    /// The first step, where the steady clock begins.
    first: Option<StreamTime>,
    was_bad: bool,
}

impl Recorder {
    pub(super) fn new(fixed: Fixed, tape: Arc<Tape>, folder: PathBuf, max_bytes: u64) -> Self {
        Self { fixed, tape, folder, max_bytes, memory: Memory::default(), first: None, was_bad: false }
    }

    fn note_verdict(&mut self, at: StreamTime, summary: &Summary) {
        let bad = summary.verdict.state == State::Bad;
        if bad != self.was_bad {
            self.was_bad = bad;
            self.tape.note(at, bad.then(|| summary.verdict.sentence.clone()));
        }
    }
}

impl Sink for Recorder {
    fn look(&mut self, moment: &Moment<'_>) -> Result<(), SinkError> {
        let at = moment.at;
        let steady = at.since(*self.first.get_or_insert(at));
        let wall =
            OffsetDateTime::from_unix_timestamp_nanos(at.unix_nanos()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let reports = moment.regions.iter().map(|(region, live_sessions)| HealthReport {
            region: region.to_string(),
            ready: true,
            lag_seconds: Some(0.0),
            live_sessions: *live_sessions,
            ..HealthReport::default()
        });
        let view = View {
            aggregates: moment.aggregates.clone(),
            detail: moment.detail.clone(),
            fixed: self.fixed.clone(),
        };
        let now = at.unix_seconds();
        let summary = view.look(&mut self.memory, Clocks { wall, steady }, now, reports.collect());
        self.note_verdict(at, &summary);
        let marks = summary.regions.iter().map(|region| Mark {
            state: region.state,
            sessions: region.people.sessions,
            sessions_degraded: region.people.sessions_degraded,
        });
        let marks = marks.collect();
        let pushed = shot(&view, &summary, now).and_then(|shot| self.tape.push(at, &shot, marks));
        let bytes = pushed.map_err(|source| SinkError::Write { path: self.folder.clone(), source })?;
        if bytes > self.max_bytes {
            let most = self.max_bytes >> 20;
            let why = format!(
                "the window takes more than {most} MiB on disk: choose a shorter one, or one meeting"
            );
            return Err(SinkError::Bound(why));
        }
        Ok(())
    }

    fn looks_at_steps(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>, _: &Account) -> Result<Vec<String>, SinkError> {
        Ok(Vec::new())
    }
}

/// Everything that can be asked about the moment.
fn shot(view: &View, summary: &Summary, now: f64) -> std::io::Result<Shot> {
    let mut shot = Shot { summary: serde_json::to_vec(summary)?.into(), ..Shot::default() };
    for session in &summary.worst_sessions {
        // A session that is listed is there: nothing is folded meanwhile.
        if let Ok(json) = view.drill(&Drill::Session(session.session_id.clone()), now) {
            shot.sessions.push((session.session_id.clone(), json));
        }
        let meeting = &session.meeting_id;
        if shot.meetings.iter().any(|(id, _)| id == meeting) {
            continue;
        }
        if let Ok(json) = view.drill(&Drill::Meeting(meeting.clone()), now) {
            shot.meetings.push((meeting.clone(), json));
        }
    }
    Ok(shot)
}
