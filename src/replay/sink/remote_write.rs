//! Samples for a remote-write receiver: Prometheus's own, Mimir, VictoriaMetrics.
//!
//! A receiver takes the samples of a series in the order of time, and wants to know where a series ends: without a
//! stale marker a call that is over seems to go on for five more minutes. So steps are gathered for a while, sent
//! series by series, one request after the other, and a series that a step does not have any more gets a marker at
//! that step.
//!
//! What was sent can't be taken back. So a replay that is interrupted is gone on with instead: [`Resume`] is a file
//! that remembers up to which step everything was taken. The replay is then folded anew from its beginning, or
//! its counters would begin a second time, and only what follows is sent.

mod receiver;
mod resume;
mod wire;

use std::borrow::Cow;
use std::collections::HashMap as ByKey;
use std::time::Duration;

use hashbrown::HashMap;

pub use resume::{Plan, Resume, ResumeError};

use self::receiver::Receiver;
use self::wire::{STALE, Sample, WriteRequest};
use super::spill::{Gathered, gather};
use super::{Sink, SinkError};
use crate::replay::account::Account;
use crate::replay::http::{Address, Header};
use crate::replay::progress::Control;
use crate::replay::sample::{Column, Step, Table};
use crate::replay::window::rfc3339;
use callsight_fold::StreamTime;
use callsight_fold::series::catalogue::{Kind, Plane};

/// How many values are gathered before they are sent: 8 MB of them.
const GATHERED: usize = 1 << 20;

/// The most steps that are: how much a replay that is interrupted sends again.
const STEPS: usize = 60;

/// How many samples a request has, about.
const SAMPLES: usize = 5_000;

/// Where samples go, and what comes with them.
#[derive(Clone, Debug)]
pub struct RemoteWriteConfig {
    /// The receiver.
    pub address: Address,
    /// What it wants to be told with each request.
    pub headers: Vec<Header>,
    /// How long a receiver may take nothing before it is given up.
    pub give_up_after: Duration,
    /// Labels that every series gets.
    pub labels: Vec<(String, String)>,
    /// Whether the series end with the window; not if live ones go on there.
    pub ends: bool,
    /// What counters of aggregates had already counted, by [`series_key`].
    pub counted: ByKey<String, f64>,
    /// The edges of buckets that the receiver's live series write in another way.
    pub edges: ByKey<String, String>,
    /// The planes that are left out.
    pub without: Vec<Plane>,
}

/// A series' name and labels, in one order whoever wrote them.
#[must_use]
pub fn series_key(name: &str, labels: &mut Vec<(Cow<'_, str>, Cow<'_, str>)>) -> String {
    labels.sort_unstable();
    format!("{name}{labels:?}")
}

/// Sends steps.
pub struct RemoteWrite {
    config: RemoteWriteConfig,
    receiver: Receiver,
    control: Control,
    resume: Option<Resume>,
    /// Steps up to this one were taken in a former run.
    taken: Option<StreamTime>,
    /// What is gathered, by table.
    gathered: Vec<HashMap<Box<str>, Gathered>>,
    held: usize,
    /// The steps gathered.
    steps: Vec<StreamTime>,
    /// For each row that is there, which of its columns are, by table.
    live: Vec<HashMap<Box<str>, u64>>,
    request: WriteRequest,
    sent: u64,
    step: Duration,
}

impl RemoteWrite {
    /// A sink that sends what follows after what `resume` remembers.
    #[must_use]
    pub fn new(config: RemoteWriteConfig, step: Duration, resume: Option<Resume>, control: Control) -> Self {
        let (address, headers) = (config.address.clone(), config.headers.clone());
        Self {
            receiver: Receiver::new(address, headers, config.give_up_after, control.clone()),
            config,
            control,
            taken: resume.as_ref().and_then(Resume::acknowledged),
            resume,
            gathered: Table::all().iter().map(|_| HashMap::new()).collect(),
            held: 0,
            steps: Vec::new(),
            live: Table::all().iter().map(|_| HashMap::new()).collect(),
            request: WriteRequest::default(),
            sent: 0,
            step,
        }
    }

