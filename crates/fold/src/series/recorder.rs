//! The recorder of the aggregates: the series that stay.
//!
//! The exporter library writes them as text and hands out nothing else, and can't remove one.
//! Replay and the triage page need them as numbers, and those of a server go when nobody uses it
//! any more. So each series of the catalogue has its value here, in an atomic that its handles
//! share: an update is one atomic operation, without a hash or a lock. The library keeps what the
//! catalogue does not have. For histograms see [`Buckets`].
//!
//! Invariant: what [`AggregateSeries::value`] returns and what a page shows are the same values.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::catalogue::{CATALOGUE, Kind, Metric};
use super::histogram::{Buckets, Observations};
use super::labels::{self, Labels};

/// Series by their metric's place in the catalogue and by their labels.
type Registry = BTreeMap<(usize, Arc<str>), Arc<AggregateSeries>>;

/// One series that stays. A histogram is one series here.
pub struct AggregateSeries {
    metric: &'static Metric,
    labels: Arc<str>,
    value: Storage,
}

enum Storage {
    Counter(Arc<Count>),
    /// The bits of the value.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Buckets>),
}

/// A count that stands still at its maximum. If it wrapped, queries would take it for the counter
/// of a new process and add all of it.
#[derive(Default)]
struct Count(AtomicU64);

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        let mut before = self.0.load(Relaxed);
        loop {
            let after = before.saturating_add(value);
            match self.0.compare_exchange_weak(before, after, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => before = now,
            }
        }
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Relaxed);
    }
}

/// Milliseconds in seconds.
#[expect(clippy::cast_precision_loss, reason = "exact for 285,000 years")]
pub(super) const fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}

/// The value of a series that stays.
#[derive(Clone, Debug, PartialEq)]
pub enum AggregateValue {
    /// The count of a counter.
    Counter(u64),
    /// The count of a counter of time, in seconds.
    Seconds(f64),
    /// The value of a gauge; NaN while it is unknown.
    Gauge(f64),
    /// The observations of a histogram.
    Histogram(Observations),
}

impl AggregateSeries {
    /// The metric, as the catalogue declares it.
    #[must_use]
    pub const fn metric(&self) -> &'static Metric {
        self.metric
    }

    /// The labels, in the order of the catalogue.
    #[must_use]
    pub fn labels(&self) -> Labels<'_> {
        Labels::new(self.metric.labels, &self.labels)
    }

    /// Reads the value, which other threads may change at any time.
    #[must_use]
    pub fn value(&self) -> AggregateValue {
        match &self.value {
            Storage::Counter(count) if self.metric.kind == Kind::Seconds => {
                AggregateValue::Seconds(seconds(count.0.load(Relaxed)))
            }
            Storage::Counter(count) => AggregateValue::Counter(count.0.load(Relaxed)),
            Storage::Gauge(bits) => AggregateValue::Gauge(f64::from_bits(bits.load(Relaxed))),
            Storage::Histogram(buckets) => AggregateValue::Histogram(buckets.observations()),
        }
    }

    /// Writes the lines of its samples.
    pub(super) fn write(&self, sink: &mut impl Write) -> io::Result<()> {
        let Self { metric: Metric { name, .. }, labels, value } = self;
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        match (value, self.value()) {
            (Storage::Histogram(buckets), _) => buckets.write(name, labels, sink),
            (_, AggregateValue::Counter(count)) => writeln!(sink, "{name}{braced} {count}"),
            (_, AggregateValue::Seconds(value) | AggregateValue::Gauge(value)) => {
                writeln!(sink, "{name}{braced} {value}")
            }
            (_, AggregateValue::Histogram(_)) => Ok(()),
        }
    }
}

/// Registers the series that stay. A name that the catalogue doesn't have is the library's alone,
/// such as those of the process; a histogram that it doesn't have is ignored.
pub struct AggregateRecorder {
    library: PrometheusRecorder,
    series: Mutex<Registry>,
    /// The labels that were registered last. A server registers dozens of metrics one after the
    /// other, whose series share the text: a stranger's URL may have hundreds of bytes.
    last_labels: Mutex<Arc<str>>,
}

