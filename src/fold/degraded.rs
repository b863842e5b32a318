//! Whether a session is in trouble, judged by its last frame.

use super::settings::Thresholds;
use crate::frame::{Frame, Peer};
use crate::series::aggregates::Signal;
use crate::series::detail::Judgement;

/// The signals by which a session is degraded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Degraded([bool; Signal::ALL.len()]);

impl Degraded {
    /// Judges what the frame says of the session itself. A hidden tab freezes its statistics, so nothing in
    /// its frames is held against it.
    pub(super) fn of_session(frame: &Frame<'_>, thresholds: &Thresholds) -> Self {
        let mut degraded = Self::default();
        let rtt_ms = frame.server.as_ref().and_then(|server| server.rtt_ms);
        if !is_hidden(frame) && rtt_ms.is_some_and(|rtt| rtt > thresholds.rtt.as_secs_f64() * 1e3) {
            degraded.0[Signal::Rtt as usize] = true;
        }
        degraded
    }

    /// Adds what it says of one peer: a microphone or camera that is on and doesn't arrive, audio that is
    /// made up, a freeze since the frame before.
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
        if (peer.audio_enabled && !peer.can_listen) || concealed {
            self.0[Signal::Audio as usize] = true;
        }
        if (peer.video_enabled && !peer.can_see) || freezes > 0 {
            self.0[Signal::Video as usize] = true;
        }
    }

    /// Takes on all by which another is degraded.
    pub(super) fn merge(&mut self, other: Self) {
        for (own, others) in self.0.iter_mut().zip(other.0) {
            *own |= others;
        }
    }

    /// Whether it is degraded by any signal.
    pub(super) fn by_any(self) -> bool {
        self.0.contains(&true)
    }

    /// What a row shows of it.
    pub(super) const fn judgement(self) -> Judgement {
        Judgement {
            rtt: self.by(Signal::Rtt),
            audio: self.by(Signal::Audio),
            video: self.by(Signal::Video),
            ..Judgement::NONE
        }
    }

    pub(super) const fn by(self, signal: Signal) -> bool {
        self.0[signal as usize]
    }
}

/// Whether the session's tab is hidden.
pub(super) fn is_hidden(frame: &Frame<'_>) -> bool {
    frame.tab_visible == Some(false)
}
