//! Scenarios: what happens to the simulated calls, and when.
//!
//! Every scenario but `steady` alternates between quiet and degraded times, so that a dashboard
//! shows both the trouble and the recovery: by default degraded from 30 s to 90 s after the start,
//! then again every 150 s.
//!
//! There is one for each cause that an on-call engineer must tell from the others: `network`,
//! `uplink`, `processor`, `release` and `join`. Each changes what a client lives with, never a
//! counter, so everything that follows from it follows in the frames too.
//!
//! Invariant: a scenario depends on the server, the client and the elapsed time alone, never on
//! chance, and every share stays between 0 and 1.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

use super::device::{BROKEN_RELEASE, Clients, Device};
use crate::config::{DAY, duration, duration_between};
use callsight_frame::subject::Region;

/// What a client lives with at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Conditions {
    pub(super) rtt_ms: f64,
    /// Variation of a packet's transit time, in milliseconds.
    pub(super) jitter_ms: f64,
    /// Share of packets lost on the way from the server.
    pub(super) loss: f64,
    /// Share of sent packets that don't reach the server, not even when they are sent again.
    pub(super) uplink_loss: f64,
    /// How short bandwidth for sending is, 0 to 1.
    pub(super) congestion: f64,
    /// How far the processor is too slow to encode video, 0 to 1.
    pub(super) overload: f64,
    /// Share of received audio that the client fails to play.
    pub(super) faults: f64,
}

impl Conditions {
    /// Returns the conditions of a region in which all is well. The first part of the name decides:
    /// `us-east` is like `us`.
    pub(super) fn usual(region: &Region) -> Self {
        let (rtt_ms, jitter_ms) = match region.as_str().split('-').next() {
            Some("us") => (35.0, 4.0),
            Some("eu") => (30.0, 3.0),
            Some("apac" | "ap") => (60.0, 6.0),
            Some("sa") => (85.0, 9.0),
            Some("af" | "me") => (95.0, 10.0),
            _ => (45.0, 5.0),
        };
        let (loss, uplink_loss) = (0.001, 0.0005);
        Self { rtt_ms, jitter_ms, loss, uplink_loss, congestion: 0.0, overload: 0.0, faults: 0.0 }
    }

    /// Returns what media of a speaker suffer on their way through the servers to this client.
    pub(super) fn from(&self, speaker: &Self) -> Link {
        Link {
            jitter_ms: self.jitter_ms.hypot(speaker.jitter_ms),
            loss: (self.loss + speaker.uplink_loss).min(1.0),
            stalls: speaker.overload,
            faults: self.faults,
        }
    }
}

/// What media suffer between a speaker's encoder and a listener's ear.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Link {
    pub(super) jitter_ms: f64,
    /// Share of lost packets.
    pub(super) loss: f64,
    /// How often the encoder falls behind, 0 to 1.
    pub(super) stalls: f64,
    /// Share of audio that the listener's client fails to play.
    pub(super) faults: f64,
}

/// A media server at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerState {
    usual: Conditions,
    /// The first of its region, which the scenarios of one server affect.
    first: bool,
    /// Degree of the scenario's trouble in its region, 0 to 1.
    intensity: f64,
}

/// What happens to the simulated calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    #[default]
    #[value(help = "Healthy calls, with the usual joins, leaves and crashes.")]
    Steady,
    /// The path to region apac's servers becomes slow and lossy.
    #[value(
        help = "Round-trip times in region apac rise from about 60 to 450 ms with 6 % loss, for 60 s in every 150 s."
    )]
    ApacRttSpike,
    /// Every region's network loses packets on the way down, with unchanged round-trip times.
    #[value(help = "Every region loses 12 % of its packets for 60 s in every 150 s.")]
    PacketLoss,
    /// Three times as many sessions join, and the networks lose a few packets.
    #[value(help = "Three times as many sessions with a little packet loss, for 60 s in every 150 s.")]
    FlashCrowd,
    /// The way down from one server is slow and lossy, for most of its sessions.
    #[value(
        help = "Most sessions of each region's first server have 400 ms longer round trips and lose 10 % of what it sends, for 60 s in every 150 s."
    )]
    Network,
    /// Some lose what they send, and whoever receives it hears and sees that.
    #[value(
        help = "Of the browsers, 15 % lose 15 % of what they send and have little bandwidth for it, for 60 s in every 150 s."
    )]
    Uplink,
    /// Some processors are too slow for the video that they send.
    #[value(
        help = "A third of the browsers, except Firefox, is too slow to encode its video, for 60 s in every 150 s."
    )]
    Processor,
    /// One release of the application fails to play what it receives.
    #[value(
        help = "The newest web release conceals 12 % of the audio and freezes, without any loss, for 60 s in every 150 s."
    )]
    Release,
    /// Joins fail on one server, and people try again.
    #[value(
        help = "Joins to each region's first server fail, while twice as many want to join, for 60 s in every 150 s."
    )]
    Join,
}

