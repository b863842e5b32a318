//! What `callsight streams` prints of a comparison.
//!
//! Invariant: text and JSON come from the same steps, and so does the exit code.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::Task;
use super::size::rounded;
use crate::cli::CliError;
use crate::insight::words::plural;
use crate::topology::{Action, Change, ReconcileError, Shortage, Step, Traffic, is_duration};

/// All steps and what became of them.
pub(super) struct StreamsReport {
    pub(super) task: Task,
    pub(super) steps: Vec<StepReport>,
}

/// A step and what became of it.
pub(super) struct StepReport {
    pub(super) step: Step,
    /// Why it could not be applied.
    pub(super) failed: Option<ReconcileError>,
    /// Present if the stream reaches `max_bytes` before `max_age`.
    pub(super) shortage: Option<(Traffic, Shortage)>,
}

impl StreamsReport {
    fn count(&self, action: &Action) -> usize {
        self.steps.iter().filter(|done| done.step.action == *action).count()
    }

    fn failed(&self) -> usize {
        self.steps.iter().filter(|done| done.failed.is_some()).count()
    }

    pub(super) fn outcome(&self) -> Result<(), CliError> {
        let (refused, failed) = (self.count(&Action::Refused), self.failed());
        let differing = self.steps.len() - self.count(&Action::Same);
        let problem = match self.task {
            Task::Verify if differing > 0 => {
                let all = self.steps.len();
                format!("{differing} of {all} differ from their declarations; see `callsight streams plan`")
            }
            Task::Plan if refused > 0 => format!("`callsight streams apply` would refuse {refused}"),
            Task::Apply if refused + failed > 0 => {
                format!("{refused} refused and not changed, {failed} failed")
            }
            _ => return Ok(()),
        };
        Err(CliError::failed(problem))
    }

