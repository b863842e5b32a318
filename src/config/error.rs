//! Errors of settings, as one line each.
//!
//! Clap explains an error on several lines, with usage. In the log of a container that does not
//! start, one line that names the setting and what to write is more useful. So clap's errors are
//! reworded here, from their kind and context, in the terms of the layer that the value came from.
//!
//! Invariant: an error and its source are one line, lower case, without secrets.

use std::io;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use super::layers::environment_name;
use super::words::{did_you_mean, list, one_line, redacted};

/// Settings that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting is wrong, unknown or missing.
    #[error("{0}")]
    Rejected(String),
    /// The file of `--config` can't be read.
    #[error("cannot read `{}`, the file that `--config` names", one_line(&path.display().to_string()))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The layer of the value that clap rejected.
#[derive(Clone, Copy)]
pub(super) enum Layer<'a> {
    Flags,
    Environment,
    /// With the line that sets a flag, as `callsight.toml:12`.
    File(&'a dyn Fn(&str) -> Option<String>),
}

/// Rewords an error of `command`.
pub(super) fn rejected(error: &clap::Error, command: &Command, layer: Layer<'_>) -> ConfigError {
    let context = Context(error);
    let culprit = context.text(ContextKind::InvalidArg).unwrap_or_default();
    let message = match error.kind() {
        ErrorKind::InvalidValue
        | ErrorKind::ValueValidation
        | ErrorKind::TooManyValues
        | ErrorKind::TooFewValues
        | ErrorKind::WrongNumberOfValues => value_rejected(&context, command, layer),
        ErrorKind::UnknownArgument if culprit.starts_with('-') => {
            let flag = flag_name(culprit).map_or_else(|| culprit.to_owned(), |name| format!("--{name}"));
            let elsewhere = commands_with(command, flag.trim_start_matches('-'));
            let advice = elsewhere.map(|commands| format!("it goes after {commands}"));
            let advice = advice.unwrap_or_else(|| context.advice(ContextKind::SuggestedArg));
            format!("unknown flag `{flag}`; {advice}")
        }
        ErrorKind::UnknownArgument => format!("unexpected argument `{}`", redacted(culprit)),
        ErrorKind::InvalidSubcommand => {
            let unknown = context.text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let advice = context.advice(ContextKind::SuggestedSubcommand);
            format!("unknown command `{}`; {advice}", redacted(unknown))
        }
        ErrorKind::MissingSubcommand => {
            let commands = context.all(ContextKind::ValidSubcommand).iter().map(String::as_str);
            format!("no command given; use {}", list(commands.filter(|name| *name != "help")))
        }
        ErrorKind::MissingRequiredArgument => {
            let flag = context.last(ContextKind::InvalidArg).and_then(flag_name).unwrap_or_default();
            let variable = environment_name(flag);
            format!(
                "`--{flag}` is required; give the flag, set `{variable}`, or set `{flag}` in the file of `--config`"
            )
        }
        ErrorKind::ArgumentConflict => match (flag_name(culprit), context.last(ContextKind::PriorArg)) {
            (Some(flag), Some(prior)) if flag_name(prior) != Some(flag) => {
                format!("`--{flag}` cannot be used with `--{}`", flag_name(prior).unwrap_or_default())
            }
            (flag, _) => format!("`--{}` is given twice", flag.unwrap_or_default()),
        },
        ErrorKind::InvalidUtf8 => match layer {
            Layer::Environment => "a variable `CALLSIGHT_…` is not valid UTF-8".to_owned(),
            Layer::Flags | Layer::File(_) => "an argument is not valid UTF-8".to_owned(),
        },
        kind => kind.as_str().unwrap_or("the command line cannot be read; see `--help`").to_owned(),
    };
    ConfigError::Rejected(one_line(&message))
}

fn value_rejected(context: &Context<'_>, command: &Command, layer: Layer<'_>) -> String {
    let culprit = context.text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = flag_name(culprit).unwrap_or(culprit);
    let (place, name) = match layer {
        Layer::Flags => (String::new(), format!("--{flag}")),
        Layer::Environment => (String::new(), environment_name(flag)),
        Layer::File(place) => {
            (place(flag).map(|place| format!("{place}: ")).unwrap_or_default(), flag.to_owned())
        }
    };
    let value = context.text(ContextKind::InvalidValue).unwrap_or_default();
    match context.0.kind() {
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {}
        _ => return format!("{place}`{name}` takes one value"),
    }
    if value.is_empty() {
        return format!("{place}`{name}` needs a value");
    }

    let invalid = if find(command, flag).is_some_and(Arg::is_hide_env_values_set) {
        format!("invalid value for `{name}`")
    } else {
        format!("invalid value `{}` for `{name}`", redacted(value))
    };
    let possible = context.all(ContextKind::ValidValue);
    let reason = if possible.is_empty() {
        std::error::Error::source(context.0).map(ToString::to_string).unwrap_or_default()
    } else {
        let suggestion = context.last(ContextKind::SuggestedValue).map(did_you_mean);
        let all = format!("it takes {}", list(possible.iter().map(String::as_str)));
        suggestion.map_or(all.clone(), |suggestion| format!("{all}; {suggestion}"))
    };
    format!("{place}{invalid}: {reason}")
}

/// The details that clap attaches to an error.
struct Context<'a>(&'a clap::Error);

impl<'a> Context<'a> {
    fn text(&self, kind: ContextKind) -> Option<&'a str> {
        match self.0.get(kind)? {
            ContextValue::String(text) => Some(text),
            _ => None,
        }
    }

    fn all(&self, kind: ContextKind) -> &'a [String] {
        match self.0.get(kind) {
            Some(ContextValue::Strings(texts)) => texts,
            Some(ContextValue::String(text)) => std::slice::from_ref(text),
            _ => &[],
        }
    }

    /// Returns what to write instead of a name that is unknown.
    fn advice(&self, suggested: ContextKind) -> String {
        self.last(suggested).map_or_else(|| "`--help` lists them".to_owned(), did_you_mean)
    }

    /// Returns the best suggestion: clap sorts them from worst to best.
    fn last(&self, kind: ContextKind) -> Option<&'a str> {
        self.all(kind).last().map(String::as_str)
    }
}

/// Extracts `idle-timeout` from `--idle-timeout <DURATION>`.
fn flag_name(usage: &str) -> Option<&str> {
    let name = usage.strip_prefix("--")?;
    name.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_').next()
}

fn find<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
    own.or_else(|| command.get_subcommands().find_map(|subcommand| find(subcommand, flag)))
}

/// Lists the commands within `command` that have a flag; `None` without any.
pub(super) fn commands_with(command: &Command, flag: &str) -> Option<String> {
    fn collect(command: &Command, flag: &str, path: &str, paths: &mut Vec<String>) {
        for subcommand in command.get_subcommands() {
            let path = format!("{path}{}", subcommand.get_name());
            if subcommand.get_arguments().any(|arg| arg.get_long() == Some(flag)) {
                paths.push(path.clone());
            }
            collect(subcommand, flag, &format!("{path} "), paths);
        }
    }
    let mut paths = Vec::new();
    collect(command, flag, "", &mut paths);
    (!paths.is_empty()).then(|| list(paths.iter().map(String::as_str)))
}
