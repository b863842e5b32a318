//! The way between a region's clients and its servers.

use std::time::Duration;

use super::scenario::{Rhythm, Scenario};
use callsight_frame::subject::Region;

/// How packets fare on a way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Path {
    /// Round-trip time, in milliseconds.
    pub(super) rtt_ms: f64,
    /// How much the time of a packet varies, in milliseconds.
    pub(super) jitter_ms: f64,
    /// The share of packets that are lost, 0 to 1.
    pub(super) loss: f64,
}

impl Path {
    /// The typical way to a region's servers at a time since the start.
    pub(super) fn to(region: &Region, scenario: Scenario, rhythm: Rhythm, elapsed: Duration) -> Self {
        scenario.bend(Self::usual(region), region, rhythm, elapsed)
    }

    /// On an ordinary day. Regions are known by how their names begin: `us-east` is like `us`.
    fn usual(region: &Region) -> Self {
        let (rtt_ms, jitter_ms) = match region.as_str().split('-').next() {
            Some("us") => (35.0, 4.0),
            Some("eu") => (30.0, 3.0),
            Some("apac" | "ap") => (60.0, 6.0),
            Some("sa") => (85.0, 9.0),
            Some("af" | "me") => (95.0, 10.0),
            _ => (45.0, 5.0),
        };
        Self { rtt_ms, jitter_ms, loss: 0.001 }
    }

    /// The way to a listener, after the way from the speaker to the servers.
    pub(super) fn after(self, speaker: Path) -> Self {
        Self {
            rtt_ms: self.rtt_ms + speaker.rtt_ms,
            jitter_ms: self.jitter_ms.hypot(speaker.jitter_ms),
            // Servers repair half of what is lost on the way up, by asking for it again.
            loss: (self.loss + speaker.loss / 2.0).min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_in_its_region_and_at_its_time_alone() {
        let [us, apac]: [Region; 2] = ["us", "apac"].map(|name| name.parse().unwrap());
        let rtt = |region, seconds| {
            let elapsed = Duration::from_secs(seconds);
            Path::to(region, Scenario::ApacRttSpike, Rhythm::default(), elapsed).rtt_ms.round()
        };
        assert_eq!([rtt(&apac, 10), rtt(&apac, 60), rtt(&apac, 100)], [60.0, 450.0, 60.0]);
        assert_eq!([rtt(&us, 10), rtt(&us, 60), rtt(&us, 100)], [35.0, 35.0, 35.0]);
    }

    #[test]
    fn loss_leaves_round_trips_alone() {
        let eu: Region = "eu-west".parse().unwrap();
        let at =
            |seconds| Path::to(&eu, Scenario::PacketLoss, Rhythm::default(), Duration::from_secs(seconds));
        assert_eq!(at(60).rtt_ms, at(0).rtt_ms);
        assert!(at(60).loss > 0.1 && at(0).loss < 0.01);
    }
}
