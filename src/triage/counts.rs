//! Reads the aggregates.
//!
//! Session rows depend on the level of detail and on budgets; the aggregates do not. So the numbers
//! of sessions, and the rates, are read from them.
//!
//! Invariant: the counts are exact at every level of detail.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::insight::client::{ClientKey, Clients};
use crate::insight::counters::ServerKey;
use crate::insight::population::ServerCounts;
use callsight_fold::series::aggregates::{
    AggregateSeries, AggregateValue, Aggregates, Evidence, Limitation, Signal,
};
use callsight_fold::series::catalogue::{self as c, Kind, Metric, Plane};
use callsight_frame::Operation;

/// One reading of all aggregates.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) servers: BTreeMap<ServerKey, ServerCounts>,
    pub(super) regions: BTreeMap<String, RegionCounts>,
    /// By region, and then by release and platform.
    pub(super) clients: BTreeMap<String, Clients>,
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
    /// By reason.
    pub(super) frames_refused: BTreeMap<String, u64>,
    /// By limit.
    pub(super) refused: BTreeMap<String, u64>,
}

impl Counts {
    /// Reads all aggregates; the buckets of round-trip times only `with_rtt`.
    pub(super) fn read(aggregates: &Aggregates, with_rtt: bool) -> Self {
        let mut counts = Self::default();
        for series in aggregates.series() {
            let Metric { name, kind, plane, labels, .. } = *series.metric();
            match (plane, kind) {
                (_, Kind::Histogram(_)) if !(with_rtt && name == c::RTT.name) => {}
                (Plane::Aggregate, _) if labels.starts_with(c::SESSIONS.labels) => {
                    counts.take_server(&series)
                }
                (Plane::Aggregate, _) if labels == c::CLIENT_SESSIONS.labels => counts.take_client(&series),
                (Plane::Own, _) if labels.first() == Some(&"region") => counts.take_region(&series),
                _ => {}
            }
        }
        counts
    }

    fn take_server(&mut self, series: &AggregateSeries) {
        let [region, server_url, server_type, part] = series.labels().values();
        let ServerCounts { people, grown } =
            self.servers.entry([region, server_url, server_type].into()).or_default();
        let value = series.value();
        if let (AggregateValue::Histogram(observed), Kind::Histogram(bounds)) = (&value, series.metric().kind)
        {
            for (bound, count) in bounds.iter().chain([&f64::INFINITY]).zip(observed.cumulative()) {
                #[expect(clippy::cast_precision_loss, reason = "nothing is observed 2^53 times")]
                grown.rtt.add(*bound, count as f64);
            }
            return;
        }
        let value = whole(&value);
        match series.metric().name {
            name if name == c::MEETINGS.name => people.meetings = value,
            name if name == c::SESSIONS.name => people.sessions = value,
            name if name == c::PARTICIPANTS.name => people.participants = value,
            name if name == c::SESSIONS_HIDDEN.name => people.sessions_hidden = value,
            name if name == c::SESSIONS_DEGRADED_ANY.name => people.sessions_degraded = value,
            name if name == c::SESSIONS_DEGRADED.name => {
                if let Some(signal) = Signal::ALL.iter().find(|signal| signal.label() == part) {
                    people.sessions_degraded_by[*signal as usize] = value;
                }
            }
            name if name == c::SESSIONS_EVIDENCE.name => {
                if let Some(evidence) = Evidence::ALL.iter().find(|evidence| evidence.label() == part) {
                    people.sessions_degraded_evidence[*evidence as usize] = value;
                }
            }
            name if name == c::SESSIONS_LIMITED.name => {
                if let Some(by) = Limitation::ALL.iter().find(|by| by.label() == part) {
                    people.sessions_limited[*by as usize] = value;
                }
            }
            name if name == c::SAMPLES.name => grown.samples = value,
            name if name == c::CONCEALED_SAMPLES.name => grown.concealed = value,
            name if name == c::SILENT_CONCEALED_SAMPLES.name => grown.silent = value,
            name if name == c::PACKETS_RECEIVED.name => grown.received = value,
            name if name == c::PACKETS_LOST.name => grown.lost = value,
            name if name == c::FREEZES.name => grown.freezes = value,
            name if name == c::VIDEO_PACKETS_RECEIVED.name => grown.video_received = value,
            name if name == c::VIDEO_PACKETS_LOST.name => grown.video_lost = value,
            name if name == c::SEND_AUDIO_PACKETS.name || name == c::SEND_VIDEO_PACKETS.name => {
                grown.sent += value;
            }
            name if name == c::SEND_AUDIO_PACKETS_LOST.name || name == c::SEND_VIDEO_PACKETS_LOST.name => {
                grown.sent_lost += value;
            }
            name if name == c::NETEQ_OPERATIONS.name => {
                grown.operations += value;
                if part == Operation::Expand.label() {
                    grown.expands = value;
                }
            }
            _ => {}
        }
    }

    fn take_client(&mut self, series: &AggregateSeries) {
        let [region, app, platform] = series.labels().values().map(Cow::into_owned);
        let clients = self.clients.entry(region).or_default();
        let client = clients.entry(ClientKey { app, platform }).or_default();
        let value = whole(&series.value());
        match series.metric().name {
            name if name == c::CLIENT_SESSIONS.name => client.sessions = value,
            _ => client.degraded = value,
        }
    }