    pub(super) fn json(&self) -> Value {
        let steps = self.steps.iter().map(|StepReport { step, failed, shortage }| {
            let mut value = json!({
                "kind": step.name.kind(),
                "name": step.name.to_string(),
                "action": step.action,
                "changes": step.changes,
            });
            if self.task == Task::Apply {
                let due = matches!(step.action, Action::Create | Action::Change);
                value["done"] = (due && failed.is_none()).into();
                value["error"] = failed.as_ref().map(ToString::to_string).into();
            }
            if let Some((traffic, shortage)) = shortage {
                value["shortage"] = json!({
                    "max_bytes": shortage.max_bytes,
                    "needed_max_bytes": shortage.needed,
                    "holds_seconds": shortage.holds.as_secs(),
                    "max_age_seconds": shortage.retention.as_secs(),
                    "frames_per_second": traffic.frames,
                    "bytes_per_frame": traffic.frame_bytes,
                });
            }
            value
        });
        json!({
            "ok": self.outcome().is_ok(),
            "create": self.count(&Action::Create),
            "change": self.count(&Action::Change),
            "refused": self.count(&Action::Refused),
            "same": self.count(&Action::Same),
            "failed": self.failed(),
            "steps": steps.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for StreamsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for StepReport { step, failed, shortage } in &self.steps {
            let (sign, note) = match step.action {
                Action::Same => ("=", String::new()),
                Action::Create => ("+", made_of(step)),
                Action::Change => ("~", String::new()),
                Action::Refused => ("!", "refused".to_owned()),
            };
            let line = format!("{sign} {:<8} {:<40} {note}", step.name.kind(), step.name.to_string());
            writeln!(f, "{}", line.trim_end())?;
            for change in &step.changes {
                writeln!(f, "    {}", shown(change))?;
                if let Some(reason) = &change.refused {
                    writeln!(f, "      refused: {reason}")?;
                }
            }
            if let Some(error) = failed {
                writeln!(f, "    failed: {error}")?;
            }
            if let Some((traffic, shortage)) = shortage {
                writeln!(f, "    warning: {}", short(traffic, shortage))?;
            }
        }
        let [created, changed] = match self.task {
            Task::Apply => ["created", "changed"],
            Task::Plan | Task::Verify => ["to create", "to change"],
        };
        let failed = |action: Action| {
            self.steps.iter().filter(|done| done.step.action == action && done.failed.is_some()).count()
        };
        write!(
            f,
            "{} {created}, {} {changed}, {} refused, {} unchanged",
            self.count(&Action::Create) - failed(Action::Create),
            self.count(&Action::Change) - failed(Action::Change),
            self.count(&Action::Refused),
            self.count(&Action::Same),
        )?;
        match self.failed() {
            0 => writeln!(f),
            failed => writeln!(f, ", {failed} failed"),
        }
    }
}

/// Summarises what a step creates.
fn made_of(step: &Step) -> String {
    let mut words = Vec::new();
    let text = |key: &str, part: &str| step.config.get(key).and_then(|value| value[part].as_str());
    words.extend(text("placement", "cluster").map(|cluster| format!("in {cluster}")));
    words.extend(text("mirror", "name").map(|origin| format!("mirror of {origin}")));
    let replicas = step.config.get("num_replicas").and_then(Value::as_u64);
    words.extend(replicas.map(|replicas| plural(replicas, "replica")));
    words.join(", ")
}

/// Renders what a stream holds less than it should, and what to do.
fn short(traffic: &Traffic, shortage: &Shortage) -> String {
    let seconds = |duration: Duration| humantime::format_duration(Duration::from_secs(duration.as_secs()));
    format!(
        "max_bytes of {} holds {}, less than max_age of {}, at {:.1} frames/s of {:.0} bytes, {}/s, measured over {}; \
         set max_bytes to {} ({}) or more",
        bytes(shortage.max_bytes),
        seconds(shortage.holds),
        seconds(shortage.retention),
        traffic.frames,
        traffic.frame_bytes,
        rounded(traffic.bytes()),
        seconds(traffic.over),
        shortage.needed,
        bytes(shortage.needed),
    )
}

/// Renders a change as `max_age: 3days → 1day`.
fn shown(Change { key, old, new, .. }: &Change) -> String {
    if let (Value::Array(old), Value::Array(new)) = (old, new) {
        let only = |sign: &str, these: &[Value], others: &[Value]| {
            let only: Vec<_> = these.iter().filter(|one| !others.contains(one)).collect();
            match &only[..] {
                [] => None,
                [one] => Some(format!("{sign} {one}")),
                [first, .., last] => Some(format!("{sign} {first} … {last} ({})", only.len())),
            }
        };
        let changes: Vec<_> = [only("+", new, old), only("-", old, new)].into_iter().flatten().collect();
        return format!("{key}: {}", changes.join(", "));
    }
    let value = |value: &Value| match value.as_i64() {
        _ if value.is_null() => "unset".to_owned(),
        Some(-1) => "unlimited".to_owned(),
        Some(number) if is_duration(key) => {
            humantime::format_duration(Duration::from_nanos(number.unsigned_abs())).to_string()
        }
        Some(number) if key == "max_bytes" => bytes(number.unsigned_abs()),
        _ => value.to_string(),
    };
    format!("{key}: {} → {}", value(old), value(new))
}

/// Renders a number of bytes in the largest unit that divides it.
pub(super) fn bytes(number: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, shift)| number > 0 && number.is_multiple_of(1 << shift));
    match unit {
        Some((unit, shift)) => format!("{} {unit}", number >> shift),
        None => format!("{number} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_people_say_them() {
        let change = |key: &str, old: Value, new: Value| {
            shown(&Change { key: key.to_owned(), old, new, refused: None })
        };
        let age = change("max_age", json!(259_200_000_000_000_u64), json!(3_600_000_000_000_u64));
        assert_eq!(age, "max_age: 3days → 1h");
        assert_eq!(change("max_bytes", json!(-1), json!(4_u64 << 30)), "max_bytes: unlimited → 4 GiB");
        assert_eq!(change("max_bytes", json!(100), json!(2048)), "max_bytes: 100 bytes → 2 KiB");
        let subjects = change("subjects", json!(["a.*"]), json!(["a.*", "a.*.m0", "a.*.m1", "a.*.m2"]));
        assert_eq!(subjects, "subjects: + \"a.*.m0\" … \"a.*.m2\" (3)");
        let other = change("filter_subjects", json!(["a"]), json!(["b"]));
        assert_eq!(other, "filter_subjects: + \"b\", - \"a\"");
        let placed = change("placement", Value::Null, json!({"cluster": "us"}));
        assert_eq!(placed, "placement: unset → {\"cluster\":\"us\"}");
    }
}
