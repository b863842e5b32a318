//! The recorder of the detail planes: series that live and die with a session.
//!
//! A metrics registry is made for series that stay. Here they come and go by the thousand a second, half a
//! million may live at once, and one that outlives its call turns every quantile into fiction. In the
//! exporter library an idle series is noticed only while rendering, nothing can be removed when its session
//! ends, and every series carries its own key with every label.
//!
//! So this store keeps rows. A row is one label set, rendered once into text, with a dense array of values:
//! one for each column that the catalogue gives the plane. A [`Row`] is itself a [`metrics::Recorder`] for
//! that label set: it hands out ordinary [`Gauge`]s and [`Counter`]s, each pointing straight at its cell, so
//! that an update hashes nothing and looks nothing up. Dropping the row removes all of its series at once.
//! A handle that is kept longer writes into the row's own memory, which nobody shows any more: it can't reach
//! a later row with the same labels.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::catalogue::{Column, Kind, Metric, Plane, columns};
use super::cells::{ABSENT, COUNTERS, Cells, GAUGES, MAX_COLUMNS};
use super::judgement::Judgement;

static SESSION_COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| columns(Plane::Session));
static PAIR_COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| columns(Plane::Pair));

/// The planes that have rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetailPlane {
    /// A row a session.
    Session,
    /// A row a pair of a session and a remote peer.
    Pair,
}

impl DetailPlane {
    /// Both, in the order of the exposition.
    pub const ALL: [Self; 2] = [Self::Session, Self::Pair];

    /// The columns of the plane's rows, metric by metric.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Session => &SESSION_COLUMNS,
            Self::Pair => &PAIR_COLUMNS,
        }
    }

    /// The plane's place in the catalogue.
    #[must_use]
    pub const fn plane(self) -> Plane {
        match self {
            Self::Session => Plane::Session,
            Self::Pair => Plane::Pair,
        }
    }
}

/// Rows are sorted and found by their labels.
struct ByLabels(Arc<Cells>);

impl Borrow<str> for ByLabels {
    fn borrow(&self) -> &str {
        &self.0.labels
    }
}

impl PartialEq for ByLabels {
    fn eq(&self, other: &Self) -> bool {
        self.0.labels == other.0.labels
    }
}

impl Eq for ByLabels {}

impl PartialOrd for ByLabels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByLabels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.labels.cmp(&other.0.labels)
    }
}

/// The rows of both planes. Clones share them.
#[derive(Clone)]
pub struct DetailStore(Arc<Inner>);

struct Inner {
    planes: [Mutex<BTreeSet<ByLabels>>; 2],
    live_series: [AtomicUsize; 2],
    max_series: usize,
}

