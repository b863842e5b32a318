//! What the aggregates count, read off their text: exact whatever the level of detail.

use std::collections::BTreeMap;

use crate::insight::quantile::Buckets;
use callsight_fold::series::aggregates::{Limit, Signal};
use callsight_fold::series::catalogue as c;
use callsight_fold::series::reading::{Sample, labels, samples};
use callsight_frame::Operation;

/// A server in a region, as series name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServerKey {
    pub(super) region: String,
    pub(super) server_url: String,
    pub(super) server_type: String,
}

/// One reading of all aggregates.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) servers: BTreeMap<ServerKey, ServerCounts>,
    pub(super) regions: BTreeMap<String, RegionCounts>,
}

/// A server's gauges, and the counters behind its rates.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ServerCounts {
    pub(super) meetings: u64,
    pub(super) sessions: u64,
    pub(super) participants: u64,
    pub(super) hidden: u64,
    pub(super) degraded: u64,
    /// In the order of [`Signal::ALL`].
    pub(super) degraded_by: [u64; Signal::ALL.len()],
    pub(super) grown: Grown,
}

/// What counters have come to; the difference of two is what came in between.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Grown {
    pub(super) samples: u64,
    pub(super) concealed: u64,
    pub(super) silent: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) operations: u64,
    pub(super) expands: u64,
    pub(super) freezes: u64,
    /// Of round-trip times; only where they were asked for.
    pub(super) rtt: Buckets,
}

/// The exporter's own series of a region.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RegionCounts {
    pub(super) connected: bool,
    pub(super) last_folded_age: Option<f64>,
    pub(super) folded: u64,
    pub(super) rejected: u64,
    pub(super) dead_letters: u64,
    pub(super) dead_letters_lost: u64,
    /// In the order of [`Limit::ALL`].
    pub(super) refused: [u64; Limit::ALL.len()],
}

impl Counts {
    /// Reads the text of the aggregates; the buckets of round-trip times only `with_rtt`.
    pub(super) fn read(text: &str, with_rtt: bool) -> Self {
        let mut counts = Self::default();
        let rtt_bucket = [c::RTT.name, "_bucket"].concat();
        for sample in samples(text) {
            let bucket = with_rtt && sample.name == rtt_bucket;
            if bucket || SERVER_METRICS.contains(&sample.name) {
                counts.take_server(&sample, bucket);
            } else if REGION_METRICS.contains(&sample.name) {
                counts.take_region(&sample);
            }
        }
        counts
    }

    fn take_server(&mut self, sample: &Sample<'_>, bucket: bool) {
        let mut key = ServerKey::default();
        let mut part = None;
        for (name, value) in labels(sample.labels) {
            match name {
                "region" => key.region = value.into_owned(),
                "server_url" => key.server_url = value.into_owned(),
                "server_type" => key.server_type = value.into_owned(),
                _ => part = Some(value),
            }
        }
        let server = self.servers.entry(key).or_default();
        let (value, part) = (whole(sample.value), part.as_deref().unwrap_or_default());
        let grown = &mut server.grown;
        match sample.name {
            _ if bucket => {
                if let Ok(bound) = part.parse() {
                    grown.rtt.add(bound, sample.value);
                }
            }
            name if name == c::MEETINGS.name => server.meetings = value,
            name if name == c::SESSIONS.name => server.sessions = value,
            name if name == c::PARTICIPANTS.name => server.participants = value,
            name if name == c::SESSIONS_HIDDEN.name => server.hidden = value,
            name if name == c::SESSIONS_DEGRADED_ANY.name => server.degraded = value,
            name if name == c::SESSIONS_DEGRADED.name => {
                if let Some(signal) = Signal::ALL.iter().find(|signal| signal.label() == part) {
                    server.degraded_by[*signal as usize] = value;
                }
            }
            name if name == c::SAMPLES.name => grown.samples = value,
            name if name == c::CONCEALED_SAMPLES.name => grown.concealed = value,
            name if name == c::SILENT_CONCEALED_SAMPLES.name => grown.silent = value,
            name if name == c::PACKETS_RECEIVED.name => grown.received = value,
            name if name == c::PACKETS_LOST.name => grown.lost = value,
            name if name == c::FREEZES.name => grown.freezes = value,
            _ => {
                grown.operations += value;
                if part == Operation::Expand.label() {
                    grown.expands = value;
                }
            }
        }
    }

