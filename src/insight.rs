//! Judges calls.
//!
//! A number alone does not tell whether a call is bad. The triage page and the report answer that from the same data at
//! different times, so both take the answer from here: they never disagree.
//!
//! Invariant: what makes a place bad is decided here and nowhere else.

/// The share of a place's live sessions that makes it bad when they are degraded, and the least number of them. It serves
/// somebody who looks at the place already; an alert, which wakes people, waits for more.
pub(crate) const BAD_PLACE: (f64, u32) = (0.1, 3);
