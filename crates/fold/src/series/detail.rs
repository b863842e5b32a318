//! The recorder of the detail planes: series that live and die with a session.
//!
//! A metrics registry is made for series that stay. Here they come and go by the thousand a second,
//! half a million may live at once, and one that outlives its call turns every quantile into
//! fiction. In the exporter library an idle series is noticed only while rendering, nothing can be
//! removed when its session ends, and every series carries its own key with every label.
//!
//! So this store keeps rows. A row is one label set, rendered once into text, with a dense array of
//! values: one for each column that the catalogue gives the plane. A [`Row`] is itself a
//! [`metrics::Recorder`] for that label set; the fold, which has all values of a row in hand, sets
//! them at once with `Row::set`.
//!
//! Invariant: a series is shown if and only if its row is open. Dropping the row removes all of its
//! series at once, and a handle that is kept longer writes into memory that nobody shows: it can't
//! reach a later row with the same labels.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

use super::catalogue::{self, Column, Kind, Metric, Plane, columns};
use super::judgement::Judgement;
use super::labels::{self, Labels};
use super::recorder::seconds;

/// A cell that holds no value. As a float it is a NaN, which no valid frame brings.
const ABSENT: u64 = u64::MAX;

/// The columns of the widest plane.
const MAX_COLUMNS: usize = 26;

/// One label set and its values. A cell is a float's bits for a gauge and the number itself for a
/// counter.
///
/// The cells are in line, as many as the widest plane needs: with half a million series every
/// pointer that an update follows is a cache miss.
struct Cells {
    labels: Box<str>,
    values: [AtomicU64; MAX_COLUMNS],
    /// A [`Judgement`], packed.
    judgement: AtomicU64,
}

/// The columns of each plane.
static COLUMNS: LazyLock<[Vec<Column>; 2]> =
    LazyLock::new(|| DetailPlane::ALL.map(|plane| columns(plane.plane())));

/// A plane of the catalogue that has rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetailPlane {
    /// One row per live session.
    Session,
    /// One row per pair of a live session and a remote peer.
    Pair,
}

impl DetailPlane {
    /// Both, in the order of the exposition.
    pub const ALL: [Self; 2] = [Self::Session, Self::Pair];

    /// The columns of the plane's rows, metric by metric.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        &COLUMNS[self as usize]
    }

    /// The names of the labels that every row of the plane has, in their order.
    #[must_use]
    pub const fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Session => catalogue::SESSION,
            Self::Pair => catalogue::PAIR,
        }
    }

    /// The plane as the catalogue names it.
    #[must_use]
    pub const fn plane(self) -> Plane {
        match self {
            Self::Session => Plane::Session,
            Self::Pair => Plane::Pair,
        }
    }
}

