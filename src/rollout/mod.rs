//! Putting a new version of the exporter in the place of the old one, without a gap and without a guess.
//!
//! An exporter holds state that took a while to build, and everybody looks at it during an incident: a new version that
//! starts is not yet one that is right. So two run side by side, blue and green, each with a durable of its own on the
//! same stream, and "green" has to mean ready:
//!
//! - [`compare`] waits until green is warm, caught up and of one opinion with blue ([`judge`]) over a window;
//! - [`retire`] deletes blue's durable once nothing reads it any more, and never before;
//! - [`plan`] puts the steps of a deployment over several regions in order, [`deploy`] runs them through helm and
//!   kubectl ([`cluster`]), stops at the first gate that fails and takes back what it changed, and [`report`] tells what
//!   was measured.

mod certificate;
mod cluster;
pub(crate) mod colour;
pub(crate) mod compare;
pub(crate) mod deploy;
mod diff;
pub(crate) mod fleet;
mod gates;
pub(crate) mod judge;
mod page;
pub(crate) mod plan;
mod releases;
pub(crate) mod report;
pub(crate) mod retire;
mod steps;
pub(crate) mod table;
