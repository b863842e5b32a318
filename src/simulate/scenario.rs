//! What happens to the calls, and when.
//!
//! Every scenario but `steady` has quiet and bad times by turns, so that a dashboard shows both the trouble and
//! the recovery: by default bad from 30 s to 90 s after the start, then again every 150 s.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::network::Path;
use callsight_frame::subject::Region;

/// A story that the simulated calls follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scenario {
    /// Nothing happens beyond the usual.
    #[default]
    Steady,
    /// The way to region apac's servers becomes long and lossy.
    ApacRttSpike,
    /// Every region's network loses packets, round-trip times stay.
    PacketLoss,
    /// Three times as many sessions come, and the networks feel it a little.
    FlashCrowd,
}

/// Text that is no scenario's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no scenario; there are steady, apac-rtt-spike, packet-loss and flash-crowd")]
pub struct ScenarioError(String);

/// When bad times come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// How long all is well before the first one.
    pub quiet: Duration,
    /// How long each lasts, with its beginning and end, in which it builds up and goes.
    pub bad: Duration,
}

impl Rhythm {
    /// A bad time can't be shorter than it takes to build up and go.
    pub const SHORTEST_BAD: Duration = Duration::from_secs(6);
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { quiet: Duration::from_secs(30), bad: Duration::from_secs(60) }
    }
}

/// How long a bad time takes to build up, or to go, and how much quiet there is between two of them, in seconds.
const BUILD_UP: f64 = 3.0;
const RESPITE: f64 = 90.0;

impl Scenario {
    /// Every scenario.
    pub const ALL: &'static [Scenario] =
        &[Scenario::Steady, Scenario::ApacRttSpike, Scenario::PacketLoss, Scenario::FlashCrowd];

    /// The scenario's name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::ApacRttSpike => "apac-rtt-spike",
            Self::PacketLoss => "packet-loss",
            Self::FlashCrowd => "flash-crowd",
        }
    }

    /// The scenario in one sentence.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Steady => "Healthy calls, with the joins, leaves and crashes of every day.",
            Self::ApacRttSpike => {
                "Round-trip times in region apac rise from about 60 to 450 ms with 4 % loss, for 60 s in every 150 s."
            }
            Self::PacketLoss => "Every region loses 12 % of its packets for 60 s in every 150 s.",
            Self::FlashCrowd => "Three times as many sessions for 60 s in every 150 s, with a little loss.",
        }
    }

    /// Whether the scenario is about this region.
    #[must_use]
    pub fn affects(self, region: &Region) -> bool {
        let name = region.as_str();
        self != Self::ApacRttSpike || name == "apac" || name.starts_with("apac-")
    }

    /// What the scenario makes of a region's network at a time since the start.
    pub(super) fn bend(self, usual: Path, region: &Region, rhythm: Rhythm, elapsed: Duration) -> Path {
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

    /// How many sessions there should be at a time since the start, as a multiple of the usual.
    pub(super) fn crowd(self, rhythm: Rhythm, elapsed: Duration) -> f64 {
        if self == Self::FlashCrowd { 1.0 + 2.0 * intensity(rhythm, elapsed) } else { 1.0 }
    }
}

/// How bad it is, from 0 to 1.
fn intensity(rhythm: Rhythm, elapsed: Duration) -> f64 {
    let Some(since_first) = elapsed.checked_sub(rhythm.quiet) else { return 0.0 };
    let bad = rhythm.bad.as_secs_f64();
    let since_bad = since_first.as_secs_f64() % (bad + RESPITE);
    (since_bad / BUILD_UP).min((bad - since_bad) / BUILD_UP).clamp(0.0, 1.0)
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scenario {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        let found = Self::ALL.iter().find(|scenario| scenario.name() == text);
        found.copied().ok_or_else(|| ScenarioError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_read_back() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.to_string().parse(), Ok(*scenario));
            let sentence = scenario.description();
            assert_eq!(sentence.find('.'), Some(sentence.len() - 1), "one sentence: {sentence}");
        }
        let error = "stedy".parse::<Scenario>().unwrap_err().to_string();
        for scenario in Scenario::ALL {
            assert!(error.contains(scenario.name()), "{error}");
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
}