    fn wants(&self, table: &Table) -> bool {
        table.families.iter().all(|family| !self.config.without.contains(&family.metric.plane))
    }

    /// Remembers which series a step has, all of which was sent before.
    fn pass(&mut self, step: &Step) {
        for (index, (rows, table)) in step.tables.iter().zip(Table::all()).enumerate() {
            self.live[index].clear();
            if self.wants(table) {
                self.live[index]
                    .extend(rows.iter().map(|(labels, values)| (labels.text().into(), present(values))));
            }
        }
    }

    /// Sends what is gathered.
    fn send(&mut self) -> Result<(), SinkError> {
        let Some(last) = self.steps.last().copied() else { return Ok(()) };
        let steps: Vec<i64> = std::mem::take(&mut self.steps).into_iter().map(millis).collect();
        self.held = 0;
        for (index, table) in Table::all().iter().enumerate() {
            let gathered = std::mem::take(&mut self.gathered[index]);
            let mut live = std::mem::take(&mut self.live[index]);
            let gone: Vec<_> = live.extract_if(|labels, _| !gathered.contains_key(labels)).collect();
            for (labels, columns) in gone {
                self.end(table, &labels, columns, steps[0])?;
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
        self.deliver()?;
        if let Some(resume) = &mut self.resume {
            resume.acknowledge(last)?;
        }
        self.taken = Some(last);
        Ok(())
    }

    /// Sends the series of a row, tells which of them are there at the last step.
    fn send_row(
        &mut self,
        table: &Table,
        labels: &str,
        row: &Gathered,
        before: u64,
        steps: &[i64],
    ) -> Result<u64, SinkError> {
        let width = table.columns.len();
        let mut now = 0;
        let mut samples = Vec::with_capacity(steps.len());
        for (index, column) in table.columns.iter().enumerate() {
            samples.clear();
            let mut there = before >> index & 1 == 1;
            let offset = self.counted(table, labels, column);
            for (place, at_ms) in steps.iter().enumerate() {
                let value = place.checked_sub(row.first as usize);
                let value = value.and_then(|place| row.values.get(place * width + index));
                match value.filter(|value| !value.is_nan()) {
                    Some(value) => samples.push(Sample { value: value + offset, at_ms: *at_ms }),
                    None if there => samples.push(Sample { value: STALE, at_ms: *at_ms }),
                    None => {}
                }
                there = value.is_some_and(|value| !value.is_nan());
            }
            now |= u64::from(there) << index;
            self.push(labels, column, &samples)?;
        }
        Ok(now)
    }

    /// What a counter had counted before.
    fn counted(&self, table: &Table, labels: &str, column: &Column) -> f64 {
        let counts = table.families.iter().all(|family| {
            matches!(family.metric.kind, Kind::Counter | Kind::Histogram(_))
                && !matches!(family.metric.plane, Plane::Session | Plane::Pair)
        });
        if !counts || self.config.counted.is_empty() {
            return 0.0;
        }
        let mut labels = all_labels(labels, column);
        let key = series_key(&column.name, &mut labels);
        self.config.counted.get(&key).copied().unwrap_or_default()
    }

    /// Marks columns of a row as ended.
    fn end(&mut self, table: &Table, labels: &str, columns: u64, at_ms: i64) -> Result<(), SinkError> {
        for (index, column) in table.columns.iter().enumerate() {
            if columns >> index & 1 == 1 {
                self.push(labels, column, &[Sample { value: STALE, at_ms }])?;
            }
        }
        Ok(())
    }

    fn push(&mut self, labels: &str, column: &Column, samples: &[Sample]) -> Result<(), SinkError> {
        if samples.is_empty() {
            return Ok(());
        }
        let own =
            self.config.labels.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into()));
        let mut all = all_labels(labels, column);
        if let Some((_, edge)) = all.iter_mut().find(|(name, _)| name == "le")
            && let Some(theirs) = self.config.edges.get(&**edge)
        {
            *edge = theirs.as_str().into();
        }
        all.push(("__name__".into(), column.name.as_str().into()));
        all.extend(own);
        all.sort_unstable();
        self.request.push(all.iter().map(|(name, value)| (&**name, &**value)), samples);
        if self.request.samples >= SAMPLES { self.deliver() } else { Ok(()) }
    }

