//! The report: a page for the meeting after the incident.
//!
//! When it is over, people sit down and ask: how bad, for whom, from when to when, and who had it worst. The series
//! know, but somebody has to put them together, by hand, under time pressure, differently each time. So a replay can
//! become a page that answers these questions in their order, with the definitions beside the figures, and that needs
//! nothing but itself: it can be mailed, printed, and opened in ten years.
//!
//! - [`collect`] gathers while the steps go by, as much as live series and steps ask for, however many frames there are;
//! - [`worst`] keeps who had it worst, and when;
//! - [`verdict`] says when it began and ended, and puts it into a sentence;
//! - `charts` draws;
//! - `html` and `tables` write the page, `figures` the same for programs.

mod charts;
pub mod collect;
mod figures;
mod html;
mod tables;
mod text;
pub mod verdict;
pub mod worst;

pub use html::render;
pub use verdict::summary;

use super::engine::Filter;
use super::window::Window;
use crate::insight::BAD_PLACE;
use callsight_fold::FoldSettings;
use callsight_fold::series::judgement::Judgement;
use callsight_frame::subject::Region;

/// The most points that a chart has along its time.
pub const POINTS: usize = 240;

/// By what a session is degraded: the fold's signals, and any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The round-trip time.
    Rtt,
    /// Audio.
    Audio,
    /// Video.
    Video,
    /// At least one of these.
    Any,
}

impl By {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 4] = [Self::Rtt, Self::Audio, Self::Video, Self::Any];
    /// Those that are measured.
    pub const SIGNALS: [Self; 3] = [Self::Rtt, Self::Audio, Self::Video];

    /// As the label of the series has it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rtt => "rtt",
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Any => "any",
        }
    }

    /// As people say it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Rtt => "round trip",
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Any => "any signal",
        }
    }

    fn all_of(judgement: &Judgement) -> [bool; 4] {
        [judgement.rtt, judgement.audio, judgement.video, judgement.is_degraded()]
    }
}

/// What was asked for, as far as the page tells it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The regions.
    pub regions: Vec<Region>,
    /// The window and its steps.
    pub window: Window,
    /// Which frames.
    pub filter: Filter,
    /// How frames are folded and judged.
    pub fold: FoldSettings,
    /// Whether the hub's copies were read.
    pub mirror: bool,
    /// What would make the page again, without how to connect.
    pub command: String,
}

impl Settings {
    /// From how many degraded sessions on it is bad. Who asks for one call is interested in each session of it.
    #[must_use]
    pub const fn floor(&self) -> u32 {
        if self.filter.is_open() { BAD_PLACE.1 } else { 1 }
    }

    /// Whether so many of so many are bad.
    #[must_use]
    pub fn is_bad(&self, degraded: u32, live: u32) -> bool {
        degraded >= self.floor() && f64::from(degraded) >= BAD_PLACE.0 * f64::from(live)
    }

    /// How many steps a point of a chart stands for.
    #[must_use]
    pub fn stride(&self) -> usize {
        let Window { from, to, step, .. } = self.window;
        let steps = to.since(from).as_nanos() / step.as_nanos().max(1) + 1;
        usize::try_from(steps).unwrap_or(usize::MAX).div_ceil(POINTS).max(1)
    }
}

/// A count as a number to draw.
#[expect(clippy::cast_precision_loss, reason = "nobody draws 2^53 of anything")]
const fn float(count: usize) -> f64 {
    count as f64
}

/// A measure in half the memory.
#[expect(clippy::cast_possible_truncation, reason = "a chart shows no more than three digits")]
const fn narrow(value: f64) -> f32 {
    value as f32
}
