//! Histograms with the catalogue's buckets, counted where they are observed.
//!
//! A frame of ten parties brings some twenty observations. The exporter library keeps each of them, with its
//! moment, until somebody scrapes or an upkeep task comes by, and only then sorts it into a bucket: four
//! operations between processors and 24 bytes apiece, and a heap that grows with the rate of frames. The buckets
//! are known beforehand here. So an observation is counted in its bucket at once, which costs two relaxed additions,
//! nothing piles up, and nobody has to come by.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Histogram, HistogramFn, Key};

use super::catalogue::{CATALOGUE, Kind, Metric};
use super::detail::render_labels;

/// By their place in the catalogue and their labels.
type ByLabels = BTreeMap<(usize, Box<str>), Arc<Buckets>>;

/// All histograms.
#[derive(Default)]
pub(super) struct Histograms(Mutex<ByLabels>);

impl Histograms {
    /// The histogram of a key. A name that the catalogue doesn't have as a histogram gives one that does nothing.
    pub(super) fn register(&self, key: &Key) -> Histogram {
        let named = CATALOGUE.iter().position(|metric| metric.name == key.name());
        let Some((index, Kind::Histogram(bounds))) = named.map(|index| (index, CATALOGUE[index].kind)) else {
            return Histogram::noop();
        };
        let labels: Vec<_> = key.labels().map(|label| (label.key(), label.value())).collect();
        let mut histograms = self.lock();
        let buckets = histograms.entry((index, render_labels(&labels)));
        Histogram::from_arc(Arc::clone(buckets.or_insert_with(|| Arc::new(Buckets::new(bounds)))))
    }

    /// Writes all of them, in format 0.0.4, an empty line after each family.
    pub(super) fn render(&self, text: &mut String) {
        let histograms = self.lock();
        let mut family = None;
        for ((index, labels), buckets) in histograms.iter() {
            let metric = CATALOGUE[*index];
            if family.replace(*index) != Some(*index) {
                let Metric { name, help, .. } = metric;
                push(text, format_args!("\n# HELP {name} {help}\n# TYPE {name} histogram\n"));
            }
            buckets.render(metric.name, labels, text);
        }
        text.push('\n');
    }

    fn lock(&self) -> MutexGuard<'_, ByLabels> {
        // A panic between two operations on the map leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The observations of one label set.
struct Buckets {
    bounds: &'static [f64],
    /// The observations in each bucket alone, and at the end those beyond all bounds.
    counts: Box<[AtomicU64]>,
    /// The bits of the sum.
    sum: AtomicU64,
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0.0_f64.to_bits()) }
    }

    fn render(&self, name: &str, labels: &str, text: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (place, alone) in self.counts.iter().enumerate() {
            count += alone.load(Relaxed);
            push(text, format_args!("{name}_bucket{{{labels}{comma}le=\""));
            match self.bounds.get(place) {
                Some(bound) => push(text, format_args!("{bound}")),
                None => text.push_str("+Inf"),
            }
            push(text, format_args!("\"}} {count}\n"));
        }
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let sum = f64::from_bits(self.sum.load(Relaxed));
        push(text, format_args!("{name}_sum{braced} {sum}\n{name}_count{braced} {count}\n"));
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // A `String` takes everything.
    let _ = text.write_fmt(arguments);
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        // Comparing with all of a dozen bounds takes less than guessing wrong where to stop.
        let place = self.bounds.iter().map(|bound| usize::from(value > *bound)).sum::<usize>();
        self.counts[place].fetch_add(count as u64, Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "nobody observes 2^53 times at once")]
        let more = value * count as f64;
        let mut before = self.sum.load(Relaxed);
        loop {
            let after = (f64::from_bits(before) + more).to_bits();
            match self.sum.compare_exchange_weak(before, after, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => before = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics::Label;

    use super::super::catalogue::{CONCEALMENT, FRAMES_FOLDED, SCRAPE_SECONDS_SPENT};
    use super::*;

    fn rendered(histograms: &Histograms) -> String {
        let mut text = String::new();
        histograms.render(&mut text);
        text
    }

    #[test]
    fn an_observation_is_in_every_bucket_that_it_does_not_exceed() {
        let histograms = Histograms::default();
        let key = || Key::from_parts(CONCEALMENT.name, vec![Label::new("region", "u\"s")]);
        let ratio = histograms.register(&key());
        for value in [0.0, 0.001, 0.0011, 1.0, 7.5] {
            ratio.record(value);
        }
        histograms.register(&key()).record_many(0.25, 2);
        let expected = format!(
            "\n# HELP {name} {help}\n# TYPE {name} histogram\n\
             {name}_bucket{{region=\"u\\\"s\",le=\"0.001\"}} 2\n\
             {name}_bucket{{region=\"u\\\"s\",le=\"0.005\"}} 3\n\
             {name}_bucket{{region=\"u\\\"s\",le=\"0.01\"}} 3\n\
             {name}_bucket{{region=\"u\\\"s\",le=\"0.02\"}} 3\n\
             {name}_bucket{{region=\"u\\\"s\",le=\"0.05\"}} 3\n\
             {name}_bucket{{region=\"u\\\"s\",le=\"0.1\"}} 3\n\
             {name}_bucket{{region=\"u\\\"s\",le=\"0.2\"}} 3\n\
             {name}_bucket{{region=\"u\\\"s\",le=\"0.3\"}} 5\n\
             {name}_bucket{{region=\"u\\\"s\",le=\"0.5\"}} 5\n\
             {name}_bucket{{region=\"u\\\"s\",le=\"1\"}} 6\n\
             {name}_bucket{{region=\"u\\\"s\",le=\"+Inf\"}} 7\n\
             {name}_sum{{region=\"u\\\"s\"}} 9.0021\n\
             {name}_count{{region=\"u\\\"s\"}} 7\n\n",
            name = CONCEALMENT.name,
            help = CONCEALMENT.help,
        );
        assert_eq!(rendered(&histograms), expected);
    }

    #[test]
    fn without_labels_there_are_no_empty_braces() {
        let histograms = Histograms::default();
        histograms.register(&Key::from_name(SCRAPE_SECONDS_SPENT.name)).record(3600.0);
        let text = rendered(&histograms);
        let name = SCRAPE_SECONDS_SPENT.name;
        assert!(
            text.contains(&format!("{name}_bucket{{le=\"10\"}} 0\n{name}_bucket{{le=\"+Inf\"}} 1\n")),
            "{text}"
        );
        assert!(text.ends_with(&format!("{name}_sum 3600\n{name}_count 1\n\n")), "{text}");
    }

    #[test]
    fn only_histograms_of_the_catalogue_are_kept() {
        let histograms = Histograms::default();
        for name in [FRAMES_FOLDED.name, "somebody_elses_seconds"] {
            histograms.register(&Key::from_name(name)).record(1.0);
        }
        assert_eq!(rendered(&histograms), "\n");
    }

    #[test]
    fn threads_lose_nothing() {
        let histograms = Histograms::default();
        let key = Key::from_name(SCRAPE_SECONDS_SPENT.name);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let histogram = histograms.register(&key);
                    (0..10_000).for_each(|_| histogram.record(0.5));
                });
            }
        });
        let text = rendered(&histograms);
        assert!(text.ends_with("_sum 20000\ncallsight_scrape_duration_seconds_count 40000\n\n"), "{text}");
    }
}