/// A row in the store, sorted and found by its labels.
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
    /// The number of series of both planes.
    fn live(&self) -> usize {
        self.live_series.iter().map(|live| live.load(Relaxed)).sum()
    }

    fn rows(&self, plane: DetailPlane) -> MutexGuard<'_, BTreeSet<ByLabels>> {
        // A panic between two operations on the set leaves the set whole.
        self.planes[plane as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DetailStore {
    /// Makes an empty store for at most `max_series` series of both planes together.
    #[must_use]
    pub fn new(max_series: usize) -> Self {
        Self(Arc::new(Inner { planes: Default::default(), live_series: Default::default(), max_series }))
    }

    /// Opens the row with these label values, in the order of [`DetailPlane::labels`], or refuses
    /// when its series would exceed the budget. Its series are absent until they are set. An open
    /// row with the same labels gives way to the new one.
    #[must_use]
    pub fn open(&self, plane: DetailPlane, labels: &[&str]) -> Option<Row> {
        debug_assert_eq!(labels.len(), plane.labels().len());
        let width = plane.columns().len();
        // Reserving before comparing keeps two regions that fold at once from both taking the last
        // place.
        self.0.live_series[plane as usize].fetch_add(width, Relaxed);
        if self.0.live() > self.0.max_series {
            self.0.live_series[plane as usize].fetch_sub(width, Relaxed);
            return None;
        }
        let values = [const { AtomicU64::new(ABSENT) }; MAX_COLUMNS];
        let judgement = AtomicU64::new(Judgement::NONE.pack());
        let cells = Arc::new(Cells { labels: render_labels(plane, labels), values, judgement });
        self.0.rows(plane).replace(ByLabels(Arc::clone(&cells)));
        Some(Row { cells, plane, store: Arc::clone(&self.0) })
    }

    /// Whether one more row of a plane would fit the budget. Another thread may take that place
    /// before it is opened.
    pub(crate) fn has_room(&self, plane: DetailPlane) -> bool {
        self.0.live() + plane.columns().len() <= self.0.max_series
    }

    /// The number of series that a plane's open rows take up, set or not.
    #[must_use]
    pub fn live_series(&self, plane: DetailPlane) -> usize {
        self.0.live_series[plane as usize].load(Relaxed)
    }

    /// All rows of a plane, sorted by the text of their labels.
    #[must_use]
    pub fn snapshot(&self, plane: DetailPlane) -> Vec<RowView> {
        self.rows(plane, &[])
    }

    /// The rows of a plane whose first labels have these values, sorted by the text of their
    /// labels. The lock is given back after every few hundred rows, so that looking at a large
    /// plane never holds up a join or a leave for long.
    #[must_use]
    pub fn rows(&self, plane: DetailPlane, leading: &[&str]) -> Vec<RowView> {
        const ROWS_A_LOCK: usize = 512;
        let prefix = render_labels(plane, leading);
        let mut views: Vec<RowView> = Vec::new();
        loop {
            let rows = self.0.rows(plane);
            let after = match views.last() {
                Some(last) => Bound::Excluded(&*last.cells.labels),
                None => Bound::Included(&*prefix),
            };
            let more: Vec<_> = rows
                .range::<str, _>((after, Bound::Unbounded))
                .take_while(|row| row.0.labels.starts_with(&*prefix))
                .take(ROWS_A_LOCK)
                .map(|row| RowView { cells: Arc::clone(&row.0), plane })
                .collect();
            drop(rows);
            if more.is_empty() {
                return views;
            }
            views.extend(more);
        }
    }
}

fn render_labels(plane: DetailPlane, values: &[&str]) -> Box<str> {
    labels::render(plane.labels().iter().copied().zip(values.iter().copied()))
}

/// The content of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bits(u64);

impl Bits {
    /// A gauge's value, or absent.
    pub(crate) fn measure(value: Option<f64>) -> Self {
        Self(value.filter(|value| !value.is_nan()).map_or(ABSENT, f64::to_bits))
    }

    /// A counter's value, or absent.
    pub(crate) fn count(value: Option<u64>) -> Self {
        Self(value.unwrap_or(ABSENT))
    }

    /// A state: 1, 0 or absent.
    pub(crate) fn state(value: Option<bool>) -> Self {
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
    /// Stores how the fold judges the row.
    pub fn judge(&self, judgement: Judgement) {
        self.cells.judgement.store(judgement.pack(), Relaxed);
    }

    /// Reads one cell per cache line, so that the row is in the cache when it is set. The result
    /// means nothing; pass it to `black_box`, or the compiler drops the reads.
    #[must_use]
    pub(crate) fn fetch(&self) -> u64 {
        const A_LINE: usize = 64 / size_of::<AtomicU64>();
        self.cells.values.iter().step_by(A_LINE).fold(0, |all, cell| all ^ cell.load(Relaxed))
    }

    /// Sets all values of the row, in the order of its plane's columns. Through handles, each of
    /// them would cost an allocation, a pointer to fetch and an indirect call.
    pub(crate) fn set<const N: usize>(&self, values: &[Bits; N]) {
        const { assert!(N <= MAX_COLUMNS) };
        debug_assert_eq!(N, self.plane.columns().len());
        for (cell, Bits(bits)) in self.cells.values.iter().zip(values) {
            cell.store(*bits, Relaxed);
        }
    }

    fn cell(&self, key: &Key) -> Option<Arc<Cell>> {
        let operation = key.labels().find(|label| label.key() == "operation").map(metrics::Label::value);
        let index = self.plane.columns().iter().position(|column| {
            column.metric.name == key.name()
                && column.operation.map(callsight_frame::Operation::label) == operation
        })?;
        Some(Arc::new(Cell { cells: Arc::clone(&self.cells), index }))
    }
}

/// Registering returns the handle of a cell. For a name that the plane doesn't have, the handle
/// does nothing; of the labels only `operation` matters, since the row has all others.
impl Recorder for Row {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.cell(key).map_or_else(Counter::noop, Counter::from_arc)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.cell(key).map_or_else(Gauge::noop, Gauge::from_arc)
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// One cell of a row, for the handles of the `metrics` crate.
struct Cell {
    cells: Arc<Cells>,
    index: usize,
}

impl Cell {
    fn value(&self) -> &AtomicU64 {
        &self.cells.values[self.index]
    }
}

impl GaugeFn for Cell {
    fn increment(&self, value: f64) {
        let present = f64::from_bits(self.value().load(Relaxed));
        self.set(if present.is_nan() { value } else { present + value });
    }

    fn decrement(&self, value: f64) {
        GaugeFn::increment(self, -value);
    }

    /// Sets the value; NaN makes it absent.
    fn set(&self, value: f64) {
        self.value().store(Bits::measure(Some(value)).0, Relaxed);
    }
}

impl CounterFn for Cell {
    fn increment(&self, value: u64) {
        let present = self.value().load(Relaxed);
        self.absolute(if present == ABSENT { value } else { present.saturating_add(value).min(ABSENT - 1) });
    }

    /// Sets the value as it is, also to a smaller one: a client whose counter began anew has to
    /// show as one. `u64::MAX` makes it absent.
    fn absolute(&self, value: u64) {
        self.value().store(value, Relaxed);
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

/// A row of a snapshot. Its values are those of the moment at which they are read.
pub struct RowView {
    cells: Arc<Cells>,
    plane: DetailPlane,
}

/// The value of a cell that is not absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// The value of a counter.
    Count(u64),
    /// The value of a gauge or an age.
    Measure(f64),
}

impl Value {
    /// The value as Prometheus keeps it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "Prometheus keeps every value as a float")]
    pub const fn as_f64(self) -> f64 {
        match self {
            Self::Count(value) => value as f64,
            Self::Measure(value) => value,
        }
    }
}

impl RowView {
    /// The labels of the row; those of [`DetailPlane::labels`].
    #[must_use]
    pub fn labels(&self) -> Labels<'_> {
        Labels::new(self.plane.labels(), &self.cells.labels)
    }

    /// How the fold judges the row.
    #[must_use]
    pub fn judgement(&self) -> Judgement {
        Judgement::unpack(self.cells.judgement.load(Relaxed))
    }

    /// The value in a column, unless it is absent. An age is taken at `now`, in Unix seconds.
    #[must_use]
    pub fn value(&self, index: usize, kind: Kind, now: f64) -> Option<Value> {
        let bits = self.cells.values[index].load(Relaxed);
        if bits == ABSENT {
            return None;
        }
        Some(match kind {
            Kind::Counter => Value::Count(bits),
            Kind::Seconds => Value::Measure(seconds(bits)),
            Kind::Age => Value::Measure((now - f64::from_bits(bits)).max(0.0)),
            Kind::Gauge | Kind::Histogram(_) => Value::Measure(f64::from_bits(bits)),
        })
    }

    /// The value of a metric that has one column in the plane, unless it is absent; ages as in
    /// [`Self::value`].
    #[must_use]
    pub fn number(&self, metric: &Metric, now: f64) -> Option<f64> {
        let index = self.plane.columns().iter().position(|column| column.metric.name == metric.name)?;
        self.value(index, metric.kind, now).map(Value::as_f64)
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, gauge, with_local_recorder};

    use super::super::catalogue::{PAIR_CAN_SEE, PAIR_NETEQ_OPERATIONS, PAIR_SAMPLES, SESSION_RTT};
    use super::*;

    const LABELS: &[&str] = &["us", "m", "s", "p"];

    fn number(store: &DetailStore, metric: &Metric) -> Option<f64> {
        store.snapshot(DetailPlane::Pair).first()?.number(metric, 0.0)
    }

    fn session(id: &str) -> [&str; 8] {
        ["us", "m", id, "p", "https://a", "webtransport", "web-1", "chrome"]
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
        assert_eq!(number(&store, &PAIR_SAMPLES), None);
        samples.absolute(0);
        assert_eq!(number(&store, &PAIR_SAMPLES), Some(0.0));
        let see = with_local_recorder(&row, || gauge!(PAIR_CAN_SEE.name));
        see.set(0.0);
        assert_eq!(number(&store, &PAIR_CAN_SEE), Some(0.0));
        see.set(f64::NAN);
        assert_eq!(number(&store, &PAIR_CAN_SEE), None);
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
        assert_eq!(number(&store, &PAIR_CAN_SEE), None);
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
        let open = |id: &str| store.open(DetailPlane::Session, &session(id));
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
        let open = |id: usize| store.open(DetailPlane::Session, &session(&id.to_string()));
        let rows: Vec<_> = (0..1500).rev().map(|id| open(id).unwrap()).collect();
        let snapshot = store.snapshot(DetailPlane::Session);
        assert_eq!(snapshot.len(), rows.len());
        assert!(snapshot.is_sorted_by(|a, b| a.labels().text() < b.labels().text()));
    }

    #[test]
    fn rows_can_be_asked_for_by_their_first_labels() {
        let store = DetailStore::new(1_000_000);
        let meetings = ["a", "b", "b2", "c"];
        let open = |meeting| {
            store.open(DetailPlane::Session, &["us", meeting, "s", "p", "none", "none", "web-1", "chrome"])
        };
        let _rows = meetings.map(open);
        let found = |leading: &[&str]| store.rows(DetailPlane::Session, leading).len();
        assert_eq!([found(&["us"]), found(&["us", "b"]), found(&["us", "d"]), found(&["eu"])], [4, 1, 0, 0]);
    }
}
