//! From moments to series, with memory for the series that live.
//!
//! A replay brings all series of a moment, then all of the next; a file of OpenMetrics wants all moments of a
//! series, then those of the next. What lies between is every sample, of which an hour of 2,000 sessions has
//! thirty million. So the samples are gathered for as many moments as a bounded number of values allows, sorted by
//! series, and put on disk as a *run*; at the end the runs are merged, family by family. A run has a section for
//! each family, so that a family is read in one sweep.
//!
//! The disk space belongs to a file without a name: it is given back however the process ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use crate::replay::sample::{Family, Rows, Step, Table};

/// How many values a run gathers before it goes to disk: 32 MB of them.
const RUN_VALUES: usize = 4 << 20;

/// And at least the values of so many steps, or a run would have little to sort.
const RUN_STEPS: usize = 8;

/// How much is read of a run at a time.
const READ: usize = 64 << 10;

/// The samples of a row in one family, over the steps at which the row was there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Series {
    /// The row's labels, `name="value",…`.
    pub(super) labels: String,
    /// The steps, counted from zero, ascending.
    pub(super) steps: Vec<u32>,
    /// A list of values for each column of the family, as long as the steps; NaN where there is none.
    pub(super) columns: Vec<Vec<f64>>,
}

/// A row within the run that is being gathered.
pub(super) struct Gathered {
    /// The step of its first values.
    pub(super) first: u32,
    /// Step by step, a value for each column.
    pub(super) values: Vec<f64>,
}

/// A section of the file.
#[derive(Clone, Copy, Debug)]
struct Section {
    begin: u64,
    end: u64,
}

/// Gathers steps.
pub(super) struct Spill {
    file: File,
    written: u64,
    /// The present run, by table.
    gathered: Vec<HashMap<Box<str>, Gathered>>,
    held: usize,
    run_values: usize,
    steps: u32,
    /// For each run, a section for each family of each table.
    runs: Vec<Vec<Vec<Section>>>,
    /// Which tables are kept.
    wanted: Vec<bool>,
}

impl Spill {
    /// Gathers into memory and a nameless file in the folder.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        Self::with_run_values(folder, RUN_VALUES)
    }

    fn with_run_values(folder: &Path, run_values: usize) -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile_in(folder)?,
            written: 0,
            gathered: Table::all().iter().map(|_| HashMap::new()).collect(),
            held: 0,
            run_values,
            steps: 0,
            runs: Vec::new(),
            wanted: vec![true; Table::all().len()],
        })
    }

    /// Keeps these tables alone.
    pub(super) fn only(mut self, tables: Vec<bool>) -> Self {
        self.wanted = tables;
        self
    }

    /// Takes the next step.
    pub(super) fn push(&mut self, step: &Step) -> io::Result<()> {
        let before = self.held;
        let tables = self.gathered.iter_mut().zip(&step.tables).zip(&self.wanted);
        for ((gathered, rows), _) in tables.filter(|(_, wanted)| **wanted) {
            self.held += gather(gathered, rows, self.steps);
        }
        self.steps += 1;
        let of_step = self.held - before;
        if self.held >= self.run_values.max(of_step.saturating_mul(RUN_STEPS)) {
            self.end_run()?;
        }
        Ok(())
    }

    /// Puts what was gathered on disk.
    fn end_run(&mut self) -> io::Result<()> {
        self.held = 0;
        let mut writer = Counted { writer: BufWriter::with_capacity(1 << 20, &self.file), at: self.written };
        let mut run = Vec::new();
        for (table, gathered) in Table::all().iter().zip(&mut self.gathered) {
            let mut rows: Vec<_> = std::mem::take(gathered).into_iter().collect();
            rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            let mut sections = Vec::with_capacity(table.families.len());
            for family in &table.families {
                let begin = writer.at;
                for (labels, row) in &rows {
                    write_row(&mut writer, labels, row, family, table.columns.len())?;
                }
                sections.push(Section { begin, end: writer.at });
            }
            run.push(sections);
        }
        writer.writer.flush()?;
        self.written = writer.at;
        self.runs.push(run);
        Ok(())
    }

    /// No more steps come: what was gathered can be read.
    pub(super) fn complete(mut self) -> io::Result<Gathering> {
        if self.held > 0 {
            self.end_run()?;
        }
        Ok(Gathering { file: self.file, runs: self.runs })
    }
}

