//! The signals that degrade a session, judged by its last frame.
//!
//! Invariant: a session whose tab is hidden is never degraded.

use super::settings::Thresholds;
use crate::series::judgement::Judgement;
use callsight_frame::{Frame, Peer};

impl Judgement {
    /// Judges the session itself. A hidden tab freezes its statistics, so its frames degrade
    /// nothing.
    pub(super) fn of_session(frame: &Frame<'_>, thresholds: &Thresholds) -> Self {
        let rtt_ms = frame.server.as_ref().and_then(|server| server.rtt_ms);
        Self {
            rtt: !is_hidden(frame) && rtt_ms.is_some_and(|rtt| rtt > thresholds.rtt.as_secs_f64() * 1e3),
            hidden: is_hidden(frame),
            microphone: frame.audio_enabled == Some(true),
            camera: frame.video_enabled == Some(true),
            ..Self::NONE
        }
    }

    /// Judges what a session's frame says of a peer: a microphone or camera that is on but does not
    /// arrive, concealed audio, a freeze since the previous frame. What the session does not ask
    /// for is not missed.
    pub(super) fn of_peer(
        frame: &Frame<'_>,
        peer: &Peer<'_>,
        concealment: Option<f64>,
        freezes: u64,
        thresholds: &Thresholds,
    ) -> Self {
        let shown = !is_hidden(frame);
        let (listens, watches) = (peer.audio_wanted != Some(false), peer.video_wanted != Some(false));
        let unheard = shown && listens && peer.audio_enabled && !peer.can_listen;
        let unseen = peer.video_enabled && !peer.can_see;
        let concealed = listens && concealment.is_some_and(|ratio| ratio > thresholds.concealment);
        Self {
            audio: unheard || (shown && concealed),
            video: shown && watches && (unseen || freezes > 0),
            one_way_audio: unheard,
            microphone: peer.audio_enabled,
            camera: peer.video_enabled,
            audio_unwanted: !listens,
            video_unwanted: !watches,
            ..Self::NONE
        }
        .concealing(concealment)
    }

    /// Adds the judgement of one of the session's peers.
    pub(super) fn add_peer(&mut self, peer: &Self) {
        self.audio |= peer.audio;
        self.video |= peer.video;
        self.one_way_audio |= peer.one_way_audio;
        if peer.concealment > self.concealment {
            self.concealment = peer.concealment;
        }
    }
}

fn is_hidden(frame: &Frame<'_>) -> bool {
    frame.tab_visible == Some(false)
}
