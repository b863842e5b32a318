//! Who gets in, what they may do there, and what they can't break.

pub(crate) mod certificates;
mod connection;
mod crowd;
mod permissions;
mod web;