impl AggregateRecorder {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        // A panic between two operations on the map leaves the map whole.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self, labels: &str) -> Arc<str> {
        // A panic while it was replaced leaves one or the other.
        let mut last = self.last_labels.lock().unwrap_or_else(PoisonError::into_inner);
        if **last != *labels {
            *last = labels.into();
        }
        Arc::clone(&last)
    }

    /// The series of a key, which is made when it is new. `None` unless the catalogue has its name,
    /// with these labels and of a kind for which there is a value.
    fn register(
        &self,
        key: &Key,
        value: impl FnOnce(Kind) -> Option<Storage>,
    ) -> Option<Arc<AggregateSeries>> {
        let place = CATALOGUE.iter().position(|metric| metric.name == key.name())?;
        let metric = CATALOGUE[place];
        if !key.labels().map(metrics::Label::key).eq(metric.labels.iter().copied()) {
            return None;
        }
        let text = self.shared(&labels::render(key.labels().map(|label| (label.key(), label.value()))));
        let mut registry = self.registry();
        if let Some(series) = registry.get(&(place, Arc::clone(&text))) {
            return Some(Arc::clone(series));
        }
        let series =
            Arc::new(AggregateSeries { metric, labels: Arc::clone(&text), value: value(metric.kind)? });
        registry.insert((place, text), Arc::clone(&series));
        Some(series)
    }

    /// Removes the series of the metrics whose first labels have these names, where they have these
    /// values. A handle that is kept longer writes into memory that nobody shows, and a series that
    /// returns begins again at zero.
    pub(crate) fn remove(&self, names: &[&str], values: [&str; 3]) {
        let text: Arc<str> = labels::render(names.iter().copied().zip(values)).into();
        let mut registry = self.registry();
        for (place, _) in CATALOGUE.iter().enumerate().filter(|(_, metric)| metric.labels.starts_with(names))
        {
            // The last value ends with a quote, so no other labels begin like these.
            let keys: Vec<_> = registry
                .range((place, Arc::clone(&text))..)
                .map(|(key, _)| key)
                .take_while(|(at, labels)| *at == place && labels.starts_with(&*text))
                .cloned()
                .collect();
            for key in keys {
                registry.remove(&key);
            }
        }
    }
}

impl Recorder for AggregateRecorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.library.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.library.describe_gauge(key, unit, description);
    }

    /// Does nothing: the catalogue describes every histogram.
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        let series = self.register(key, |kind| {
            matches!(kind, Kind::Counter | Kind::Seconds).then(|| Storage::Counter(Arc::default()))
        });
        match series.as_deref().map(|series| &series.value) {
            Some(Storage::Counter(count)) => Counter::from_arc(Arc::clone(count)),
            _ => self.library.register_counter(key, metadata),
        }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let series = self.register(key, |kind| (kind == Kind::Gauge).then(|| Storage::Gauge(Arc::default())));
        match series.as_deref().map(|series| &series.value) {
            Some(Storage::Gauge(bits)) => Gauge::from_arc(Arc::clone(bits)),
            _ => self.library.register_gauge(key, metadata),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let series = self.register(key, |kind| match kind {
            Kind::Histogram(bounds) => Some(Storage::Histogram(Arc::new(Buckets::new(bounds)))),
            _ => None,
        });
        match series.as_deref().map(|series| &series.value) {
            Some(Storage::Histogram(buckets)) => Histogram::from_arc(Arc::clone(buckets)),
            _ => Histogram::noop(),
        }
    }
}

/// The aggregates. Clones share them.
#[derive(Clone)]
pub struct Aggregates {
    recorder: Arc<AggregateRecorder>,
    page: PrometheusHandle,
}

impl Default for Aggregates {
    fn default() -> Self {
        Self::new()
    }
}

impl Aggregates {
    /// Sets up an empty recorder.
    #[must_use]
    pub fn new() -> Self {
        let library = PrometheusBuilder::new().build_recorder();
        let page = library.handle();
        Self {
            recorder: Arc::new(AggregateRecorder {
                library,
                series: Mutex::default(),
                last_labels: Mutex::new(Arc::from("")),
            }),
            page,
        }
    }

    /// The recorder, for handles and macros.
    #[must_use]
    pub const fn recorder(&self) -> &Arc<AggregateRecorder> {
        &self.recorder
    }

    /// Every series of the catalogue that is registered, in the order of the catalogue and then of
    /// their labels.
    #[must_use]
    pub fn series(&self) -> Vec<Arc<AggregateSeries>> {
        self.recorder.registry().values().cloned().collect()
    }

    /// The metrics that the catalogue does not have, as text in format 0.0.4, an empty line after
    /// each family, families in no order.
    pub(super) fn library(&self) -> String {
        self.page.render()
    }
}

#[cfg(test)]
mod tests {
    use metrics::Label;

    use super::super::aggregates::{RegionSeries, ServerSeries, StreamSeries};
    use super::super::catalogue::{CONCEALMENT, FRAMES_FOLDED, MEETINGS, SCRAPE_SECONDS_SPENT};
    use super::super::detail::DetailStore;
    use super::super::exposition::{Format, write_page};
    use super::*;

    const METADATA: Metadata<'static> = Metadata::new("", metrics::Level::INFO, None);

    fn key(metric: &Metric) -> Key {
        let labels =
            metric.labels.iter().map(|name| Label::new(*name, format!("{name}\"s"))).collect::<Vec<_>>();
        Key::from_parts(metric.name, labels)
    }

