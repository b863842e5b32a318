//! The series: their declarations, their values, and the page that shows them.
//!
//! The stream holds the unbounded truth, Prometheus a bounded view of it. That view has two kinds
//! of series with opposite lives, so there are two recorders of the `metrics` crate: [`aggregates`]
//! are few and stay, and the exporter library writes them; [`detail`] rows are many and die with
//! their session, and we write them ourselves. [`catalogue`] declares both, [`exposition`] writes
//! the page. Readers in this process take typed values from the recorders.
//!
//! Invariant: every value on the page can be had as a number, without parsing text.

pub mod aggregates;
pub mod catalogue;
pub mod detail;
pub mod exposition;
mod histogram;
pub mod judgement;
pub mod labels;
mod recorder;
