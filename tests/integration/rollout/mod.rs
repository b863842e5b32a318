//! From one exporter to the next: may the new one take over, and what is left of the old one.

mod compare;
mod deploy;
mod fleet;
mod retire;
mod stage;
mod workflow;
