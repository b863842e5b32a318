//! The TOML file: a key at the top level is for every command that has a flag of that name, a key
//! in a table named after a command is for that command alone and wins.
//!
//! Invariant: every key and table is checked, those of other commands too, so that a typo never
//! waits for the day on which another command is run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, commands_with};
use super::layers::CONFIG_FLAG;
use super::words::{did_you_mean, list, nearest, one_line};

/// Reads a file's text.
pub(crate) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// The settings of a file for the selected command.
#[derive(Default)]
pub(super) struct File {
    name: String,
    text: String,
    /// By flag: where it is set, as `callsight.toml:12`, and its values.
    settings: BTreeMap<String, (String, Vec<OsString>)>,
}

impl File {
    /// Reads the file at `path`, checks all its keys against `root`, and keeps those for the
    /// subcommand at the path `selected`.
    pub(super) fn read(
        path: &Path,
        read: ReadFile<'_>,
        root: &Command,
        selected: &[&str],
    ) -> Result<Self, ConfigError> {
        let text = read(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let name = one_line(&path.display().to_string());
        let mut file = Self { name, text: text.clone(), settings: BTreeMap::new() };
        let document = DeTable::parse(&text).map_err(|error| {
            let place = error.span().map_or_else(|| file.name.clone(), |span| file.place_of(span.start));
            let problem = one_line(error.message());
            ConfigError::Rejected(format!("{place}: not valid TOML: {problem}"))
        })?;
        file.take(document.get_ref(), root, root, Some(selected))?;
        Ok(file)
    }

    /// Returns the values of a flag. An empty list counts as absent.
    pub(super) fn values(&self, flag: &str) -> Option<Vec<OsString>> {
        self.settings.get(flag).map(|(_, values)| values.clone()).filter(|values| !values.is_empty())
    }

    /// Returns the line that sets a flag, as `callsight.toml:12`.
    pub(super) fn place(&self, flag: &str) -> Option<String> {
        self.settings.get(flag).map(|(place, _)| place.clone())
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    fn place_of(&self, offset: usize) -> String {
        format!("{}:{}", self.name, self.line(offset))
    }

    /// Takes the keys of the table of `command`, then those of the tables within, which win.
    /// `selected` leads from here to the selected command, and is `None` off its path.
    fn take(
        &mut self,
        table: &DeTable<'_>,
        root: &Command,
        command: &Command,
        selected: Option<&[&str]>,
    ) -> Result<(), ConfigError> {
        let mut tables = Vec::new();
        let mut seen = BTreeMap::new();
        // The map is in alphabetical order; people read errors from the top of a file.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);

        for (key, value) in entries {
            let place = self.place_of(key.span().start);
            let name = key.get_ref().replace('_', "-");
            let wrong = |problem: String| Err(ConfigError::Rejected(format!("{place}: {problem}")));

            if let Some(earlier) = seen.insert(name.clone(), self.line(key.span().start)) {
                return wrong(format!("`{name}` is given twice, first in line {earlier}"));
            }
            if let Some(subcommand) = command.find_subcommand(&name) {
                match value.get_ref() {
                    DeValue::Table(table) => tables.push((name, table, subcommand)),
                    _ => {
                        return wrong(format!(
                            "`{name}` is a command, so its settings go in a table `[{name}]`"
                        ));
                    }
                }
            } else if name == CONFIG_FLAG {
                return wrong(
                    "`config` cannot be set in the file that it names; use `--config` or `CALLSIGHT_CONFIG`"
                        .to_owned(),
                );
            } else if let Some(flag) = flags_within(command).find(|flag| flag.get_long() == Some(&name)) {
                let list = matches!(flag.get_action(), ArgAction::Append);
                let Some(values) = values(value, list) else {
                    let more = if list { " or a list of them" } else { "" };
                    return wrong(format!("`{name}` takes a single value{more}"));
                };
                if selected.is_some() {
                    self.settings.insert(name, (place, values));
                }
            } else if matches!(value.get_ref(), DeValue::Table(_)) {
                return wrong(unknown_table(key.get_ref(), command));
            } else {
                return wrong(unknown_key(key.get_ref(), &name, command, root));
            }
        }

        for (name, table, subcommand) in tables {
            let selected = match selected {
                Some([first, rest @ ..]) if *first == name => Some(rest),
                _ => None,
            };
            self.take(table, root, subcommand, selected)?;
        }
        Ok(())
    }
}

fn unknown_key(key: &str, flag: &str, command: &Command, root: &Command) -> String {
    let advice = if let Some(commands) = commands_with(root, flag) {
        format!("it belongs to {commands}")
    } else if let Some(known) = nearest(flag, flags_within(command).filter_map(Arg::get_long)) {
        did_you_mean(known)
    } else {
        let command = if command.has_subcommands() { "<command>" } else { command.get_name() };
        format!("keys are named after flags, which `callsight {command} --help` lists")
    };
    format!("unknown key `{}`; {advice}", one_line(key))
}

fn unknown_table(table: &str, command: &Command) -> String {
    let names = || command.get_subcommands().map(Command::get_name);
    let advice = match nearest(table, names()) {
        Some(known) => format!("did you mean `[{known}]`?"),
        None => format!("a table is named after a command, {}", list(names())),
    };
    format!("unknown table `[{}]`; {advice}", one_line(table))
}

/// Returns the flags of a command and of all commands within it that a file can set.
fn flags_within(command: &Command) -> Box<dyn Iterator<Item = &Arg> + '_> {
    let own = command.get_arguments().filter(|arg| arg.get_long().is_some_and(|flag| flag != CONFIG_FLAG));
    Box::new(own.chain(command.get_subcommands().flat_map(flags_within)))
}

/// Converts a value to texts as on the command line, one for each element of a list; `None` for
/// other shapes.
fn values(value: &Spanned<DeValue<'_>>, list: bool) -> Option<Vec<OsString>> {
    match value.get_ref() {
        DeValue::Array(elements) if list => {
            elements.iter().map(|element| scalar(element.get_ref())).collect()
        }
        single => scalar(single).map(|text| vec![text]),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<OsString> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(decimal) => decimal.to_string(),
            Err(_) => number.to_string(),
        },
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(moment) => moment.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => return None,
    };
    Some(text.into())
}
