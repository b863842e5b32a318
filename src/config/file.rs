//! The TOML file: a key at the top level is for every command that has a flag of that name, a table named after a
//! command is for that command alone and wins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Place, Problem};
use super::layers::CONFIG_FLAG;

/// What a file says about the command chosen.
#[derive(Default)]
pub(super) struct File {
    path: PathBuf,
    settings: BTreeMap<String, Setting>,
}

struct Setting {
    line: usize,
    values: Vec<OsString>,
}

impl File {
    /// Reads the file at `path`. All its keys are checked against the whole of `command`, those that concern the
    /// subcommand at the path `selected` are kept.
    pub(super) fn read(path: &Path, command: &Command, selected: &[&str]) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let document = DeTable::parse(&text).map_err(|error| ConfigError::File {
            place: Place { path: path.to_owned(), line: error.span().map(|span| line(&text, span.start)) },
            problem: Problem::Syntax(error.message().to_owned()),
        })?;
        let mut file = Self { path: path.to_owned(), settings: BTreeMap::new() };
        file.take(&text, document.get_ref(), command, Some(selected))?;
        Ok(file)
    }

    /// What the file says about a flag. An empty list says nothing.
    pub(super) fn values(&self, flag: &str) -> Option<Vec<OsString>> {
        self.settings.get(flag).map(|setting| setting.values.clone()).filter(|values| !values.is_empty())
    }

    /// Where the file says it.
    pub(super) fn place(&self, flag: &str) -> Option<Place> {
        let line = self.settings.get(flag)?.line;
        Some(Place { path: self.path.clone(), line: Some(line) })
    }

    /// Takes the keys of the table that belongs to `command`, then those of the tables within, which win.
    /// `selected` leads from here to the command chosen, and is `None` off its path.
    fn take(
        &mut self,
        text: &str,
        table: &DeTable<'_>,
        command: &Command,
        selected: Option<&[&str]>,
    ) -> Result<(), ConfigError> {
        let flags = flags_within(command);
        let mut tables = Vec::new();
        let mut seen = BTreeMap::new();
        // The map is in alphabetical order; people read errors from the top of a file.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);

        for (key, value) in entries {
            let line = line(text, key.span().start);
            let written: &str = key.get_ref();
            let name = written.replace('_', "-");
            let wrong = |problem| {
                let place = Place { path: self.path.clone(), line: Some(line) };
                Err(ConfigError::File { place, problem })
            };

            if let Some(earlier) = seen.insert(name.clone(), line) {
                return wrong(Problem::Repeated { key: name, earlier });
            }
            if let Some(subcommand) = command.find_subcommand(&name) {
                match value.get_ref() {
                    DeValue::Table(table) => tables.push((name, table, subcommand)),
                    _ => return wrong(Problem::NotATable(name)),
                }
            } else if name == CONFIG_FLAG {
                return wrong(Problem::NamesItself);
            } else if flags.contains(&name.as_str()) {
                let Some(values) = values(value) else { return wrong(Problem::NotAValue(name)) };
                if selected.is_some() {
                    self.settings.insert(name, Setting { line, values });
                }
            } else if matches!(value.get_ref(), DeValue::Table(_)) {
                let commands: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
                return wrong(Problem::unknown_table(written, &commands));
            } else {
                let help = if command.has_subcommands() { "callsight <command>" } else { command.get_name() };
                return wrong(Problem::unknown_key(written, help, &flags));
            }
        }

        for (name, table, subcommand) in tables {
            let selected = match selected {
                Some([first, rest @ ..]) if *first == name => Some(rest),
                _ => None,
            };
            self.take(text, table, subcommand, selected)?;
        }
        Ok(())
    }
}

/// The flags of a command and of all commands within it that a file can hold.
fn flags_within(command: &Command) -> Vec<&str> {
    let own = command.get_arguments().filter_map(clap::Arg::get_long).filter(|flag| *flag != CONFIG_FLAG);
    let nested = command.get_subcommands().flat_map(flags_within);
    own.chain(nested).collect()
}

/// A value as it would be written on the command line, one text for each element of a list.
fn values(value: &Spanned<DeValue<'_>>) -> Option<Vec<OsString>> {
    match value.get_ref() {
        DeValue::Array(elements) => elements.iter().map(|element| scalar(element.get_ref())).collect(),
        single => Some(vec![scalar(single)?]),
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

/// The line, from 1, of a byte of a text.
fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}
