//! The audio that one session receives from one remote peer: NetEQ's operations.
//!
//! Every 10 ms of audio is one operation of NetEQ, of 480 samples at 48 kHz. A packet carries 20
//! ms, so one that is lost or late costs two `expand`s, whose samples are the concealed ones.
//!
//! A medium that was off, unwanted or hidden conceals nothing ("Pauses" in docs/frame.md).
//!
//! Invariant: all counters follow from the operations, so they always add up.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::device::Device;
use super::media::{about, grow, tenths};
use super::scenario::Link;
use callsight_frame::{Audio, NetEq, Operation};

/// Samples of one NetEQ operation: 10 ms at 48 kHz.
pub(super) const SAMPLES_PER_OPERATION: u64 = 480;

/// Samples that one operation inserts to play slower, or removes to play faster.
const STRETCHED_SAMPLES: u64 = 240;

/// Operations between two packets of a muted microphone: Opus sends one every 400 ms.
const OPERATIONS_PER_SILENT_PACKET: f64 = 40.0;

/// What was counted in the last second, per second.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    /// In the order of [`NetEq::counts`].
    pub(super) operations: [f64; Operation::ALL.len()],
    /// Packets received.
    pub(super) packets: f64,
}

/// What there is to hear since the last report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Voice {
    /// The microphone is on.
    pub(super) enabled: bool,
    /// False once the peer has crashed: no packets arrive, and no goodbye did.
    pub(super) alive: bool,
    /// This session asks for it.
    pub(super) wanted: bool,
    /// This session's page was hidden.
    pub(super) hidden: bool,
}

/// The audio received from one remote peer.
#[derive(Clone, Debug)]
pub(super) struct Hearing {
    buffer_ms: f64,
    target_ms: f64,
    jitter_ms: f64,
    packets_received: u64,
    packets_lost: u64,
    packets_discarded: u64,
    concealment_events: u64,
    silent_concealed_samples: u64,
    neteq: NetEq,
    /// The microphone was on, and wanted, at the last report.
    on: bool,
    /// Something was played since the last report.
    played: bool,
    /// Time since which a wanted microphone that is on is not heard.
    unheard: Duration,
}

impl Hearing {
    pub(super) fn new() -> Self {
        Self {
            buffer_ms: 40.0,
            target_ms: 40.0,
            jitter_ms: 0.0,
            packets_received: 0,
            packets_lost: 0,
            packets_discarded: 0,
            concealment_events: 0,
            silent_concealed_samples: 0,
            neteq: NetEq {
                normal: Some(0),
                merge: Some(0),
                expand: Some(0),
                accelerate: Some(0),
                fast_accelerate: Some(0),
                preemptive_expand: Some(0),
                comfort_noise: Some(0),
                ..NetEq::default()
            },
            on: false,
            played: false,
            unheard: Duration::ZERO,
        }
    }

    /// Advances by an even number of operations.
    pub(super) fn advance(
        &mut self,
        operations: u64,
        passed: Duration,
        link: Link,
        voice: Voice,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        self.played = voice.wanted && operations > 0;
        let paused = !(self.on && voice.enabled && voice.wanted) || voice.hidden;
        self.on = voice.enabled && voice.wanted;
        if !(self.on && !voice.alive && !voice.hidden) {
            self.unheard = Duration::ZERO;
        }
        if !voice.wanted {
            return;
        }
        if !voice.enabled || (paused && !voice.alive) {
            grow(&mut self.neteq.comfort_noise, operations);
            if voice.alive {
                self.packets_received += about(operations as f64 / OPERATIONS_PER_SILENT_PACKET, rng);
            }
        } else if voice.alive {
            self.play(operations, passed.as_secs_f64(), link, paused, rng);
        } else {
            self.starve(operations, passed);
        }
    }

    /// NetEQ conceals for as long as no packets arrive, and soon that is silence.
    fn starve(&mut self, operations: u64, passed: Duration) {
        self.concealment_events += u64::from(self.unheard.is_zero() && operations > 0);
        self.unheard += passed;
        grow(&mut self.neteq.expand, operations);
        self.silent_concealed_samples += operations.saturating_sub(10) * SAMPLES_PER_OPERATION;
        self.buffer_ms = 0.0;
    }

