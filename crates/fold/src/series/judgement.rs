//! The fold's judgement of a row, stored beside its values.
//!
//! As series, the signals that degrade a session or a pair would cost three more per row, and
//! nobody needs them in Prometheus. But the triage page and a replay's report pick out the worst
//! rows, and would have to repeat the fold's judgement. So a row stores it in eight bytes beside
//! its cells.
//!
//! Invariant: a judgement packed and unpacked is the same judgement.

use super::aggregates::Signal;

/// How the fold judges a row's last frame. Not exported as series; used to pick out the worst rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// The session's round-trip time exceeds the threshold.
    pub rtt: bool,
    /// A peer can't be heard, or its concealment ratio exceeds the threshold.
    pub audio: bool,
    /// A peer can't be seen, or its video froze.
    pub video: bool,
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
}

impl Judgement {
    /// The judgement of a row that has had no frame.
    pub const NONE: Self = Self {
        rtt: false,
        audio: false,
        video: false,
        one_way_audio: false,
        hidden: false,
        microphone: false,
        camera: false,
        audio_unwanted: false,
        video_unwanted: false,
        concealment: None,
    };

    /// Returns the judgement with a concealment ratio.
    #[expect(clippy::cast_possible_truncation, reason = "a ratio needs no more than 24 bits")]
    pub(crate) fn concealing(self, ratio: Option<f64>) -> Self {
        Self { concealment: ratio.map(|ratio| ratio as f32), ..self }
    }

    /// Which signals degrade it, in the order of [`Signal::ALL`].
    pub(crate) const fn signals(&self) -> [bool; Signal::ALL.len()] {
        [self.rtt, self.audio, self.video]
    }

    /// Whether any signal degrades it.
    #[must_use]
    pub const fn is_degraded(&self) -> bool {
        self.rtt || self.audio || self.video
    }

    pub(super) fn pack(self) -> u64 {
        let [rtt, audio, video] = self.signals();
        let flags = [
            rtt,
            audio,
            video,
            self.hidden,
            self.microphone,
            self.camera,
            self.one_way_audio,
            self.audio_unwanted,
            self.video_unwanted,
        ];
        let flags = flags.iter().rev().fold(0, |bits, flag| bits << 1 | u64::from(*flag));
        flags << 32 | u64::from(self.concealment.unwrap_or(f32::NAN).to_bits())
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub(super) fn unpack(bits: u64) -> Self {
        let flag = |index: u32| bits >> (32 + index) & 1 == 1;
        let concealment = f32::from_bits(bits as u32);
        Self {
            rtt: flag(0),
            audio: flag(1),
            video: flag(2),
            hidden: flag(3),
            microphone: flag(4),
            camera: flag(5),
            one_way_audio: flag(6),
            audio_unwanted: flag(7),
            video_unwanted: flag(8),
            concealment: (!concealment.is_nan()).then_some(concealment),
        }
    }
}

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
            Judgement { concealment: Some(0.0), ..Judgement::NONE },
        ] {
            assert_eq!(Judgement::unpack(judgement.pack()), judgement);
        }
    }
}