/// Adds the rows of a step to those of the steps before, and tells how many values more there are.
pub(super) fn gather(gathered: &mut HashMap<Box<str>, Gathered>, rows: &Rows, step: u32) -> usize {
    let mut held = 0;
    for (labels, values) in rows.iter() {
        let labels = labels.text();
        let row = match gathered.entry_ref(labels) {
            EntryRef::Occupied(entry) => entry.into_mut(),
            EntryRef::Vacant(entry) => {
                entry.insert_with_key(labels.into(), Gathered { first: step, values: Vec::new() })
            }
        };
        let before = row.values.len();
        // A row that was gone for some steps had no values then.
        row.values.resize((step - row.first) as usize * values.len(), f64::NAN);
        row.values.extend_from_slice(values);
        held += row.values.len() - before;
    }
    held
}

/// A row's part in a family: labels, first step, number of steps, and the values column by column.
fn write_row(
    writer: &mut impl Write,
    labels: &str,
    row: &Gathered,
    family: &Family,
    width: usize,
) -> io::Result<()> {
    let steps = row.values.len() / width;
    let values = |column: usize| row.values.iter().skip(column).step_by(width);
    if family.columns.clone().flat_map(values).all(|value| value.is_nan()) {
        return Ok(());
    }
    let number = |number: usize| u32::try_from(number).map_err(io::Error::other);
    writer.write_all(&number(labels.len())?.to_le_bytes())?;
    writer.write_all(&row.first.to_le_bytes())?;
    writer.write_all(&number(steps)?.to_le_bytes())?;
    writer.write_all(labels.as_bytes())?;
    for value in family.columns.clone().flat_map(values) {
        writer.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}

struct Counted<W> {
    writer: W,
    at: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// All steps, by series.
pub(super) struct Gathering {
    file: File,
    runs: Vec<Vec<Vec<Section>>>,
}

impl Gathering {
    /// Visits the series of a family, sorted by labels.
    pub(super) fn visit<E: From<io::Error>>(
        &self,
        table: usize,
        family: usize,
        visit: &mut dyn FnMut(&Series) -> Result<(), E>,
    ) -> Result<(), E> {
        let width = Table::all()[table].families[family].columns.len();
        let mut readers = Vec::new();
        // By labels, and one row's runs in the order of time.
        let mut next = BinaryHeap::new();
        for run in &self.runs {
            let mut reader = Reader::new(&self.file, run[table][family]);
            if let Some(piece) = reader.read(width)? {
                next.push(Reverse((piece.labels, readers.len(), piece.first, Values(piece.values))));
            }
            readers.push(reader);
        }
        let mut series = Series { columns: vec![Vec::new(); width], ..Series::default() };
        while let Some(Reverse((labels, run, first, Values(values)))) = next.pop() {
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
            if let Some(piece) = readers[run].read(width)? {
                next.push(Reverse((piece.labels, run, piece.first, Values(piece.values))));
            }
        }
        if !series.steps.is_empty() {
            visit(&series)?;
        }
        Ok(())
    }
}

/// Values that have no order, for a heap that needs one. Labels and run already tell any two pieces apart.
struct Values(Vec<f64>);

impl PartialEq for Values {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Values {}

impl PartialOrd for Values {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Values {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

struct Piece {
    labels: String,
    first: u32,
    values: Vec<f64>,
}

/// Reads a section from its beginning to its end.
struct Reader<'a> {
    file: &'a File,
    section: Section,
    buffer: Vec<u8>,
    at: usize,
}

impl<'a> Reader<'a> {
    const fn new(file: &'a File, section: Section) -> Self {
        Self { file, section, buffer: Vec::new(), at: 0 }
    }

    fn read(&mut self, width: usize) -> io::Result<Option<Piece>> {
        if self.at == self.buffer.len() && self.section.begin == self.section.end {
            return Ok(None);
        }
        let (length, first, steps) = (self.number()?, self.number()?, self.number()?);
        let labels = String::from_utf8(self.bytes(length as usize)?.to_vec()).map_err(io::Error::other)?;
        let values = self.bytes(steps as usize * width * 8)?.chunks_exact(8);
        let values = values.map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap_or_default())).collect();
        Ok(Some(Piece { labels, first, values }))
    }

    fn number(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(4)?.try_into().unwrap_or_default()))
    }

    fn bytes(&mut self, count: usize) -> io::Result<&[u8]> {
        if self.buffer.len() - self.at < count {
            self.buffer.drain(..self.at);
            self.at = 0;
            let held = self.buffer.len();
            let left = usize::try_from(self.section.end - self.section.begin).unwrap_or(usize::MAX);
            self.buffer.resize(held + READ.max(count - held).min(left), 0);
            self.file.read_exact_at(&mut self.buffer[held..], self.section.begin)?;
            self.section.begin += (self.buffer.len() - held) as u64;
        }
        let bytes = self.buffer.get(self.at..self.at + count);
        self.at += count;
        bytes.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
