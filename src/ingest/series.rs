//! The metrics of the way in.
//!
//! Invariant: every series is there from the start, so that the first of a kind is an increase.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use callsight_fold::series::aggregates::Aggregates;
use callsight_fold::series::catalogue::{self as c, Metric};
use callsight_frame::Reason;
use callsight_frame::subject::Region;
use metrics::{Counter, Gauge, Histogram, SharedString, counter, gauge, histogram, with_local_recorder};

use super::refusal::{BadRequest, Outcome, RateLimited, Refusal, Unavailable};
use super::tokens::TokenRefusal;

/// The reason of an outcome that has none.
const NONE: &str = "none";

pub(super) struct Series {
    frames: Vec<(Outcome, &'static str, Counter)>,
    tokens_refused: Vec<(TokenRefusal, Counter)>,
    rate_limited: Vec<(RateLimited, Counter)>,
    ack: Histogram,
    in_flight: AtomicUsize,
    in_flight_gauge: Gauge,
    pub(super) buffer: Gauge,
    pub(super) keys: Gauge,
    pub(super) keys_refused: Gauge,
    pub(super) ready: Gauge,
}

/// Every outcome with the reasons that it can have.
fn outcomes() -> impl Iterator<Item = (Outcome, &'static str)> {
    Outcome::ALL.iter().flat_map(|outcome| {
        let reasons: Vec<&'static str> = match outcome {
            Outcome::Stored | Outcome::Duplicate | Outcome::Abandoned => vec![NONE],
            Outcome::Rejected => {
                let frames = Reason::ALL.iter().filter(|reason| **reason != Reason::BadSubject);
                let requests = BadRequest::ALL.iter().map(|problem| problem.label());
                frames.map(|reason| reason.label()).chain(requests).collect()
            }
            Outcome::Unauthorized => TokenRefusal::ALL.iter().map(|refusal| refusal.label()).collect(),
            Outcome::RateLimited => RateLimited::ALL.iter().map(|by| by.label()).collect(),
            Outcome::Unavailable => Unavailable::ALL.iter().map(|problem| problem.label()).collect(),
        };
        reasons.into_iter().map(|reason| (*outcome, reason))
    })
}

impl Series {
    /// Registers the series of an instance that publishes to this region.
    pub(super) fn register(aggregates: &Aggregates, region: &Region) -> Self {
        let region: SharedString = region.to_string().into();
        with_local_recorder(aggregates.recorder(), || {
            let gauge = |metric: &Metric| gauge!(metric.name, "region" => region.clone());
            let version = env!("CARGO_PKG_VERSION");
            gauge!(c::INGEST_BUILD_INFO.name, "region" => region.clone(), "version" => version).set(1.0);
            let frames = outcomes().map(|(outcome, reason)| {
                let (name, of) = (c::INGEST_FRAMES.name, outcome.label());
                let series = counter!(name, "region" => region.clone(), "outcome" => of, "reason" => reason);
                (outcome, reason, series)
            });
            let tokens = TokenRefusal::ALL.iter().map(|refusal| {
                let (name, reason) = (c::INGEST_TOKENS_REFUSED.name, refusal.label());
                (*refusal, counter!(name, "region" => region.clone(), "reason" => reason))
            });
            let limited = RateLimited::ALL.iter().map(|by| {
                let (name, label) = (c::INGEST_RATE_LIMITED.name, by.label());
                (*by, counter!(name, "region" => region.clone(), "by" => label))
            });
            Self {
                frames: frames.collect(),
                tokens_refused: tokens.collect(),
                rate_limited: limited.collect(),
                ack: histogram!(c::INGEST_ACK.name, "region" => region.clone()),
                in_flight: AtomicUsize::new(0),
                in_flight_gauge: gauge(&c::INGEST_IN_FLIGHT),
                buffer: gauge(&c::INGEST_BUFFER),
                keys: gauge(&c::INGEST_KEYS),
                keys_refused: gauge(&c::INGEST_KEYS_REFUSED),
                ready: gauge(&c::INGEST_READY),
            }
        })
    }

