//! From steps to series, in bounded memory.
//!
//! A replay brings all series of a step, then all of the next; a file of OpenMetrics wants all
//! steps of a series, then those of the next. In between are all samples, thirty million for an
//! hour of 2,000 sessions. So samples are gathered for as many steps as a bounded number of values
//! allows, sorted by family and series, and written to a file of their own, a *run*. At the end the
//! runs are merged: each is read once, from its beginning to its end.
//!
//! Invariant: memory is bounded by [`RUN_VALUES`] and the live series. The files have no names, so
//! their space is released however the process ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek};
use std::mem;
use std::path::PathBuf;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use serde::{Deserialize, Serialize};

use crate::replay::sample::{Rows, Step, Table};

/// How many values a run has at most: 32 MB.
const RUN_VALUES: usize = 4 << 20;

/// How many steps a run has at least; with fewer it would have little to sort.
const RUN_STEPS: usize = 8;

/// Buffers for a run that is written, and for each run that is merged.
const WRITE_BUFFER: usize = 1 << 20;
const READ_BUFFER: usize = 64 << 10;

/// The rows of some steps, by table and labels.
pub(super) struct Gathered {
    pub(super) tables: Vec<HashMap<Box<str>, GatheredRow>>,
    /// Which tables are gathered.
    pub(super) wanted: Vec<bool>,
    pub(super) values: usize,
}

/// The values of a row in the steps that are being gathered.
pub(super) struct GatheredRow {
    /// The step of the first values.
    pub(super) first: u32,
    /// Step by step, a value for each column; NaN where there is none.
    pub(super) values: Vec<f64>,
}

impl Gathered {
    /// Gathers the tables that are `wanted` alone.
    pub(super) fn new(wanted: Vec<bool>) -> Self {
        Self { tables: wanted.iter().map(|_| HashMap::new()).collect(), wanted, values: 0 }
    }

    /// Takes the rows of a step, which is counted from the first that is gathered.
    pub(super) fn push(&mut self, step: &Step, place: u32) {
        let tables = self.tables.iter_mut().zip(&step.tables).zip(&self.wanted);
        for ((gathered, rows), _) in tables.filter(|(_, wanted)| **wanted) {
            self.values += gather(gathered, rows, place);
        }
    }
}

/// Adds the rows of a step to those of the steps before. Returns how many values that adds.
fn gather(gathered: &mut HashMap<Box<str>, GatheredRow>, rows: &Rows, step: u32) -> usize {
    let mut added = 0;
    for (labels, values) in rows.iter() {
        let labels = labels.text();
        let row = match gathered.entry_ref(labels) {
            EntryRef::Occupied(entry) => entry.into_mut(),
            EntryRef::Vacant(entry) => {
                entry.insert_with_key(labels.into(), GatheredRow { first: step, values: Vec::new() })
            }
        };
        let before = row.values.len();
        // The steps without the row have no values.
        row.values.resize((step - row.first) as usize * values.len(), f64::NAN);
        row.values.extend_from_slice(values);
        added += row.values.len() - before;
    }
    added
}

/// Steps that are gathered into runs.
pub(super) struct Spill {
    folder: PathBuf,
    /// [`RUN_VALUES`]
    run_values: usize,
    gathered: Gathered,
    steps: u32,
    runs: Vec<Run>,
}

impl Spill {
    /// Gathers into memory and nameless files in the folder, the tables that are `wanted` alone.
    pub(super) fn new(folder: PathBuf, wanted: Vec<bool>) -> Self {
        Self { folder, run_values: RUN_VALUES, gathered: Gathered::new(wanted), steps: 0, runs: Vec::new() }
    }

    /// Takes the next step.
    pub(super) fn push(&mut self, step: &Step) -> io::Result<()> {
        let before = self.gathered.values;
        self.gathered.push(step, self.steps);
        self.steps += 1;
        let of_step = self.gathered.values - before;
        let most = self.run_values.max(of_step.saturating_mul(RUN_STEPS));
        if self.gathered.values >= most { self.end_run() } else { Ok(()) }
    }

    /// Writes what is gathered to disk.
    fn end_run(&mut self) -> io::Result<()> {
        self.gathered.values = 0;
        let mut writer = BufWriter::with_capacity(WRITE_BUFFER, tempfile::tempfile_in(&self.folder)?);
        let mut place = 0;
        for (table, gathered) in Table::all().iter().zip(&mut self.gathered.tables) {
            let mut rows: Vec<_> = mem::take(gathered).into_iter().collect();
            rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            for family in &table.families {
                for (labels, row) in &rows {
                    let each = |column| row.values.iter().copied().skip(column).step_by(table.columns.len());
                    let columns: Vec<Vec<_>> =
                        family.columns.clone().map(|column| each(column).collect()).collect();
                    if columns.iter().flatten().any(|value| !value.is_nan()) {
                        let (labels, first) = (labels.clone(), row.first);
                        let piece = Piece { family: place, labels, first, columns };
                        rmp_serde::encode::write(&mut writer, &piece).map_err(io::Error::other)?;
                    }
                }
                place += 1;
            }
        }
        let mut file = writer.into_inner()?;
        file.rewind()?;
        self.runs.push(Run { reader: BufReader::with_capacity(READ_BUFFER, file), next: None });
        Ok(())
    }