    fn page(aggregates: &Aggregates) -> String {
        let mut page = Vec::new();
        write_page(aggregates, &DetailStore::new(0), 0.0, Format::Text, &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn handles_of_one_key_share_a_series() {
        let aggregates = Aggregates::new();
        for _ in 0..2 {
            aggregates.recorder.register_counter(&key(&FRAMES_FOLDED), &METADATA).increment(3);
            aggregates.recorder.register_gauge(&key(&MEETINGS), &METADATA).increment(2.5);
            aggregates.recorder.register_histogram(&key(&CONCEALMENT), &METADATA).record(0.25);
        }
        let series = aggregates.series();
        let values: Vec<_> = series.iter().map(|series| (series.metric().name, series.value())).collect();
        let [concealment, meetings, folded] = &values[..] else { panic!("{values:?}") };
        assert_eq!(*meetings, (MEETINGS.name, AggregateValue::Gauge(5.0)));
        assert_eq!(*folded, (FRAMES_FOLDED.name, AggregateValue::Counter(6)));
        let AggregateValue::Histogram(observations) = &concealment.1 else { panic!("{concealment:?}") };
        assert_eq!((observations.count(), observations.sum), (2, 0.5));
        assert_eq!(series[2].labels().values(), ["region\"s"]);
        let page = page(&aggregates);
        for line in [
            "callsight_frames_folded_total{region=\"region\\\"s\"} 6\n",
            "videocall_meetings{region=\"region\\\"s\",server_url=\"server_url\\\"s\",server_type=\"server_type\\\"s\"} 5\n",
        ] {
            assert!(page.contains(line), "{page}");
        }
    }

    #[test]
    fn the_series_of_a_server_share_the_text_of_their_labels() {
        let aggregates = Aggregates::new();
        let _server = ServerSeries::register(&**aggregates.recorder(), "us", "https://a", "webrtc");
        let series = aggregates.series();
        let texts: std::collections::BTreeSet<_> = series.iter().map(|one| one.labels.as_ptr()).collect();
        assert!(texts.len() * 2 < series.len(), "{} texts of {} series", texts.len(), series.len());
    }

    #[test]
    fn a_counter_stands_still_at_its_maximum() {
        let aggregates = Aggregates::new();
        let counter = aggregates.recorder.register_counter(&key(&FRAMES_FOLDED), &METADATA);
        counter.increment(48_000);
        let (mut series, mut pages) = (Vec::new(), Vec::new());
        for more in [u64::MAX - 48_001, 1, 1, u64::MAX] {
            counter.increment(more);
            series.push(aggregates.series()[0].value());
            pages.push(page(&aggregates));
        }
        let expected = [u64::MAX - 1, u64::MAX, u64::MAX, u64::MAX];
        assert_eq!(series, expected.map(AggregateValue::Counter));
        for (page, count) in pages.iter().zip(expected) {
            assert!(page.contains(&format!("{{region=\"region\\\"s\"}} {count}\n")), "{page}");
        }
    }

    #[test]
    fn whatever_is_registered_is_declared() {
        let aggregates = Aggregates::new();
        let recorder = aggregates.recorder();
        let _kept = (
            ServerSeries::register(&**recorder, "us", "https://a", "webtransport"),
            RegionSeries::register(&**recorder, "us"),
            StreamSeries::register(&**recorder, "us", true),
        );
        // The library's page has each series; a label that the catalogue doesn't have would keep it
        // from being ours.
        let sampled = aggregates.series().len();
        let page = page(&aggregates);
        let of_histogram = ["_bucket{", "_sum{", "_count{"];
        let single = page.lines().filter(|line| {
            !line.is_empty() && !line.starts_with('#') && !of_histogram.iter().any(|part| line.contains(part))
        });
        let histograms = page.lines().filter(|line| line.contains("_sum{"));
        assert_eq!(sampled, single.count() + histograms.count(), "{page}");
    }

    #[test]
    fn what_the_catalogue_does_not_have_is_the_librarys() {
        let aggregates = Aggregates::new();
        let labels = vec![Label::new("zone", "a")];
        for name in [FRAMES_FOLDED.name, "somebody_elses_total"] {
            let key = Key::from_parts(name, labels.clone());
            aggregates.recorder.register_counter(&key, &METADATA).increment(1);
        }
        aggregates.recorder.register_gauge(&key(&FRAMES_FOLDED), &METADATA).set(1.0);
        for name in [FRAMES_FOLDED.name, "somebody_elses_seconds"] {
            aggregates.recorder.register_histogram(&Key::from_name(name), &METADATA).record(1.0);
        }
        assert!(aggregates.series().is_empty());
        let page = page(&aggregates);
        assert!(page.contains("somebody_elses_total{zone=\"a\"} 1\n"), "{page}");
        assert!(!page.contains("_seconds"), "{page}");
    }

    #[test]
    fn histograms_are_rendered_by_family() {
        let aggregates = Aggregates::new();
        aggregates.recorder.register_histogram(&key(&CONCEALMENT), &METADATA).record(0.0);
        aggregates.recorder.register_histogram(&key(&SCRAPE_SECONDS_SPENT), &METADATA).record(1.0);
        let page = page(&aggregates);
        for metric in [&CONCEALMENT, &SCRAPE_SECONDS_SPENT] {
            let head =
                format!("\n# HELP {0} {1}\n# TYPE {0} histogram\n{0}_bucket", metric.name, metric.help);
            assert!(format!("\n{page}").contains(&head), "{page}");
        }
    }
}
