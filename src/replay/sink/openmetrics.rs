//! A file of OpenMetrics: every sample of every series, with its time.
//!
//! The format wants the samples of a family together, within it those of a series in the order of
//! time, and `# EOF` at the end. A replay goes through time instead, so `Spill` sorts its steps
//! first. One thread makes text of them while the other writes it.
//!
//! Invariant: a complete file is valid OpenMetrics.

use std::io;
use std::mem;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::output::{Output, Target};
use super::spill::{RowSeries, Spill, SpilledSeries};
use super::{Sink, SinkError};
use crate::replay::account::Account;
use crate::replay::progress::Control;
use crate::replay::sample::{Column, Family, Step, Table};
use crate::replay::window::unix_millis;
use callsight_fold::StreamTime;
use callsight_fold::series::exposition::{Format, push_measure};

/// How much text goes to the writing thread at a time, and how many such portions may wait.
const PORTION: usize = 1 << 20;
const PORTIONS: usize = 4;

/// The sink of `--openmetrics`, and the first half of `--tsdb` and `--rules`.
pub struct OpenMetrics {
    output: Output,
    spill: Spill,
    /// The end of each line of a step.
    ends: Vec<Box<[u8]>>,
    label: Option<String>,
    control: Control,
}

impl OpenMetrics {
    /// Begins a file of all tables. Every series gets the label `replay` if there is an id.
    ///
    /// # Errors
    /// When the files can't be made.
    pub fn new(target: Target, replay: Option<&str>, control: Control) -> Result<Self, SinkError> {
        Self::with_tables(target, replay, control, vec![true; Table::all().len()])
    }

    /// Begins a file of the `wanted` tables, in the order of [`Table::all`].
    pub(in crate::replay) fn with_tables(
        target: Target,
        replay: Option<&str>,
        control: Control,
        wanted: Vec<bool>,
    ) -> Result<Self, SinkError> {
        let spill = Spill::new(target.folder(), wanted);
        let output = Output::create(target)?;
        let label = replay.map(|id| format!("replay=\"{id}\""));
        Ok(Self { output, spill, ends: Vec::new(), label, control })
    }
}

impl Sink for OpenMetrics {
    fn step(&mut self, step: &Step) -> Result<(), SinkError> {
        self.ends.push(line_end(step.at));
        self.spill.push(step).map_err(|error| self.output.target.error(error))
    }

    fn finish(self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError> {
        let Self { mut output, spill, ends, label, control } = *self;
        control.phase("writing");
        let mut spilled = spill.complete().map_err(|error| output.target.error(error))?;
        let (sender, portions) = sync_channel::<Vec<u8>>(PORTIONS);
        let mut text = TextMaker { ends, label, control, portion: Vec::new(), sender };
        let made = thread::scope(|scope| {
            let making = scope.spawn(move || text.make(&mut spilled));
            for portion in portions {
                // Returning drops the queue, which ends the other thread.
                output.write(&portion)?;
            }
            making.join().unwrap_or(Err(Interrupted::Stopped)).map_err(|why| match why {
                Interrupted::Disk(error) => output.target.error(error),
                Interrupted::Stopped => SinkError::Stopped,
            })
        });
        made?;
        Ok(output.complete()?.said(&format!("{} samples at {} steps", account.samples, account.steps)))
    }
}

/// ` `, the time in seconds, and the end of the line.
fn line_end(at: StreamTime) -> Box<[u8]> {
    let millis = unix_millis(at);
    let (seconds, rest) = (millis.div_euclid(1000), millis.rem_euclid(1000));
    let fraction = if rest == 0 { String::new() } else { format!(".{rest:03}") };
    format!(" {seconds}{fraction}\n").into_bytes().into()
}

struct TextMaker {
    ends: Vec<Box<[u8]>>,
    label: Option<String>,
    control: Control,
    portion: Vec<u8>,
    sender: SyncSender<Vec<u8>>,
}

/// Why the text is not complete.
enum Interrupted {
    Disk(io::Error),
    Stopped,
}

impl From<io::Error> for Interrupted {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl TextMaker {
    fn make(&mut self, spilled: &mut SpilledSeries) -> Result<(), Interrupted> {
        let of_table = |table: &'static Table| table.families.iter().map(move |family| (table, family));
        let families: Vec<_> = Table::all().iter().flat_map(of_table).collect();
        for (place, (table, family)) in families.iter().enumerate() {
            self.control.done(place, families.len());
            self.push_family(spilled, place, table, family)?;
        }
        self.portion.extend_from_slice(b"# EOF\n");
        self.hand_over(0)
    }

    fn push_family(
        &mut self,
        spilled: &mut SpilledSeries,
        place: usize,
        table: &Table,
        family: &Family,
    ) -> Result<(), Interrupted> {
        let columns = &table.columns[family.columns.clone()];
        let mut headed = false;
        let mut heads: Vec<Vec<u8>> = vec![Vec::new(); columns.len()];
        spilled.visit(place, &mut |series: &RowSeries| {
            if !mem::replace(&mut headed, true) {
                let (metric, kind) = (family.metric, family.metric.kind.name());
                let name = Format::OpenMetrics.family(metric.name);
                let header = format!("# HELP {name} {}\n# TYPE {name} {kind}\n", metric.help);
                self.portion.extend_from_slice(header.as_bytes());
            }
            for (head, column) in heads.iter_mut().zip(columns) {
                set_head(head, column, &series.labels, self.label.as_deref());
            }
            self.push_series(series, &heads, family.together);
            self.hand_over(PORTION)
        })
    }

    /// A point of a histogram is its buckets, sum and count together; any other column is a series
    /// of its own.
    fn push_series(&mut self, series: &RowSeries, heads: &[Vec<u8>], together: bool) {
        let columns = || heads.iter().zip(&series.columns);
        let steps = || series.steps.iter().enumerate();
        let mut line = |(head, values): (&Vec<u8>, &Vec<f64>), (place, step): (usize, &u32)| {
            if !values[place].is_nan() {
                self.portion.extend_from_slice(head);
                push_measure(&mut self.portion, values[place]);
                self.portion.extend_from_slice(&self.ends[*step as usize]);
            }
        };
        if together {
            steps().for_each(|step| columns().for_each(|column| line(column, step)));
        } else {
            columns().for_each(|column| steps().for_each(|step| line(column, step)));
        }
    }

    /// Hands the text over if there is enough of it.
    fn hand_over(&mut self, enough: usize) -> Result<(), Interrupted> {
        if self.portion.len() < enough {
            return Ok(());
        }
        if self.control.is_stopped() {
            return Err(Interrupted::Stopped);
        }
        let portion = mem::replace(&mut self.portion, Vec::with_capacity(PORTION + PORTION / 4));
        self.sender.send(portion).map_err(|_| Interrupted::Stopped)
    }
}

fn set_head(head: &mut Vec<u8>, column: &Column, labels: &str, replay: Option<&str>) {
    let own = column.label.as_ref().map(|(name, value)| format!("{name}=\"{value}\""));
    let parts = [Some(labels), replay, own.as_deref()];
    let parts: Vec<_> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    *head = format!("{}{{{}}} ", column.name, parts.join(",")).into_bytes();
}
