//! What one session sends: its encoder's output, what of it arrives, and what limits it.
//!
//! The encoder sends layers of the camera's video, each of half the height of the one above. It
//! lowers height and rate of frames while bandwidth is short or the processor is slow, and counts
//! for how long.
//!
//! Invariant: no more is lost than was sent, and nothing is limited for longer than time passes.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::device::Device;
use super::media::{about, tenths};
use super::scenario::Conditions;
use super::video::{Picture, packets};
use callsight_frame::{QualityLimitation, Sending};

/// Smallest layer of the camera's video.
const SMALLEST_LAYER: u64 = 180;

/// Shortage from which on the encoder is limited.
const LIMITED: f64 = 0.2;

/// Bit rates of speech and of a muted microphone.
const SPEECH_KBPS: f64 = 32.0;
const SILENCE_KBPS: f64 = 1.0;

/// Packets of speech and of a muted microphone per second.
const SPEECH_PACKETS: f64 = 50.0;
const SILENCE_PACKETS: f64 = 2.5;

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    sent: u64,
    lost: u64,
}

impl Stream {
    fn grow(&mut self, packets: f64, loss: f64, rng: &mut Xoshiro256PlusPlus) -> u64 {
        // The rest of a packet waits, by chance, for the next time.
        let sent = (packets + rng.random_range(0.0..1.0)) as u64;
        let lost = about(sent as f64 * loss, rng).min(sent);
        self.sent += sent;
        self.lost += lost;
        lost
    }
}

/// The media that one session sends.
#[derive(Clone, Debug, Default)]
pub(super) struct Outgoing {
    pub(super) camera: Option<Picture>,
    pub(super) screen: Option<Picture>,
    audio: Stream,
    video: Stream,
    /// Whether the camera or the screen was ever on.
    has_video: bool,
    kbps: Option<f64>,
    available_kbps: f64,
    rtt_ms: f64,
    cpu: Duration,
    bandwidth: Duration,
    nack_count: u64,
    pli_count: u64,
}

impl Outgoing {
    pub(super) fn advance(
        &mut self,
        passed: Duration,
        [microphone, camera, screen]: [bool; 3],
        conditions: &Conditions,
        rtt_ms: f64,
        bandwidth_kbps: f64,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        let Conditions { uplink_loss, congestion, overload, .. } = *conditions;
        let seconds = passed.as_secs_f64();
        self.camera = camera.then(|| encoded(congestion, overload));
        self.screen = screen
            .then_some(Picture { fps: Picture::SCREEN.fps * (1.0 - 0.8 * congestion), ..Picture::SCREEN });
        self.has_video |= camera || screen;
        self.rtt_ms = tenths(rtt_ms + rng.random_range(1.0..6.0));
        self.available_kbps = bandwidth_kbps * (1.0 - 0.93 * congestion) * rng.random_range(0.9..1.1);
        if passed.is_zero() {
            return;
        }
        let (speech_kbps, speech_packets) =
            if microphone { (SPEECH_KBPS, SPEECH_PACKETS) } else { (SILENCE_KBPS, SILENCE_PACKETS) };
        let video_kbps = self.camera.map_or(0.0, layers_kbps) + self.screen.map_or(0.0, Picture::kbps);
        let kbps = (speech_kbps + video_kbps * rng.random_range(0.9..1.1)).min(self.available_kbps);
        self.kbps = Some(tenths(kbps));
        self.audio.grow(speech_packets * seconds, uplink_loss, rng);
        if video_kbps > 0.0 {
            let lost = self.video.grow(packets((kbps - speech_kbps).max(0.0), seconds), uplink_loss, rng);
            self.nack_count += about(lost as f64 * 1.2, rng);
            // Who joins asks for a whole picture, and so does who lost one.
            self.pli_count += about(seconds / 60.0 + seconds * uplink_loss, rng);
        }
        if camera {
            let limited = passed.mul_f64(rng.random_range(0.95..1.0));
            // The scarcer of the two limits.
            if congestion > LIMITED && congestion >= overload {
                self.bandwidth += limited;
            } else if overload > LIMITED {
                self.cpu += limited;
            }
        }
    }

    pub(super) fn rtt_ms(&self) -> f64 {
        self.rtt_ms
    }

    pub(super) fn available_kbps(&self) -> f64 {
        tenths(self.available_kbps)
    }

