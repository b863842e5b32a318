//! The fold's judgement of a row, stored beside its values.
//!
//! As series, the signals that degrade a session or a pair would cost a dozen more per row, and
//! nobody needs them in Prometheus. But the triage page and a replay's report pick out the worst
//! rows, and would have to repeat the fold's judgement. So a row stores it in eight bytes beside
//! its cells.
//!
//! Invariant: a judgement packed and unpacked is the same judgement.

use super::aggregates::{Evidence, Limitation, Signal};
use callsight_frame::{CandidateType, Protocol};

/// How the fold judges a row's last frame. Not exported as series; used to pick out the worst rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// The session's round-trip time exceeds the threshold.
    pub rtt: bool,
    /// A peer can't be heard, or its concealment ratio exceeds the threshold.
    pub audio: bool,
    /// A peer can't be seen, or its video froze.
    pub video: bool,
    /// The session's attempt to join has failed, or takes longer than the threshold.
    pub join: bool,
    /// Of what the session sends, more is lost than the threshold.
    pub uplink: bool,
    /// A peer whose microphone is on can't be heard, one of the causes of `audio`.
    pub one_way_audio: bool,
    /// The session's tab is hidden, so the session never counts as degraded.
    pub hidden: bool,
    /// The microphone is on: the session's own, or the remote peer's.
    pub microphone: bool,
    /// The camera is on, likewise.
    pub camera: bool,
    /// The session does not ask for the peer's audio, which is not missed then.
    pub audio_unwanted: bool,
    /// The session does not ask for the peer's video, likewise.
    pub video_unwanted: bool,
    /// The share of the audio samples played since the previous frame that were concealed and
    /// audible, 0 to 1; for a session, the highest among its peers.
    pub concealment: Option<f32>,
    /// The share of the packets since the previous frame that were lost on the way here, in whole
    /// per cent; for a session, the highest among its peers.
    pub loss_percent: Option<u8>,
    /// What the session's own statistics tell of the reason, while it is degraded.
    pub evidence: Option<Evidence>,
    /// What limited the video that the session sends for most of the time.
    pub limited: Option<Limitation>,
    /// The local candidate of the session's path.
    pub candidate_type: Option<CandidateType>,
    /// The protocol of the path's first hop.
    pub protocol: Option<Protocol>,
}

/// The place of an optional word in its vocabulary, from 1; 0 without one.
macro_rules! place {
    ($word:expr) => {
        $word.map_or(0, |word| word as u64 + 1)
    };
}

/// The word at a place.
fn word<T: Copy>(all: &[T], place: u64) -> Option<T> {
    all.get(usize::try_from(place).ok()?.checked_sub(1)?).copied()
}

impl Judgement {
    /// A percentage that none has.
    const NO_LOSS: u8 = 127;

    /// The judgement of a row that has had no frame.
    pub const NONE: Self = Self {
        rtt: false,
        audio: false,
        video: false,
        join: false,
        uplink: false,
        one_way_audio: false,
        hidden: false,
        microphone: false,
        camera: false,
        audio_unwanted: false,
        video_unwanted: false,
        concealment: None,
        loss_percent: None,
        evidence: None,
        limited: None,
        candidate_type: None,
        protocol: None,
    };

