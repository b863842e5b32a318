//! What the report is about, and the signals that it distinguishes.
//!
//! Every part of the page depends on the window and on when a place counts as bad.
//!
//! Invariant: a place is bad in a window by the threshold that the live page uses.

use crate::insight::state::Threshold;
use crate::insight::words::signal;
use crate::replay::engine::Filter;
use crate::replay::window::Window;
use callsight_fold::FoldSettings;
use callsight_fold::series::aggregates::Signal;
use callsight_fold::series::judgement::Judgement;
use callsight_frame::subject::Region;

/// The most points that a chart has along its time.
const POINTS: usize = 240;

/// What degrades a session: one of the fold's signals, in their order, or any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Rtt,
    Audio,
    Video,
    /// At least one of these.
    Any,
}

impl By {
    /// All of them, in the order in which they are counted.
    pub(crate) const ALL: [Self; 4] = [Self::Rtt, Self::Audio, Self::Video, Self::Any];
    /// Those that are one signal.
    pub(crate) const SIGNALS: [Self; 3] = [Self::Rtt, Self::Audio, Self::Video];

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
    pub(super) const fn all_of(judgement: &Judgement) -> [bool; 4] {
        [judgement.rtt, judgement.audio, judgement.video, judgement.is_degraded()]
    }
}

/// What the replay was asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    pub regions: Vec<Region>,
    /// The window and its steps.
    pub window: Window,
    /// The calls to which the replay is limited.
    pub filter: Filter,
    /// How frames are folded and judged.
    pub fold: FoldSettings,
    /// Whether the hub's mirrors were read.
    pub mirror: bool,
    /// The command that makes the page again, without the flags of the connection.
    pub command: String,
}

impl Settings {
    /// When a place is bad. A reader who asks for single calls is interested in each session of
    /// them.
    pub(crate) const fn threshold(&self) -> Threshold {
        match self.filter.is_open() {
            true => Threshold::BAD,
            false => Threshold { sessions: 1, ..Threshold::BAD },
        }
    }

    /// The number of steps that a point of a chart stands for.
    #[must_use]
    pub fn stride(&self) -> usize {
        let Window { from, to, step, .. } = self.window;
        let steps = to.since(from).as_nanos() / step.as_nanos().max(1) + 1;
        usize::try_from(steps).unwrap_or(usize::MAX).div_ceil(POINTS).max(1)
    }
}

/// A count as a number to draw.
#[expect(clippy::cast_precision_loss, reason = "nobody draws 2^53 of anything")]
pub(super) const fn float(count: usize) -> f64 {
    count as f64
}

/// A measure in half the memory.
#[expect(clippy::cast_possible_truncation, reason = "a chart shows no more than three digits")]
pub(super) const fn narrow(value: f64) -> f32 {
    value as f32
}