    fn take_region(&mut self, series: &AggregateSeries) {
        let [region, part] = series.labels().values();
        let region = self.regions.entry(region.into_owned()).or_default();
        let value = whole(&series.value());
        match series.metric().name {
            name if name == c::CONNECTED.name => region.connected = value > 0,
            name if name == c::LAST_FOLDED_AGE.name => {
                if let AggregateValue::Gauge(age) = series.value() {
                    region.last_folded_age = Some(age).filter(|age| age.is_finite());
                }
            }
            name if name == c::FRAMES_FOLDED.name => region.folded = value,
            name if name == c::FRAMES_REJECTED.name => region.rejected += value,
            name if name == c::DEAD_LETTERS.name => region.dead_letters = value,
            name if name == c::DEAD_LETTERS_LOST.name => region.dead_letters_lost = value,
            name if name == c::FRAMES_REFUSED.name => {
                *region.frames_refused.entry(part.into_owned()).or_default() = value
            }
            name if name == c::REFUSED.name => *region.refused.entry(part.into_owned()).or_default() = value,
            _ => {}
        }
    }
}

/// The count of a counter, or the value of a gauge that counts.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and NaN becomes zero"
)]
fn whole(value: &AggregateValue) -> u64 {
    match value {
        AggregateValue::Counter(count) => *count,
        AggregateValue::Gauge(value) | AggregateValue::Seconds(value) => *value as u64,
        AggregateValue::Histogram(observed) => observed.count(),
    }
}

#[cfg(test)]
mod tests {
    use metrics::with_local_recorder;

    use super::*;
    use crate::insight::client::ClientCounts;
    use crate::insight::population::Population;
    use callsight_fold::series::aggregates::{GroupSeries, Limit, Refusal, RegionSeries, ServerSeries};

    #[test]
    fn all_that_is_read_is_what_was_written() {
        let aggregates = Aggregates::new();
        let recorder = aggregates.recorder();
        let server = ServerSeries::register(&**recorder, "us", "https://a", "webtransport");
        let _other = ServerSeries::register(&**recorder, "us", "https://b", "websocket");
        let client = [&c::CLIENT_SESSIONS, &c::CLIENT_SESSIONS_DEGRADED];
        let client = GroupSeries::register(&**recorder, client, ["us", "web-1", "chrome"]);
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
            server.send_packets[0].increment(400);
            server.send_packets[1].increment(8);
            server.send_packets[2].increment(600);
            server.evidence[Evidence::Peers as usize].set(4.0);
            server.limited[Limitation::Cpu as usize].set(2.0);
            server.neteq[Operation::Normal as usize].increment(30);
            server.neteq[Operation::Expand as usize].increment(10);
            for rtt in [0.02, 0.02, 0.35, 9.0] {
                server.rtt.record(rtt);
            }
            client.sessions.set(9.0);
            client.degraded.set(3.0);
            own.connected.set(1.0);
            own.last_folded_age.set(f64::NAN);
            own.folded.increment(40);
            own.rejected(callsight_frame::Reason::Malformed).increment(2);
            own.rejected(callsight_frame::Reason::TooLarge).increment(1);
            own.dead_letters.increment(3);
            own.refused(Limit::Series).increment(9);
            own.frames_refused(Refusal::NotOwner).increment(5);
        });
        let counts = Counts::read(&aggregates, true);
        assert_eq!(counts.servers.len(), 2);
        let key = ServerKey::from(["us", "https://a", "webtransport"].map(Into::into));
        let ServerCounts { people, grown } = &counts.servers[&key];
        let expected = Population {
            meetings: 3,
            participants: 11,
            sessions: 12,
            sessions_hidden: 2,
            sessions_degraded: 4,
            sessions_degraded_by: [0, 3, 2, 0, 0],
            sessions_degraded_evidence: [0, 4, 0, 0, 0, 0],
            sessions_limited: [2, 0, 0],
            ..Population::default()
        };
        assert_eq!(people, &expected);
        assert_eq!((grown.concealed_ratio(), grown.lost_ratio()), (Some(0.1), Some(0.05)));
        assert_eq!(grown.sent_lost_ratio(), Some(0.008));
        let client = ClientKey { app: "web-1".to_owned(), platform: "chrome".to_owned() };
        assert_eq!(
            counts.clients["us"],
            Clients::from([(client, ClientCounts { sessions: 9, degraded: 3 })])
        );
        assert_eq!((grown.expand_ratio(), grown.freezes), (Some(0.25), 7));
        let rtt = [0.5, 0.75, 1.0].map(|quantile| grown.rtt.quantile(quantile));
        assert_eq!((rtt, grown.rtt.count()), ([Some(0.025), Some(0.4), Some(5.0)], 4.0));
        let own = RegionCounts {
            connected: true,
            folded: 40,
            rejected: 3,
            dead_letters: 3,
            frames_refused: counts.regions["us"].frames_refused.clone(),
            refused: counts.regions["us"].refused.clone(),
            ..RegionCounts::default()
        };
        assert_eq!(counts.regions["us"], own);
        assert_eq!((own.refused["series"], own.refused.len()), (9, Limit::ALL.len()));
        assert_eq!((own.frames_refused["not_owner"], own.frames_refused.len()), (5, Refusal::ALL.len()));
        assert!(Counts::read(&aggregates, false).servers[&key].grown.rtt.count() == 0.0);
    }
}
