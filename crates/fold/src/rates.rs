//! From the rates of a packet to counts.
//!
//! A packet of videocall.rs tells how much audio there was in the last second, where a frame tells
//! how much there was since the session began. So a rate is taken for the time since the session's
//! packet before: by the client's clock, which is the watermark, so that a packet that comes twice,
//! late or after another one counts no time twice. But it is not taken for longer than [`LONGEST`],
//! since a rate of now says nothing about a long gap.
//!
//! The counts take the places of those that a frame would bring, in parts, so that slow rates are
//! not lost and a peer takes no more memory. A client that changes its form in the middle of a
//! session has restarted its counters, as far as those rules go.
//!
//! Invariant: a session's first packet brings nothing, and each further one at most its rates for
//! the time since the one before.

use std::time::Duration;

use super::counters::{Baseline, Growth, MostGrowth, RECEIVED};
use super::view::Step;
use callsight_frame::{AudioRates, Frame, NetEq, Operation, Peer};

/// The longest time for which a rate counts: three intervals of a client that reports every 5 s.
const LONGEST: Duration = Duration::from_secs(15);

/// Counts are in units of 2^-20.
const PART_BITS: u32 = 20;

/// The fewest packets per second of which a share of concealed audio means anything: twice as many
/// as Opus sends in silence, in which nothing arrives and nothing is missed.
const LEAST_PACKETS: f64 = 5.0;

/// The fewest decisions per second: a fifth of what there are.
const LEAST_DECISIONS: f64 = 20.0;

/// The time for which the rates of a frame count.
pub(super) fn time_of(frame: &Frame<'_>, step: Step) -> Duration {
    if !step.growing {
        return Duration::ZERO;
    }
    Duration::from_millis(frame.seq.get().saturating_sub(step.watermark)).min(LONGEST)
}

/// The share of concealed audio, by NetEQ's decisions, each of which is about 10 ms. `None` of too
/// little, and of a peer whose microphone is off: nothing is missed then.
pub(super) fn concealment(peer: &Peer<'_>, rates: &AudioRates) -> Option<f64> {
    let decisions: f64 = rates.operations.iter().sum();
    let enough = peer.audio_enabled && rates.packets >= LEAST_PACKETS && decisions >= LEAST_DECISIONS;
    enough.then(|| rates.operations[Operation::Expand as usize] / decisions)
}

impl Baseline {
    /// Counts a peer's rates for a time, also in `total`, as [`Self::advance`] does with counts,
    /// and returns the peer with the counts that they have become.
    // Not inlined: frames without rates must not pay for them.
    #[inline(never)]
    pub(super) fn advance_at<'a>(
        &mut self,
        peer: &Peer<'a>,
        rates: &AudioRates,
        time: Duration,
        most: &MostGrowth,
        total: &mut Growth,
    ) -> Peer<'a> {
        let seconds = time.as_secs_f64();
        let each = rates.operations.iter().copied().enumerate().chain([(RECEIVED, rates.packets)]);
        for (index, rate) in each {
            let last = self.counts[index];
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 2^38")]
            let parts = (rate * seconds * f64::from(1 << PART_BITS)).round() as u64;
            let now = last.saturating_add(parts);
            self.counts[index] = now;
            let more = (now >> PART_BITS) - (last >> PART_BITS);
            if more > most.others {
                total.jumps += 1;
            } else {
                total.counts[index] += more;
            }
        }
        let mut peer = peer.clone();
        let count = |index: usize| Some(self.counts[index] >> PART_BITS);
        let audio = peer.audio.get_or_insert_default();
        audio.packets_received = count(RECEIVED);
        audio.neteq = Some(NetEq::of_counts(|operation| count(operation as usize)));
        peer
    }
}
