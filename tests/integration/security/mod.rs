//! Who gets in, what they may do there, and what they can't break.

mod connection;
mod crowd;
pub(crate) mod permissions;
mod web;
