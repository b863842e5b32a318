//! Judges calls: which place is bad, since when, for how many, and in which words.
//!
//! A number alone does not tell whether a call is bad. The triage page answers that for the
//! present, the report for a past window, and the rollout compares two exporters. If each decided
//! for itself, they would disagree about the same calls. So thresholds, quantiles and the words for
//! them exist once, here.
//!
//! The model: a [`place`] has people ([`population`]), whose numbers come from gauges and
//! [`counters`] of any source, a live exporter or a step of a replay. By them it has a [`state`];
//! followed from moment to moment it has a [`spell`]. The [`verdict`] puts the places of one moment
//! into a sentence, with its [`cause`] and the evidence for it, for which it asks whether a
//! [`client`] stands out. [`worst`] chooses whom to show.
//!
//! All of it is a pure function of the values passed in: it reads no clock, no series and no
//! socket.
//!
//! Invariant: what makes a place bad is decided here and nowhere else.

pub(crate) mod cause;
pub(crate) mod client;
pub(crate) mod counters;
pub(crate) mod place;
pub(crate) mod population;
pub(crate) mod quantile;
pub(crate) mod spell;
pub(crate) mod state;
pub(crate) mod verdict;
pub(crate) mod words;
pub(crate) mod worst;
