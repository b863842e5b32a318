//! Flags over environment over file over defaults.
//!
//! Clap has two layers, the command line and a default for each flag. The others go between them by
//! replacing defaults, first with the file's values, then with the environment's. Layers are added
//! one at a time from the top down, with a parse after each, so the first parse that fails tells
//! which layer is wrong.
//!
//! Invariant: every value is read by its flag's parser, whichever layer it comes from.

use std::ffi::OsString;

use clap::builder::{BoolValueParser, ValueParser};
use clap::error::ErrorKind;
use clap::{ArgAction, Command, Parser};

use super::contents::read_text;
use super::error::{ConfigError, Layer, rejected};
use super::file::{File, ReadFile};

/// The flag that names the file, and so the only one that the file can't set.
pub(super) const CONFIG_FLAG: &str = "config";

/// Returns the environment variable of a flag: `CALLSIGHT_IDLE_TIMEOUT` for `idle-timeout`.
pub fn environment_name(flag: &str) -> String {
    format!("CALLSIGHT_{}", flag.to_uppercase().replace('-', "_"))
}

/// The request of a command line.
pub enum Parsed<C> {
    /// Run a command.
    Command(C),
    /// Show help or the version: [`clap::Error::print`] writes it to stdout.
    Show(clap::Error),
}

/// Parses the command line `arguments` (the program's name first), the environment, and the TOML
/// file that `--config` names, if given. An empty environment variable counts as unset.
///
/// # Errors
/// The first problem found.
pub fn parse<C: Parser>(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Parsed<C>, ConfigError> {
    parse_with(arguments, environment, &read_text)
}

/// [`parse`] with a reader for the file.
pub(crate) fn parse_with<C: Parser>(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
    read_file: ReadFile<'_>,
) -> Result<Parsed<C>, ConfigError> {
    let command = uniform(C::command());
    let flag_only = relaxed(command.clone());
    match flag_only.clone().try_get_matches_from(arguments) {
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Help names the environment variables, which this command does not declare.
            let shown = documented(command).try_get_matches_from(arguments).err().unwrap_or(error);
            return Ok(Parsed::Show(shown));
        }
        Err(error) => return Err(rejected(&error, &flag_only, Layer::Flags)),
        Ok(_) => {}
    }

    let from_environment = |flag: &str| {
        let value = environment(&environment_name(flag)).filter(|value| !value.is_empty())?;
        Some(vec![value])
    };
    let with_environment = with_defaults(flag_only, &from_environment);
    let matches = with_environment
        .clone()
        .try_get_matches_from(arguments)
        .map_err(|error| rejected(&error, &with_environment, Layer::Environment))?;

    // The names of the selected command and of those around it, outermost first.
    let (mut selected, mut innermost) = (Vec::new(), &matches);
    while let Some((name, matches)) = innermost.subcommand() {
        selected.push(name);
        innermost = matches;
    }
    let file = match innermost.try_get_raw(CONFIG_FLAG).ok().flatten().and_then(|mut paths| paths.next()) {
        Some(path) => File::read(path.as_ref(), read_file, &command, &selected)?,
        None => File::default(),
    };
    let complete = with_defaults(with_defaults(command, &|flag| file.values(flag)), &from_environment);
    complete
        .clone()
        .try_get_matches_from(arguments)
        .and_then(|matches| C::from_arg_matches(&matches))
        .map(Parsed::Command)
        .map_err(|error| rejected(&error, &complete, Layer::File(&|flag| file.place(flag))))
}

/// Makes switches take `true` and `false`, so that the command line can override `create = true` in
/// the file, and makes missing arguments an ordinary error.
pub(super) fn uniform(command: Command) -> Command {
    let switch = |arg: clap::Arg| {
        if !matches!(arg.get_action(), ArgAction::SetTrue) {
            return arg;
        }
        let default = arg.get_default_values().first().cloned().unwrap_or_else(|| "false".into());
        arg.action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_parser(ValueParser::from(BoolValueParser::new()))
            .value_name("true|false")
            .hide_possible_values(true)
            .default_value(default)
            .default_missing_value("true")
    };
    command.arg_required_else_help(false).mut_args(switch).mut_subcommands(uniform)
}

/// Makes every flag optional, since a lower layer may set it.
fn relaxed(command: Command) -> Command {
    command.mut_args(|arg| arg.required(false)).mut_subcommands(relaxed)
}

/// Adds the environment variables that help shows.
fn documented(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_long().map(environment_name) {
            Some(name) => arg.env(name).hide_env_values(true),
            None => arg,
        })
        .mut_subcommands(documented)
}

/// Makes the values of `layer` the defaults.
fn with_defaults(command: Command, layer: &dyn Fn(&str) -> Option<Vec<OsString>>) -> Command {
    command
        .mut_args(|arg| match arg.get_long().and_then(layer) {
            Some(values) => arg.required(false).default_values(values),
            None => arg,
        })
        .mut_subcommands(|subcommand| with_defaults(subcommand, layer))
}