impl Inner {
    fn rows(&self, plane: DetailPlane) -> MutexGuard<'_, BTreeSet<ByLabels>> {
        // A panic between two operations on the set leaves the set whole.
        self.planes[plane as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DetailStore {
    /// An empty store that never holds more than `max_series` series, both planes together.
    #[must_use]
    pub fn new(max_series: usize) -> Self {
        Self(Arc::new(Inner { planes: Default::default(), live_series: Default::default(), max_series }))
    }

    /// Opens the row for a label set, or refuses when its series would exceed the budget. Its series are
    /// absent until they are set. The values of labels are escaped here; an open row with the same labels
    /// gives way to the new one.
    #[must_use]
    pub fn open(&self, plane: DetailPlane, labels: &[(&str, &str)]) -> Option<Row> {
        let width = plane.columns().len();
        let live = || self.0.live_series.iter().map(|live| live.load(Relaxed)).sum::<usize>();
        // Reserve first, look afterwards: two regions that fold at once can't both take the last place.
        self.0.live_series[plane as usize].fetch_add(width, Relaxed);
        if live() > self.0.max_series {
            self.0.live_series[plane as usize].fetch_sub(width, Relaxed);
            return None;
        }
        let values = [const { AtomicU64::new(ABSENT) }; MAX_COLUMNS];
        let judgement = AtomicU64::new(Judgement::NONE.pack());
        let cells = Arc::new(Cells { labels: render_labels(labels), values, judgement });
        self.0.rows(plane).replace(ByLabels(Arc::clone(&cells)));
        Some(Row { cells, plane, store: Arc::clone(&self.0) })
    }

    /// Whether one more row of a plane would stay within the budget, as far as one can tell without opening it.
    #[must_use]
    pub fn has_room(&self, plane: DetailPlane) -> bool {
        let live: usize = self.0.live_series.iter().map(|live| live.load(Relaxed)).sum();
        live + plane.columns().len() <= self.0.max_series
    }

    /// The most series that it holds.
    #[must_use]
    pub fn max_series(&self) -> usize {
        self.0.max_series
    }

    /// The number of series that a plane's open rows take up, set or not.
    #[must_use]
    pub fn live_series(&self, plane: DetailPlane) -> usize {
        self.0.live_series[plane as usize].load(Relaxed)
    }

    /// The present values of a gauge, in the order of the rows.
    #[must_use]
    pub fn values(&self, plane: DetailPlane, metric: &Metric) -> Vec<f64> {
        let column = plane.columns().iter().position(|column| column.metric.name == metric.name);
        let Some(column) = column else { return Vec::new() };
        let value = |row: &RowView| match row.value(column, Kind::Gauge, 0.0) {
            Some(Value::Measure(value)) => Some(value),
            _ => None,
        };
        self.snapshot(plane).iter().filter_map(value).collect()
    }

    /// The rows of a plane, sorted by labels.
    pub fn snapshot(&self, plane: DetailPlane) -> Vec<RowView> {
        self.rows(plane, "")
    }

    /// The rows of a plane whose labels, as they are rendered, begin so; sorted by labels. The lock is given back
    /// after every few hundred rows, so that looking at a large plane never holds up a join or a leave for long.
    pub fn rows(&self, plane: DetailPlane, prefix: &str) -> Vec<RowView> {
        const ROWS_A_LOCK: usize = 512;
        let mut views: Vec<RowView> = Vec::new();
        loop {
            let rows = self.0.rows(plane);
            let after = match views.last() {
                Some(last) => Bound::Excluded(&*last.0.labels),
                None => Bound::Included(prefix),
            };
            let more: Vec<_> = rows
                .range::<str, _>((after, Bound::Unbounded))
                .take_while(|row| row.0.labels.starts_with(prefix))
                .take(ROWS_A_LOCK)
                .map(|row| RowView(Arc::clone(&row.0)))
                .collect();
            drop(rows);
            if more.is_empty() {
                return views;
            }
            views.extend(more);
        }
    }
}

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(u64);

impl Bits {
    /// A gauge's value, or absent.
    #[must_use]
    pub fn measure(value: Option<f64>) -> Self {
        Self(value.filter(|value| !value.is_nan()).map_or(ABSENT, f64::to_bits))
    }

    /// A counter's value, or absent.
    #[must_use]
    pub fn count(value: Option<u64>) -> Self {
        Self(value.unwrap_or(ABSENT))
    }

    /// A state: 1, 0 or absent.
    #[must_use]
    pub fn state(value: Option<bool>) -> Self {
        Self::measure(value.map(|state| f64::from(u8::from(state))))
    }
}

/// An open row: the recorder for one label set. Dropping it removes its series.
pub struct Row {
    cells: Arc<Cells>,
    plane: DetailPlane,
    store: Arc<Inner>,
}

impl Row {
    /// Notes what the fold makes of the row.
    pub fn judge(&self, judgement: Judgement) {
        self.cells.judgement.store(judgement.pack(), Relaxed);
    }

    /// Reads a bit of the row here and there, so that it is in the cache when it is set. What it gives means nothing, but
    /// has to be used for the reading to happen.
    pub fn fetch(&self) -> u64 {
        const A_LINE: usize = 64 / size_of::<AtomicU64>();
        self.cells.values.iter().step_by(A_LINE).fold(0, |all, cell| all ^ cell.load(Relaxed))
    }

    /// Sets all of the row's values, in the order of its plane's columns: what a frame brings at once. Through its
    /// handles, that would be a pointer of 16 bytes to fetch and an indirect call for each of them.
    pub fn set<const N: usize>(&self, values: &[Bits; N]) {
        const { assert!(N <= MAX_COLUMNS) };
        debug_assert_eq!(N, self.plane.columns().len());
        for (cell, Bits(bits)) in self.cells.values.iter().zip(values) {
            cell.store(*bits, Relaxed);
        }
    }

    fn column(&self, key: &Key) -> Option<usize> {
        let operation = key.labels().find(|label| label.key() == "operation").map(metrics::Label::value);
        self.plane.columns().iter().position(|column| {
            column.metric.name == key.name()
                && column.operation.map(callsight_frame::Operation::label) == operation
        })
    }
}

/// Registering gives the handle of a cell. A name that the plane doesn't have gives a handle that does
/// nothing; of the labels only `operation` is looked at, since the row has all others.
impl Recorder for Row {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.column(key).map_or_else(Counter::noop, |index| COUNTERS[index](Arc::clone(&self.cells)))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.column(key).map_or_else(Gauge::noop, |index| GAUGES[index](Arc::clone(&self.cells)))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let mut rows = self.store.rows(self.plane);
        // A row that gave way to a newer one with the same labels must not take that one along.
        if rows.get(&*self.cells.labels).is_some_and(|row| Arc::ptr_eq(&row.0, &self.cells)) {
            rows.remove(&*self.cells.labels);
        }
        self.store.live_series[self.plane as usize].fetch_sub(self.plane.columns().len(), Relaxed);
    }
}

/// A row as it is read.
pub struct RowView(Arc<Cells>);

/// A present value of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Of a counter.
    Count(u64),
    /// Of any other.
    Measure(f64),
}

