//! Samples for a remote-write receiver: Prometheus, Mimir, VictoriaMetrics.
//!
//! A receiver wants the samples of a series in the order of time, and a stale marker where a series
//! ends: without it a call that is over stays on the graphs for five more minutes. So the sink
//! gathers some steps, sends them series by series, one request after the other, and marks each
//! series that a step no longer has.
//!
//! What was sent can't be taken back, so an interrupted replay is continued: [`Resume`] is a file
//! with the step up to which the receiver accepted everything. A resumed replay folds from the
//! beginning, so that its counters continue, and sends only what follows that step.
//!
//! Invariant: every series that was sent and ended gets one stale marker, unless live samples
//! follow the window.

mod receiver;
mod resume;
mod wire;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use hashbrown::HashMap;

pub use receiver::ReceiverConfig;
pub use resume::{Plan, Resume};

use self::receiver::Receiver;
use self::wire::{STALE, WireLabel, WireSample, WireSeries, WriteRequest};
use super::spill::{Gathered, GatheredRow};
use super::{Sink, SinkError};
use crate::replay::account::Account;
use crate::replay::progress::Control;
use crate::replay::prometheus::Labels;
use crate::replay::sample::{Column, Step, Table};
use crate::replay::window::{rfc3339, unix_millis};
use callsight_fold::StreamTime;
use callsight_fold::series::catalogue::{Kind, Plane};
use callsight_fold::series::labels::Labels as RowLabels;

/// The most values that are gathered before they are sent: 8 MB.
const MAX_VALUES: usize = 1 << 20;

/// The most steps that are gathered, which is how much a resumed replay sends again.
const MAX_STEPS: usize = 60;

/// The number of samples at which a request is sent.
const SAMPLES_PER_REQUEST: usize = 5_000;

/// Where samples go, and how their series differ from those of a step.
#[derive(Clone, Debug)]
pub struct RemoteWriteConfig {
    pub receiver: ReceiverConfig,
    /// Labels that every series gets.
    pub labels: Labels,
    /// Whether the series end with the window; `false` if live samples follow.
    pub ends: bool,
    /// How to continue live series, if there are any.
    pub continuation: Continuation,
}

/// What makes replayed samples continue the live series before a gap. Empty for a replay under its
/// own label.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Continuation {
    /// The values of the aggregates' counters before the gap, by [`series_key`].
    pub counted: BTreeMap<String, f64>,
    /// The receiver's spelling of bucket edges, by this program's, where the two differ.
    pub edges: BTreeMap<String, String>,
    /// Planes without live series, which are left out.
    pub without: Vec<Plane>,
}

/// Identifies a series by name and labels, in whatever order the labels come.
#[must_use]
pub fn series_key(name: &str, labels: &mut [(Cow<'_, str>, Cow<'_, str>)]) -> String {
    labels.sort_unstable();
    format!("{name}{labels:?}")
}

/// The sink of `--remote-write`, and of `--heal`.
pub struct RemoteWrite {
    config: RemoteWriteConfig,
    receiver: Receiver,
    control: Control,
    resume: Option<Resume>,
    /// The step up to which the receiver accepted everything, in this run or an interrupted one.
    accepted: Option<StreamTime>,
    gathered: Gathered,
    steps: Vec<StreamTime>,
    /// A bit for each column that a row had a value in at the last sent step, by table.
    live: Vec<HashMap<Box<str>, u64>>,
    request: WriteRequest,
    /// The number of samples in the request.
    requested: usize,
    sent: u64,
    step: Duration,
}

impl RemoteWrite {
    /// Makes a sink that sends what follows the step that `resume` names.
    #[must_use]
    pub fn new(config: RemoteWriteConfig, step: Duration, resume: Option<Resume>, control: Control) -> Self {
        let without = &config.continuation.without;
        let is_wanted =
            |table: &Table| table.families.iter().all(|family| !without.contains(&family.metric.plane));
        Self {
            gathered: Gathered::new(Table::all().iter().map(is_wanted).collect()),
            receiver: Receiver::new(config.receiver.clone(), control.clone()),
            config,
            control,
            accepted: resume.as_ref().and_then(Resume::accepted),
            resume,
            steps: Vec::new(),
            live: Table::all().iter().map(|_| HashMap::new()).collect(),
            request: WriteRequest::default(),
            requested: 0,
            sent: 0,
            step,
        }
    }

