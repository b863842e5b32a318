//! What one session receives from one remote peer: audio, the camera's video, a shared screen.
//!
//! Invariant: counters never decrease, not even when the peer leaves and returns.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::audio::{Hearing, Rates, Voice};
use super::device::Device;
use super::scenario::Link;
use super::video::{Picture, Sight, Watching};
use callsight_frame::{Audio, Video};

/// Duration of the audio in a packet, two operations of NetEQ.
const PACKET: Duration = Duration::from_millis(20);

/// Time without media after which a participant counts as unheard or unseen.
const MISSED_AFTER: Duration = Duration::from_secs(5);

/// Time of which a client of videocall.rs reports rates.
const SECOND: Duration = Duration::from_secs(1);

/// What a remote peer sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speaker {
    pub(super) audio_enabled: bool,
    pub(super) camera: Option<Picture>,
    pub(super) screen: Option<Picture>,
    /// False once the peer has crashed: no packets arrive, and no goodbye did.
    pub(super) alive: bool,
}

/// What a session asks for of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) audio: bool,
    pub(super) video: bool,
    /// Height of the video's tile.
    pub(super) tile: u64,
}

/// The media received from one remote peer.
#[derive(Clone, Debug)]
pub(super) struct Reception {
    updated: Duration,
    /// Remaining time, too short for a packet.
    rest: Duration,
    hearing: Hearing,
    watching: Watching,
    /// Present once the peer has shared its screen.
    screen: Option<Box<Watching>>,
    /// Of the last second before the last [`Self::advance_by_seconds`].
    rates: Rates,
}

impl Reception {
    pub(super) fn new(since: Duration) -> Self {
        Self {
            updated: since,
            rest: Duration::ZERO,
            hearing: Hearing::new(),
            watching: Watching::default(),
            screen: None,
            rates: Rates::default(),
        }
    }

    /// [`Self::advance`], with the last second by itself, for a client that reports its rates.
    pub(super) fn advance_by_seconds(
        &mut self,
        now: Duration,
        link: Link,
        speaker: Speaker,
        wish: Wish,
        hidden: bool,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        let since = now.saturating_sub(SECOND);
        if since > self.updated {
            self.advance(since, link, speaker, wish, hidden, rng);
        }
        let (before, since) = (self.hearing.clone(), self.updated);
        self.advance(now, link, speaker, wish, hidden, rng);
        self.rates = self.hearing.rates_since(&before, now.saturating_sub(since));
    }

    /// Advances to the time `now`. `hidden` tells whether the page was hidden at any time since the
    /// last report.
    pub(super) fn advance(
        &mut self,
        now: Duration,
        link: Link,
        speaker: Speaker,
        wish: Wish,
        hidden: bool,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        let passed = now.saturating_sub(self.updated);
        self.updated = now;
        let time = passed + self.rest;
        let packets = (time.as_millis() / PACKET.as_millis()) as u64;
        self.rest = time.saturating_sub(Duration::from_millis(packets * 20));
        let Speaker { audio_enabled: enabled, camera, screen, alive } = speaker;
        let voice = Voice { enabled, alive, wanted: wish.audio, hidden };
        self.hearing.advance(packets * 2, passed, link, voice, rng);
        let sight = Sight { picture: camera, alive, wanted: wish.video, hidden, tile: wish.tile };
        self.watching.advance(passed, link, sight, rng);
        if screen.is_some() || self.screen.is_some() {
            let sight = Sight { picture: screen, wanted: true, tile: u64::MAX, ..sight };
            self.screen.get_or_insert_default().advance(passed, link, sight, rng);
        }
    }

    pub(super) fn can_listen(&self) -> bool {
        self.hearing.unheard() < MISSED_AFTER
    }

    pub(super) fn can_see(&self) -> bool {
        self.watching.unseen() < MISSED_AFTER
    }

    pub(super) fn rates(&self) -> &Rates {
        &self.rates
    }

    pub(super) fn audio(&self, device: &Device) -> Audio {
        self.hearing.audio(device)
    }

    pub(super) fn video(&self, device: &Device) -> Option<Video> {
        self.watching.video(device)
    }

    /// The shared screen, which clients with a jitter buffer of their own don't report.
    pub(super) fn screen(&self, device: &Device) -> Option<Video> {
        self.screen.as_ref().filter(|_| device.is_browser())?.video(device)
    }
}

/// Draws a whole number with the given mean.
pub(super) fn about(mean: f64, rng: &mut Xoshiro256PlusPlus) -> u64 {
    if mean <= 0.0 {
        return 0;
    }
    (mean * rng.random_range(0.6..1.4) + rng.random_range(0.0..1.0)) as u64
}

pub(super) fn grow(counter: &mut Option<u64>, by: u64) {
    *counter = Some(counter.unwrap_or(0) + by);
}

/// Rounds to tenths, as clients do.
pub(super) fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
