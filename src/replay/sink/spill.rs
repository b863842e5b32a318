//! From steps to series, in bounded memory.
//!
//! A replay brings all series of a step, then all of the next; a file of OpenMetrics wants all
//! steps of a series, then those of the next. In between are all samples, thirty million for an
//! hour of 2,000 sessions. So samples are gathered for as many steps as a bounded number of values
//! allows, sorted by series, and written to disk as a *run*. At the end the runs are merged, family
//! by family; a run has a section for each family, so that a family is read in one sweep.
//!
//! Invariant: memory is bounded by [`RUN_VALUES`] and the live series. The file has no name, so its
//! space is released however the process ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use crate::replay::sample::{Family, Rows, Step, Table};

/// How many values a run has at most: 32 MB.
const RUN_VALUES: usize = 4 << 20;

/// How many steps a run has at least; with fewer it would have little to sort.
const RUN_STEPS: usize = 8;

/// Buffers for a run that is written, and for each run that is merged.
const WRITE_BUFFER: usize = 1 << 20;
const READ_BUFFER: usize = 64 << 10;

/// The samples of a row in one family, over the steps that have the row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RowSeries {
    /// The row's labels, `name="value",…`.
    pub(super) labels: String,
    /// The steps, counted from zero, ascending.
    pub(super) steps: Vec<u32>,
    /// For each column of the family, a value for each step; NaN where there is none.
    pub(super) columns: Vec<Vec<f64>>,
}

/// The values of a row in the steps that are being gathered.
pub(super) struct GatheredRow {
    /// The step of the first values.
    pub(super) first: u32,
    /// Step by step, a value for each column; NaN where there is none.
    pub(super) values: Vec<f64>,
}

/// A range of bytes of the file.
#[derive(Clone, Copy, Debug)]
struct Section {
    begin: u64,
    end: u64,
}

pub(super) struct Spill {
    file: File,
    /// The present run, by table.
    gathered: Vec<HashMap<Box<str>, GatheredRow>>,
    values: usize,
    steps: u32,
    /// For each run, a section for each family of each table.
    runs: Vec<Vec<Vec<Section>>>,
    /// Which tables are kept.
    wanted: Vec<bool>,
}

impl Spill {
    /// Gathers into memory and a nameless file in the folder, the tables that are `wanted` alone.
    pub(super) fn new(folder: &Path, wanted: Vec<bool>) -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile_in(folder)?,
            gathered: Table::all().iter().map(|_| HashMap::new()).collect(),
            values: 0,
            steps: 0,
            runs: Vec::new(),
            wanted,
        })
    }

    /// Takes the next step.
    pub(super) fn push(&mut self, step: &Step) -> io::Result<()> {
        let before = self.values;
        let tables = self.gathered.iter_mut().zip(&step.tables).zip(&self.wanted);
        for ((gathered, rows), _) in tables.filter(|(_, wanted)| **wanted) {
            self.values += gather(gathered, rows, self.steps);
        }
        self.steps += 1;
        let of_step = self.values - before;
        if self.values >= RUN_VALUES.max(of_step.saturating_mul(RUN_STEPS)) { self.end_run() } else { Ok(()) }
    }

    /// Writes what is gathered to disk.
    fn end_run(&mut self) -> io::Result<()> {
        self.values = 0;
        let mut writer = BufWriter::with_capacity(WRITE_BUFFER, &self.file);
        let mut run = Vec::new();
        for (table, gathered) in Table::all().iter().zip(&mut self.gathered) {
            let mut rows: Vec<_> = std::mem::take(gathered).into_iter().collect();
            rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            let mut sections = Vec::with_capacity(table.families.len());
            for family in &table.families {
                let begin = writer.stream_position()?;
                for (labels, row) in &rows {
                    write_piece(&mut writer, labels, row, family, table.columns.len())?;
                }
                sections.push(Section { begin, end: writer.stream_position()? });
            }
            run.push(sections);
        }
        writer.flush()?;
        self.runs.push(run);
        Ok(())
    }

    /// Ends the last run. All series can be read then.
    pub(super) fn complete(mut self) -> io::Result<SpilledSeries> {
        if self.values > 0 {
            self.end_run()?;
        }
        Ok(SpilledSeries { file: self.file, runs: self.runs })
    }
}

