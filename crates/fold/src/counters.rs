//! The cumulative counters of a peer as one dense array, and their growth.
//!
//! Clients count from their own beginning, and restart at zero. So a counter counts by its growth
//! since the last frame.
//!
//! Invariant: growth is never negative; a smaller value is a client that restarted, and counts
//! whole.

use crate::series::aggregates::ServerSeries;
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
pub(super) struct Growth([u64; COUNTERS]);

impl Growth {
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            *sum = sum.wrapping_add(*more);
        }
    }

    /// Adds the growth to a server's counters.
    pub(super) fn apply(&self, server: &ServerSeries) {
        let others = [
            &server.samples,
            &server.concealed_samples,
            &server.silent_concealed_samples,
            &server.packets_received,
            &server.packets_lost,
            &server.freezes,
        ];
        for (counter, grown) in server.neteq.iter().chain(others).zip(self.0) {
            if grown > 0 {
                counter.increment(grown);
            }
        }
    }

    /// The share of the samples played that were concealed and audible, 0 to 1. `None` if none were
    /// played, or the peer does not report concealment.
    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
    pub(super) fn concealment_ratio(&self, peer: &Peer<'_>) -> Option<f64> {
        peer.audio.as_ref()?.concealed_samples?;
        let audible = self.0[CONCEALED].saturating_sub(self.0[SILENT]);
        (self.0[SAMPLES] > 0).then(|| (audible as f64 / self.0[SAMPLES] as f64).min(1.0))
    }

    pub(super) const fn freezes(&self) -> u64 {
        self.0[FREEZES]
    }
}

/// The cumulative values of a peer in the last frame that was folded.
#[derive(Clone, Debug)]
pub(super) struct Baseline([u64; COUNTERS]);

impl Baseline {
    /// The baseline of a new peer: everything it has counted is growth.
    pub(super) const ZERO: Self = Self([0; COUNTERS]);

    /// Moves to a peer's values and returns their growth. A value below the last one is a client
    /// that restarted, so all of it is growth; an absent value keeps the last one.
    pub(super) fn advance(&mut self, peer: &Peer<'_>) -> Growth {
        let mut growth = Growth::default();
        // By reference: arrays taken by value are copied through the stack element by element.
        for ((last, value), grown) in self.0.iter_mut().zip(&values(peer)).zip(&mut growth.0) {
            if let Some(value) = *value {
                *grown = value.checked_sub(*last).unwrap_or(value);
                *last = value;
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
