//! The values of all series at one moment, in a shape that sinks can take apart.
//!
//! A sink wants samples by series, by family or by moment, and the two recorders store theirs
//! differently. So both are brought into the same shape: a [`Table`] has rows, each a label set,
//! and columns, each a sample that every row may have. A detail plane is a table, and so is each
//! aggregate: a histogram's columns are its buckets, its sum and its count. A [`Step`] holds the
//! rows of every table at one moment.
//!
//! Invariant: the columns of a table are the same at every step, and its rows are sorted by labels.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use callsight_fold::StreamTime;
use callsight_fold::series::aggregates::{AggregateSeries, AggregateValue, Aggregates};
use callsight_fold::series::catalogue::{self as c, CATALOGUE, Kind, Metric, Plane};
use callsight_fold::series::detail::{DetailPlane, DetailStore, RowView, Value};
use callsight_fold::series::judgement::Judgement;
use callsight_fold::series::labels::Labels;

/// Those of the exporter's own metrics that follow from the stream alone. The others describe one
/// exporter's process, which a replay can't reproduce.
const OWN: &[&Metric] = &[
    &c::FRAMES_RECEIVED,
    &c::FRAMES_FOLDED,
    &c::FRAMES_REPEATED,
    &c::FRAMES_REFUSED,
    &c::FRAMES_LATE,
    &c::FRAMES_REJECTED,
    &c::IMPLAUSIBLE_GROWTH,
    &c::CLOCK_SKEW,
    &c::REFUSED,
    &c::SESSIONS_REMOVED,
];

/// Every table that a replay can fill, in the order of the catalogue.
static TABLES: LazyLock<Vec<Table>> = LazyLock::new(|| {
    let is_detail = |metric: &Metric| matches!(metric.plane, Plane::Session | Plane::Pair);
    let wanted = |metric: &Metric| match metric.plane {
        Plane::Own => OWN.iter().any(|own| own.name == metric.name),
        plane => plane != Plane::Ingest,
    };
    let single = |metric: &&&'static Metric| wanted(metric) && !is_detail(metric);
    DetailPlane::ALL
        .map(Table::of_plane)
        .into_iter()
        .chain(CATALOGUE.iter().filter(single).map(|metric| Table::of_aggregate(metric)))
        .collect()
});

/// A sample that each row of a table may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The sample's name, `_bucket` and the like included.
    pub name: String,
    /// A label that the row does not have: `operation` or `le`.
    pub label: Option<(&'static str, String)>,
}

/// A metric of a table, with its columns.
#[derive(Clone, Debug)]
pub struct Family {
    pub metric: &'static Metric,
    pub columns: Range<usize>,
    /// Whether the columns form one point together, such as the buckets of a histogram, instead of
    /// one series each.
    pub together: bool,
}

/// Rows with the same columns.
#[derive(Clone, Debug)]
pub struct Table {
    /// The names of the labels that every row has.
    pub labels: &'static [&'static str],
    /// The metrics, in the order of the catalogue.
    pub families: Vec<Family>,
    pub columns: Vec<Column>,
}

impl Table {
    /// Every table, in the order in which a [`Step`] has them: session detail, pair detail, and the
    /// others.
    #[must_use]
    pub fn all() -> &'static [Self] {
        &TABLES
    }

    /// The index in [`Self::all`] of a metric's table. `None` if a replay does not fill it.
    #[must_use]
    pub fn index_of(metric: &Metric) -> Option<usize> {
        TABLES.iter().position(|table| table.families.iter().any(|family| family.metric.name == metric.name))
    }

    fn of_plane(plane: DetailPlane) -> Self {
        let columns = plane.columns();
        let mut families: Vec<Family> = Vec::new();
        for (index, column) in columns.iter().enumerate() {
            match families.last_mut() {
                Some(family) if family.metric.name == column.metric.name => family.columns.end += 1,
                _ => families.push(Family {
                    metric: column.metric,
                    columns: index..index + 1,
                    together: false,
                }),
            }
        }
        let columns = columns.iter().map(|column| Column {
            name: column.metric.name.to_owned(),
            label: column.operation.map(|operation| ("operation", operation.label().to_owned())),
        });
        Self { labels: plane.labels(), families, columns: columns.collect() }
    }

    fn of_aggregate(metric: &'static Metric) -> Self {
        let column = |suffix: &str, label| Column { name: format!("{}{suffix}", metric.name), label };
        let columns = match metric.kind {
            Kind::Histogram(bounds) => {
                let edges = bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
                let buckets = edges.map(|edge| column("_bucket", Some(("le", edge))));
                buckets.chain([column("_sum", None), column("_count", None)]).collect()
            }
            Kind::Counter | Kind::Seconds | Kind::Gauge | Kind::Age => vec![column("", None)],
        };
        let family = Family { metric, columns: 0..columns.len(), together: true };
        Self { labels: metric.labels, families: vec![family], columns }
    }
}

/// The recorder's entry that a row was read from.
enum Source {
    Row(RowView),
    Series(Arc<AggregateSeries>),
}

impl Source {
    fn labels(&self) -> Labels<'_> {
        match self {
            Self::Row(row) => row.labels(),
            Self::Series(series) => series.labels(),
        }
    }
}

/// The rows of one table at one moment, sorted by the text of their labels.
#[derive(Default)]
pub struct Rows {
    sources: Vec<Source>,
    values: Vec<f64>,
    width: usize,
}