    /// Notes which series a step has that was sent by an interrupted run.
    fn skip(&mut self, step: &Step) {
        for ((live, rows), wanted) in self.live.iter_mut().zip(&step.tables).zip(&self.gathered.wanted) {
            live.clear();
            if *wanted {
                live.extend(rows.iter().map(|(labels, values)| (labels.text().into(), present(values))));
            }
        }
    }

    fn send_gathered(&mut self) -> Result<(), SinkError> {
        let Some(last) = self.steps.last().copied() else { return Ok(()) };
        let steps: Vec<i64> = self.steps.drain(..).map(unix_millis).collect();
        self.gathered.values = 0;
        for (index, table) in Table::all().iter().enumerate() {
            let gathered = std::mem::take(&mut self.gathered.tables[index]);
            let mut live = std::mem::take(&mut self.live[index]);
            let gone: Vec<_> = live.extract_if(|labels, _| !gathered.contains_key(labels)).collect();
            for (labels, columns) in gone {
                self.end_row(table, &labels, columns, steps[0])?;
            }
            for (labels, row) in gathered {
                let before = live.remove(&labels).unwrap_or_default();
                let now = self.send_row(table, &labels, &row, before, &steps)?;
                if now != 0 {
                    live.insert(labels, now);
                }
            }
            self.live[index] = live;
        }
        self.send_request()?;
        if let Some(resume) = &mut self.resume {
            resume.accept(last)?;
        }
        self.accepted = Some(last);
        Ok(())
    }

    /// Sends the series of a row. Returns which of its columns have a value at the last step.
    fn send_row(
        &mut self,
        table: &Table,
        labels: &str,
        row: &GatheredRow,
        before: u64,
        steps: &[i64],
    ) -> Result<u64, SinkError> {
        let width = table.columns.len();
        let mut now = 0;
        for (index, column) in table.columns.iter().enumerate() {
            let mut samples = Vec::with_capacity(steps.len());
            let mut there = before >> index & 1 == 1;
            let offset = self.counted(table, labels, column);
            for (place, &timestamp) in steps.iter().enumerate() {
                let value = place.checked_sub(row.first as usize);
                let value = value.and_then(|place| row.values.get(place * width + index));
                let value = value.filter(|value| !value.is_nan()).map(|value| value + offset);
                if value.is_some() || there {
                    samples.push(WireSample { value: value.unwrap_or(STALE), timestamp });
                }
                there = value.is_some();
            }
            now |= u64::from(there) << index;
            self.push(table, labels, column, samples)?;
        }
        Ok(now)
    }

    /// The value that a counter of an aggregate continues from.
    fn counted(&self, table: &Table, labels: &str, column: &Column) -> f64 {
        let counted = &self.config.continuation.counted;
        let counts = table.families.iter().all(|family| {
            matches!(family.metric.kind, Kind::Counter | Kind::Histogram(_))
                && !matches!(family.metric.plane, Plane::Session | Plane::Pair)
        });
        if !counts || counted.is_empty() {
            return 0.0;
        }
        counted
            .get(&series_key(&column.name, &mut all_labels(table, labels, column)))
            .copied()
            .unwrap_or_default()
    }