/// Adds the rows of a step to those of the steps before. Returns how many values that adds.
pub(super) fn gather(gathered: &mut HashMap<Box<str>, GatheredRow>, rows: &Rows, step: u32) -> usize {
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

/// Writes a row's part in a family: the lengths, the labels, and the values column by column.
fn write_piece(
    writer: &mut impl Write,
    labels: &str,
    row: &GatheredRow,
    family: &Family,
    width: usize,
) -> io::Result<()> {
    let values = family.columns.clone().flat_map(|column| row.values.iter().skip(column).step_by(width));
    if values.clone().all(|value| value.is_nan()) {
        return Ok(());
    }
    let number = |number: usize| u32::try_from(number).map_err(io::Error::other);
    for number in [number(labels.len())?, row.first, number(row.values.len() / width)?] {
        writer.write_all(&number.to_le_bytes())?;
    }
    writer.write_all(labels.as_bytes())?;
    values.into_iter().try_for_each(|value| writer.write_all(&value.to_le_bytes()))
}

/// All series, on disk.
pub(super) struct SpilledSeries {
    file: File,
    runs: Vec<Vec<Vec<Section>>>,
}

impl SpilledSeries {
    /// Visits the series of a family, sorted by labels.
    pub(super) fn visit<E: From<io::Error>>(
        &self,
        table: usize,
        family: usize,
        visit: &mut dyn FnMut(&RowSeries) -> Result<(), E>,
    ) -> Result<(), E> {
        let width = Table::all()[table].families[family].columns.len();
        let mut readers: Vec<_> = self
            .runs
            .iter()
            .map(|run| {
                let section = SectionReader { file: &self.file, section: run[table][family] };
                BufReader::with_capacity(READ_BUFFER, section)
            })
            .collect();
        // The next piece of each run, by labels; those of one row in the order of runs, which is
        // that of time.
        let mut next = BTreeMap::new();
        for (run, reader) in readers.iter_mut().enumerate() {
            next.extend(read_piece(reader, width)?.map(|(labels, piece)| ((labels, run), piece)));
        }
        let mut series = RowSeries { columns: vec![Vec::new(); width], ..RowSeries::default() };
        while let Some(((labels, run), GatheredRow { first, values })) = next.pop_first() {
            if labels != series.labels {
                if !series.steps.is_empty() {
                    visit(&series)?;
                }
                series.labels = labels;
                series.steps.clear();
                series.columns.iter_mut().for_each(Vec::clear);
            }
            let steps = values.len() / width;
            series.steps.extend((first..).take(steps));
            for (column, values) in series.columns.iter_mut().zip(values.chunks_exact(steps)) {
                column.extend_from_slice(values);
            }
            let piece = read_piece(&mut readers[run], width)?;
            next.extend(piece.map(|(labels, piece)| ((labels, run), piece)));
        }
        if series.steps.is_empty() { Ok(()) } else { visit(&series) }
    }
}

/// Reads a section without moving the file's own position, which all runs share.
struct SectionReader<'a> {
    file: &'a File,
    section: Section,
}

impl Read for SectionReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.section.end - self.section.begin).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..length], self.section.begin)?;
        self.section.begin += read as u64;
        Ok(read)
    }
}

/// Reads what [`write_piece`] wrote: labels, and values column by column. `None` at the end of the
/// section.
fn read_piece(reader: &mut impl BufRead, width: usize) -> io::Result<Option<(String, GatheredRow)>> {
    if reader.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut number = || {
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).map(|()| u32::from_le_bytes(bytes))
    };
    let (length, first, steps) = (number()?, number()?, number()?);
    let mut labels = vec![0; length as usize];
    reader.read_exact(&mut labels)?;
    let labels = String::from_utf8(labels).map_err(io::Error::other)?;
    let mut bytes = vec![0; steps as usize * width * size_of::<f64>()];
    reader.read_exact(&mut bytes)?;
    let (values, _) = bytes.as_chunks();
    let values = values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    Ok(Some((labels, GatheredRow { first, values })))
}
