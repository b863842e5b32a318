//! A video that one session receives from one remote peer: of its camera, or of its shared screen.
//!
//! Invariant: packets follow from the bit rate, freezes from losses and stalls, and the time frozen
//! from the freezes.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::device::Device;
use super::media::{about, grow, tenths};
use super::scenario::Link;
use callsight_frame::Video;

/// Bytes of media in a video packet.
const PACKET_BYTES: f64 = 1_100.0;

/// What an encoder produces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Picture {
    pub(super) fps: f64,
    pub(super) height: u64,
}

impl Picture {
    /// A camera's video, of which nothing is limited.
    pub(super) const CAMERA: Self = Self { fps: 30.0, height: 720 };

    /// A shared screen: sharp, and mostly still.
    pub(super) const SCREEN: Self = Self { fps: 5.0, height: 1080 };

    pub(super) fn kbps(self) -> f64 {
        1_400.0 * (self.height as f64 / 720.0).powf(1.75) * self.fps / 30.0
    }
}

/// Returns the number of packets that carry this bit rate for so long.
pub(super) fn packets(kbps: f64, seconds: f64) -> f64 {
    kbps * seconds * 1_000.0 / 8.0 / PACKET_BYTES
}

/// What there is to see since the last report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    /// What the peer sends, if its camera is on.
    pub(super) picture: Option<Picture>,
    /// False once the peer has crashed.
    pub(super) alive: bool,
    /// This session asks for it.
    pub(super) wanted: bool,
    /// This session's page was hidden.
    pub(super) hidden: bool,
    /// Height up to which this session asks for it.
    pub(super) tile: u64,
}

/// The video received from one remote peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Watching {
    /// Absent until the peer first sends video.
    video: Option<Video>,
    /// It arrived at the last report.
    on: bool,
    /// Time since which a wanted camera that is on is not seen.
    unseen: Duration,
}

impl Watching {
    pub(super) fn advance(
        &mut self,
        passed: Duration,
        link: Link,
        sight: Sight,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        let missed = sight.picture.is_some() && sight.wanted && !sight.alive && !sight.hidden;
        self.unseen = if missed { self.unseen + passed } else { Duration::ZERO };
        let paused = !self.on || sight.hidden;
        let arriving = sight.picture.filter(|_| sight.wanted && sight.alive);
        self.on = arriving.is_some();
        let Some(picture) = arriving else {
            if let Some(video) = &mut self.video {
                let nothing = Some(0.0);
                (video.fps, video.bitrate_kbps, video.frames_buffered) = (nothing, nothing, nothing);
            }
            return;
        };
        let video = self.video.get_or_insert_with(|| Video {
            frames_decoded: Some(0),
            frames_dropped: Some(0),
            freeze_count: Some(0),
            packets_received: Some(0),
            packets_lost: Some(0),
            freezes_ms: Some(0),
            nack_count: Some(0),
            pli_count: Some(0),
            ..Video::default()
        });
        if passed.is_zero() {
            return;
        }
        let seconds = passed.as_secs_f64();
        let sent = Picture { height: picture.height.min(sight.tile), ..picture };
        let health = (1.0 - 4.0 * link.loss).max(0.1) * (1.0 - 3.0 * link.faults).max(0.1);
        let fps = sent.fps * health * rng.random_range(0.95..1.0);
        let received = Picture { fps, ..sent };
        video.fps = Some(tenths(fps));
        video.frames_buffered = Some(f64::from(rng.random_range(1..=4_u8)));
        video.bitrate_kbps = Some(tenths(received.kbps() * rng.random_range(0.85..1.15)));
        video.frame_height = Some(sent.height);
        grow(&mut video.frames_decoded, about(fps * seconds, rng));
        grow(&mut video.frames_dropped, about(sent.fps * seconds * link.loss, rng));

        let expected = packets(sent.kbps(), seconds);
        let lost = about(expected * link.loss, rng);
        grow(&mut video.packets_lost, lost);
        grow(&mut video.packets_received, about(expected * (1.0 - link.loss), rng));
        grow(&mut video.nack_count, about(lost as f64 * 0.9, rng));
        grow(&mut video.pli_count, about(seconds * link.loss * 2.0, rng));
        if !paused {
            let per_second = 2.0 * (link.loss - 0.01).max(0.0) + 0.35 * link.stalls + 1.5 * link.faults;
            let freezes = about(seconds * per_second, rng);
            grow(&mut video.freeze_count, freezes);
            grow(&mut video.freezes_ms, freezes * rng.random_range(200..=700));
        }
    }