    /// Sends a stale marker for the columns of a row that have a bit in `columns`.
    fn end_row(
        &mut self,
        table: &Table,
        labels: &str,
        columns: u64,
        timestamp: i64,
    ) -> Result<(), SinkError> {
        for (index, column) in table.columns.iter().enumerate() {
            if columns >> index & 1 == 1 {
                self.push(table, labels, column, vec![WireSample { value: STALE, timestamp }])?;
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        table: &Table,
        labels: &str,
        column: &Column,
        samples: Vec<WireSample>,
    ) -> Result<(), SinkError> {
        if samples.is_empty() {
            return Ok(());
        }
        let mut all = all_labels(table, labels, column);
        if let Some((_, edge)) = all.iter_mut().find(|(name, _)| name == "le")
            && let Some(theirs) = self.config.continuation.edges.get(&**edge)
        {
            *edge = theirs.into();
        }
        all.push(("__name__".into(), (&column.name).into()));
        all.extend(self.config.labels.iter().map(|(name, value)| (name.into(), value.into())));
        all.sort_unstable();
        let label = |(name, value): Label<'_>| WireLabel { name: name.into(), value: value.into() };
        let labels = all.into_iter().map(label).collect();
        self.requested += samples.len();
        self.request.series.push(WireSeries { labels, samples });
        if self.requested >= SAMPLES_PER_REQUEST { self.send_request() } else { Ok(()) }
    }

    fn send_request(&mut self) -> Result<(), SinkError> {
        if self.requested == 0 {
            return Ok(());
        }
        let body = self.request.body().map_err(|error| SinkError::Receiver(error.to_string()))?;
        self.receiver.deliver(&body.into()).map_err(|error| self.with_next_step(error))?;
        self.request.series.clear();
        self.sent += std::mem::take(&mut self.requested) as u64;
        Ok(())
    }

    /// Adds to an error of the receiver what it accepted, and how to continue.
    fn with_next_step(&self, error: SinkError) -> SinkError {
        let SinkError::Receiver(problem) = error else { return error };
        let accepted = match self.accepted {
            None => "no samples were committed".to_owned(),
            Some(step) => format!("samples up to {} were committed", rfc3339(step)),
        };
        let rerun = match &self.resume {
            Some(resume) => format!("rerun with --resume {} to continue", resume.path().display()),
            None => "rerun with --resume FILE".to_owned(),
        };
        SinkError::Receiver(format!("{problem}; {accepted}; {rerun}"))
    }
}

impl Sink for RemoteWrite {
    fn step(&mut self, step: &Step) -> Result<(), SinkError> {
        if self.accepted.is_some_and(|accepted| step.at <= accepted) {
            self.skip(step);
            return Ok(());
        }
        let place = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.steps.push(step.at);
        self.gathered.push(step, place);
        let is_much = self.gathered.values >= MAX_VALUES || self.steps.len() >= MAX_STEPS;
        if is_much { self.send_gathered() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError> {
        self.control.phase("sending");
        self.send_gathered()?;
        if let Some(last) = self.accepted.filter(|_| self.config.ends) {
            for (index, table) in Table::all().iter().enumerate() {
                for (labels, columns) in std::mem::take(&mut self.live[index]) {
                    self.end_row(table, &labels, columns, unix_millis(last + self.step))?;
                }
            }
            self.send_request()?;
        }
        if let Some(resume) = self.resume {
            resume.complete();
        }
        let address = self.config.receiver.address;
        Ok(vec![format!("{address}: {} samples at {} steps", self.sent, account.steps)])
    }
}

/// A bit for each value that is not NaN.
fn present(values: &[f64]) -> u64 {
    values.iter().enumerate().fold(0, |bits, (index, value)| bits | u64::from(!value.is_nan()) << index)
}

type Label<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The labels of a row and of its column.
fn all_labels<'a>(table: &Table, labels: &'a str, column: &'a Column) -> Vec<Label<'a>> {
    let row = RowLabels::new(table.labels, labels).iter().map(|(name, value)| (name.into(), value));
    let own = column.label.as_ref().map(|(name, value)| ((*name).into(), value.into()));
    row.chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn present_columns_are_bits() {
        assert_eq!(present(&[1.0, f64::NAN, 0.0]), 0b101);
        assert!(Table::all().iter().all(|table| table.columns.len() <= 64));
    }
}
