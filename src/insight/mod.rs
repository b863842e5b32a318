//! Judges calls: which place is bad, since when, for how many, and in which words.
//!
//! A number alone does not tell whether a call is bad. The triage page answers that for the present, the report for
//! a past window, and the rollout compares two exporters. If each decided for itself, they would disagree about the
//! same calls. So thresholds, quantiles and the words for them exist once, here.
//!
//! Everything here is a pure function of the values passed in: it reads no clock, no series and no socket.
//!
//! Invariant: what makes a place bad is decided here and nowhere else.

pub(crate) mod quantile;
pub(crate) mod words;

/// The share of a place's live sessions that makes it bad when they are degraded, and the least number of them. It serves
/// somebody who looks at the place already; an alert, which wakes people, waits for more.
pub(crate) const BAD_PLACE: (f64, u32) = (0.1, 3);
