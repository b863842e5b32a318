//! Scenarios: what happens to the simulated calls, and when.
//!
//! Every scenario but `steady` alternates between quiet and degraded times, so that a dashboard
//! shows both the trouble and the recovery: by default degraded from 30 s to 90 s after the start,
//! then again every 150 s.
//!
//! Invariant: a scenario depends on the region and the elapsed time alone, never on chance, and
//! loss stays between 0 and 1.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

use crate::config::{DAY, duration, duration_between};
use callsight_frame::subject::Region;

/// The quality of a network path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Path {
    pub(super) rtt_ms: f64,
    /// Variation of a packet's transit time, in milliseconds.
    pub(super) jitter_ms: f64,
    /// Share of lost packets, 0 to 1.
    pub(super) loss: f64,
}

impl Path {
    /// Returns a region's healthy path. The first part of the name decides: `us-east` is like `us`.
    pub(super) fn usual(region: &Region) -> Self {
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

    /// Returns the whole path from a speaker through the servers to a listener on `self`.
    pub(super) fn after(self, speaker: Path) -> Self {
        Self {
            rtt_ms: self.rtt_ms + speaker.rtt_ms,
            jitter_ms: self.jitter_ms.hypot(speaker.jitter_ms),
            // Servers repair half of the uplink's loss by retransmission.
            loss: (self.loss + speaker.loss / 2.0).min(1.0),
        }
    }
}

/// What happens to the simulated calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    #[default]
    #[value(help = "Healthy calls, with the usual joins, leaves and crashes.")]
    Steady,
    /// The path to region apac's servers becomes slow and lossy.
    #[value(
        help = "Round-trip times in region apac rise from about 60 to 450 ms with 4 % loss, for 60 s in every 150 s."
    )]
    ApacRttSpike,
    /// Every region's network loses packets, with unchanged round-trip times.
    #[value(help = "Every region loses 12 % of its packets for 60 s in every 150 s.")]
    PacketLoss,
    /// Three times as many sessions join, and the networks lose a few packets.
    #[value(help = "Three times as many sessions with a little packet loss, for 60 s in every 150 s.")]
    FlashCrowd,
}

/// When the calls are degraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Rhythm {
    /// Healthy time before the scenario's first degradation
    #[arg(long = "quiet-for", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub quiet: Duration,

    /// Duration of each degradation of the scenario, from 6s to 1day; 90 s of healthy calls follow
    #[arg(
        long = "bad-for",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = duration_between(Rhythm::SHORTEST_BAD..=DAY)
    )]
    pub bad: Duration,
}

impl Rhythm {
    /// Shortest degraded time: one ramp up and one ramp down.
    pub const SHORTEST_BAD: Duration = Duration::from_secs(6);
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { quiet: Duration::from_secs(30), bad: Duration::from_secs(60) }
    }
}

/// Length of a ramp up or down, in seconds.
const RAMP: f64 = 3.0;

/// Healthy time between two degraded ones, in seconds.
const RESPITE: f64 = 90.0;

impl Scenario {
    /// Returns whether the scenario changes anything in this region.
    #[must_use]
    pub fn affects(self, region: &Region) -> bool {
        let name = region.as_str();
        self != Self::ApacRttSpike || name == "apac" || name.starts_with("apac-")
    }

    /// Returns the path to a region's servers at a time since the start.
    pub(super) fn path(self, region: &Region, rhythm: Rhythm, elapsed: Duration) -> Path {
        let usual = Path::usual(region);
        let much = if self.affects(region) { intensity(rhythm, elapsed) } else { 0.0 };
        let toward = |from: f64, to: f64| from + (to - from) * much;
        match self {
            Self::Steady => usual,
            Self::ApacRttSpike => Path {
                rtt_ms: toward(usual.rtt_ms, 450.0),
                jitter_ms: toward(usual.jitter_ms, 45.0),
                loss: toward(usual.loss, 0.04),
            },
            Self::PacketLoss => Path {
                jitter_ms: toward(usual.jitter_ms, usual.jitter_ms * 2.0),
                loss: toward(usual.loss, 0.12),
                ..usual
            },
            Self::FlashCrowd => Path {
                rtt_ms: toward(usual.rtt_ms, usual.rtt_ms + 60.0),
                jitter_ms: toward(usual.jitter_ms, usual.jitter_ms * 2.0),
                loss: toward(usual.loss, 0.015),
            },
        }
    }

    /// Returns the number of sessions at a time since the start, as a multiple of the usual number.
    pub(super) fn crowd(self, rhythm: Rhythm, elapsed: Duration) -> f64 {
        if self == Self::FlashCrowd { 1.0 + 2.0 * intensity(rhythm, elapsed) } else { 1.0 }
    }
}

/// Returns the degree of the degradation, from 0 to 1.
fn intensity(rhythm: Rhythm, elapsed: Duration) -> f64 {
    let Some(since_first) = elapsed.checked_sub(rhythm.quiet) else { return 0.0 };
    let bad = rhythm.bad.as_secs_f64();
    let since_bad = since_first.as_secs_f64() % (bad + RESPITE);
    (since_bad / RAMP).min((bad - since_bad) / RAMP).clamp(0.0, 1.0)
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_one_sentence() {
        for scenario in Scenario::value_variants() {
            let sentence = scenario.to_possible_value().unwrap().get_help().unwrap().to_string();
            assert_eq!(sentence.find('.'), Some(sentence.len() - 1), "one sentence: {sentence}");
        }
    }

    #[test]
    fn bad_times_come_and_go() {
        let at = |seconds| intensity(Rhythm::default(), Duration::from_secs(seconds));
        assert_eq!([at(0), at(29), at(40), at(80), at(90), at(120)], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!([at(150), at(150 + 60), at(300 + 60)], [0.0, 1.0, 1.0]);
        let early = Rhythm { quiet: Duration::ZERO, bad: Rhythm::SHORTEST_BAD };
        let at = |seconds| intensity(early, Duration::from_secs(seconds));
        assert_eq!([at(0), at(3), at(6), at(95), at(99), at(102)], [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn a_spike_is_in_its_region_and_at_its_time_alone() {
        let [us, apac]: [Region; 2] = ["us", "apac"].map(|name| name.parse().unwrap());
        let rtt = |region, seconds| {
            let elapsed = Duration::from_secs(seconds);
            Scenario::ApacRttSpike.path(region, Rhythm::default(), elapsed).rtt_ms.round()
        };
        assert_eq!([rtt(&apac, 10), rtt(&apac, 60), rtt(&apac, 100)], [60.0, 450.0, 60.0]);
        assert_eq!([rtt(&us, 10), rtt(&us, 60), rtt(&us, 100)], [35.0, 35.0, 35.0]);
    }

    #[test]
    fn loss_leaves_round_trips_alone() {
        let eu: Region = "eu-west".parse().unwrap();
        let at = |seconds| Scenario::PacketLoss.path(&eu, Rhythm::default(), Duration::from_secs(seconds));
        assert_eq!(at(60).rtt_ms, at(0).rtt_ms);
        assert!(at(60).loss > 0.1 && at(0).loss < 0.01);
    }
}
