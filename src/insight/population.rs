//! The people of a place, and how their calls are.
//!
//! The verdict, the tables and the history ask for the same numbers, of everything, of a region and
//! of a server. They are computed once, from gauges, from the growth of counters and from session
//! rows.
//!
//! Invariant: a number that is not known is `None`, never zero.

use serde::{Serialize, Serializer};

use super::client::{self, Clients};
use super::counters::{Grown, ratio};
use super::quantile::percentile;
use callsight_fold::series::aggregates::{Evidence, Limitation, Signal};

/// The people of a place. As JSON, what is not known is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Population {
    pub(crate) meetings: u64,
    /// Meetings with a degraded session; not known without detail.
    pub(crate) meetings_degraded: Option<u64>,
    pub(crate) participants: u64,
    pub(crate) sessions: u64,
    pub(crate) sessions_hidden: u64,
    /// Sessions degraded by at least one signal.
    pub(crate) sessions_degraded: u64,
    pub(crate) sessions_degraded_ratio: f64,
    /// In the order of [`Signal::ALL`].
    #[serde(serialize_with = "by_signal")]
    pub(crate) sessions_degraded_by: [u64; Signal::ALL.len()],
    /// By what their own statistics tell of the reason, in the order of [`Evidence::ALL`].
    #[serde(serialize_with = "by_evidence")]
    pub(crate) sessions_degraded_evidence: [u64; Evidence::ALL.len()],
    /// Sessions whose sent video was limited for most of the time, in the order of
    /// [`Limitation::ALL`].
    #[serde(serialize_with = "by_limitation")]
    pub(crate) sessions_limited: [u64; Limitation::ALL.len()],
    /// By release and platform; of a server they are not known.
    #[serde(skip_serializing_if = "Clients::is_empty", serialize_with = "client::serialize")]
    pub(crate) clients: Clients,
    pub(crate) rtt_p50_ms: Option<f64>,
    pub(crate) rtt_p95_ms: Option<f64>,
    pub(crate) rtt_p99_ms: Option<f64>,
    /// Of the last minute, as are the following.
    pub(crate) audio_concealed_ratio: Option<f64>,
    pub(crate) audio_packets_lost_ratio: Option<f64>,
    pub(crate) video_packets_lost_ratio: Option<f64>,
    /// Of what the sessions send, as the far end tells them.
    pub(crate) sent_packets_lost_ratio: Option<f64>,
    pub(crate) neteq_expand_ratio: Option<f64>,
    pub(crate) video_freezes_per_minute: Option<f64>,
}

/// A server's gauges, and the counters of which its rates are computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServerCounts {
    /// What gauges tell of its people; the rest is not known.
    pub(crate) people: Population,
    pub(crate) grown: Grown,
}

/// What session rows add to the counts of a place.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Part {
    /// Round-trip times in milliseconds, of each session that tells one.
    pub(crate) rtts_ms: Vec<f64>,
    pub(crate) meetings: u64,
    pub(crate) meetings_degraded: u64,
}

impl Part {
    pub(crate) fn add_meeting(&mut self, degraded: bool) {
        self.meetings += 1;
        self.meetings_degraded += u64::from(degraded);
    }
}

