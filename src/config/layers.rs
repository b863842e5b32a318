//! Flags over environment over file over defaults.
//!
//! Clap knows two layers, the command line and a default for each flag. The others are laid between these by
//! replacing defaults: first with what the file says, then with what the environment says. The layers are added one
//! at a time with a parse after each, from the top down, so the first parse to fail tells which layer is wrong.

use std::ffi::{OsStr, OsString};
use std::fs;

use clap::builder::{BoolValueParser, ValueParser};
use clap::error::ErrorKind;
use clap::{ArgAction, ArgMatches, Command, Parser};

use super::error::{ConfigError, Layer, rejected};
use super::file::{File, ReadFile};

/// The flag that names the file. The one flag that the file cannot hold.
pub(super) const CONFIG_FLAG: &str = "config";

/// What a command line asked for.
pub enum Parsed<C> {
    /// To run a command.
    Command(C),
    /// To be shown something, help or the version. [`clap::Error::print`] writes it to stdout.
    Show(clap::Error),
}

/// Reads the command line `arguments` (with the program's name first), the environment through `environment`, and
/// the TOML file that `--config` names, if one of these gives it.
///
/// An environment variable that is set but empty counts as unset.
///
/// # Errors
///
/// The first thing found wrong, as one line.
pub fn parse<C: Parser>(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Parsed<C>, ConfigError> {
    parse_with(arguments, environment, &|path| fs::read_to_string(path))
}

/// [`parse`], with the file's text from elsewhere than the disk.
pub(crate) fn parse_with<C: Parser>(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
    read_file: ReadFile<'_>,
) -> Result<Parsed<C>, ConfigError> {
    let command = uniform(C::command());
    let flag_only = relaxed(command.clone());
    match flag_only.clone().try_get_matches_from(arguments) {
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Help names the environment variables; the command that failed does not know them.
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

    let file = match config_path(&matches) {
        Some(path) => File::read(path.as_ref(), read_file, &command, &selected(&matches))?,
        None => File::default(),
    };
    let complete = with_defaults(with_defaults(command, &|flag| file.values(flag)), &from_environment);
    complete
        .clone()
        .try_get_matches_from(arguments)
        .and_then(|matches| C::from_arg_matches(&matches))
        .map(Parsed::Command)
        .map_err(|error| rejected(&error, &complete, Layer::File(&file)))
}

/// The environment variable of a flag: `CALLSIGHT_IDLE_TIMEOUT` for `idle-timeout`.
pub fn environment_name(flag: &str) -> String {
    format!("CALLSIGHT_{}", flag.to_uppercase().replace('-', "_"))
}

/// Makes switches take `true` and `false` as every other flag takes its value. Without it, `create = true` in the
/// file could not be countermanded on the command line. A lack of arguments is an error like any other.
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

/// The command with nothing required: what is missing may come from a layer below.
fn relaxed(command: Command) -> Command {
    command.mut_args(|arg| arg.required(false)).mut_subcommands(relaxed)
}

/// The command as help shows it.
fn documented(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_long().map(environment_name) {
            Some(name) => arg.env(name).hide_env_values(true),
            None => arg,
        })
        .mut_subcommands(documented)
}

/// The command with the values that `layer` knows as defaults.
fn with_defaults(command: Command, layer: &dyn Fn(&str) -> Option<Vec<OsString>>) -> Command {
    command
        .mut_args(|arg| match arg.get_long().and_then(layer) {
            Some(values) => arg.required(false).default_values(values),
            None => arg,
        })
        .mut_subcommands(|subcommand| with_defaults(subcommand, layer))
}

/// The names of the command chosen and of those it is nested in, outermost first.
fn selected(matches: &ArgMatches) -> Vec<&str> {
    std::iter::successors(matches.subcommand(), |(_, matches)| matches.subcommand())
        .map(|(name, _)| name)
        .collect()
}

/// The file that the command chosen is to read.
fn config_path(matches: &ArgMatches) -> Option<&OsStr> {
    let mut matches = matches;
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    matches.try_get_raw(CONFIG_FLAG).ok()??.next()
}
