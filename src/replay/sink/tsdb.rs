//! Blocks for Prometheus's own store, made by promtool.
//!
//! Only Prometheus can be relied on to know its format, and its promtool makes blocks of
//! OpenMetrics. So the replay becomes a file of OpenMetrics first, which is removed once the blocks
//! are made.
//!
//! Invariant: the folder gets complete blocks or none.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{fs, io, thread};

use tempfile::TempDir;

use super::openmetrics::OpenMetrics;
use super::output::{Target, folder_of};
use super::{Sink, SinkError};
use crate::config::one_line;
use crate::replay::account::Account;
use crate::replay::progress::Control;
use crate::replay::sample::Step;

const PROMTOOL: &str = "promtool";

/// How often to check whether promtool has ended.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The sink of `--tsdb`.
pub struct Tsdb {
    folder: PathBuf,
    sink: OpenMetrics,
    maker: BlockMaker,
    /// Beside the folder of the blocks, on the same file system, so that they can be moved into it.
    work: TempDir,
    text: PathBuf,
}

/// Makes blocks of OpenMetrics.
pub(in crate::replay) struct BlockMaker {
    pub(in crate::replay) promtool: PathBuf,
    pub(in crate::replay) control: Control,
}

impl Tsdb {
    /// Begins. The folder is made at the end if it does not exist.
    ///
    /// # Errors
    /// When the folder's parent can't be written.
    pub fn new(
        folder: PathBuf,
        promtool: PathBuf,
        replay: Option<&str>,
        control: Control,
    ) -> Result<Self, SinkError> {
        let failed = |source| SinkError::Write { path: folder.clone(), source };
        if fs::metadata(&folder).is_ok_and(|found| !found.is_dir()) {
            return Err(failed(io::ErrorKind::NotADirectory.into()));
        }
        let work = tempfile::Builder::new().prefix(".callsight-").tempdir_in(folder_of(&folder));
        let work = work.map_err(failed)?;
        let text = work.path().join("replay.om");
        let sink = OpenMetrics::new(Target::File(text.clone()), replay, control.clone())?;
        Ok(Self { folder, sink, maker: BlockMaker { promtool, control }, work, text })
    }
}

impl BlockMaker {
    /// Makes blocks of a file of OpenMetrics.
    ///
    /// # Errors
    /// [`SinkError::Program`] with the last line of promtool, or [`SinkError::Stopped`].
    pub(in crate::replay) fn make(&self, text: &Path, blocks: &Path) -> Result<(), SinkError> {
        let failed = |reason: String| SinkError::Program { program: PROMTOOL, reason };
        let log = text.with_extension("log");
        let output =
            fs::File::create(&log).map_err(|source| SinkError::Write { path: log.clone(), source })?;
        let child = Command::new(&self.promtool)
            .args(["tsdb", "create-blocks-from", "openmetrics", "--quiet"])
            .args([text, blocks])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn();
        let status = self.wait(child.map_err(|error| failed(error.to_string()))?)?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(failed(said.trim().lines().last().map_or_else(|| status.to_string(), str::to_owned)))
    }

    fn wait(&self, mut child: Child) -> Result<ExitStatus, SinkError> {
        loop {
            if self.control.is_stopped() {
                // Fails only if it has just ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                return Err(SinkError::Stopped);
            }
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => thread::sleep(CHECK_INTERVAL),
                Err(error) => {
                    return Err(SinkError::Program { program: PROMTOOL, reason: error.to_string() });
                }
            }
        }
    }
}

impl Sink for Tsdb {
    fn step(&mut self, step: &Step) -> Result<(), SinkError> {
        self.sink.step(step)
    }

    fn finish(self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError> {
        let Self { folder, sink, maker, work, text } = *self;
        Box::new(sink).finish(account)?;
        maker.control.phase("making blocks");
        let blocks = work.path().join("blocks");
        maker.make(&text, &blocks)?;
        let moved = move_entries(&blocks, &folder);
        let made = moved.map_err(|source| SinkError::Write { path: folder.clone(), source })?;
        let shown = one_line(&folder.display().to_string());
        Ok(vec![
            format!("{shown}: {made} blocks, {} samples at {} steps", account.samples, account.steps),
            "move them into the folder of Prometheus's --storage.tsdb.path, as the user that it runs as:"
                .to_owned(),
            format!("  mv {shown}/01* /path/to/prometheus/data/"),
            "Prometheus loads them within a minute, or when it starts. Each block is of 2 h. Do not add blocks of \
             the newest 3 h, which Prometheus still has in memory: wait, or use --remote-write"
                .to_owned(),
        ])
    }
}

fn move_entries(from: &Path, to: &Path) -> io::Result<usize> {
    fs::create_dir_all(to)?;
    let mut moved = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::rename(entry.path(), to.join(entry.file_name()))?;
        moved += 1;
    }
    Ok(moved)
}