    fn play(
        &mut self,
        operations: u64,
        seconds: f64,
        link: Link,
        paused: bool,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        self.jitter_ms = link.jitter_ms * rng.random_range(0.7..1.3);
        let ideal_ms = (30.0 + 2.2 * link.jitter_ms + 400.0 * link.loss).min(400.0);
        self.target_ms += (ideal_ms - self.target_ms) * (1.0 - (-seconds / 2.0).exp());

        let packets = operations / 2;
        let lost = about(packets as f64 * link.loss, rng).min(packets);
        let too_late = (link.jitter_ms / (3.0 * self.target_ms)).powi(2).min(0.5);
        let late = about((packets - lost) as f64 * too_late, rng).min(packets - lost);
        self.packets_lost += lost;
        self.packets_received += packets - lost;
        self.packets_discarded += late;

        let missing = if paused {
            0
        } else {
            let unplayed = about(packets as f64 * link.faults, rng);
            (lost + late + unplayed).min(packets)
        };
        let expand = 2 * missing;
        // Adjacent gaps are one event, and one merge joins each to what follows.
        let events = about(missing as f64 * 0.7, rng).clamp(missing.min(1), missing);
        self.concealment_events += events;
        let mut left = operations - expand;
        let mut take = |mean: f64, rng: &mut Xoshiro256PlusPlus| {
            let count = about(mean, rng).min(left);
            left -= count;
            count
        };
        grow(&mut self.neteq.merge, take(events as f64, rng));
        let over = self.buffer_ms / self.target_ms;
        let played = operations as f64;
        grow(&mut self.neteq.accelerate, take(if over > 1.15 { played * 0.04 } else { played * 0.002 }, rng));
        grow(&mut self.neteq.fast_accelerate, take(if over > 1.6 { played * 0.03 } else { 0.0 }, rng));
        grow(
            &mut self.neteq.preemptive_expand,
            take(if over < 0.85 { played * 0.04 } else { played * 0.002 }, rng),
        );
        grow(&mut self.neteq.normal, left);
        grow(&mut self.neteq.expand, expand);
        if link.loss > 0.05 {
            // Long gaps fade out.
            self.silent_concealed_samples += expand / 8 * SAMPLES_PER_OPERATION;
        }
        self.buffer_ms += (self.target_ms * rng.random_range(0.7..1.3) - self.buffer_ms) * 0.6;
    }

    /// Time since which a wanted microphone that is on is not heard.
    pub(super) fn unheard(&self) -> Duration {
        self.unheard
    }

    /// Returns how much more it counts than another state of it, per second of the time between.
    pub(super) fn rates_since(&self, before: &Self, passed: Duration) -> Rates {
        if passed.is_zero() {
            return Rates::default();
        }
        let rate = |now: u64, before: u64| (now - before) as f64 / passed.as_secs_f64();
        let counts = |hearing: &Self| hearing.neteq.counts().map(Option::unwrap_or_default);
        let (now, earlier) = (counts(self), counts(before));
        Rates {
            operations: std::array::from_fn(|operation| rate(now[operation], earlier[operation])),
            packets: rate(self.packets_received, before.packets_received),
        }
    }

