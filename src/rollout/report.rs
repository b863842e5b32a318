//! What a deployment did: measured, not meant.
//!
//! A report that repeats the plan says nothing about the clusters. This one has a line only for a step that was looked
//! at, with what came of it and how long it took; what was left out or never reached is listed as just that. It is
//! written to disk after each step, together with what was changed and how to take it back, so that a run that is killed
//! can be tidied up by the next.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::Step;

/// The longest difference that is shown in the summary: GitHub refuses one of more than 1 MiB.
const MAX_DIFF_BYTES: usize = 200_000;

/// A deployment, so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What was asked for, in one line.
    pub(crate) request: String,
    /// Whether gates were left out.
    pub(crate) gates_skipped: bool,
    /// Whether nothing was to be changed.
    pub(crate) dry_run: bool,
    /// How it ended; `unfinished` until it has.
    pub(crate) result: Outcome,
    /// Why, if not well.
    pub(crate) why: Vec<String>,
    /// How long it took.
    pub(crate) seconds: f64,
    /// What was done, in the order in which it ended; then what was not.
    pub(crate) steps: Vec<Line>,
    /// What was changed and not taken back.
    pub(crate) changes: Vec<Change>,
    /// Of a dry run: what would change.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) differences: Vec<Difference>,
}

/// How a deployment or a region ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// It is under way, or was killed.
    #[default]
    Unfinished,
    /// Everything asked for was done.
    Done,
    /// It failed before anything was changed.
    Stopped,
    /// It failed, and everything that it had changed was taken back.
    RolledBack,
    /// It failed, and something is left as it was not before.
    Failed,
}

/// One step and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) region: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) service: Option<String>,
    pub(crate) step: String,
    pub(crate) result: StepResult,
    /// How long it took, if it was run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) seconds: Option<f64>,
    /// What was seen, or why it failed.
    pub(crate) detail: String,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StepResult {
    Ok,
    Failed,
    /// A gate that was left out.
    Skipped,
    /// A dry run does not do it.
    Planned,
    /// It was never reached.
    NotRun,
}

/// Something that a run changed, and what takes it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) region: String,
    pub(crate) service: String,
    /// The release's revision before; none if it was not installed.
    pub(crate) revision: Option<String>,
    /// The colour that was started beside the active one, whose durable goes too.
    pub(crate) colour: Option<String>,
}

/// What a service's manifests would become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Difference {
    pub(crate) region: String,
    pub(crate) service: String,
    /// After which step.
    pub(crate) after: String,
    /// As `diff -u` writes it, empty if there is none.
    pub(crate) text: String,
}

/// Where a report goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// JSON, after every step.
    pub(crate) json: Option<PathBuf>,
    /// Markdown, appended at the end.
    pub(crate) markdown: Option<PathBuf>,
}

impl Line {
    /// A step that was run.
    pub(crate) fn measured(step: &Step, result: StepResult, took: Duration, detail: String) -> Self {
        Self { seconds: Some(took.as_secs_f64()), ..Self::unmeasured(step, result, detail) }
    }

    /// A step that was not.
    pub(crate) fn unmeasured(step: &Step, result: StepResult, detail: String) -> Self {
        Self {
            region: step.region.clone(),
            service: step.service.clone(),
            step: step.action.to_string(),
            result,
            seconds: None,
            detail,
        }
    }
}

impl Report {
    /// Writes the JSON in the place of the last one, at once: a reader sees a whole report.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Reads one back.
    ///
    /// # Errors
    /// Those of the file system, and what is no report.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
    }

    /// Appends the Markdown, as `$GITHUB_STEP_SUMMARY` wants it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn append_markdown(&self, path: &Path) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(self.markdown().as_bytes())
    }

    /// The report for people.
    pub(crate) fn markdown(&self) -> String {
        let result = match (self.result, self.dry_run) {
            (Outcome::Done, true) => "nothing was changed (dry run)",
            (Outcome::Done, false) => "done",
            (Outcome::Stopped, _) => "FAILED, nothing had been changed",
            (Outcome::RolledBack, _) => "FAILED, and taken back",
            (Outcome::Failed, _) => "FAILED",
            (Outcome::Unfinished, _) => "UNFINISHED",
        };
        let mut text = format!("## Deployment: {result}\n\n");
        if self.gates_skipped {
            text.push_str(
                "> [!CAUTION]\n> **GATES WERE SKIPPED.** Nobody checked that what runs now is right. \
                 Look at every region by hand, and run the gates as soon as you can.\n\n",
            );
        }
        let _ = writeln!(text, "{} — {}\n", cell(&self.request), took(self.seconds));
        for why in &self.why {
            let _ = writeln!(text, "- {}", cell(why));
        }
        if !self.why.is_empty() {
            text.push('\n');
        }
        text.push_str("| region | service | step | result | took | |\n|---|---|---|---|---:|---|\n");
        for line in &self.steps {
            let result = match line.result {
                StepResult::Ok => "ok",
                StepResult::Failed => "**FAILED**",
                StepResult::Skipped => "**SKIPPED**",
                StepResult::Planned => "planned",
                StepResult::NotRun => "not run",
            };
            let seconds = line.seconds.map(took).unwrap_or_default();
            let service = line.service.as_deref().unwrap_or_default();
            let (region, step, detail) = (&line.region, &line.step, cell(&line.detail));
            let _ = writeln!(text, "| {region} | {service} | {step} | {result} | {seconds} | {detail} |");
        }
        if !self.changes.is_empty() && self.result != Outcome::Done {
            text.push_str("\nLeft changed:\n\n");
            for Change { region, service, revision, .. } in &self.changes {
                let before = revision.as_ref().map_or_else(
                    || "it was not installed before".to_owned(),
                    |revision| format!("it was at revision {revision} before"),
                );
                let _ = writeln!(text, "- {service} in {region}: {before}");
            }
        }
        for difference in &self.differences {
            let Difference { region, service, after, text: lines } = difference;
            if lines.is_empty() {
                let _ = writeln!(text, "\n{service} in {region}, {after}: no difference.");
                continue;
            }
            let shown = bounded(lines);
            let _ = writeln!(
                text,
                "\n<details><summary>{service} in {region}, {after}</summary>\n\n```diff\n{shown}```\n\n</details>"
            );
        }
        text.push('\n');
        text
    }
}

/// Text that stays within its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ").replace('<', "&lt;")
}

fn took(seconds: f64) -> String {
    if seconds < 100.0 { format!("{seconds:.1} s") } else { format!("{:.1} min", seconds / 60.0) }
}

fn bounded(text: &str) -> String {
    if text.len() <= MAX_DIFF_BYTES {
        return text.replace("```", "'''");
    }
    let mut end = MAX_DIFF_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!(
        "{}\n… {} bytes more are in the JSON report\n",
        text[..end].replace("```", "'''"),
        text.len() - end
    )
}
