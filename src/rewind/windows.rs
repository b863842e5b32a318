//! The windows that are folded: each once, whoever views it.
//!
//! Folding an hour takes seconds, and an incident has many viewers with the same link. So windows
//! are kept by what was asked for. They are folded one at a time, and the one that nobody has
//! looked at for longest makes room for the next.
//!
//! Invariant: number, length and disk of windows are within their limits, whatever is asked for.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::recorder::Recorder;
use super::tape::Tape;
use crate::replay::engine::{EngineConfig, Filter};
use crate::replay::progress::Control;
use crate::replay::sink::Sink;
use crate::replay::window::{Moment, Window, rfc3339};
use crate::replay::{self, ReplayError};
use crate::triage::Fixed;
use callsight_fold::StreamTime;

/// How long a window that failed is kept from being folded again.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// What bounds the windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowLimits {
    /// The number of windows.
    pub(crate) windows: usize,
    /// The longest one.
    pub(crate) length: Duration,
    /// The time from one moment that is kept to the next.
    pub(crate) step: Duration,
    /// The bytes of all on disk.
    pub(crate) bytes: u64,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) from: StreamTime,
    pub(super) to: StreamTime,
    /// Only this meeting.
    pub(super) meeting: Option<String>,
}

/// The question can't be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(
        "the window ends before it begins, or is shorter than {}: choose a longer one",
        humantime::format_duration(*.0)
    )]
    Empty(Duration),
    #[error("the window is longer than {}: choose a shorter one, or allow it with --max-window", humantime::format_duration(*.0))]
    TooLong(Duration),
    #[error("all {0} windows are being folded: try again when one is done")]
    Busy(usize),
    #[error("a window has no place on disk: {0}; check --folder")]
    Disk(#[from] std::io::Error),
}

impl Asked {
    /// The window from one moment to another; relative ones count from `now`, and none is later.
    pub(super) fn new(
        from: Moment,
        to: Moment,
        meeting: Option<String>,
        now: StreamTime,
        limits: &WindowLimits,
    ) -> Result<Self, AskError> {
        // Whole steps, so that the same question is the same window.
        let step = i128::try_from(limits.step.as_nanos()).unwrap_or(i128::MAX);
        let down = |moment: Moment| {
            let nanos = moment.from(now).min(now).unix_nanos();
            StreamTime::from_unix_nanos(nanos - nanos.rem_euclid(step))
        };
        let (from, to) = (down(from), down(to));
        if from >= to {
            return Err(AskError::Empty(limits.step));
        }
        if to.since(from) > limits.length {
            return Err(AskError::TooLong(limits.length));
        }
        Ok(Self { from, to, meeting })
    }

    /// Whether one of its steps shows the moment; the last one does until the next would come.
    fn has(&self, moment: StreamTime, step: Duration) -> bool {
        (self.from..self.to + step).contains(&moment)
    }
}

/// How far a window is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Others are folded first.
    Waiting,
    Folding,
    Folded,
    Failed(String),
}

/// A window, and what is known of it. It is stopped when nobody has it any more.
pub(super) struct Entry {
    pub(super) asked: Asked,
    pub(super) tape: Arc<Tape>,
    pub(super) control: Control,
    phase: Mutex<(Phase, Instant)>,
    used: Mutex<Instant>,
}

impl Entry {
    pub(super) fn phase(&self) -> Phase {
        locked(&self.phase).0.clone()
    }

    fn enter(&self, phase: Phase) {
        *locked(&self.phase) = (phase, Instant::now());
    }

    fn is_done(&self) -> bool {
        matches!(locked(&self.phase).0, Phase::Folded | Phase::Failed(_))
    }

    /// Whether it failed long enough ago for another attempt.
    fn may_try_again(&self) -> bool {
        let (phase, since) = &*locked(&self.phase);
        matches!(phase, Phase::Failed(_)) && since.elapsed() > FAILED_FOR
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.control.stop();
    }
}

/// How windows are read and judged.
pub(super) struct Folding {
    pub(super) context: Context,
    /// What all windows have in common; the window and the filter are those asked for.
    pub(super) engine: EngineConfig,
    pub(super) fixed: Fixed,
    /// Where tapes are.
    pub(super) folder: PathBuf,
    pub(super) limits: WindowLimits,
}

/// All windows. Clones share them.
#[derive(Clone)]
pub(super) struct Windows(Arc<Shared>);

struct Shared {
    folding: Folding,
    /// In the order in which they were asked for first.
    entries: Mutex<Vec<Arc<Entry>>>,
    turn: Semaphore,
}

