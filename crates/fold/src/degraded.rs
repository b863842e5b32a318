//! The signals that degrade a session, judged by its last frame.
//!
//! Invariant: a session whose tab is hidden is never degraded.

use super::settings::Thresholds;
use crate::series::aggregates::Signal;
use crate::series::judgement::Judgement;
use callsight_frame::{Frame, Peer};

/// The signals that degrade a session or a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Degraded {
    by: [bool; Signal::ALL.len()],
    /// A peer whose microphone is on can't be heard: one of the causes of [`Signal::Audio`].
    one_way_audio: bool,
}

impl Degraded {
    /// Judges the session itself. A hidden tab freezes its statistics, so its frames degrade
    /// nothing.
    pub(super) fn of_session(frame: &Frame<'_>, thresholds: &Thresholds) -> Self {
        let mut degraded = Self::default();
        let rtt_ms = frame.server.as_ref().and_then(|server| server.rtt_ms);
        if !is_hidden(frame) && rtt_ms.is_some_and(|rtt| rtt > thresholds.rtt.as_secs_f64() * 1e3) {
            degraded.by[Signal::Rtt as usize] = true;
        }
        degraded
    }

    /// Adds one peer: a microphone or camera that is on but does not arrive, concealed audio, a
    /// freeze since the previous frame.
    pub(super) fn add_peer(
        &mut self,
        frame: &Frame<'_>,
        peer: &Peer<'_>,
        concealment: Option<f64>,
        freezes: u64,
        thresholds: &Thresholds,
    ) {
        if is_hidden(frame) {
            return;
        }
        let concealed = concealment.is_some_and(|ratio| ratio > thresholds.concealment);
        let unheard = peer.audio_enabled && !peer.can_listen;
        self.one_way_audio |= unheard;
        if unheard || concealed {
            self.by[Signal::Audio as usize] = true;
        }
        if (peer.video_enabled && !peer.can_see) || freezes > 0 {
            self.by[Signal::Video as usize] = true;
        }
    }

    /// Adds the signals of another.
    pub(super) fn merge(&mut self, other: Self) {
        for (own, others) in self.by.iter_mut().zip(other.by) {
            *own |= others;
        }
        self.one_way_audio |= other.one_way_audio;
    }

    /// Whether any signal degrades it.
    pub(super) fn by_any(self) -> bool {
        self.by.contains(&true)
    }

    /// The judgement that a row stores.
    pub(super) const fn judgement(self) -> Judgement {
        Judgement {
            rtt: self.by(Signal::Rtt),
            audio: self.by(Signal::Audio),
            video: self.by(Signal::Video),
            ..Judgement::NONE
        }
    }

    pub(super) const fn by(self, signal: Signal) -> bool {
        self.by[signal as usize]
    }

    pub(super) const fn one_way_audio(self) -> bool {
        self.one_way_audio
    }
}

/// Whether the session's tab is hidden.
pub(super) fn is_hidden(frame: &Frame<'_>) -> bool {
    frame.tab_visible == Some(false)
}