    /// Returns the judgement with the shares of what was concealed and of what was lost.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a ratio needs no more than 24 bits, and a percentage no more than 7"
    )]
    pub(crate) fn measured(self, concealment: Option<f64>, loss: Option<f64>) -> Self {
        Self {
            concealment: concealment.map(|ratio| ratio as f32),
            // Rounds, for a ratio is not negative; `round` is a call.
            loss_percent: loss.map(|ratio| (ratio * 100.0 + 0.5) as u8),
            ..self
        }
    }

    /// Which signals degrade it, in the order of [`Signal::ALL`].
    #[must_use]
    pub const fn signals(&self) -> [bool; Signal::ALL.len()] {
        [self.rtt, self.audio, self.video, self.join, self.uplink]
    }

    /// Whether any signal degrades it.
    #[must_use]
    pub const fn is_degraded(&self) -> bool {
        self.rtt || self.audio || self.video || self.join || self.uplink
    }

    /// From the highest bit: eleven flags, three places in vocabularies of at most seven words, one
    /// of at most three, a percentage in seven bits, and the concealment in the lower half.
    pub(super) fn pack(self) -> u64 {
        let [rtt, audio, video, join, uplink] = self.signals();
        let flags = [
            rtt,
            audio,
            video,
            join,
            uplink,
            self.hidden,
            self.microphone,
            self.camera,
            self.one_way_audio,
            self.audio_unwanted,
            self.video_unwanted,
        ];
        let mut bits = flags.iter().fold(0, |bits, flag| bits << 1 | u64::from(*flag));
        for (places, width) in [
            (place!(self.candidate_type), 3),
            (place!(self.protocol), 3),
            (place!(self.evidence), 3),
            (place!(self.limited), 2),
            (u64::from(self.loss_percent.map_or(Self::NO_LOSS, |percent| percent.min(100))), 7),
        ] {
            bits = bits << width | places;
        }
        bits << 32 | u64::from(self.concealment.unwrap_or(f32::NAN).to_bits())
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower bits")]
    pub(super) fn unpack(packed: u64) -> Self {
        let concealment = f32::from_bits(packed as u32);
        let mut bits = packed >> 32;
        let mut take = |width: u32| {
            let taken = bits & ((1 << width) - 1);
            bits >>= width;
            taken
        };
        let loss_percent = Some(take(7) as u8).filter(|percent| *percent != Self::NO_LOSS);
        let limited = word(&Limitation::ALL, take(2));
        let evidence = word(&Evidence::ALL, take(3));
        let protocol = word(Protocol::ALL, take(3));
        let candidate_type = word(CandidateType::ALL, take(3));
        let mut flag = || take(1) == 1;
        Self {
            video_unwanted: flag(),
            audio_unwanted: flag(),
            one_way_audio: flag(),
            camera: flag(),
            microphone: flag(),
            hidden: flag(),
            uplink: flag(),
            join: flag(),
            video: flag(),
            audio: flag(),
            rtt: flag(),
            concealment: (!concealment.is_nan()).then_some(concealment),
            loss_percent,
            evidence,
            limited,
            candidate_type,
            protocol,
        }
    }
}

const _: () = assert!(CandidateType::ALL.len() < 8 && Protocol::ALL.len() < 8);
const _: () = assert!(Evidence::ALL.len() < 8 && Limitation::ALL.len() < 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judgement_is_read_as_it_was_given() {
        for judgement in [
            Judgement::NONE,
            Judgement { rtt: true, hidden: true, one_way_audio: true, ..Judgement::NONE },
            Judgement { microphone: true, video_unwanted: true, ..Judgement::NONE },
            Judgement {
                audio: true,
                video: true,
                microphone: true,
                concealment: Some(0.25),
                ..Judgement::NONE
            },
            Judgement { concealment: Some(0.0), loss_percent: Some(0), ..Judgement::NONE },
            Judgement {
                join: true,
                uplink: true,
                one_way_audio: true,
                audio_unwanted: true,
                loss_percent: Some(100),
                evidence: Some(Evidence::Unknown),
                limited: Some(Limitation::Other),
                candidate_type: Some(CandidateType::Other),
                protocol: Some(Protocol::Other),
                ..Judgement::NONE
            },
            Judgement {
                evidence: Some(Evidence::Path),
                limited: Some(Limitation::Cpu),
                candidate_type: Some(CandidateType::Host),
                protocol: Some(Protocol::Udp),
                ..Judgement::NONE
            },
        ] {
            assert_eq!(Judgement::unpack(judgement.pack()), judgement);
        }
    }
}
