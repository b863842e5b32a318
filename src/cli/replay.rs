//! `callsight replay`: an incident, read from the stream into the tools that people use.

mod args;
mod config;
mod heal;
mod run;

pub(crate) use args::ReplayArgs;
pub(crate) use run::run;
