//! What one session receives from one remote peer: NetEQ's operations and the video's frames.
//!
//! Every 10 ms of audio is one operation of NetEQ, of 480 samples at 48 kHz. A packet carries 20
//! ms, so one that is lost or late costs two `expand`s, whose samples are the concealed ones.
//!
//! Invariant: all counters follow from the operations, so they always add up.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::scenario::Path;
use callsight_frame::{Audio, NetEq, Video};

/// Samples of one NetEQ operation: 10 ms at 48 kHz.
pub(super) const SAMPLES_PER_OPERATION: u64 = 480;

/// The state of the remote peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speaker {
    pub(super) audio_enabled: bool,
    pub(super) video_enabled: bool,
    /// False once the peer has crashed: no packets arrive, and no goodbye did.
    pub(super) alive: bool,
}

/// The media received from one remote peer.
#[derive(Clone, Debug)]
pub(super) struct Reception {
    updated: Duration,
    /// Remaining time, too short for an operation.
    rest: Duration,
    buffer_ms: f64,
    target_ms: f64,
    jitter_ms: f64,
    packets_received: u64,
    packets_lost: u64,
    neteq: NetEq,
    silent_concealed_samples: u64,
    /// Absent until the peer first sends video.
    video: Option<Video>,
}

impl Reception {
    pub(super) fn new(since: Duration) -> Self {
        Self {
            updated: since,
            rest: Duration::ZERO,
            buffer_ms: 40.0,
            target_ms: 40.0,
            jitter_ms: 0.0,
            packets_received: 0,
            packets_lost: 0,
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
            silent_concealed_samples: 0,
            video: None,
        }
    }

    /// Advances to the time `now`.
    pub(super) fn advance(
        &mut self,
        now: Duration,
        path: Path,
        speaker: Speaker,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        let passed = now.saturating_sub(self.updated);
        self.updated = now;
        let time = passed + self.rest;
        let operations = (time.as_millis() / 10) as u64;
        self.rest = time - Duration::from_millis(operations * 10);
        self.hear(operations, passed.as_secs_f64(), path, speaker, rng);
        self.see(passed.as_secs_f64(), path, speaker, rng);
    }

    fn hear(
        &mut self,
        operations: u64,
        seconds: f64,
        path: Path,
        speaker: Speaker,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        if !speaker.alive {
            // NetEQ conceals for as long as no packets arrive, and soon that is silence.
            grow(&mut self.neteq.expand, operations);
            self.silent_concealed_samples += operations.saturating_sub(10) * SAMPLES_PER_OPERATION;
            self.buffer_ms = 0.0;
            return;
        }
        self.jitter_ms = path.jitter_ms * rng.random_range(0.7..1.3);
        if !speaker.audio_enabled {
            grow(&mut self.neteq.comfort_noise, operations);
            self.packets_received += about(operations as f64 / 40.0, rng);
            return;
        }
        let ideal_ms = (30.0 + 2.2 * path.jitter_ms + 400.0 * path.loss).min(400.0);
        self.target_ms += (ideal_ms - self.target_ms) * (1.0 - (-seconds / 2.0).exp());

        let packets = operations / 2;
        let lost = about(packets as f64 * path.loss, rng).min(packets);
        let too_late = (path.jitter_ms / (3.0 * self.target_ms)).powi(2).min(0.5);
        let late = about((packets - lost) as f64 * too_late, rng).min(packets - lost);
        self.packets_lost += lost;
        self.packets_received += packets - lost;

        let expand = (2 * (lost + late)).min(operations);
        let mut left = operations - expand;
        let mut take = |mean: f64, rng: &mut Xoshiro256PlusPlus| {
            let count = about(mean, rng).min(left);
            left -= count;
            count
        };
        // Adjacent gaps are joined to what follows by one merge.
        grow(&mut self.neteq.merge, take((lost + late) as f64 * 0.7, rng));
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
        if path.loss > 0.05 {
            // Long gaps fade out.
            self.silent_concealed_samples += expand / 8 * SAMPLES_PER_OPERATION;
        }
        self.buffer_ms += (self.target_ms * rng.random_range(0.7..1.3) - self.buffer_ms) * 0.6;
    }