impl Rows {
    /// The number of rows.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Each row's labels, and its values by column; NaN where it has none.
    pub fn iter(&self) -> impl Iterator<Item = (Labels<'_>, &[f64])> {
        let values = self.values.chunks_exact(self.width.max(1));
        self.sources.iter().map(Source::labels).zip(values)
    }

    /// The same with the fold's judgement of each row of a detail plane. It is the present one,
    /// which belongs to the values until the next frame is folded.
    pub(super) fn judged(&self) -> impl Iterator<Item = (Labels<'_>, &[f64], Judgement)> {
        let judgements = self.sources.iter().map(|source| match source {
            Source::Row(row) => row.judgement(),
            Source::Series(_) => Judgement::NONE,
        });
        self.iter().zip(judgements).map(|((labels, values), judgement)| (labels, values, judgement))
    }

    fn of_plane(store: &DetailStore, plane: DetailPlane, now: f64) -> Self {
        let columns = plane.columns();
        let rows = store.snapshot(plane);
        let mut values = Vec::with_capacity(rows.len() * columns.len());
        for row in &rows {
            values.extend(columns.iter().enumerate().map(|(index, column)| {
                row.value(index, column.metric.kind, now).map_or(f64::NAN, Value::as_f64)
            }));
        }
        Self { sources: rows.into_iter().map(Source::Row).collect(), values, width: columns.len() }
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus keeps every value as a float")]
    fn push(&mut self, series: Arc<AggregateSeries>) {
        match series.value() {
            AggregateValue::Counter(count) => self.values.push(count as f64),
            AggregateValue::Seconds(value) | AggregateValue::Gauge(value) => self.values.push(value),
            AggregateValue::Histogram(seen) => {
                self.values.extend(seen.cumulative().map(|count| count as f64));
                self.values.extend([seen.sum, seen.count() as f64]);
            }
        }
        self.sources.push(Source::Series(series));
    }
}

/// Every series at one moment.
pub struct Step {
    pub at: StreamTime,
    /// The rows of each table of [`Table::all`].
    pub tables: Vec<Rows>,
}

impl Step {
    /// Reads both recorders at a moment, which ages are computed at.
    #[must_use]
    pub fn read(at: StreamTime, aggregates: &Aggregates, detail: &DetailStore) -> Self {
        let now = at.unix_seconds();
        let mut tables: Vec<_> =
            DetailPlane::ALL.iter().map(|plane| Rows::of_plane(detail, *plane, now)).collect();
        tables.extend(
            TABLES
                .iter()
                .skip(tables.len())
                .map(|table| Rows { width: table.columns.len(), ..Rows::default() }),
        );
        let series = aggregates.series();
        for family in series.chunk_by(|a, b| a.metric().name == b.metric().name) {
            if let Some(table) = Table::index_of(family[0].metric()) {
                family.iter().for_each(|series| tables[table].push(Arc::clone(series)));
            }
        }
        Self { at, tables }
    }

    /// The number of samples that are present.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.tables.iter().map(|rows| rows.values.iter().filter(|value| !value.is_nan()).count()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use callsight_fold::series::aggregates::{RegionSeries, ServerSeries};
    use callsight_fold::series::exposition::{Format, write_page};

    #[test]
    fn a_step_has_every_sample_of_the_aggregates() {
        let aggregates = Aggregates::new();
        let recorder = aggregates.recorder();
        let servers = ["https://b", "https://a \"quoted\", le=\"1\""];
        for (index, url) in servers.iter().enumerate() {
            let server = ServerSeries::register(&**recorder, "us", url, "webrtc");
            server.rtt.record(0.2);
            server.sessions.set(f64::from(u8::try_from(index).unwrap()));
        }
        let _own = RegionSeries::register(&**recorder, "us");
        let step = Step::read(StreamTime::default(), &aggregates, &DetailStore::new(1));

        let mut page = Vec::new();
        write_page(&aggregates, &DetailStore::new(1), 0.0, Format::Text, &mut page).unwrap();
        let text = String::from_utf8(page).unwrap();
        let replayed = |line: &&str| {
            let name = line.split(['{', ' ']).next().unwrap();
            Table::all().iter().any(|table| table.columns.iter().any(|column| column.name == name))
        };
        let lines = text.lines().filter(|line| !line.starts_with('#')).filter(replayed);
        assert_eq!(step.samples(), lines.count(), "{text}");

        let sessions = &step.tables[Table::index_of(&c::SESSIONS).unwrap()];
        let values: Vec<_> =
            sessions.iter().map(|(labels, values)| (labels.text().to_owned(), values[0])).collect();
        assert_eq!(
            values,
            [
                (
                    r#"region="us",server_url="https://a \"quoted\", le=\"1\"",server_type="webrtc""#
                        .to_owned(),
                    1.0
                ),
                (r#"region="us",server_url="https://b",server_type="webrtc""#.to_owned(), 0.0),
            ]
        );
        let rtt = Table::index_of(&c::RTT).unwrap();
        let (_, buckets) = step.tables[rtt].iter().next().unwrap();
        let columns = &Table::all()[rtt].columns;
        let edge = |edge: &str| {
            let label = Some(("le", edge.to_owned()));
            buckets[columns.iter().position(|column| column.label == label).unwrap()]
        };
        assert_eq!([edge("0.15"), edge("0.2"), edge("+Inf")], [0.0, 1.0, 1.0]);
    }
}
