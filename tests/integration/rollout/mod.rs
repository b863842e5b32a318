//! Rollouts: whether a new exporter may take over, and what remains of the old one.

mod compare;
mod deploy;
mod fleet;
mod hostile;
mod retire;
mod stage;
mod workflow;
