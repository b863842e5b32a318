//! How far a replay is, and whether it is stopped.
//!
//! Several threads work on a replay, one shows its progress, and a signal may stop it. They share a
//! [`Control`].
//!
//! Invariant: a replay that is stopped stays stopped.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::sink::SinkError;

/// How often the line is written: on a terminal over itself, elsewhere as a new line.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(250);
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// How often work that blocks is looked at.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

const BAR_WIDTH: usize = 24;

/// The shares of a phase that [`Control::share`] counts in.
const PARTS: u64 = 1_000_000;

/// The state of a replay. Clones share it.
#[derive(Clone)]
pub struct Control {
    stopped: Arc<watch::Sender<bool>>,
    phase: Arc<Mutex<Phase>>,
}

struct Phase {
    name: &'static str,
    since: Instant,
    done: u64,
    /// Text beside the bar.
    note: String,
}

impl Phase {
    fn new(name: &'static str) -> Self {
        Self { name, since: Instant::now(), done: 0, note: String::new() }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { stopped: Arc::default(), phase: Arc::new(Mutex::new(Phase::new("reading"))) }
    }
}

impl Control {
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Whether the replay is stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Waits until the replay is stopped.
    pub async fn stopped(&self) {
        // Fails only without a sender, which is here.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// Fails if the replay is stopped.
    ///
    /// # Errors
    /// [`SinkError::Stopped`].
    pub fn check(&self) -> Result<(), SinkError> {
        if self.is_stopped() { Err(SinkError::Stopped) } else { Ok(()) }
    }

    /// Waits for some work, but no longer than until the replay is stopped.
    ///
    /// # Errors
    /// [`SinkError::Stopped`].
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, SinkError> {
        tokio::select! {
            output = work => Ok(output),
            () = self.stopped() => Err(SinkError::Stopped),
        }
    }

    /// Does work that blocks, on a thread of its own, and waits for it no longer than until the
    /// replay is stopped. The inner error is that the system has no thread left.
    ///
    /// # Errors
    /// [`SinkError::Stopped`].
    pub(super) fn unless_stopped_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<io::Result<T>, SinkError> {
        let (sender, receiver) = sync_channel(1);
        // Nobody receives the result if the replay is stopped.
        let working = move || drop(sender.send(work()));
        if let Err(error) = thread::Builder::new().spawn(working) {
            return Ok(Err(error));
        }
        loop {
            self.check()?;
            match receiver.recv_timeout(CHECK_INTERVAL) {
                Ok(done) => return Ok(Ok(done)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(ended @ RecvTimeoutError::Disconnected) => return Ok(Err(io::Error::other(ended))),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn phase(&self, name: &'static str) {
        *self.lock() = Phase::new(name);
    }

    /// Sets how much of the phase is done.
    pub fn done(&self, done: usize, total: usize) {
        self.share(done as u64 * PARTS / (total as u64).max(1));
    }

    /// Sets how much of the phase is done, in millionths.
    pub fn share(&self, parts: u64) {
        self.lock().done = parts.min(PARTS);
    }

    /// Sets the text beside the bar.
    pub fn note(&self, note: String) {
        self.lock().note = note;
    }

    /// How much of the phase is done, from 0 to 1, and the text beside the bar.
    #[must_use]
    pub fn progress(&self) -> (f64, String) {
        let phase = self.lock();
        #[expect(clippy::cast_precision_loss, reason = "at most a million")]
        let share = phase.done as f64 / PARTS as f64;
        (share, phase.note.clone())
    }

    fn line(&self, with_bar: bool) -> String {
        let Phase { name, since, done, note } = &*self.lock();
        let mut line = format!("{name} ");
        if with_bar {
            let full = usize::try_from(done * BAR_WIDTH as u64 / PARTS).unwrap_or(BAR_WIDTH);
            line += &format!("[{:-<BAR_WIDTH$}] ", "#".repeat(full));
        }
        line += &format!("{} %", done * 100 / PARTS);
        if !note.is_empty() {
            line += &format!(", {note}");
        }
        if *done >= PARTS / 200 {
            let left = Duration::from_secs(since.elapsed().as_secs() * (PARTS - done) / done);
            line += &format!(", {} left", humantime::format_duration(left));
        }
        line
    }
}

/// Writes the progress to standard error for as long as it is polled.
pub async fn show(control: Control) {
    let terminal = io::stderr().is_terminal();
    let mut ticks = interval(if terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is immediate, and there is nothing to show yet.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let line = control.line(terminal);
        // Losing standard error does not stop the replay.
        let _ =
            if terminal { write!(io::stderr(), "\r\x1b[2K{line}") } else { writeln!(io::stderr(), "{line}") };
    }
}

/// Removes the progress from a terminal.
pub fn clear() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[2K");
    }
}