    fn see(&mut self, seconds: f64, path: Path, speaker: Speaker, rng: &mut Xoshiro256PlusPlus) {
        let shown = speaker.video_enabled && speaker.alive;
        if self.video.is_none() && !shown {
            return;
        }
        let video = self.video.get_or_insert(Video {
            frames_decoded: Some(0),
            frames_dropped: Some(0),
            freeze_count: Some(0),
            ..Video::default()
        });
        let health = if shown { (1.0 - 4.0 * path.loss).max(0.1) } else { 0.0 };
        let fps = 30.0 * health * rng.random_range(0.95..1.0);
        video.fps = Some(tenths(fps));
        video.frames_buffered = Some(if shown { f64::from(rng.random_range(1..=4_u8)) } else { 0.0 });
        video.bitrate_kbps = Some(tenths(1400.0 * health * rng.random_range(0.85..1.15)));
        if shown {
            let lossy = (path.loss - 0.01).max(0.0);
            grow(&mut video.frames_decoded, about(fps * seconds, rng));
            grow(&mut video.frames_dropped, about(30.0 * seconds * path.loss, rng));
            grow(&mut video.freeze_count, about(seconds * lossy * 2.0, rng));
        }
    }

    pub(super) fn audio(&self) -> Audio {
        let operations: u64 = self.neteq.counts().iter().flatten().sum();
        Audio {
            buffer_ms: Some(tenths(self.buffer_ms)),
            target_ms: Some(tenths(self.target_ms)),
            packets_awaiting_decode: Some((self.buffer_ms / 20.0).floor()),
            jitter_ms: Some(tenths(self.jitter_ms)),
            packets_received: Some(self.packets_received),
            packets_lost: Some(self.packets_lost),
            total_samples: Some(operations * SAMPLES_PER_OPERATION),
            concealed_samples: self.neteq.expand.map(|expand| expand * SAMPLES_PER_OPERATION),
            silent_concealed_samples: Some(self.silent_concealed_samples),
            neteq: Some(self.neteq.clone()),
            ..Audio::default()
        }
    }

    pub(super) fn video(&self) -> Option<Video> {
        self.video.clone()
    }
}

/// Draws a whole number with the given mean.
fn about(mean: f64, rng: &mut Xoshiro256PlusPlus) -> u64 {
    if mean <= 0.0 {
        return 0;
    }
    (mean * rng.random_range(0.6..1.4) + rng.random_range(0.0..1.0)) as u64
}

fn grow(counter: &mut Option<u64>, by: u64) {
    *counter = Some(counter.unwrap_or(0) + by);
}

/// Rounds to tenths, as clients do.
pub(super) fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn after_a_minute(loss: f64, alive: bool) -> Audio {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut reception = Reception::new(Duration::ZERO);
        let path = Path { rtt_ms: 50.0, jitter_ms: 5.0, loss };
        let speaker = Speaker { audio_enabled: true, video_enabled: true, alive };
        for step in 1..=24 {
            reception.advance(Duration::from_millis(2_503 * step), path, speaker, &mut rng);
        }
        reception.audio()
    }

    #[test]
    fn the_counters_add_up() {
        for (loss, alive) in [(0.0, true), (0.001, true), (0.12, true), (1.0, true), (0.0, false)] {
            let audio = after_a_minute(loss, alive);
            let operations: u64 = audio.neteq.unwrap().counts().iter().flatten().sum();
            assert_eq!(operations, 60_072 / 10, "one each 10 ms");
            assert_eq!(audio.total_samples, Some(operations * SAMPLES_PER_OPERATION));
            assert!(audio.concealed_samples <= audio.total_samples);
            assert!(audio.silent_concealed_samples <= audio.concealed_samples);
        }
    }

    #[test]
    fn what_is_lost_is_concealed() {
        let concealed = |loss| {
            let audio = after_a_minute(loss, true);
            audio.concealed_samples.unwrap() as f64 / audio.total_samples.unwrap() as f64
        };
        assert!(concealed(0.001) < 0.01, "{}", concealed(0.001));
        assert!((0.08..0.20).contains(&concealed(0.12)), "{}", concealed(0.12));
    }
}