impl Windows {
    pub(super) fn new(folding: Folding) -> Self {
        Self(Arc::new(Shared { folding, entries: Mutex::default(), turn: Semaphore::new(1) }))
    }

    pub(super) fn limits(&self) -> &WindowLimits {
        &self.0.folding.limits
    }

    pub(super) fn fixed(&self) -> &Fixed {
        &self.0.folding.fixed
    }

    /// All windows, the newest first.
    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        locked(&self.0.entries).iter().rev().cloned().collect()
    }

    /// The window that is asked for; folding begins if it is new.
    pub(super) fn open(&self, asked: &Asked) -> Result<Arc<Entry>, AskError> {
        let mut entries = locked(&self.0.entries);
        entries.retain(|entry| entry.asked != *asked || !entry.may_try_again());
        if let Some(entry) = entries.iter().find(|entry| entry.asked == *asked) {
            *locked(&entry.used) = Instant::now();
            return Ok(Arc::clone(entry));
        }
        let Folding { limits, folder, .. } = &self.0.folding;
        while entries.len() >= limits.windows.max(1) {
            forget_one(&mut entries).ok_or(AskError::Busy(limits.windows))?;
        }
        let entry = Arc::new(Entry {
            asked: asked.clone(),
            tape: Arc::new(Tape::new(folder)?),
            control: Control::default(),
            phase: Mutex::new((Phase::Waiting, Instant::now())),
            used: Mutex::new(Instant::now()),
        });
        entries.push(Arc::clone(&entry));
        drop(entries);
        tokio::spawn(self.clone().fold(Arc::downgrade(&entry)));
        Ok(entry)
    }

    /// The newest window that has a moment.
    pub(super) fn with(&self, moment: StreamTime) -> Option<Arc<Entry>> {
        let entry = self.all().into_iter().find(|entry| entry.asked.has(moment, self.limits().step))?;
        *locked(&entry.used) = Instant::now();
        Some(entry)
    }

    /// Folds a window when its turn comes, unless it was forgotten meanwhile.
    async fn fold(self, entry: std::sync::Weak<Entry>) {
        let Ok(_turn) = self.0.turn.acquire().await else { return };
        let Some((asked, tape, control)) = entry.upgrade().map(|entry| {
            entry.enter(Phase::Folding);
            (entry.asked.clone(), Arc::clone(&entry.tape), entry.control.clone())
        }) else {
            return;
        };
        let bytes = self.make_room();
        let folded = self.0.folding.run(asked, tape, bytes, control).await;
        let Some(entry) = entry.upgrade() else { return };
        entry.enter(match folded {
            Ok(()) => Phase::Folded,
            Err(error) => {
                let why = error.to_string();
                tracing::warn!(
                    from = rfc3339(entry.asked.from),
                    to = rfc3339(entry.asked.to),
                    why,
                    "a window failed"
                );
                Phase::Failed(why)
            }
        });
    }

    /// Forgets windows until half of the disk's share is free. Returns what is left for the next.
    fn make_room(&self) -> u64 {
        let most = self.limits().bytes;
        let mut entries = locked(&self.0.entries);
        loop {
            let taken: u64 = entries.iter().map(|entry| entry.tape.len()).sum();
            if taken <= most / 2 || forget_one(&mut entries).is_none() {
                return most.saturating_sub(taken);
            }
        }
    }
}

impl Folding {
    async fn run(
        &self,
        asked: Asked,
        tape: Arc<Tape>,
        max_bytes: u64,
        control: Control,
    ) -> Result<(), ReplayError> {
        let engine = EngineConfig {
            window: Window::aligned(asked.from, asked.to, self.limits.step),
            filter: Filter { meetings: asked.meeting.into_iter().collect(), sessions: Vec::new() },
            ..self.engine.clone()
        };
        let recorder = Recorder::new(self.fixed.clone(), tape, self.folder.clone(), max_bytes);
        let extents = control.unless_stopped(replay::extents(&self.context, &engine)).await??;
        let sinks: Vec<Box<dyn Sink>> = vec![Box::new(recorder)];
        replay::run(&self.context, engine, extents, sinks, control).await.map(drop)
    }
}

/// Forgets the window, of those that are not being folded, that nobody has used for longest.
fn forget_one(entries: &mut Vec<Arc<Entry>>) -> Option<()> {
    let done = entries.iter().enumerate().filter(|(_, entry)| entry.is_done());
    let (oldest, _) = done.min_by_key(|(_, entry)| *locked(&entry.used))?;
    entries.remove(oldest);
    Some(())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The present on the clock of streams.
pub(super) fn now() -> StreamTime {
    StreamTime::from_unix_nanos(OffsetDateTime::now_utc().unix_timestamp_nanos())
}
