//! Replaces an exporter by a new version of it, without a gap.
//!
//! An exporter holds state that takes a while to build, and everybody looks at it during an
//! incident: a process that has started is not yet a process that is right. So two exporters run
//! side by side, blue and green, each with a durable of its own on the same stream:
//!
//! - [`compare`] waits until green is warm, caught up and agrees with blue over a window, as
//!   [`judge`] decides;
//! - [`retire`] deletes blue's durable once nothing reads it any more;
//! - [`plan`] orders the steps of a deployment over several regions, [`deploy`] runs them with helm
//!   and kubectl ([`cluster`]), stops at the first gate that fails and rolls back, and [`report`]
//!   records what was measured.
//!
//! Invariant: an exporter is never stopped before another one that agrees with it serves in its
//! place, unless the operator skips the gates.

mod certificate;
mod cluster;
mod colour;
pub(crate) mod compare;
pub(crate) mod deploy;
mod diff;
pub(crate) mod exporters;
pub(crate) mod fleet;
mod gates;
pub(crate) mod judge;
mod page;
pub(crate) mod plan;
mod releases;
pub(crate) mod report;
pub(crate) mod retire;
pub(crate) mod run;
mod steps;
pub(crate) mod table;
