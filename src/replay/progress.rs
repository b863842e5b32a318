//! How far a replay is, for whoever waits for it, and the wish that it stop.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::sink::SinkError;

/// How often the line is written: on a terminal over itself, elsewhere one under the other.
const TERMINAL_LINE: Duration = Duration::from_millis(250);
const LOG_LINE: Duration = Duration::from_secs(5);

/// The bar's characters.
const BAR: usize = 24;

/// In how many parts a phase is counted.
const PARTS: u64 = 1_000_000;

/// The common knowledge of those who work and those who watch. Clones share it.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

struct Shared {
    stopped: watch::Sender<bool>,
    done: AtomicU64,
    phase: Mutex<(&'static str, Instant)>,
    /// What to say beside the bar.
    note: Mutex<String>,
}

impl Default for Control {
    fn default() -> Self {
        Self(Arc::new(Shared {
            stopped: watch::Sender::new(false),
            done: AtomicU64::new(0),
            phase: Mutex::new(("reading", Instant::now())),
            note: Mutex::new(String::new()),
        }))
    }
}

impl Control {
    /// Whoever works on it is to stop.
    pub fn stop(&self) {
        self.0.stopped.send_replace(true);
    }

    /// Whether it is to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.0.stopped.borrow()
    }

    /// Waits until it is to stop.
    pub async fn stopped(&self) {
        let mut stopped = self.0.stopped.subscribe();
        // The sender lives as long as this does.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    /// Goes on, unless it is to stop.
    ///
    /// # Errors
    /// [`SinkError::Stopped`].
    pub fn check(&self) -> Result<(), SinkError> {
        if self.is_stopped() { Err(SinkError::Stopped) } else { Ok(()) }
    }

    /// Something else is being done from now on.
    pub fn phase(&self, phase: &'static str) {
        *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner) = (phase, Instant::now());
        self.0.note.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.0.done.store(0, Relaxed);
    }

    /// How much of it is done.
    pub fn done(&self, done: usize, total: usize) {
        self.share(done as u64 * PARTS / (total as u64).max(1));
    }

    /// The same, out of a million.
    pub fn share(&self, parts: u64) {
        self.0.done.store(parts.min(PARTS), Relaxed);
    }

    /// What to say beside the bar.
    pub fn note(&self, note: String) {
        *self.0.note.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }

    fn line(&self, bar: bool) -> String {
        let (phase, since) = *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let note = self.0.note.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let done = self.0.done.load(Relaxed);
        let percent = done * 100 / PARTS;
        let bar = match usize::try_from(done * BAR as u64 / PARTS) {
            Ok(full) if bar => format!("[{}{}] ", "#".repeat(full), "-".repeat(BAR.saturating_sub(full))),
            _ => String::new(),
        };
        let left = (done >= PARTS / 200).then(|| {
            let left = since.elapsed().as_secs() * (PARTS - done) / done.max(1);
            format!(", {} left", humantime::format_duration(Duration::from_secs(left)))
        });
        let note = if note.is_empty() { note } else { format!(", {note}") };
        format!("{phase} {bar}{percent} %{note}{}", left.unwrap_or_default())
    }
}

/// Writes the line to standard error for as long as it is polled.
pub async fn show(control: Control) {
    let terminal = io::stderr().is_terminal();
    let mut every = interval(if terminal { TERMINAL_LINE } else { LOG_LINE });
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is over at once, and there is nothing to tell yet.
    every.tick().await;
    loop {
        every.tick().await;
        let line = control.line(terminal);
        // With nobody left to read it, the work still counts.
        let _ =
            if terminal { write!(io::stderr(), "\r\x1b[2K{line}") } else { writeln!(io::stderr(), "{line}") };
    }
}

/// Takes the line off a terminal.
pub fn clear() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[2K");
    }
}
