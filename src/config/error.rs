//! What can be wrong with the settings, as one line each.
//!
//! Clap explains an error over several lines, with usage. In the log of a container that will not start, one line
//! that names the setting and what to write is worth more. So its errors are put into words here, from their kind
//! and context, in the terms of the layer that the value came from.

use std::fmt;
use std::io;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use super::file::File;
use super::layers::environment_name;

/// The settings cannot be used.
///
/// It and its source make one line, lower case, without secrets.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag or an environment variable is wrong, or a value of whatever source.
    #[error("{0}")]
    Rejected(String),
    /// The file cannot be read.
    #[error("cannot read `{}`, the file that `--config` names", one_line(&path.display().to_string()))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is no TOML, or says what no command understands.
    #[error("{place}: {problem}")]
    File {
        /// Where.
        place: Place,
        /// What.
        problem: Problem,
    },
}

/// A line of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) path: PathBuf,
    pub(super) line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.path.display().to_string()))?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is no TOML.
    #[error("not valid TOML: {}", one_line(.0))]
    Syntax(String),
    /// A key that is no flag.
    #[error("unknown key `{}`; {advice}", one_line(key))]
    UnknownKey {
        /// As it was written.
        key: String,
        /// What to write instead, or where to look.
        advice: String,
    },
    /// A table that is no command.
    #[error("unknown table `[{}]`; {advice}", one_line(table))]
    UnknownTable {
        /// As it was written.
        table: String,
        /// What to write instead.
        advice: String,
    },
    /// A key that is there twice, once with `-` and once with `_`.
    #[error("`{key}` is given twice, first in line {earlier}")]
    Repeated {
        /// As a flag is written.
        key: String,
        /// The line of the first.
        earlier: usize,
    },
    /// A command that is given a value.
    #[error("`{0}` is a command, so its settings go in a table `[{0}]`")]
    NotATable(String),
    /// A flag that is given a table, or a list it does not take.
    #[error("`{key}` takes a single value{}", if *list { " or a list of them" } else { "" })]
    Shape {
        /// As the flag is written.
        key: String,
        /// Whether it can be repeated.
        list: bool,
    },
    /// The file says which file to read.
    #[error("`config` cannot be set in the file that it names; use `--config` or `CALLSIGHT_CONFIG`")]
    NamesItself,
}

impl Problem {
    /// A key of `command`'s table that is none of those `known` there.
    pub(super) fn unknown_key(key: &str, known: &[&str], command: &Command, root: &Command) -> Self {
        let flag = key.replace('_', "-");
        let advice = if let Some(commands) = commands_with(root, &flag) {
            format!("it belongs to {commands}")
        } else if let Some(known) = nearest(&flag, known.iter().copied()) {
            did_you_mean(known)
        } else {
            let command = if command.has_subcommands() { "<command>" } else { command.get_name() };
            format!("keys are named after flags, which `callsight {command} --help` lists")
        };
        Self::UnknownKey { key: key.to_owned(), advice }
    }

    /// A table where those of the subcommands of `command` can stand.
    pub(super) fn unknown_table(table: &str, command: &Command) -> Self {
        let advice = match nearest(table, command.get_subcommands().map(Command::get_name)) {
            Some(known) => format!("did you mean `[{known}]`?"),
            None => format!(
                "a table is named after a command, {}",
                list(command.get_subcommands().map(Command::get_name))
            ),
        };
        Self::UnknownTable { table: table.to_owned(), advice }
    }
}

/// Where the value came from that clap refused.
#[derive(Clone, Copy)]
pub(super) enum Layer<'a> {
    Flags,
    Environment,
    File(&'a File),
}

/// Puts an error of `command` into words.
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
            let advice = if let Some(commands) = commands_with(command, flag.trim_start_matches('-')) {
                format!("it goes after {commands}")
            } else if let Some(known) = context.last(ContextKind::SuggestedArg) {
                did_you_mean(known)
            } else {
                "`--help` lists them".to_owned()
            };
            format!("unknown flag `{flag}`; {advice}")
        }
        ErrorKind::UnknownArgument => format!("unexpected argument `{}`", redacted(culprit)),
        ErrorKind::InvalidSubcommand => {
            let unknown = context.text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let advice = match context.last(ContextKind::SuggestedSubcommand) {
                Some(known) => did_you_mean(known),
                None => "`--help` lists them".to_owned(),
            };
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

/// A value is wrong: its own terms depend on where it was written.
fn value_rejected(context: &Context<'_>, command: &Command, layer: Layer<'_>) -> String {
    let culprit = context.text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = flag_name(culprit).unwrap_or(culprit);
    let (place, name) = match layer {
        Layer::Flags => (String::new(), format!("--{flag}")),
        Layer::Environment => (String::new(), environment_name(flag)),
        Layer::File(file) => {
            (file.place(flag).map(|place| format!("{place}: ")).unwrap_or_default(), flag.to_owned())
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

/// What clap says about an error of its own.
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

    /// The only one, or the best: clap sorts what it suggests from worst to best.
    fn last(&self, kind: ContextKind) -> Option<&'a str> {
        self.all(kind).last().map(String::as_str)
    }
}

/// `idle-timeout` out of `--idle-timeout <DURATION>`.
fn flag_name(usage: &str) -> Option<&str> {
    let name = usage.strip_prefix("--")?;
    name.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_').next()
}

fn find<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
    own.or_else(|| command.get_subcommands().find_map(|subcommand| find(subcommand, flag)))
}

/// The commands within `command` that have a flag, if there are any, as a list.
fn commands_with(command: &Command, flag: &str) -> Option<String> {
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

/// Which of the names that there are was probably meant. The measure and its bound are those that clap uses for flags.
pub(crate) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::jaro(unknown, name), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

pub(crate) fn did_you_mean(name: &str) -> String {
    format!("did you mean `{name}`?")
}

/// `a`, `b` or `c`.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// A text without what stands before an `@`: it may be a URL in the wrong place, with a password in it.
fn redacted(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((secret, host)) => {
            let scheme =
                secret.split_once("://").map(|(scheme, _)| format!("{scheme}://")).unwrap_or_default();
            format!("{scheme}***@{host}")
        }
        None => text.to_owned(),
    }
}

/// A text with its control characters escaped, so that it stays in its line and cannot steer a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}