    /// Returns what the device knows of it.
    pub(super) fn audio(&self, device: &Device) -> Audio {
        let operations: u64 = self.neteq.counts().iter().flatten().sum();
        let samples = |count: Option<u64>, each: u64| count.unwrap_or(0) * each;
        let NetEq { expand, accelerate, fast_accelerate, preemptive_expand, .. } = self.neteq;
        let stretched = samples(accelerate, STRETCHED_SAMPLES);
        let all = Audio {
            buffer_ms: Some(tenths(self.buffer_ms)),
            target_ms: Some(tenths(self.target_ms)),
            packets_received: Some(self.packets_received),
            total_samples: Some(operations * SAMPLES_PER_OPERATION),
            concealed_samples: Some(samples(expand, SAMPLES_PER_OPERATION)),
            silent_concealed_samples: Some(self.silent_concealed_samples),
            concealment_events: Some(self.concealment_events),
            inserted_samples: Some(samples(preemptive_expand, STRETCHED_SAMPLES)),
            removed_samples: Some(stretched + samples(fast_accelerate, 2 * STRETCHED_SAMPLES)),
            packets_discarded: Some(self.packets_discarded),
            ..Audio::default()
        };
        if device.is_browser() {
            Audio {
                buffer_ms: all.buffer_ms.filter(|_| self.played),
                target_ms: all.target_ms.filter(|_| self.played && device.has_freezes()),
                jitter_ms: Some(tenths(self.jitter_ms)),
                packets_lost: Some(self.packets_lost),
                ..all
            }
        } else {
            Audio {
                packets_awaiting_decode: Some((self.buffer_ms / 20.0).floor()),
                neteq: Some(self.neteq.clone()),
                ..all
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::device::Clients;
    use super::*;

    const VOICE: Voice = Voice { enabled: true, alive: true, wanted: true, hidden: false };

    fn link(loss: f64) -> Link {
        Link { jitter_ms: 5.0, loss, stalls: 0.0, faults: 0.0 }
    }

    /// A minute of it, in reports of 2.5 s, to both kinds of clients.
    fn minute(link: Link, voice: Voice) -> [Audio; 2] {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut hearing = Hearing { on: true, ..Hearing::new() };
        for _ in 0..24 {
            hearing.advance(250, Duration::from_millis(2_500), link, voice, &mut rng);
        }
        [Clients::Browser, Clients::NetEq].map(|kind| hearing.audio(&Device::draw(kind, 0, &mut rng)))
    }

    #[test]
    fn the_counters_add_up() {
        for (loss, alive) in [(0.0, true), (0.001, true), (0.12, true), (1.0, true), (0.0, false)] {
            let [browser, own] = minute(link(loss), Voice { alive, ..VOICE });
            let counts = own.neteq.unwrap().counts().map(Option::unwrap_or_default);
            let operations: u64 = counts.iter().sum();
            assert_eq!(operations, 6_000, "one each 10 ms");
            assert_eq!(own.total_samples, Some(operations * SAMPLES_PER_OPERATION));
            assert_eq!(own.concealed_samples, Some(counts[2] * SAMPLES_PER_OPERATION), "the expands");
            assert!(own.silent_concealed_samples <= own.concealed_samples);
            assert!(own.concealment_events.unwrap() <= counts[2]);
            let packets = if alive { 3_000 } else { 0 };
            assert_eq!(browser.packets_received.unwrap() + browser.packets_lost.unwrap(), packets);
            assert_eq!(browser.concealed_samples, own.concealed_samples, "both see the same");
        }
    }

    #[test]
    fn what_is_lost_or_not_played_is_concealed() {
        let concealed = |link: Link| {
            let [browser, _] = minute(link, VOICE);
            let share = browser.concealed_samples.unwrap() as f64 / browser.total_samples.unwrap() as f64;
            (share, browser.packets_lost.unwrap())
        };
        let (share, _) = concealed(link(0.001));
        assert!(share < 0.01, "{share}");
        let (share, lost) = concealed(link(0.12));
        assert!((0.08..0.20).contains(&share) && lost > 200, "{share}, {lost}");
        let (share, lost) = concealed(Link { faults: 0.12, ..link(0.0) });
        assert!((0.08..0.20).contains(&share) && lost == 0, "{share}, {lost}");
    }

    #[test]
    fn pauses_conceal_nothing() {
        for voice in [
            Voice { enabled: false, ..VOICE },
            Voice { wanted: false, ..VOICE },
            Voice { hidden: true, ..VOICE },
            Voice { enabled: false, alive: false, ..VOICE },
        ] {
            let [browser, _] = minute(link(0.12), voice);
            assert_eq!(browser.concealed_samples, Some(0), "{voice:?}");
            assert_eq!(browser.concealment_events, Some(0), "{voice:?}");
        }
    }
}
