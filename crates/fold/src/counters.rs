//! The cumulative counters of a peer as one dense array, and their growth.
//!
//! Clients count from their own beginning, and restart at zero. So a counter counts by its growth
//! since the last frame. A client may be wrong or lie, so a counter that grows by more than a call
//! can bring in that time does not count.
//!
//! Invariant: growth is never negative and within [`MostGrowth`]; a smaller value is a client that
//! restarted, and counts whole.

use std::time::Duration;

use crate::REMEMBERED;
use crate::series::aggregates::{RegionSeries, ServerSeries};
use callsight_frame::{Operation, Peer};

const OPERATIONS: usize = Operation::ALL.len();
const SAMPLES: usize = OPERATIONS;
const CONCEALED: usize = OPERATIONS + 1;
const SILENT: usize = OPERATIONS + 2;
const RECEIVED: usize = OPERATIONS + 3;
const LOST: usize = OPERATIONS + 4;
const FREEZES: usize = OPERATIONS + 5;
const COUNTERS: usize = OPERATIONS + 6;

/// The growth of the counters of one or more peers: NetEQ's operations first, then the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Growth {
    counts: [u64; COUNTERS],
    /// How many counters grew by too much, which is not in the counts.
    jumps: u64,
}

/// The most by which counters can grow from one frame of a session to the next.
pub(super) struct MostGrowth([u64; COUNTERS]);

impl MostGrowth {
    /// The highest sample rate of audio.
    const SAMPLES_PER_SECOND: u64 = 192_000;
    /// Packets, decisions and freezes are a few hundred per second at most.
    const OTHERS_PER_SECOND: u64 = 1_000;

    /// What a call can bring within a time. Frames may be late, and a peer may have counted before
    /// it was first reported, so there is as much more as a session is remembered for.
    pub(super) fn within(time: Duration) -> Self {
        let seconds = (time + REMEMBERED).as_secs();
        let mut most = [seconds.saturating_mul(Self::OTHERS_PER_SECOND); COUNTERS];
        most[SAMPLES..=SILENT].fill(seconds.saturating_mul(Self::SAMPLES_PER_SECOND));
        Self(most)
    }
}

impl Growth {
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in self.counts.iter_mut().zip(&other.counts) {
            *sum = sum.saturating_add(*more);
        }
        self.jumps += other.jumps;
    }

    /// Adds the growth to a server's counters, and counts what was too much.
    pub(super) fn apply(&self, server: &ServerSeries, own: &RegionSeries) {
        let others = [
            &server.samples,
            &server.concealed_samples,
            &server.silent_concealed_samples,
            &server.packets_received,
            &server.packets_lost,
            &server.freezes,
        ];
        for (counter, grown) in server.neteq.iter().chain(others).zip(self.counts) {
            if grown > 0 {
                counter.increment(grown);
            }
        }
        if self.jumps > 0 {
            own.implausible_growth.increment(self.jumps);
        }
    }

    /// The share of the samples played that were concealed and audible, 0 to 1. `None` if none were
    /// played, or the peer does not report concealment.
    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
    pub(super) fn concealment_ratio(&self, peer: &Peer<'_>) -> Option<f64> {
        peer.audio.as_ref()?.concealed_samples?;
        let samples = self.counts[SAMPLES];
        let audible = self.counts[CONCEALED].saturating_sub(self.counts[SILENT]);
        (samples > 0).then(|| (audible as f64 / samples as f64).min(1.0))
    }

    pub(super) const fn freezes(&self) -> u64 {
        self.counts[FREEZES]
    }
}

/// The cumulative values of a peer in the last frame that was folded.
#[derive(Clone, Debug)]
pub(super) struct Baseline([u64; COUNTERS]);

impl Baseline {
    /// The baseline of a new peer: everything it has counted is growth.
    pub(super) const ZERO: Self = Self([0; COUNTERS]);

    /// Moves to a peer's values and returns their growth. A value below the last one is a client
    /// that restarted, so all of it is growth; an absent value keeps the last one; what grew by
    /// more than `most` did not grow.
    pub(super) fn advance(&mut self, peer: &Peer<'_>, most: &MostGrowth) -> Growth {
        let mut growth = Growth::default();
        // By reference: arrays taken by value are copied through the stack element by element.
        let values = values(peer);
        let counters = self.0.iter_mut().zip(&values).zip(&most.0).zip(&mut growth.counts);
        for (((last, value), most), grown) in counters {
            if let Some(value) = *value {
                let more = value.checked_sub(*last).unwrap_or(value);
                *last = value;
                if more <= *most {
                    *grown = more;
                } else {
                    growth.jumps += 1;
                }
            }
        }
        growth
    }
}

fn values(peer: &Peer<'_>) -> [Option<u64>; COUNTERS] {
    let mut values = [None; COUNTERS];
    if let Some(audio) = &peer.audio {
        if let Some(neteq) = &audio.neteq {
            values[..OPERATIONS].copy_from_slice(&neteq.counts());
        }
        values[SAMPLES] = audio.total_samples;
        values[CONCEALED] = audio.concealed_samples;
        values[SILENT] = audio.silent_concealed_samples;
        values[RECEIVED] = audio.packets_received;
        values[LOST] = audio.packets_lost;
    }
    values[FREEZES] = peer.video.as_ref().and_then(|video| video.freeze_count);
    values
}
