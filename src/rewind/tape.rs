//! What the page shows at each step of a window, on disk.
//!
//! A moment must be there as soon as a slider moves, and an hour has 720 of them, each with its
//! page and with the detail of every session on it. So each step is one compressed block of a file
//! without a name, and memory has the place of each block and what the timeline draws.
//!
//! Invariant: a step that can be found is whole. Its block is written before its place is known.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};

use crate::insight::state::State;
use crate::triage::Drill;
use callsight_fold::StreamTime;

/// Everything that can be asked about a moment, each answer as JSON.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Shot {
    pub(super) summary: Bytes,
    /// The sessions on the page and their meetings, by id.
    pub(super) sessions: Vec<(String, Bytes)>,
    pub(super) meetings: Vec<(String, Bytes)>,
}

impl Shot {
    /// The detail of a meeting or session; `None` if the page did not list it.
    pub(super) fn detail(self, into: &Drill) -> Option<Bytes> {
        let (of, wanted) = match into {
            Drill::Meeting(id) => (self.meetings, id),
            Drill::Session(id) => (self.sessions, id),
        };
        of.into_iter().find_map(|(id, json)| (id == *wanted).then_some(json))
    }
}

/// What the timeline shows of a region at a step.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Mark {
    pub(super) state: State,
    pub(super) sessions: u64,
    pub(super) sessions_degraded: u64,
}

/// The blocks of a window that is, or was, folded. Clones of its steps are cheap to find.
pub(super) struct Tape {
    file: File,
    steps: Mutex<Steps>,
}

/// What is known of the steps in memory.
#[derive(Default)]
pub(super) struct Steps {
    /// Each step with the end of its block, which begins where the former one ends.
    pub(super) ends: Vec<(StreamTime, u64)>,
    /// For each step, a mark for each region.
    pub(super) marks: Vec<Box<[Mark]>>,
    /// When the verdict became bad, and its sentence, or was bad no more.
    pub(super) verdicts: Vec<(StreamTime, Option<String>)>,
}

impl Tape {
    /// Makes an empty tape, whose file is in a folder and is released with it.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(folder)?, steps: Mutex::default() })
    }

    /// Adds the next step. Returns how many bytes the tape has.
    pub(super) fn push(&self, at: StreamTime, shot: &Shot, marks: Box<[Mark]>) -> io::Result<u64> {
        let block = pack(shot)?;
        let begin = self.len();
        self.file.write_all_at(&block, begin)?;
        let end = begin + block.len() as u64;
        let mut steps = self.steps();
        steps.ends.push((at, end));
        steps.marks.push(marks);
        Ok(end)
    }

    /// Notes that the verdict became bad, or is bad no more.
    pub(super) fn note(&self, at: StreamTime, sentence: Option<String>) {
        self.steps().verdicts.push((at, sentence));
    }

    /// The step at a moment, or the last one before; `None` before the first.
    pub(super) fn at(&self, moment: StreamTime) -> io::Result<Option<Shot>> {
        let (begin, end) = {
            let steps = self.steps();
            let after = steps.ends.partition_point(|(at, _)| *at <= moment);
            let Some(place) = after.checked_sub(1) else { return Ok(None) };
            (place.checked_sub(1).map_or(0, |before| steps.ends[before].1), steps.ends[place].1)
        };
        let mut block = vec![0; usize::try_from(end - begin).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut block, begin)?;
        unpack(&block).map(Some)
    }

    /// How many bytes it has on disk.
    pub(super) fn len(&self) -> u64 {
        self.steps().ends.last().map_or(0, |(_, end)| *end)
    }

    pub(super) fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pack(shot: &Shot) -> io::Result<Vec<u8>> {
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&rmp_serde::to_vec(shot).map_err(io::Error::other)?)?;
    packed.finish()
}

fn unpack(block: &[u8]) -> io::Result<Shot> {
    rmp_serde::from_read(DeflateDecoder::new(block)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn second(second: u64) -> StreamTime {
        StreamTime::default() + Duration::from_secs(second)
    }

    #[test]
    fn a_moment_is_the_step_at_or_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let tape = Tape::new(folder.path()).unwrap();
        assert!(tape.at(second(100)).unwrap().is_none());
        for step in [10, 15, 20] {
            let json = |what: &str| Bytes::from(format!("{{\"{what}\":{step}}}"));
            let shot = Shot {
                summary: json("summary"),
                sessions: vec![("s".to_owned(), json("session"))],
                meetings: vec![("m".to_owned(), json("meeting"))],
            };
            let mark = Mark { state: State::Good, sessions: step, sessions_degraded: 0 };
            assert_eq!(tape.push(second(step), &shot, [mark].into()).unwrap(), tape.len());
        }
        let summary = |at| {
            let shot = tape.at(second(at)).unwrap()?;
            Some(String::from_utf8(shot.summary.to_vec()).unwrap())
        };
        assert_eq!(summary(9), None);
        for (at, step) in [(10, 10), (14, 10), (15, 15), (19, 15), (20, 20), (1_000, 20)] {
            assert_eq!(summary(at), Some(format!("{{\"summary\":{step}}}")), "{at}");
        }
        let detail = |into: Drill| tape.at(second(17)).unwrap().unwrap().detail(&into);
        assert_eq!(detail(Drill::Session("s".to_owned())).as_deref(), Some(&b"{\"session\":15}"[..]));
        assert_eq!(detail(Drill::Meeting("m".to_owned())).as_deref(), Some(&b"{\"meeting\":15}"[..]));
        assert_eq!(detail(Drill::Session("m".to_owned())), None);
        assert_eq!(tape.steps().marks.len(), 3);
    }
}
