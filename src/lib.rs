//! Callsight tells the people who run video calls how those calls feel, while it happens and afterwards.

pub mod cli;
pub mod config;
pub mod subject;