    /// Ends the last run. All series can be read then.
    pub(super) fn complete(mut self) -> io::Result<SpilledSeries> {
        if self.gathered.values > 0 {
            self.end_run()?;
        }
        Ok(SpilledSeries(self.runs))
    }
}

/// A row's part of a run in one family.
#[derive(Serialize, Deserialize)]
struct Piece {
    /// The place of the family among those of all tables.
    family: usize,
    labels: Box<str>,
    /// The step of the first values.
    first: u32,
    /// For each column of the family, a value for each step; NaN where there is none.
    columns: Vec<Vec<f64>>,
}

/// A run on disk, which is read piece by piece.
struct Run {
    reader: BufReader<File>,
    next: Option<Piece>,
}

impl Run {
    /// Takes the next piece if it is of this family.
    fn take(&mut self, family: usize) -> io::Result<Option<Piece>> {
        if self.next.is_none() && !self.reader.fill_buf()?.is_empty() {
            self.next = Some(rmp_serde::from_read(&mut self.reader).map_err(io::Error::other)?);
        }
        Ok(self.next.take_if(|piece| piece.family == family))
    }
}

/// The samples of a row in one family, over the steps that have the row.
#[derive(Default)]
pub(super) struct RowSeries {
    /// The row's labels, `name="value",…`.
    pub(super) labels: Box<str>,
    /// The steps, counted from zero, ascending.
    pub(super) steps: Vec<u32>,
    /// For each column of the family, a value for each step; NaN where there is none.
    pub(super) columns: Vec<Vec<f64>>,
}

/// All series, on disk.
pub(super) struct SpilledSeries(Vec<Run>);

impl SpilledSeries {
    /// Visits the series of a family, sorted by labels. Families are read in their order, each
    /// once.
    pub(super) fn visit<E: From<io::Error>>(
        &mut self,
        family: usize,
        visit: &mut dyn FnMut(&RowSeries) -> Result<(), E>,
    ) -> Result<(), E> {
        // The next piece of each run, by labels; those of one row in the order of runs, which is
        // that of time.
        let mut next = BTreeMap::new();
        let mut taken = 0..self.0.len();
        let mut series = RowSeries::default();
        loop {
            for run in taken {
                if let Some(mut piece) = self.0[run].take(family)? {
                    next.insert((mem::take(&mut piece.labels), run), piece);
                }
            }
            let Some(((labels, run), piece)) = next.pop_first() else { break };
            if labels != series.labels {
                if !series.steps.is_empty() {
                    visit(&series)?;
                }
                series = RowSeries { labels, ..RowSeries::default() };
            }
            series.columns.resize(piece.columns.len(), Vec::new());
            series.steps.extend((piece.first..).take(piece.columns[0].len()));
            for (column, values) in series.columns.iter_mut().zip(piece.columns) {
                column.extend(values);
            }
            taken = run..run + 1;
        }
        if series.steps.is_empty() { Ok(()) } else { visit(&series) }
    }
}

#[cfg(test)]
mod tests {
    use callsight_fold::StreamTime;
    use callsight_fold::series::aggregates::{Aggregates, ServerSeries};
    use callsight_fold::series::catalogue::SESSIONS;
    use callsight_fold::series::detail::DetailStore;

    use super::*;

    #[test]
    fn so_many_values_are_in_memory_and_all_others_in_a_file() {
        const STEPS: u32 = 100;
        let aggregates = Aggregates::new();
        let server = ServerSeries::register(&**aggregates.recorder(), "us", "https://a", "webrtc");
        let read = || Step::read(StreamTime::default(), &aggregates, &DetailStore::new(1));
        let of_step: usize = read().tables.iter().flat_map(Rows::iter).map(|(_, values)| values.len()).sum();
        let folder = tempfile::tempdir().unwrap();
        // With few values it is eight steps.
        for (run_values, steps) in [(20 * of_step, 20), (of_step, RUN_STEPS)] {
            let wanted = vec![true; Table::all().len()];
            let mut spill = Spill { run_values, ..Spill::new(folder.path().to_owned(), wanted) };
            for step in 0..STEPS {
                server.sessions.set(f64::from(step));
                spill.push(&read()).unwrap();
                let rows = spill.gathered.tables.iter().flat_map(HashMap::values);
                let held: usize = rows.map(|row| row.values.len()).sum();
                assert!(held < steps * of_step, "{held} values after step {step}");
            }
            assert_eq!(spill.runs.len(), STEPS as usize / steps);

            // Nothing is lost, and all comes back in order.
            let mut spilled = spill.complete().unwrap();
            let mut seen = Vec::new();
            let families = Table::all().iter().flat_map(|table| &table.families);
            for (place, family) in families.enumerate() {
                let is_sessions = family.metric.name == SESSIONS.name;
                let visit = &mut |series: &RowSeries| {
                    if is_sessions {
                        seen.extend(series.steps.iter().copied().zip(series.columns[0].iter().copied()));
                    }
                    Ok::<_, io::Error>(())
                };
                spilled.visit(place, visit).unwrap();
            }
            assert_eq!(seen, (0..STEPS).map(|step| (step, f64::from(step))).collect::<Vec<_>>());
        }
    }
}