/// Shares of clients that a scenario affects: of one server's, and of those that can report it.
const ON_A_BAD_NETWORK: f64 = 0.85;
const WITH_A_BAD_UPLINK: f64 = 0.15;
const WITH_A_SLOW_PROCESSOR: f64 = 1.0 / 3.0;

/// Share of joins to an affected server that fail.
const FAILING_JOINS: f64 = 0.9;

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

    /// Returns whether the scenario shows in what these clients report: those that don't report
    /// what they send could not tell why others receive it badly.
    #[must_use]
    pub fn shows_in(self, clients: Clients) -> bool {
        match self {
            Self::Uplink | Self::Processor => clients.report_sending(),
            Self::Join => clients.report_joins(),
            _ => true,
        }
    }

    /// Returns the state of a region's first server or another one, at a time since the start.
    pub(super) fn server(
        self,
        region: &Region,
        first: bool,
        rhythm: Rhythm,
        elapsed: Duration,
    ) -> ServerState {
        let intensity = if self.affects(region) { intensity(rhythm, elapsed) } else { 0.0 };
        ServerState { usual: Conditions::usual(region), first, intensity }
    }

    /// Returns what a client on the server lives with. Its `luck`, 0 to 1, decides whether it is
    /// among those that a scenario affects.
    pub(super) fn conditions(self, server: ServerState, device: &Device, luck: f64) -> Conditions {
        let ServerState { usual, first, intensity } = server;
        let toward = |from: f64, to: f64| from + (to - from) * intensity;
        let slower = |more_ms: f64| usual.rtt_ms + more_ms * intensity;
        let jitter = |factor: f64| toward(usual.jitter_ms, usual.jitter_ms * factor);
        match self {
            Self::ApacRttSpike => Conditions {
                rtt_ms: toward(usual.rtt_ms, 450.0),
                jitter_ms: toward(usual.jitter_ms, 45.0),
                loss: toward(usual.loss, 0.06),
                ..usual
            },
            Self::PacketLoss => {
                Conditions { jitter_ms: jitter(2.0), loss: toward(usual.loss, 0.12), ..usual }
            }
            Self::FlashCrowd => Conditions {
                rtt_ms: slower(60.0),
                jitter_ms: jitter(2.0),
                loss: toward(usual.loss, 0.015),
                uplink_loss: toward(usual.uplink_loss, 0.0075),
                ..usual
            },
            Self::Network if first && luck < ON_A_BAD_NETWORK => Conditions {
                rtt_ms: slower(400.0),
                jitter_ms: jitter(3.0),
                loss: toward(usual.loss, 0.1),
                ..usual
            },
            // The same queue delays the pings to the server, but not beyond what a call endures.
            Self::Uplink if device.is_browser() && luck < WITH_A_BAD_UPLINK => Conditions {
                rtt_ms: slower(120.0),
                uplink_loss: toward(usual.uplink_loss, 0.15),
                congestion: intensity,
                ..usual
            },
            Self::Processor if device.has_limits() && luck < WITH_A_SLOW_PROCESSOR => {
                Conditions { overload: intensity, ..usual }
            }
            Self::Release if device.app == BROKEN_RELEASE => Conditions { faults: 0.12 * intensity, ..usual },
            Self::Steady | Self::Network | Self::Uplink | Self::Processor | Self::Release | Self::Join => {
                usual
            }
        }
    }

    /// Returns whether a join to the server fails, of a client with this `luck`.
    pub(super) fn fails_join(self, server: ServerState, luck: f64) -> bool {
        self == Self::Join && server.first && server.intensity > 0.5 && luck < FAILING_JOINS
    }

    /// Returns the number of sessions at a time since the start, as a multiple of the usual number.
    pub(super) fn crowd(self, rhythm: Rhythm, elapsed: Duration) -> f64 {
        let more = match self {
            Self::FlashCrowd => 2.0,
            Self::Join => 1.0,
            _ => return 1.0,
        };
        1.0 + more * intensity(rhythm, elapsed)
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
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;

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

    fn device(clients: Clients, is: fn(&Device) -> bool) -> Device {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        std::iter::repeat_with(|| Device::draw(clients, 0, &mut rng)).find(is).unwrap()
    }

    /// Conditions after so many seconds, of the luckless on a region's first server and on another.
    fn at(scenario: Scenario, region: &str, seconds: u64, device: &Device) -> [Conditions; 2] {
        let (region, elapsed) = (region.parse().unwrap(), Duration::from_secs(seconds));
        [true, false].map(|first| {
            let server = scenario.server(&region, first, Rhythm::default(), elapsed);
            scenario.conditions(server, device, 0.0)
        })
    }

    #[test]
    fn a_spike_is_in_its_region_and_at_its_time_alone() {
        let device = device(Clients::Mix, |_| true);
        let rtt = |region, seconds| at(Scenario::ApacRttSpike, region, seconds, &device)[1].rtt_ms.round();
        assert_eq!([rtt("apac", 10), rtt("apac", 60), rtt("apac", 100)], [60.0, 450.0, 60.0]);
        assert_eq!([rtt("us", 10), rtt("us", 60), rtt("us", 100)], [35.0, 35.0, 35.0]);
    }

    #[test]
    fn loss_leaves_round_trips_alone() {
        let device = device(Clients::Mix, |_| true);
        let at = |seconds| at(Scenario::PacketLoss, "eu-west", seconds, &device)[0];
        assert_eq!(at(60).rtt_ms, at(0).rtt_ms);
        assert!(at(60).loss > 0.1 && at(0).loss < 0.01);
        assert_eq!(at(60).uplink_loss, at(0).uplink_loss);
    }

    #[test]
    fn each_cause_changes_its_own_conditions_of_its_own_clients() {
        let usual = Conditions::usual(&"us".parse().unwrap());
        let chrome = device(Clients::Browser, |device| device.has_limits() && device.app == BROKEN_RELEASE);
        let firefox = device(Clients::Browser, |device| !device.has_limits());
        let other = device(Clients::NetEq, |device| device.app != BROKEN_RELEASE);

        let [bad, elsewhere] = at(Scenario::Network, "us", 60, &other);
        assert!(bad.rtt_ms > 400.0 && bad.loss == 0.1, "{bad:?}");
        assert_eq!((bad.uplink_loss, elsewhere), (usual.uplink_loss, usual));

        let [bad, elsewhere] = at(Scenario::Uplink, "us", 60, &firefox);
        assert_eq!((bad.uplink_loss, bad.congestion, bad.loss), (0.15, 1.0, usual.loss));
        assert_eq!((bad, at(Scenario::Uplink, "us", 60, &other)), (elsewhere, [usual; 2]));

        let slow = Conditions { overload: 1.0, ..usual };
        assert_eq!(at(Scenario::Processor, "us", 60, &chrome), [slow; 2]);
        assert_eq!(at(Scenario::Processor, "us", 60, &firefox), [usual; 2]);

        let broken = Conditions { faults: 0.12, ..usual };
        assert_eq!(at(Scenario::Release, "us", 60, &chrome), [broken; 2]);
        assert_eq!(at(Scenario::Release, "us", 60, &other), [usual; 2]);

        assert_eq!(at(Scenario::Join, "us", 60, &chrome), [usual; 2]);
        for scenario in Scenario::value_variants() {
            assert_eq!(at(*scenario, "us", 10, &chrome), [usual; 2], "{scenario} begins quietly");
        }
    }

    #[test]
    fn joins_fail_on_the_first_server_in_bad_times() {
        let fails = |scenario: Scenario, first, seconds| {
            let elapsed = Duration::from_secs(seconds);
            let server = scenario.server(&"us".parse().unwrap(), first, Rhythm::default(), elapsed);
            scenario.fails_join(server, 0.5)
        };
        assert!(fails(Scenario::Join, true, 60));
        assert!(!fails(Scenario::Join, false, 60) && !fails(Scenario::Join, true, 10));
        assert!(!fails(Scenario::Network, true, 60));
    }
}
