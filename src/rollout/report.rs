//! The report of a deployment: what was measured, not what was planned.
//!
//! A report that repeats the plan says nothing about the clusters. This one has the result and
//! duration of each step that ran, and lists steps that were skipped or never reached as such. It
//! is written to disk after each step, with what was changed and how to roll it back, so that the
//! next run can roll back one that was killed.
//!
//! Invariant: the file on disk is always a whole report.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::colour::Colour;
use super::plan::Step;
use crate::config::read_file;
use crate::insight::words;

/// The longest difference in the Markdown, in bytes: GitHub refuses a summary of more than 1 MiB.
const MAX_DIFF_BYTES: usize = 200_000;

/// A deployment, so far. Its JSON is read back by `--undo`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DeploymentReport {
    /// The request, in one line.
    pub(crate) request: String,
    pub(crate) gates_skipped: bool,
    pub(crate) dry_run: bool,
    pub(crate) result: Outcome,
    pub(crate) why: Vec<String>,
    pub(crate) seconds: f64,
    /// The steps that ran, in the order in which they ended, and those that did not.
    pub(crate) steps: Vec<StepLine>,
    /// What was changed and not rolled back.
    pub(crate) changes: Vec<ReleaseChange>,
    /// What a dry run would change.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) differences: Vec<ManifestDifference>,
}

/// How a deployment or a lane ended, from the best to the worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Done,
    /// Failed before anything was changed.
    Stopped,
    /// Failed, and all changes were rolled back.
    RolledBack,
    /// Failed, and something is left changed.
    Failed,
    /// Still running, or killed.
    #[default]
    Unfinished,
}

/// One step and its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StepLine {
    pub(crate) region: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) service: Option<String>,
    pub(crate) step: String,
    pub(crate) result: StepResult,
    /// How long it took; `None` if it did not run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) seconds: Option<f64>,
    /// What was found, or why it failed.
    pub(crate) detail: String,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StepResult {
    Ok,
    Failed,
    /// A gate that was not checked, or a step that is left to the operator.
    Skipped,
    /// Not performed, because of `--dry-run`.
    Planned,
    NotRun,
}

/// A release that a run changed, and how to roll it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleaseChange {
    pub(crate) region: String,
    pub(crate) service: String,
    /// The revision before; `None` if the release was not installed.
    pub(crate) revision: Option<String>,
    /// The colour that was started beside the active one, whose durable a roll-back deletes.
    pub(crate) colour: Option<Colour>,
}

/// How the manifests of a service would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestDifference {
    pub(crate) region: String,
    pub(crate) service: String,
    pub(crate) after: String,
    /// In the manner of `diff -u`; empty if there is none.
    pub(crate) text: String,
}

impl StepLine {
    /// A step of a plan; `took` is `None` if it did not run.
    pub(crate) fn of(step: &Step<'_>, result: StepResult, took: Option<Duration>, detail: String) -> Self {
        Self {
            region: step.region.name.to_string(),
            service: step.service().map(|service| service.name.clone()),
            step: step.to_string(),
            result,
            seconds: took.map(|took| took.as_secs_f64()),
            detail,
        }
    }
}

impl DeploymentReport {
    /// Replaces the JSON file atomically.
    ///
    /// # Errors
    /// The file system refuses.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Reads a JSON file back.
    ///
    /// # Errors
    /// The file system refuses, or the file is not a report.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&read_file(path)?).map_err(io::Error::other)
    }

    /// Appends the Markdown to a file, as `$GITHUB_STEP_SUMMARY` expects.
    ///
    /// # Errors
    /// The file system refuses.
    pub(crate) fn append_markdown(&self, path: &Path) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(self.markdown().as_bytes())
    }

    /// The report as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let result = match (self.result, self.dry_run) {
            (Outcome::Done, true) => "nothing was changed (dry run)",
            (Outcome::Done, false) => "done",
            (Outcome::Stopped, _) => "FAILED, nothing had been changed",
            (Outcome::RolledBack, _) => "FAILED, and rolled back",
            (Outcome::Failed, _) => "FAILED",
            (Outcome::Unfinished, _) => "UNFINISHED",
        };
        let mut text = format!("## Deployment: {result}\n\n");
        if self.gates_skipped {
            text.push_str(
                "> [!CAUTION]\n> **GATES WERE SKIPPED.** Nothing verified what runs now. \
                 Check every region by hand, and run the gates as soon as possible.\n\n",
            );
        }
        let _ = writeln!(text, "{} — {}\n", cell(&self.request), words::seconds(self.seconds));
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
            let seconds = line.seconds.map(words::seconds).unwrap_or_default();
            let service = line.service.as_deref().unwrap_or_default();
            let (region, step, detail) = (&line.region, &line.step, cell(&line.detail));
            let _ = writeln!(text, "| {region} | {service} | {step} | {result} | {seconds} | {detail} |");
        }
        if !self.changes.is_empty() && self.result != Outcome::Done {
            text.push_str("\nLeft changed:\n\n");
            for ReleaseChange { region, service, revision, .. } in &self.changes {
                let revision = revision.as_ref().map(|revision| format!("at revision {revision}"));
                let before = revision.as_deref().unwrap_or("not installed");
                let _ = writeln!(text, "- {service} in {region}: it was {before} before");
            }
        }
        for difference in &self.differences {
            let ManifestDifference { region, service, after, text: lines } = difference;
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

/// Escapes text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ").replace('<', "&lt;")
}

fn bounded(text: &str) -> String {
    let (shown, rest) = text.split_at(text.floor_char_boundary(MAX_DIFF_BYTES));
    let mut shown = shown.replace("```", "'''");
    if !rest.is_empty() {
        let _ = write!(shown, "\n… {} more bytes are in the JSON report\n", rest.len());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_difference_is_cut_at_a_character_and_says_by_how_much() {
        let whole = "x".repeat(MAX_DIFF_BYTES);
        assert_eq!(bounded(&whole), whole);
        // The limit lies within a character.
        let long = format!("-{}", "é".repeat(MAX_DIFF_BYTES));
        let shown = bounded(&long);
        let (kept, note) = shown.split_once('\n').unwrap();
        assert_eq!(kept, &long[..MAX_DIFF_BYTES - 1]);
        let cut = long.len() - kept.len();
        assert_eq!(note, format!("… {cut} more bytes are in the JSON report\n"));
    }
}