    fn deliver(&mut self) -> Result<(), SinkError> {
        let samples = self.request.samples as u64;
        if samples == 0 {
            return Ok(());
        }
        let body = self.request.take().map_err(|error| SinkError::Receiver(error.to_string()))?;
        self.receiver.deliver(&body).map_err(|error| self.how_to_go_on(error))?;
        self.sent += samples;
        Ok(())
    }

    /// An error, with what was taken and how to go on.
    fn how_to_go_on(&self, error: SinkError) -> SinkError {
        let SinkError::Receiver(problem) = error else { return error };
        let taken = match self.taken {
            None => "nothing was taken for good".to_owned(),
            Some(taken) => format!("everything up to {} was taken", rfc3339(taken)),
        };
        let how = match &self.resume {
            Some(resume) => format!("run the same again with --resume {} to go on", resume.path().display()),
            None => "with --resume FILE from the beginning it could be gone on with".to_owned(),
        };
        SinkError::Receiver(format!("{problem}; {taken}, {how}"))
    }
}

impl Sink for RemoteWrite {
    fn step(&mut self, step: &Step) -> Result<(), SinkError> {
        if self.taken.is_some_and(|taken| step.at <= taken) {
            self.pass(step);
            return Ok(());
        }
        let place = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.steps.push(step.at);
        for (index, (rows, table)) in step.tables.iter().zip(Table::all()).enumerate() {
            if self.wants(table) {
                self.held += gather(&mut self.gathered[index], rows, place);
            }
        }
        if self.held >= GATHERED || self.steps.len() >= STEPS { self.send() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>, account: &Account) -> Result<Vec<String>, SinkError> {
        self.control.phase("sending");
        self.send()?;
        if let Some(last) = self.taken.filter(|_| self.config.ends) {
            for (index, table) in Table::all().iter().enumerate() {
                for (labels, columns) in std::mem::take(&mut self.live[index]) {
                    self.end(table, &labels, columns, millis(last + self.step))?;
                }
            }
            self.deliver()?;
        }
        if let Some(resume) = self.resume {
            resume.complete();
        }
        Ok(vec![format!("{}: {} samples at {} steps", self.config.address, self.sent, account.steps)])
    }
}

/// Which columns have a value, a bit each.
fn present(values: &[f64]) -> u64 {
    values.iter().enumerate().fold(0, |bits, (index, value)| bits | u64::from(!value.is_nan()) << index)
}

fn millis(at: StreamTime) -> i64 {
    i64::try_from(at.unix_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX)
}

type Label<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The labels of a row and of its column.
fn all_labels<'a>(labels: &'a str, column: &'a Column) -> Vec<Label<'a>> {
    let mut all = parse_labels(labels);
    all.extend(column.label.as_ref().map(|(name, value)| ((*name).into(), value.as_str().into())));
    all
}

/// Reads `name="value",…` as [`DetailStore`](callsight_fold::series::detail::DetailStore) and the exporter library write it.
fn parse_labels(mut text: &str) -> Vec<Label<'_>> {
    let mut labels = Vec::with_capacity(8);
    while let Some((name, rest)) = text.split_once("=\"") {
        let mut end = 0;
        let bytes = rest.as_bytes();
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        let value = rest.get(..end).unwrap_or(rest);
        labels.push((name.trim_start_matches(',').into(), unescaped(value)));
        text = rest.get(end + 1..).unwrap_or_default();
    }
    labels
}

fn unescaped(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return value.into();
    }
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            other => text.push(other),
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_back() {
        let read = parse_labels(r#"a="x\\y\"z\n,b=\"",bc="",d="e""#);
        let read: Vec<_> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(read, [("a", "x\\y\"z\n,b=\""), ("bc", ""), ("d", "e")]);
        assert!(parse_labels("").is_empty());
    }

    #[test]
    fn present_columns_are_bits() {
        assert_eq!(present(&[1.0, f64::NAN, 0.0]), 0b101);
        assert!(Table::all().iter().all(|table| table.columns.len() <= 64));
    }
}
