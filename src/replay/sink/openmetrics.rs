//! A file of OpenMetrics: every sample of every series, with its time.
//!
//! The format wants the samples of a family together, those of a series within it too, in the order of time, and
//! `# EOF` at the end. What makes that of a replay, which goes through time, is `spill`.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::output::{Output, Target};
use super::spill::{Gathering, Series, Spill};
use super::{Sink, SinkError};
use crate::replay::account::Account;
use crate::replay::progress::Control;
use crate::replay::sample::{Column, Family, Step, Table};
use callsight_fold::StreamTime;
use callsight_fold::series::exposition::{Format, push_measure};

/// How much text goes from the thread that makes it to the one that writes it, and how many such portions may wait.
const PORTION: usize = 1 << 20;
const PORTIONS: usize = 4;

/// Gathers steps, and writes them when the window is over.
pub struct OpenMetrics {
    target: Target,
    output: Output,
    spill: Spill,
    /// What each step's lines end with.
    ends: Vec<Box<[u8]>>,
    label: Option<String>,
    control: Control,
}

impl OpenMetrics {
    /// Begins. Every series is given the label `replay` with this id, if there is one.
    ///
    /// # Errors
    /// When the files can't be made.
    pub fn new(target: Target, replay: Option<&str>, control: Control) -> Result<Self, SinkError> {
        let output = Output::create(target.clone())?;
        let spill = Spill::new(&target.folder()).map_err(|error| target.error(error))?;
        let label = replay.map(|id| format!("replay=\"{id}\""));
        Ok(Self { target, output, spill, ends: Vec::new(), label, control })
    }

    /// Keeps these tables alone, in the order of [`Table::all`].
    #[must_use]
    pub(super) fn only(mut self, tables: Vec<bool>) -> Self {
        self.spill = self.spill.only(tables);
        self
    }
}

impl Sink for OpenMetrics {
    fn step(&mut self, step: &Step) -> Result<(), SinkError> {
        self.ends.push(line_end(step.at));
        self.spill.push(step).map_err(|error| self.target.error(error))
    }

    fn finish(self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError> {
        let Self { target, mut output, spill, ends, label, control } = *self;
        control.phase("writing");
        let gathering = spill.complete().map_err(|error| target.error(error))?;
        let (sender, portions) = sync_channel::<Vec<u8>>(PORTIONS);
        let mut pages = Pages { ends, label, control, target: &target, portion: Vec::new(), sender };
        let written = thread::scope(|scope| {
            let writing = scope.spawn(move || pages.write(&gathering));
            for portion in portions {
                // Dropping the queue is what ends the other thread.
                output.write(&portion)?;
            }
            writing.join().unwrap_or(Err(SinkError::Stopped))
        });
        written?;
        output.complete()?;
        Ok(match target {
            Target::Stdout => Vec::new(),
            Target::File(path) => {
                vec![format!("{}: {} samples at {} steps", path.display(), account.samples, account.steps)]
            }
        })
    }
}

/// ` `, the time in seconds, and the end of the line.
fn line_end(at: StreamTime) -> Box<[u8]> {
    let millis = at.unix_nanos().div_euclid(1_000_000);
    let (seconds, rest) = (millis.div_euclid(1000), millis.rem_euclid(1000));
    let fraction = if rest == 0 { String::new() } else { format!(".{rest:03}") };
    format!(" {seconds}{fraction}\n").into_bytes().into()
}

/// Makes text of series.
struct Pages<'a> {
    ends: Vec<Box<[u8]>>,
    label: Option<String>,
    control: Control,
    target: &'a Target,
    portion: Vec<u8>,
    sender: SyncSender<Vec<u8>>,
}

/// Why no more text is made.
enum Stop {
    Disk(std::io::Error),
    Told,
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Pages<'_> {
    fn write(&mut self, gathering: &Gathering) -> Result<(), SinkError> {
        let families = Table::all().iter().enumerate().flat_map(|(index, table)| {
            let families = table.families.iter().enumerate();
            families.map(move |(place, family)| (index, table, place, family))
        });
        let total = families.clone().count();
        for (done, (index, table, place, family)) in families.enumerate() {
            self.control.done(done, total);
            match self.write_family(gathering, (index, place), table, family) {
                Ok(()) => {}
                Err(Stop::Told) => return Err(SinkError::Stopped),
                Err(Stop::Disk(error)) => return Err(self.target.error(error)),
            }
        }
        self.portion.extend_from_slice(b"# EOF\n");
        self.hand_on(0).map_err(|_| SinkError::Stopped)
    }

    fn write_family(
        &mut self,
        gathering: &Gathering,
        (index, place): (usize, usize),
        table: &'static Table,
        family: &'static Family,
    ) -> Result<(), Stop> {
        let columns = &table.columns[family.columns.clone()];
        let mut headed = false;
        let mut heads: Vec<Vec<u8>> = vec![Vec::new(); columns.len()];
        gathering.visit(index, place, &mut |series: &Series| {
            if !std::mem::replace(&mut headed, true) {
                let (metric, kind) = (family.metric, family.metric.kind.name());
                let name = Format::OpenMetrics.family(metric.name);
                let header = format!("# HELP {name} {}\n# TYPE {name} {kind}\n", metric.help);
                self.portion.extend_from_slice(header.as_bytes());
            }
            for (head, column) in heads.iter_mut().zip(columns) {
                write_head(head, column, &series.labels, self.label.as_deref());
            }
            self.write_series(series, &heads, family.together);
            self.hand_on(PORTION)
        })
    }

    /// The points of a histogram are its buckets, sum and count together; any other column is a series of its own.
    fn write_series(&mut self, series: &Series, heads: &[Vec<u8>], together: bool) {
        let mut line = |head: &[u8], value: f64, step: u32| {
            if !value.is_nan() {
                self.portion.extend_from_slice(head);
                push_measure(&mut self.portion, value);
                self.portion.extend_from_slice(&self.ends[step as usize]);
            }
        };
        if together {
            for (place, step) in series.steps.iter().enumerate() {
                for (head, values) in heads.iter().zip(&series.columns) {
                    line(head, values[place], *step);
                }
            }
        } else {
            for (head, values) in heads.iter().zip(&series.columns) {
                for (value, step) in values.iter().zip(&series.steps) {
                    line(head, *value, *step);
                }
            }
        }
    }

    /// Hands the text on once there is enough of it.
    fn hand_on(&mut self, enough: usize) -> Result<(), Stop> {
        if self.portion.len() < enough {
            return Ok(());
        }
        if self.control.is_stopped() {
            return Err(Stop::Told);
        }
        let portion = std::mem::replace(&mut self.portion, Vec::with_capacity(PORTION + PORTION / 4));
        self.sender.send(portion).map_err(|_| Stop::Told)
    }
}

/// `name{label="value",…} `.
fn write_head(head: &mut Vec<u8>, column: &Column, labels: &str, replay: Option<&str>) {
    head.clear();
    head.extend_from_slice(column.name.as_bytes());
    head.push(b'{');
    let own = column.label.as_ref().map(|(name, value)| format!("{name}=\"{value}\""));
    let parts = [Some(labels), replay, own.as_deref()];
    for (index, part) in parts.into_iter().flatten().filter(|part| !part.is_empty()).enumerate() {
        if index > 0 {
            head.push(b',');
        }
        head.extend_from_slice(part.as_bytes());
    }
    head.extend_from_slice(b"} ");
}
