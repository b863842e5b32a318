//! The HTTP server that commands share: a listener with limits, behind a gate.
//!
//! Whoever serves HTTP needs TLS, passwords, deadlines for slow clients, a bound on connections and
//! an orderly end, and a weak copy of any of these would be the way in. So they are here once, and
//! a command brings only its routes.
//!
//! Invariant: this module knows no route, and no command listens without it.

mod basic_auth;
mod connections;
mod gate;
mod listener;
pub(crate) mod negotiate;
mod open_files;
mod web_config;

pub(crate) use gate::{Gate, PROBES};
pub(crate) use listener::{PeerAddress, protocol, serve};
pub(crate) use open_files::raise_limit;
pub use web_config::WebConfigError;
