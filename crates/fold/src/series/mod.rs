//! The series: what is declared, what is kept, and how it is shown.
//!
//! The stream holds the unbounded truth, Prometheus a bounded view of it. That view has two kinds of series
//! with opposite lives, so there are two recorders, both of the `metrics` crate: [`aggregates`] are few and
//! stay, and are kept by the exporter library, but for their histograms; [`detail`] rows are many and die with
//! their session, and are kept by our own. [`catalogue`] declares both, [`exposition`] writes the page, [`reading`]
//! reads it back.

pub mod aggregates;
pub mod catalogue;
pub mod detail;
pub mod exposition;
mod histogram;
pub mod judgement;
pub mod labels;
pub mod reading;
mod recorder;
pub mod reference;