    /// Time since which a wanted camera that is on is not seen.
    pub(super) fn unseen(&self) -> Duration {
        self.unseen
    }

    /// Returns what the device knows of it.
    pub(super) fn video(&self, device: &Device) -> Option<Video> {
        let video = self.video.clone()?;
        Some(if !device.is_browser() {
            Video {
                fps: video.fps,
                frames_buffered: video.frames_buffered,
                bitrate_kbps: video.bitrate_kbps,
                frames_decoded: video.frames_decoded,
                ..Video::default()
            }
        } else if device.has_freezes() {
            Video { frames_buffered: None, ..video }
        } else {
            Video { frames_buffered: None, freeze_count: None, freezes_ms: None, ..video }
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::device::Clients;
    use super::*;

    const CLEAN: Link = Link { jitter_ms: 5.0, loss: 0.0, stalls: 0.0, faults: 0.0 };
    const SIGHT: Sight =
        Sight { picture: Some(Picture::CAMERA), alive: true, wanted: true, hidden: false, tile: 360 };

    /// A minute of it, in a browser.
    fn minute(link: Link, sight: Sight) -> Video {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut watching = Watching::default();
        for _ in 0..=24 {
            watching.advance(Duration::from_millis(2_500), link, sight, &mut rng);
        }
        let modern = |rng: &mut _| Device::draw(Clients::Browser, 0, rng);
        let device = std::iter::repeat_with(|| modern(&mut rng)).find(Device::has_freezes).unwrap();
        watching.video(&device).unwrap()
    }

    #[test]
    fn rates_packets_and_frames_follow_from_the_picture() {
        let video = minute(CLEAN, SIGHT);
        assert_eq!(video.frame_height, Some(360), "no more than the tile");
        assert!((28.0..=30.0).contains(&video.fps.unwrap()), "{video:?}");
        let kbps = video.bitrate_kbps.unwrap();
        assert!((300.0..500.0).contains(&kbps), "{kbps}");
        let expected = packets(kbps, 62.5);
        assert!((0.7..1.4).contains(&(video.packets_received.unwrap() as f64 / expected)), "{video:?}");
        assert!((1_600..2_000).contains(&video.frames_decoded.unwrap()), "{video:?}");
        assert_eq!((video.packets_lost, video.freeze_count, video.nack_count), (Some(0), Some(0), Some(0)));
    }

    #[test]
    fn each_trouble_shows_as_itself() {
        let lossy = minute(Link { loss: 0.12, ..CLEAN }, SIGHT);
        assert!(
            lossy.freeze_count > Some(3) && lossy.packets_lost > Some(200) && lossy.nack_count > Some(100)
        );
        for link in [Link { stalls: 1.0, ..CLEAN }, Link { faults: 0.12, ..CLEAN }] {
            let video = minute(link, SIGHT);
            assert!(video.freeze_count > Some(3), "{link:?}: {video:?}");
            assert_eq!((video.packets_lost, video.nack_count), (Some(0), Some(0)), "{link:?}");
        }
        let [count, frozen_ms] = [lossy.freeze_count, lossy.freezes_ms].map(Option::unwrap);
        assert!((count * 200..=count * 700).contains(&frozen_ms), "{frozen_ms} ms for {count}");
    }

    #[test]
    fn what_is_not_wanted_costs_nothing_and_is_not_missed() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut watching = Watching::default();
        let second = Duration::from_secs(1);
        watching.advance(second, CLEAN, SIGHT, &mut rng);
        let before = watching.video.clone().unwrap();
        watching.advance(second, CLEAN, Sight { wanted: false, ..SIGHT }, &mut rng);
        let after = watching.video.clone().unwrap();
        assert_eq!((after.fps, after.bitrate_kbps), (Some(0.0), Some(0.0)));
        assert_eq!((after.frames_decoded, after.freeze_count), (before.frames_decoded, before.freeze_count));
        assert_eq!(watching.unseen(), Duration::ZERO);
        watching.advance(second, CLEAN, Sight { alive: false, ..SIGHT }, &mut rng);
        assert_eq!(watching.unseen(), second);
    }
}
