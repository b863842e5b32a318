//! The signals that the report distinguishes.
//!
//! Invariant: a signal has the label and the words that it has on the live page.

use crate::insight::words::signal;
use callsight_fold::series::aggregates::Signal;
use callsight_fold::series::judgement::Judgement;

/// What degrades a session: one of the fold's signals, in their order, or any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Rtt,
    Audio,
    Video,
    Join,
    Uplink,
    /// At least one of these.
    Any,
}

impl By {
    /// All of them, in the order in which they are counted.
    pub(crate) const ALL: [Self; 6] =
        [Self::Rtt, Self::Audio, Self::Video, Self::Join, Self::Uplink, Self::Any];
    /// Those that are one signal.
    pub(crate) const SIGNALS: [Self; Signal::ALL.len()] =
        [Self::Rtt, Self::Audio, Self::Video, Self::Join, Self::Uplink];

    /// As series are labelled.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Any => "any",
            one => Signal::ALL[one as usize].label(),
        }
    }

    /// As people say it.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Any => "any signal",
            one => signal(Signal::ALL[one as usize]),
        }
    }

    /// Which of them apply to a judged row.
    pub(super) const fn all_of(judgement: &Judgement) -> PerSignal<bool> {
        let Judgement { rtt, audio, video, join, uplink, .. } = *judgement;
        [rtt, audio, video, join, uplink, judgement.is_degraded()]
    }

    /// Those to show: joins and uplinks only where a session was degraded by them, since many
    /// clients report neither.
    pub(super) fn shown(degraded: PerSignal<u32>) -> impl Iterator<Item = Self> {
        let rare = |by: Self| matches!(by, Self::Join | Self::Uplink);
        Self::ALL.into_iter().filter(move |by| !rare(*by) || degraded[*by as usize] > 0)
    }
}

/// A value for each of [`By::ALL`].
pub(crate) type PerSignal<T> = [T; By::ALL.len()];

/// A measure in half the memory.
#[expect(clippy::cast_possible_truncation, reason = "a chart shows no more than three digits")]
pub(super) const fn narrow(value: f64) -> f32 {
    value as f32
}
