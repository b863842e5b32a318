//! Settings: where they come from, and what they may be.
//!
//! The same program is tried out from a shell, deployed by a chart and run as a service, and each of these has its
//! own natural way to say a setting: a flag, an environment variable, a file. Three declarations of one setting
//! would drift apart. So there is one, the flag, as a field of a command's clap `Args`; its environment variable,
//! its key in the TOML file and its row in `docs/configuration.md` all follow from its name:
//!
//! | flag | environment | TOML key |
//! |---|---|---|
//! | `--idle-timeout` | `CALLSIGHT_IDLE_TIMEOUT` | `idle-timeout` |
//!
//! Flags win over the environment, the environment over the file, the file over the defaults. [`parse`] gives each
//! layer to clap as the *default* of the one above it, so that a value is read by the same parser wherever it was
//! written, and reports whatever is wrong as one line that says where it is and what to write instead.
//!
//! This module knows no command. The types below it hands out are validated: one that exists can be acted on.

mod error;
mod file;
mod layers;
mod reference;
mod settings;
mod value;

pub use error::ConfigError;
pub(crate) use error::{did_you_mean, nearest, one_line};
pub(crate) use file::ReadFile;
pub(crate) use layers::parse_with;
pub use layers::{Parsed, environment_name, parse};
pub use reference::reference;
pub use settings::{InvalidNatsUrl, Login, NatsConfig, NatsIdentity, NatsTls, NatsUrl};
pub(crate) use value::{duration, duration_between, positive, ratio, socket_address, whole};

#[cfg(test)]
mod tests;
