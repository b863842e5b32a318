//! Settings: where they come from, and which values they take.
//!
//! A shell, a Helm chart and a service manager each have their natural way to set something: a
//! flag, an environment variable, a file. Three declarations of one setting would drift apart. So
//! each is declared once, as a flag in a command's clap `Args`; its environment variable, its key
//! in the TOML file and its row in `docs/configuration.md` follow from its name:
//!
//! | flag | environment | TOML key |
//! |---|---|---|
//! | `--idle-timeout` | `CALLSIGHT_IDLE_TIMEOUT` | `idle-timeout` |
//!
//! Flags win over the environment, the environment over the file, the file over the defaults.
//! [`parse`] passes each layer to clap as the *default* of the one above, and reports a problem as
//! one line that says where it is and what to write instead.
//!
//! Invariant: the types of this module are validated, so one that exists can be acted on. The
//! module depends on no command.

mod contents;
mod error;
mod file;
mod layers;
mod reference;
mod settings;
mod value;
mod words;

pub(crate) use contents::{open, read_bounded, read_file, read_text};
pub use error::ConfigError;
pub(crate) use file::ReadFile;
pub(crate) use layers::parse_with;
pub use layers::{Parsed, environment_name, parse};
pub use reference::reference;
pub use settings::{InvalidNatsUrl, Login, NatsConfig, NatsIdentity, NatsTls, NatsUrl};
pub(crate) use value::{
    DAY, HOUR, MILLISECOND, MINUTE, SECOND, duration, duration_between, named, positive, ratio,
    socket_address, whole, within_a_day, within_an_hour,
};
pub(crate) use words::{chain, did_you_mean, nearest, one_line};

#[cfg(test)]
mod tests;