    pub(super) fn acknowledged_after(&self, wait: Duration) {
        self.ack.record(wait.as_secs_f64());
    }

    /// Begins a request with a frame. If the result is dropped without an outcome, its client has
    /// hung up.
    pub(super) fn begin(&self) -> Begun<'_> {
        self.in_flight.fetch_add(1, Relaxed);
        Begun { series: self, settled: false }
    }

    /// Brings the gauge of requests that are being answered up to date.
    pub(super) fn show_in_flight(&self) {
        #[expect(clippy::cast_precision_loss, reason = "connections are bounded far below 2^53")]
        self.in_flight_gauge.set(self.in_flight.load(Relaxed) as f64);
    }

    fn count(&self, outcome: Outcome, reason: &str) {
        let found = self.frames.iter().find(|(known, of, _)| *known == outcome && *of == reason);
        if let Some((.., series)) = found {
            series.increment(1);
        }
    }
}

/// A request with a frame, counted once with its outcome.
pub(super) struct Begun<'a> {
    series: &'a Series,
    settled: bool,
}

impl Begun<'_> {
    pub(super) fn stored(mut self, duplicate: bool) {
        self.settled = true;
        self.series.count(if duplicate { Outcome::Duplicate } else { Outcome::Stored }, NONE);
    }

    pub(super) fn refused(mut self, refusal: &Refusal) {
        self.settled = true;
        let (outcome, reason) = refusal.labels();
        self.series.count(outcome, reason);
        let own = match refusal {
            Refusal::Token(refusal) => {
                self.series.tokens_refused.iter().find(|(known, _)| known == refusal).map(|(_, own)| own)
            }
            Refusal::Rate(by, _) => {
                self.series.rate_limited.iter().find(|(known, _)| known == by).map(|(_, own)| own)
            }
            _ => None,
        };
        if let Some(own) = own {
            own.increment(1);
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.series.in_flight.fetch_sub(1, Relaxed);
        if !self.settled {
            self.series.count(Outcome::Abandoned, NONE);
        }
    }
}

#[cfg(test)]
mod tests {
    use callsight_frame::Rejection;

    use super::*;

    #[test]
    fn every_refusal_has_its_series() {
        let aggregates = Aggregates::new();
        let series = Series::register(&aggregates, &"us".parse().unwrap());
        let refusals = [
            BadRequest::ALL.iter().map(|problem| Refusal::Request(*problem)).collect::<Vec<_>>(),
            TokenRefusal::ALL.iter().map(|refusal| Refusal::Token(*refusal)).collect(),
            RateLimited::ALL.iter().map(|by| Refusal::Rate(*by, Duration::ZERO)).collect(),
            Unavailable::ALL.iter().map(|problem| Refusal::Unavailable(*problem)).collect(),
            Reason::ALL
                .iter()
                .filter(|reason| **reason != Reason::BadSubject)
                .map(|reason| Refusal::Frame(Rejection::new(*reason, "")))
                .collect(),
        ];
        let refusals: Vec<_> = refusals.into_iter().flatten().collect();
        for refusal in &refusals {
            series.begin().refused(refusal);
            let (outcome, reason) = refusal.labels();
            assert!(
                series.frames.iter().any(|(known, of, _)| *known == outcome && *of == reason),
                "{reason}"
            );
        }
        series.begin().stored(false);
        series.begin().stored(true);
        drop(series.begin());
        assert_eq!(series.frames.len(), refusals.len() + 3, "and no series is for nothing");
        let shown = aggregates.series();
        assert!(shown.iter().filter(|series| series.metric().name == c::INGEST_FRAMES.name).all(|series| {
            series.value() == callsight_fold::series::aggregates::AggregateValue::Counter(1)
        }));
    }
}
