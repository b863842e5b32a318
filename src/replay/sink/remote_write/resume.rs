//! The file of `--resume`, with the step up to which a receiver accepted a replay.
//!
//! Invariant: a replay resumes only with the settings that it began with, and with its own window
//! and label.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{one_line, read_file};
use crate::replay::InputError;
use crate::replay::sink::SinkError;
use crate::replay::sink::output::{Output, Target};
use crate::replay::window::{Moment, exact};
use callsight_fold::StreamTime;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The beginning of the window.
    #[serde(with = "moment")]
    pub from: StreamTime,
    /// The end of the window.
    #[serde(with = "moment")]
    pub to: StreamTime,
    /// The value of the label `replay`.
    pub replay: Option<String>,
    /// Everything else that the samples depend on, as text.
    pub settings: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct ResumeState {
    plan: Plan,
    #[serde(with = "moment", rename = "acknowledged")]
    accepted: StreamTime,
}

/// An open `--resume` file.
#[derive(Debug)]
pub struct Resume {
    path: PathBuf,
    plan: Plan,
    accepted: Option<StreamTime>,
}

impl Resume {
    /// Reads the file if it exists. Its window and label then replace those of `plan`, because `2h
    /// ago` means another moment by now.
    ///
    /// # Errors
    /// The file can't be read, was not written by `--resume`, or belongs to a replay with other
    /// settings.
    pub fn open(path: PathBuf, plan: Plan) -> Result<Self, InputError> {
        let file = format!("`{}` of --resume", one_line(&path.display().to_string()));
        let text = match read_file(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, plan, accepted: None });
            }
            Err(error) => return Err(InputError::caused(format!("cannot read {file}"), error)),
        };
        let state: ResumeState = serde_json::from_slice(&text).map_err(|error| {
            let advice = "name another file, or remove it";
            InputError::caused(format!("{file} does not hold the state of a replay; {advice}"), error)
        })?;
        if state.plan.settings != plan.settings {
            return Err(InputError::new(format!(
                "{file} belongs to another replay, of {}; use the same flags, or remove the file",
                one_line(&state.plan.settings)
            )));
        }
        Ok(Self { path, plan: state.plan, accepted: Some(state.accepted) })
    }

    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The step up to which everything was accepted.
    #[must_use]
    pub const fn accepted(&self) -> Option<StreamTime> {
        self.accepted
    }

    /// Writes that everything up to a step was accepted.
    pub(super) fn accept(&mut self, step: StreamTime) -> Result<(), SinkError> {
        self.accepted = Some(step);
        let target = Target::File(self.path.clone());
        let state = ResumeState { plan: self.plan.clone(), accepted: step };
        let mut text = serde_json::to_vec_pretty(&state).map_err(|error| target.error(error.into()))?;
        text.push(b'\n');
        let mut output = Output::create(target)?;
        output.write(&text)?;
        output.complete().map(drop)
    }

    /// Removes the file: the replay is over.
    pub(super) fn complete(self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the file of --resume; it is no longer needed");
        }
    }
}

/// Writes a moment as RFC 3339.
mod moment {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Moment, StreamTime, exact};

    pub(super) fn serialize<S: Serializer>(at: &StreamTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&exact(*at))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StreamTime, D::Error> {
        match String::deserialize(deserializer)?.parse() {
            Ok(Moment::At(at)) => Ok(at),
            _ => Err(D::Error::custom("expected a time in RFC 3339")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(settings: &str, from: i128) -> Plan {
        Plan {
            from: StreamTime::from_unix_nanos(from),
            to: StreamTime::from_unix_nanos(from + 1),
            replay: Some("id".to_owned()),
            settings: settings.to_owned(),
        }
    }

    #[test]
    fn a_replay_resumes_with_its_own_window() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut resume = Resume::open(path.clone(), plan("us", 5)).unwrap();
        assert_eq!(resume.accepted(), None);
        let step = StreamTime::from_unix_nanos(1_764_000_000_123_456_789);
        resume.accept(step).unwrap();

        let again = Resume::open(path.clone(), plan("us", 7)).unwrap();
        assert_eq!((again.accepted(), again.plan()), (Some(step), &plan("us", 5)));
        let other = Resume::open(path.clone(), plan("apac", 5)).unwrap_err().to_string();
        assert!(other.contains("belongs to another replay, of us"), "{other}");
        again.complete();
        assert!(!path.exists());

        std::fs::write(&path, "nonsense").unwrap();
        let error = Resume::open(path.clone(), plan("us", 5)).unwrap_err().to_string();
        assert!(error.contains("does not hold the state of a replay"), "{error}");
    }
}