    /// Returns what a browser knows of it.
    pub(super) fn report(&self, device: &Device) -> Sending {
        let video = |count: u64| self.has_video.then_some(count);
        let limited = QualityLimitation {
            cpu_ms: Some(self.cpu.as_millis() as u64),
            bandwidth_ms: Some(self.bandwidth.as_millis() as u64),
            other_ms: Some(0),
        };
        Sending {
            rtt_ms: Some(self.rtt_ms),
            audio_packets_sent: Some(self.audio.sent),
            audio_packets_lost: Some(self.audio.lost),
            video_packets_sent: video(self.video.sent),
            video_packets_lost: video(self.video.lost),
            fps: self.camera.map(|picture| tenths(picture.fps)),
            frame_height: self.camera.map(|picture| picture.height),
            bitrate_kbps: self.kbps,
            limited: (self.has_video && device.has_limits()).then_some(limited),
            nack_count: video(self.nack_count),
            pli_count: video(self.pli_count),
        }
    }
}

/// Returns the largest layer that the encoder produces under such shortages.
fn encoded(congestion: f64, overload: f64) -> Picture {
    let height = match congestion.max(0.6 * overload) {
        ..=LIMITED => Picture::CAMERA.height,
        ..0.7 => Picture::CAMERA.height / 2,
        _ => SMALLEST_LAYER,
    };
    Picture { fps: Picture::CAMERA.fps * (1.0 - 0.3 * congestion) * (1.0 - 0.7 * overload), height }
}

/// Bit rate of all layers up to the largest.
fn layers_kbps(largest: Picture) -> f64 {
    let heights = std::iter::successors(Some(largest.height), |height| Some(height / 2));
    let layers = heights.take_while(|height| *height >= SMALLEST_LAYER);
    layers.map(|height| Picture { height, ..largest }.kbps()).sum()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::device::Clients;
    use super::*;

    fn minute(change: impl Fn(&mut Conditions), on: [bool; 3]) -> (Sending, f64) {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut conditions = Conditions::usual(&"us".parse().unwrap());
        change(&mut conditions);
        let mut outgoing = Outgoing::default();
        for _ in 0..24 {
            outgoing.advance(Duration::from_millis(2_500), on, &conditions, 35.0, 3_000.0, &mut rng);
        }
        let draw = |rng: &mut _| Device::draw(Clients::Browser, 0, rng);
        let device = std::iter::repeat_with(|| draw(&mut rng)).find(Device::has_limits).unwrap();
        (outgoing.report(&device), outgoing.available_kbps())
    }

    fn limits(sending: &Sending) -> [u64; 2] {
        let limited = sending.limited.as_ref().unwrap();
        [limited.cpu_ms, limited.bandwidth_ms].map(Option::unwrap)
    }

    #[test]
    fn nothing_limits_a_healthy_client() {
        for screen in [false, true] {
            let (sending, available) = minute(|_| (), [true, true, screen]);
            assert_eq!(
                (sending.fps, sending.frame_height, limits(&sending)),
                (Some(30.0), Some(720), [0, 0])
            );
            assert_eq!(sending.audio_packets_sent, Some(3_000));
            assert!((10_000..20_000).contains(&sending.video_packets_sent.unwrap()), "{sending:?}");
            assert!(sending.video_packets_lost < Some(60) && sending.bitrate_kbps < Some(available));
        }
    }

    #[test]
    fn a_lossy_uplink_loses_and_limits_by_bandwidth() {
        let (sending, available) = minute(
            |conditions| (conditions.uplink_loss, conditions.congestion) = (0.15, 1.0),
            [true, true, true],
        );
        let lost = sending.audio_packets_lost.unwrap() as f64 / sending.audio_packets_sent.unwrap() as f64;
        assert!((0.1..0.2).contains(&lost), "{lost}");
        assert!(sending.video_packets_lost <= sending.video_packets_sent);
        let [cpu, bandwidth] = limits(&sending);
        assert!(cpu == 0 && (57_000..=60_000).contains(&bandwidth), "{cpu}, {bandwidth}");
        assert!(sending.bitrate_kbps.unwrap() <= available && available < 250.0, "{sending:?}");
        assert_eq!(sending.frame_height, Some(180));
    }

    #[test]
    fn a_slow_processor_lowers_the_picture_and_loses_nothing() {
        let (sending, _) = minute(|conditions| conditions.overload = 1.0, [true, true, false]);
        let [cpu, bandwidth] = limits(&sending);
        assert!(bandwidth == 0 && (57_000..=60_000).contains(&cpu), "{cpu}, {bandwidth}");
        assert!(sending.fps < Some(10.0) && sending.frame_height == Some(360), "{sending:?}");
        assert!(sending.audio_packets_lost < Some(10), "{sending:?}");
    }

    #[test]
    fn who_never_showed_anything_has_no_video() {
        let (sending, _) = minute(|_| (), [false, false, false]);
        assert_eq!((sending.video_packets_sent, sending.limited.is_some(), sending.fps), (None, false, None));
        assert!((140..=160).contains(&sending.audio_packets_sent.unwrap()), "{sending:?}");
    }
}
