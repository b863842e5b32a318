//! The signals that degrade a session, judged by its last frame, and what its own statistics say of
//! the reason.
//!
//! Invariant: a session whose tab is hidden is never degraded.

use super::counters::{PeerGrowth, SendGrowth};
use super::settings::Thresholds;
use crate::series::aggregates::Evidence;
use crate::series::judgement::Judgement;
use callsight_frame::{Frame, JoinFailure, JoinState, Peer};

/// The peers whose losses are known, as far as they tell where packets are lost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses {
    /// Peers whose losses are known.
    known: usize,
    /// Those of which more is lost than the threshold.
    lossy: usize,
    /// Degraded peers of which hardly anything is lost.
    intact: usize,
}

impl Judgement {
    /// Judges the session itself. A hidden tab freezes its statistics, so its frames degrade
    /// nothing.
    pub(super) fn of_session(frame: &Frame<'_>, sent: &SendGrowth, thresholds: &Thresholds) -> Self {
        let shown = !is_hidden(frame);
        let rtt_ms = frame.server.as_ref().and_then(|server| server.rtt_ms);
        Self {
            rtt: shown && rtt_ms.is_some_and(|rtt| rtt > thresholds.rtt.as_secs_f64() * 1e3),
            join: shown && cannot_join(frame, thresholds),
            uplink: shown && sent.loss.is_some_and(|loss| loss > thresholds.loss),
            hidden: !shown,
            microphone: frame.audio_enabled == Some(true),
            camera: frame.video_enabled == Some(true),
            limited: sent.limited,
            ..Self::NONE
        }
    }

    /// Judges what a session's frame says of a peer: a microphone or camera that is on but does not
    /// arrive, concealed audio, a freeze since the previous frame. What the session does not ask
    /// for is not missed.
    pub(super) fn of_peer(
        frame: &Frame<'_>,
        peer: &Peer<'_>,
        grown: &PeerGrowth,
        thresholds: &Thresholds,
    ) -> Self {
        let shown = !is_hidden(frame);
        let (listens, watches) = (peer.audio_wanted != Some(false), peer.video_wanted != Some(false));
        let unheard = shown && listens && peer.audio_enabled && !peer.can_listen;
        let unseen = peer.video_enabled && !peer.can_see;
        let concealed = listens && grown.concealment.is_some_and(|ratio| ratio > thresholds.concealment);
        Self {
            audio: unheard || (shown && concealed),
            video: shown && watches && (unseen || grown.freezes > 0),
            one_way_audio: unheard,
            microphone: peer.audio_enabled,
            camera: peer.video_enabled,
            audio_unwanted: !listens,
            video_unwanted: !watches,
            ..Self::NONE
        }
        .measured(grown.concealment, grown.loss)
    }

    /// Adds the judgement of one of the session's peers.
    pub(super) fn add_peer(&mut self, peer: &Self) {
        self.audio |= peer.audio;
        self.video |= peer.video;
        self.one_way_audio |= peer.one_way_audio;
        if peer.concealment > self.concealment {
            self.concealment = peer.concealment;
        }
        if peer.loss_percent > self.loss_percent {
            self.loss_percent = peer.loss_percent;
        }
    }

    /// Says what the session's statistics tell of the reason, if it is degraded.
    pub(super) fn explain(&mut self, frame: &Frame<'_>, losses: Losses) {
        if !self.is_degraded() {
            return;
        }
        let Losses { known, lossy, intact } = losses;
        // In a call of two, a loss may as well be on the other's uplink, unless it is on both ways.
        let most_are_lossy = lossy * 2 > known && (lossy > 1 || self.uplink);
        self.evidence = Some(if self.join {
            of_join(frame)
        } else if self.rtt || most_are_lossy {
            Evidence::Path
        } else if lossy > 0 && (self.audio || self.video) {
            if known > 1 { Evidence::Peers } else { Evidence::Either }
        } else if intact > 0 {
            Evidence::Client
        } else if self.uplink {
            Evidence::Sending
        } else {
            Evidence::Unknown
        });
    }
}

impl Losses {
    /// Adds a peer that was judged.
    pub(super) fn add(&mut self, grown: &PeerGrowth, peer: &Judgement, thresholds: &Thresholds) {
        let Some(loss) = grown.loss else { return };
        let lossy = loss > thresholds.loss;
        self.known += 1;
        self.lossy += usize::from(lossy);
        self.intact += usize::from(!lossy && (peer.audio || peer.video));
    }
}

fn is_hidden(frame: &Frame<'_>) -> bool {
    frame.tab_visible == Some(false)
}

/// Whether an attempt to join has failed, or takes too long.
fn cannot_join(frame: &Frame<'_>, thresholds: &Thresholds) -> bool {
    frame.join.as_ref().is_some_and(|join| match join.state {
        JoinState::Failed => true,
        JoinState::Joining => join.setup_ms.is_some_and(|setup| setup > thresholds.join.as_secs_f64() * 1e3),
        JoinState::Joined | JoinState::Other => false,
    })
}

/// What a join that fails says of the reason: packets that do not arrive, or a client without a
/// microphone; a server that refuses, or does not answer, tells neither.
fn of_join(frame: &Frame<'_>) -> Evidence {
    match frame.join.as_ref().and_then(|join| join.reason) {
        Some(JoinFailure::Ice | JoinFailure::Dtls) => Evidence::Path,
        Some(JoinFailure::Media) => Evidence::Client,
        _ => Evidence::Unknown,
    }
}