impl RowView {
    /// `name="value",…`, escaped, without braces.
    pub fn labels(&self) -> &str {
        &self.0.labels
    }

    /// What the fold makes of it.
    pub fn judgement(&self) -> Judgement {
        Judgement::unpack(self.0.judgement.load(Relaxed))
    }

    /// The value in a column, unless it is absent. An age is taken at `now`, in Unix seconds.
    pub fn value(&self, index: usize, kind: Kind, now: f64) -> Option<Value> {
        let bits = self.0.values[index].load(Relaxed);
        if bits == ABSENT {
            return None;
        }
        Some(match kind {
            Kind::Counter => Value::Count(bits),
            Kind::Age => Value::Measure((now - f64::from_bits(bits)).max(0.0)),
            Kind::Gauge | Kind::Histogram(_) => Value::Measure(f64::from_bits(bits)),
        })
    }
}

/// `name="value",…`, escaped, without braces.
pub(super) fn render_labels(labels: &[(&str, &str)]) -> Box<str> {
    let length: usize = labels.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut text = String::with_capacity(length);
    for (name, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        // Identifiers never have one of these.
        let odd = value.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n'));
        if !odd {
            text.push_str(value);
        }
        for character in value.chars().filter(|_| odd) {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use metrics::{counter, gauge, with_local_recorder};

    use super::super::catalogue::{PAIR_CAN_SEE, PAIR_NETEQ_OPERATIONS, PAIR_SAMPLES, SESSION_RTT};
    use super::*;

    const LABELS: &[(&str, &str)] = &[("region", "us"), ("meeting_id", "m"), ("session_id", "s")];

    fn value(store: &DetailStore, name: &str) -> Option<Value> {
        let column = DetailPlane::Pair.columns().iter().position(|column| column.metric.name == name)?;
        let kind = DetailPlane::Pair.columns()[column].metric.kind;
        store.snapshot(DetailPlane::Pair).first()?.value(column, kind, 0.0)
    }

    #[test]
    fn every_column_has_its_cell() {
        for plane in DetailPlane::ALL {
            assert!(plane.columns().len() <= MAX_COLUMNS, "{plane:?} needs more cells");
            assert!(!plane.columns().is_empty());
        }
    }

    #[test]
    fn a_handle_writes_into_its_own_cell_only() {
        let store = DetailStore::new(1000);
        let row = store.open(DetailPlane::Pair, LABELS).unwrap();
        let (see, expand) = with_local_recorder(&row, || {
            (gauge!(PAIR_CAN_SEE.name), counter!(PAIR_NETEQ_OPERATIONS.name, "operation" => "expand"))
        });
        see.set(1.0);
        expand.absolute(7);
        let view = &store.snapshot(DetailPlane::Pair)[0];
        for (index, column) in DetailPlane::Pair.columns().iter().enumerate() {
            let expected = match (column.metric.name, column.operation) {
                ("videocall_pair_can_see", None) => Some(Value::Measure(1.0)),
                (_, Some(callsight_frame::Operation::Expand)) => Some(Value::Count(7)),
                _ => None,
            };
            assert_eq!(view.value(index, column.metric.kind, 0.0), expected, "{column:?}");
        }
    }

    #[test]
    fn absent_is_not_zero() {
        let store = DetailStore::new(1000);
        let row = store.open(DetailPlane::Pair, LABELS).unwrap();
        let samples = with_local_recorder(&row, || counter!(PAIR_SAMPLES.name));
        assert_eq!(value(&store, PAIR_SAMPLES.name), None);
        samples.absolute(0);
        assert_eq!(value(&store, PAIR_SAMPLES.name), Some(Value::Count(0)));
        let see = with_local_recorder(&row, || gauge!(PAIR_CAN_SEE.name));
        see.set(0.0);
        assert_eq!(value(&store, PAIR_CAN_SEE.name), Some(Value::Measure(0.0)));
        see.set(f64::NAN);
        assert_eq!(value(&store, PAIR_CAN_SEE.name), None);
    }

    #[test]
    fn a_removed_rows_handle_reaches_nothing() {
        let store = DetailStore::new(1000);
        let old = store.open(DetailPlane::Pair, LABELS).unwrap();
        let see = with_local_recorder(&old, || gauge!(PAIR_CAN_SEE.name));
        drop(old);
        assert!(store.snapshot(DetailPlane::Pair).is_empty());
        let _new = store.open(DetailPlane::Pair, LABELS).unwrap();
        see.set(1.0);
        assert_eq!(value(&store, PAIR_CAN_SEE.name), None);
    }

    #[test]
    fn a_row_that_gave_way_leaves_the_newer_one_alone() {
        let store = DetailStore::new(1000);
        let old = store.open(DetailPlane::Pair, LABELS).unwrap();
        let new = store.open(DetailPlane::Pair, LABELS).unwrap();
        drop(old);
        assert_eq!(store.snapshot(DetailPlane::Pair).len(), 1);
        drop(new);
        assert!(store.snapshot(DetailPlane::Pair).is_empty());
        assert_eq!(store.live_series(DetailPlane::Pair), 0);
    }

    #[test]
    fn the_budget_is_hard_and_given_back() {
        let width = DetailPlane::Session.columns().len();
        let store = DetailStore::new(2 * width);
        let open = |id: &str| store.open(DetailPlane::Session, &[("session_id", id)]);
        let (first, second) = (open("1"), open("2"));
        assert!(first.is_some() && second.is_some());
        assert!(open("3").is_none());
        drop(first);
        let third = open("3").unwrap();
        with_local_recorder(&third, || gauge!(SESSION_RTT.name).set(0.1));
        assert_eq!(store.live_series(DetailPlane::Session), 2 * width);
    }

    #[test]
    fn a_snapshot_is_sorted_and_whole_beyond_one_lock() {
        let store = DetailStore::new(1_000_000);
        let open = |id: usize| store.open(DetailPlane::Session, &[("session_id", &id.to_string())]);
        let rows: Vec<_> = (0..1500).rev().map(|id| open(id).unwrap()).collect();
        let snapshot = store.snapshot(DetailPlane::Session);
        assert_eq!(snapshot.len(), rows.len());
        assert!(snapshot.is_sorted_by(|a, b| a.labels() < b.labels()));
    }

    #[test]
    fn rows_can_be_asked_for_by_how_their_labels_begin() {
        let store = DetailStore::new(1_000_000);
        let meetings = ["a", "b", "b2", "c"];
        let open =
            |meeting: &str| store.open(DetailPlane::Session, &[("region", "us"), ("meeting_id", meeting)]);
        let _rows = meetings.map(open);
        let found = |prefix| store.rows(DetailPlane::Session, prefix).len();
        assert_eq!([found("region=\"us\""), found("region=\"us\",meeting_id=\"b\"")], [4, 1]);
        assert_eq!([found("region=\"us\",meeting_id=\"b"), found("region=\"eu\"")], [2, 0]);
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(&*render_labels(&[("a", "x\\y\"z\n")]), r#"a="x\\y\"z\n""#);
    }
}
