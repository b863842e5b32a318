//! The file that remembers how far a replay was taken by its receiver.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::one_line;
use crate::replay::sink::SinkError;
use crate::replay::sink::output::folder_of;
use crate::replay::window::{Moment, exact};
use callsight_fold::StreamTime;

/// What is replayed, so that nothing else is gone on with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The window's first moment.
    #[serde(with = "moment")]
    pub from: StreamTime,
    /// Its last.
    #[serde(with = "moment")]
    pub to: StreamTime,
    /// The label `replay`.
    pub replay: Option<String>,
    /// All that the samples depend on beside that, as text.
    pub settings: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    plan: Plan,
    #[serde(with = "moment")]
    acknowledged: StreamTime,
}

/// How far a replay was taken.
#[derive(Debug)]
pub struct Resume {
    path: PathBuf,
    plan: Plan,
    acknowledged: Option<StreamTime>,
}

/// Why a file can't be gone on from.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// It can't be read.
    #[error("cannot read `{}` of --resume", one_line(&path.display().to_string()))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is something else.
    #[error("`{}` of --resume is no state of a replay; name another file, or remove it", one_line(&path.display().to_string()))]
    NoState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It is of another replay.
    #[error(
        "`{}` of --resume is of another replay, of {}; give the same flags, or remove the file",
        one_line(&path.display().to_string()), one_line(settings)
    )]
    Another {
        /// The file.
        path: PathBuf,
        /// What that was.
        settings: String,
    },
}

impl Resume {
    /// Reads the file if it is there. Then its window and label count, for `2h ago` means something else by now;
    /// everything else must be as it was.
    ///
    /// # Errors
    /// [`ResumeError`].
    pub fn open(path: &Path, plan: Plan) -> Result<Self, ResumeError> {
        let path = path.to_owned();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, plan, acknowledged: None });
            }
            Err(source) => return Err(ResumeError::Unreadable { path, source }),
        };
        let state: State = match serde_json::from_slice(&text) {
            Ok(state) => state,
            Err(source) => return Err(ResumeError::NoState { path, source }),
        };
        if state.plan.settings != plan.settings {
            return Err(ResumeError::Another { path, settings: state.plan.settings });
        }
        Ok(Self { path, plan: state.plan, acknowledged: Some(state.acknowledged) })
    }

    /// What is replayed.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where the state is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The step up to which everything was taken.
    #[must_use]
    pub const fn acknowledged(&self) -> Option<StreamTime> {
        self.acknowledged
    }

    /// Remembers that everything up to a step was taken.
    pub(super) fn acknowledge(&mut self, step: StreamTime) -> Result<(), SinkError> {
        self.acknowledged = Some(step);
        let state = State { plan: self.plan.clone(), acknowledged: step };
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(folder_of(&self.path))?;
            serde_json::to_writer_pretty(&mut file, &state)?;
            file.write_all(b"\n")?;
            file.persist(&self.path).map(drop).map_err(|error| error.error)
        };
        write().map_err(|source| SinkError::Write { path: self.path.clone(), source })
    }

    /// The replay is over: there is nothing to go on with.
    pub(super) fn complete(self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.path.display(), "the state of --resume is of no use any more");
        }
    }
}

/// A moment as people can read it.
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
            _ => Err(D::Error::custom("no time")),
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
    fn a_state_is_gone_on_from_with_its_own_window() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut resume = Resume::open(&path, plan("us", 5)).unwrap();
        assert_eq!(resume.acknowledged(), None);
        let step = StreamTime::from_unix_nanos(1_764_000_000_123_456_789);
        resume.acknowledge(step).unwrap();

        let again = Resume::open(&path, plan("us", 7)).unwrap();
        assert_eq!((again.acknowledged(), again.plan()), (Some(step), &plan("us", 5)));
        let other = Resume::open(&path, plan("apac", 5)).unwrap_err().to_string();
        assert!(other.contains("is of another replay, of us"), "{other}");
        again.complete();
        assert!(!path.exists());

        std::fs::write(&path, "nonsense").unwrap();
        let error = Resume::open(&path, plan("us", 5)).unwrap_err().to_string();
        assert!(error.contains("is no state of a replay"), "{error}");
    }
}