    fn take_region(&mut self, sample: &Sample<'_>) {
        let (mut region, mut part) = (String::new(), None);
        for (name, value) in labels(sample.labels) {
            match name {
                "region" => region = value.into_owned(),
                _ => part = Some(value),
            }
        }
        let region = self.regions.entry(region).or_default();
        let value = whole(sample.value);
        match sample.name {
            name if name == c::CONNECTED.name => region.connected = value > 0,
            name if name == c::LAST_FOLDED_AGE.name => {
                region.last_folded_age = Some(sample.value).filter(|age| age.is_finite());
            }
            name if name == c::FRAMES_FOLDED.name => region.folded = value,
            name if name == c::FRAMES_REJECTED.name => region.rejected += value,
            name if name == c::DEAD_LETTERS.name => region.dead_letters = value,
            name if name == c::DEAD_LETTERS_LOST.name => region.dead_letters_lost = value,
            _ => {
                if let Some(limit) = Limit::ALL.iter().find(|limit| part.as_deref() == Some(limit.label())) {
                    region.refused[*limit as usize] = value;
                }
            }
        }
    }
}

const SERVER_METRICS: &[&str] = &[
    c::MEETINGS.name,
    c::SESSIONS.name,
    c::PARTICIPANTS.name,
    c::SESSIONS_HIDDEN.name,
    c::SESSIONS_DEGRADED_ANY.name,
    c::SESSIONS_DEGRADED.name,
    c::SAMPLES.name,
    c::CONCEALED_SAMPLES.name,
    c::SILENT_CONCEALED_SAMPLES.name,
    c::PACKETS_RECEIVED.name,
    c::PACKETS_LOST.name,
    c::FREEZES.name,
    c::NETEQ_OPERATIONS.name,
];

const REGION_METRICS: &[&str] = &[
    c::CONNECTED.name,
    c::LAST_FOLDED_AGE.name,
    c::FRAMES_FOLDED.name,
    c::FRAMES_REJECTED.name,
    c::DEAD_LETTERS.name,
    c::DEAD_LETTERS_LOST.name,
    c::REFUSED.name,
];

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and NaN becomes zero"
)]
const fn whole(value: f64) -> u64 {
    value as u64
}

impl Grown {
    /// What has come since an earlier reading.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            samples: self.samples.saturating_sub(earlier.samples),
            concealed: self.concealed.saturating_sub(earlier.concealed),
            silent: self.silent.saturating_sub(earlier.silent),
            received: self.received.saturating_sub(earlier.received),
            lost: self.lost.saturating_sub(earlier.lost),
            operations: self.operations.saturating_sub(earlier.operations),
            expands: self.expands.saturating_sub(earlier.expands),
            freezes: self.freezes.saturating_sub(earlier.freezes),
            rtt: self.rtt.since(&earlier.rtt).unwrap_or_default(),
        }
    }

    /// Adds what came elsewhere.
    pub(super) fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.concealed += other.concealed;
        self.silent += other.silent;
        self.received += other.received;
        self.lost += other.lost;
        self.operations += other.operations;
        self.expands += other.expands;
        self.freezes += other.freezes;
        self.rtt.merge(&other.rtt);
    }

    /// The share of the samples that were made up and audible.
    pub(super) fn concealed_ratio(&self) -> Option<f64> {
        ratio(self.concealed.saturating_sub(self.silent), self.samples)
    }

    /// The share of the audio packets that were lost on the way.
    pub(super) fn lost_ratio(&self) -> Option<f64> {
        ratio(self.lost, self.lost + self.received)
    }

    /// The share of NetEQ's decisions that stretched what it had for want of packets.
    pub(super) fn expand_ratio(&self) -> Option<f64> {
        ratio(self.expands, self.operations)
    }
}