impl Population {
    /// Adds another place's people. Quantiles and ratios can't be added, so the worse of the two is
    /// taken.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.meetings += other.meetings;
        self.meetings_degraded = match (self.meetings_degraded, other.meetings_degraded) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        self.participants += other.participants;
        self.sessions += other.sessions;
        self.sessions_hidden += other.sessions_hidden;
        self.sessions_degraded += other.sessions_degraded;
        add(&mut self.sessions_degraded_by, other.sessions_degraded_by);
        add(&mut self.sessions_degraded_evidence, other.sessions_degraded_evidence);
        add(&mut self.sessions_limited, other.sessions_limited);
        for (key, counts) in &other.clients {
            self.clients.entry(key.clone()).or_default().add(*counts);
        }
        self.sessions_degraded_ratio = fine(ratio(self.sessions_degraded, self.sessions).unwrap_or(0.0));
        for (own, other) in [
            (&mut self.rtt_p50_ms, other.rtt_p50_ms),
            (&mut self.rtt_p95_ms, other.rtt_p95_ms),
            (&mut self.rtt_p99_ms, other.rtt_p99_ms),
            (&mut self.audio_concealed_ratio, other.audio_concealed_ratio),
            (&mut self.audio_packets_lost_ratio, other.audio_packets_lost_ratio),
            (&mut self.video_packets_lost_ratio, other.video_packets_lost_ratio),
            (&mut self.sent_packets_lost_ratio, other.sent_packets_lost_ratio),
            (&mut self.neteq_expand_ratio, other.neteq_expand_ratio),
            (&mut self.video_freezes_per_minute, other.video_freezes_per_minute),
        ] {
            if other > *own {
                *own = other;
            }
        }
    }

    /// Takes the numbers that only session rows have.
    pub(crate) fn take_part(&mut self, part: &mut Part) {
        self.meetings_degraded = Some(part.meetings_degraded);
        let mut rtt = |percent| percentile(&mut part.rtts_ms, percent).map(tenth);
        (self.rtt_p50_ms, self.rtt_p95_ms, self.rtt_p99_ms) = (rtt(50), rtt(95), rtt(99));
    }

    /// Takes the rates of the last minute, and its round-trip times if there are buckets of them.
    /// The counters have `grown` for so many `seconds`, fewer than 60 soon after the first reading.
    pub(crate) fn take_minute(&mut self, grown: &Grown, seconds: f64) {
        self.audio_concealed_ratio = grown.concealed_ratio().map(fine);
        self.audio_packets_lost_ratio = grown.lost_ratio().map(fine);
        self.video_packets_lost_ratio = grown.video_lost_ratio().map(fine);
        self.sent_packets_lost_ratio = grown.sent_lost_ratio().map(fine);
        self.neteq_expand_ratio = grown.expand_ratio().map(fine);
        #[expect(clippy::cast_precision_loss, reason = "nothing freezes 2^53 times a minute")]
        let freezes = (seconds > 0.0).then(|| tenth(grown.freezes as f64 * 60.0 / seconds));
        self.video_freezes_per_minute = freezes;
        if grown.rtt.count() > 0.0 {
            let rtt = |quantile| grown.rtt.quantile(quantile).map(|seconds| tenth(seconds * 1e3));
            (self.rtt_p50_ms, self.rtt_p95_ms, self.rtt_p99_ms) = (rtt(0.5), rtt(0.95), rtt(0.99));
        }
    }
}

fn add<const N: usize>(sums: &mut [u64; N], more: [u64; N]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}

fn by_signal<S: Serializer>(counts: &[u64; Signal::ALL.len()], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(Signal::ALL.map(|signal| (signal.label(), counts[signal as usize])))
}

fn by_evidence<S: Serializer>(counts: &[u64; Evidence::ALL.len()], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(Evidence::ALL.map(|evidence| (evidence.label(), counts[evidence as usize])))
}

fn by_limitation<S: Serializer>(
    counts: &[u64; Limitation::ALL.len()],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(Limitation::ALL.map(|by| (by.label(), counts[by as usize])))
}

/// Rounds to a tenth, which is enough for milliseconds and seconds.
pub(crate) fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Rounds a ratio to a hundredth of a per cent.
pub(crate) fn fine(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_add_up() {
        let server = Population {
            meetings: 3,
            sessions: 10,
            participants: 9,
            sessions_hidden: 1,
            sessions_degraded: 4,
            sessions_degraded_by: [3, 2, 1, 0, 4],
            sessions_degraded_evidence: [1, 0, 0, 2, 0, 1],
            sessions_limited: [2, 0, 1],
            ..Population::default()
        };
        let mut both = Population::default();
        both.merge(&server);
        both.merge(&Population { sessions_degraded: 1, ..server });
        assert_eq!((both.sessions, both.sessions_degraded, both.sessions_degraded_ratio), (20, 5, 0.25));
        assert_eq!(both.sessions_degraded_by, [6, 4, 2, 0, 8]);
        assert_eq!(both.sessions_degraded_evidence, [2, 0, 0, 4, 0, 2]);
        assert_eq!(both.sessions_limited, [4, 0, 2]);
        assert_eq!((both.meetings, both.participants, both.sessions_hidden), (6, 18, 2));
    }

    #[test]
    fn without_rows_round_trips_come_from_the_buckets_of_the_last_minute() {
        let mut population = Population::default();
        let mut rtt = crate::insight::quantile::Buckets::default();
        for (bound, count) in [(0.3, 0.0), (0.4, 8.0), (f64::INFINITY, 8.0)] {
            rtt.add(bound, count);
        }
        population.take_minute(&Grown { rtt, freezes: 3, ..Grown::default() }, 30.0);
        assert_eq!((population.rtt_p50_ms, population.rtt_p95_ms), (Some(350.0), Some(395.0)));
        assert_eq!(population.video_freezes_per_minute, Some(6.0));
        assert_eq!((population.audio_concealed_ratio, population.meetings_degraded), (None, None));
    }

    #[test]
    fn rows_tell_round_trips_as_they_are_now() {
        let mut population = Population::default();
        let mut part = Part { rtts_ms: vec![50.04, 90.0, 40.0], meetings: 2, meetings_degraded: 1 };
        population.take_part(&mut part);
        assert_eq!((population.rtt_p50_ms, population.rtt_p99_ms), (Some(50.0), Some(90.0)));
        assert_eq!(population.meetings_degraded, Some(1));
    }
}
