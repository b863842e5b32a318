//! The report: a page for the meeting after the incident.
//!
//! When an incident is over, people ask how bad it was, for whom, from when to when, and who had it
//! worst. The series have the answers, but somebody has to put them together by hand, differently
//! each time. So a replay can become a page that answers these questions in their order, with the
//! definitions beside the figures. It needs nothing but itself: it can be mailed, printed, and
//! opened in ten years.
//!
//! - `collect` gathers while the steps go by; its memory grows with live series and steps, not with
//!   frames;
//! - `scores` keeps who had it worst, and when;
//! - `verdict` determines when it began and ended, and puts it into a sentence;
//! - `charts` draws;
//! - `page` fills the template with `tables`, `figures` writes the same for programs.
//!
//! Invariant: the page, its figures for programs and the lines on the terminal state the same
//! numbers.

mod charts;
pub(super) mod collect;
mod figures;
mod page;
mod scores;
mod signals;
mod tables;
mod text;
pub(super) mod verdict;

pub(super) use page::render;