/// A part of a whole; nothing of nothing.
#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use metrics::with_local_recorder;

    use super::*;
    use callsight_fold::series::aggregates::{Aggregates, RegionSeries, ServerSeries};

    #[test]
    fn all_that_is_read_is_what_was_written() {
        let aggregates = Aggregates::new();
        let recorder = aggregates.recorder();
        let server = ServerSeries::register(&**recorder, "us", "https://a", "webtransport");
        let _other = ServerSeries::register(&**recorder, "us", "https://b", "websocket");
        let own = RegionSeries::register(&**recorder, "us");
        with_local_recorder(&**recorder, || {
            server.meetings.set(3.0);
            server.sessions.set(12.0);
            server.participants.set(11.0);
            server.hidden.set(2.0);
            server.degraded_any.set(4.0);
            server.degraded[Signal::Audio as usize].set(3.0);
            server.degraded[Signal::Video as usize].set(2.0);
            server.samples.increment(1000);
            server.concealed_samples.increment(110);
            server.silent_concealed_samples.increment(10);
            server.packets_received.increment(95);
            server.packets_lost.increment(5);
            server.freezes.increment(7);
            server.neteq[Operation::Normal as usize].increment(30);
            server.neteq[Operation::Expand as usize].increment(10);
            for rtt in [0.02, 0.02, 0.35, 9.0] {
                server.rtt.record(rtt);
            }
            own.connected.set(1.0);
            own.last_folded_age.set(f64::NAN);
            own.folded.increment(40);
            own.rejected(callsight_frame::Reason::Malformed).increment(2);
            own.rejected(callsight_frame::Reason::TooLarge).increment(1);
            own.dead_letters.increment(3);
            own.refused(Limit::Series).increment(9);
        });
        let counts = Counts::read(&aggregates.render(), true);
        assert_eq!(counts.servers.len(), 2);
        let key = ServerKey {
            region: "us".to_owned(),
            server_url: "https://a".to_owned(),
            server_type: "webtransport".to_owned(),
        };
        let read = &counts.servers[&key];
        let numbers = [read.meetings, read.sessions, read.participants, read.hidden, read.degraded];
        assert_eq!((numbers, read.degraded_by), ([3, 12, 11, 2, 4], [0, 3, 2]));
        let grown = &read.grown;
        assert_eq!((grown.concealed_ratio(), grown.lost_ratio()), (Some(0.1), Some(0.05)));
        assert_eq!((grown.expand_ratio(), grown.freezes), (Some(0.25), 7));
        let rtt = [0.5, 0.75, 1.0].map(|quantile| grown.rtt.quantile(quantile));
        assert_eq!((rtt, grown.rtt.count()), ([Some(0.025), Some(0.4), Some(5.0)], 4.0));
        let own = RegionCounts {
            connected: true,
            folded: 40,
            rejected: 3,
            dead_letters: 3,
            refused: [9, 0, 0, 0],
            ..RegionCounts::default()
        };
        assert_eq!(counts.regions["us"], own);
        assert!(Counts::read(&aggregates.render(), false).servers[&key].grown.rtt.count() == 0.0);
    }

    #[test]
    fn what_came_in_between_is_a_difference() {
        let buckets = |count| {
            let mut buckets = Buckets::default();
            buckets.add(f64::INFINITY, count);
            buckets
        };
        let earlier = Grown { samples: 10, lost: 1, rtt: buckets(2.0), ..Grown::default() };
        let later = Grown { samples: 30, lost: 1, rtt: buckets(5.0), ..Grown::default() };
        let between = later.since(&earlier);
        assert_eq!(between, Grown { samples: 20, rtt: buckets(3.0), ..Grown::default() });
        let mut sum = Grown::default();
        sum.add(&between);
        sum.add(&between);
        assert_eq!((sum.samples, sum.rtt), (40, buckets(6.0)));
        assert_eq!(Grown::default().concealed_ratio(), None);
    }
}
