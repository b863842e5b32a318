//! Blocks for Prometheus's own store, made by promtool.
//!
//! Prometheus knows its format best, and its promtool makes blocks of OpenMetrics. So that is what is written first,
//! beside the blocks and for as long as they take to make.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{fs, io, thread};

use tempfile::TempDir;

use super::openmetrics::OpenMetrics;
use super::output::Target;
use super::{Sink, SinkError};
use crate::config::one_line;
use crate::replay::account::Account;
use crate::replay::progress::Control;
use crate::replay::sample::Step;

const PROMTOOL: &str = "promtool";

/// How often promtool is looked after.
const LOOK: Duration = Duration::from_millis(50);

/// Writes OpenMetrics, and has blocks made of it.
pub struct Tsdb {
    folder: PathBuf,
    sink: OpenMetrics,
    maker: Maker,
    /// Beside the blocks' folder, so that they can be moved into it.
    work: TempDir,
    text: PathBuf,
}

/// Has blocks made.
pub(super) struct Maker {
    pub(super) promtool: PathBuf,
    pub(super) control: Control,
}

impl Tsdb {
    /// Begins. The folder is made at the end if it is not there.
    ///
    /// # Errors
    /// When the folder's place can't be written.
    pub fn new(
        folder: PathBuf,
        promtool: PathBuf,
        replay: Option<&str>,
        control: Control,
    ) -> Result<Self, SinkError> {
        let failed = |source| SinkError::Write { path: folder.clone(), source };
        let place = match folder.parent() {
            Some(place) if !place.as_os_str().is_empty() => place,
            _ => Path::new("."),
        };
        if fs::metadata(&folder).is_ok_and(|found| !found.is_dir()) {
            return Err(failed(io::ErrorKind::NotADirectory.into()));
        }
        let work = tempfile::Builder::new().prefix(".callsight-").tempdir_in(place).map_err(failed)?;
        let text = work.path().join("replay.om");
        let sink = OpenMetrics::new(Target::File(text.clone()), replay, control.clone())?;
        Ok(Self { folder, sink, maker: Maker { promtool, control }, work, text })
    }
}

impl Maker {
    /// Has blocks made of a file of OpenMetrics, unless it is to stop.
    pub(super) fn make(&self, text: &Path, blocks: &Path) -> Result<(), SinkError> {
        let failed = |reason: String| SinkError::Program { program: PROMTOOL, reason };
        let log = text.with_extension("log");
        let output =
            fs::File::create(&log).map_err(|source| SinkError::Write { path: log.clone(), source })?;
        let mut command = Command::new(&self.promtool);
        command.args(["tsdb", "create-blocks-from", "openmetrics", "--quiet"]).arg(text).arg(blocks);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let status = wait(child, &self.control)?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(failed(match said.trim().lines().last() {
            Some(last) => last.to_owned(),
            None => status.to_string(),
        }))
    }
}

fn wait(mut child: Child, control: &Control) -> Result<ExitStatus, SinkError> {
    loop {
        if control.is_stopped() {
            // Either it ends now, or it has just ended.
            let _ = child.kill();
            let _ = child.wait();
            return Err(SinkError::Stopped);
        }
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => thread::sleep(LOOK),
            Err(error) => return Err(SinkError::Program { program: PROMTOOL, reason: error.to_string() }),
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
        let failed = |source| SinkError::Write { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        let mut made = 0;
        for block in fs::read_dir(&blocks).map_err(failed)? {
            let block = block.map_err(failed)?;
            fs::rename(block.path(), folder.join(block.file_name())).map_err(failed)?;
            made += 1;
        }
        let shown = one_line(&folder.display().to_string());
        Ok(vec![
            format!("{shown}: {made} blocks, {} samples at {} steps", account.samples, account.steps),
            "move them into the folder that Prometheus has as --storage.tsdb.path, as the user that it runs as:".to_owned(),
            format!("  mv {shown}/01* /path/to/prometheus/data/"),
            "Prometheus finds them within a minute, or at once when it starts. Blocks are of 2 h each. Its newest 3 h are \
             still in memory, and compaction may stumble over blocks of that time: wait, or use --remote-write"
                .to_owned(),
        ])
    }
}
