//! The TOML file: a key at the top level is for every command that has a flag of that name, a table named after a
//! command is for that command alone and wins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Place, Problem};
use super::layers::CONFIG_FLAG;

/// How a file's text is had.
pub(crate) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

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
    /// Reads the file at `path` with `read`. All its keys are checked against the whole of `command`, those that
    /// concern the subcommand at the path `selected` are kept.
    pub(super) fn read(
        path: &Path,
        read: ReadFile<'_>,
        command: &Command,
        selected: &[&str],
    ) -> Result<Self, ConfigError> {
        let text = read(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let document = DeTable::parse(&text).map_err(|error| ConfigError::File {
            place: Place { path: path.to_owned(), line: error.span().map(|span| line(&text, span.start)) },
            problem: Problem::Syntax(error.message().to_owned()),
        })?;
        let mut reader = Reader { path, text: &text, root: command, settings: BTreeMap::new() };
        reader.take(document.get_ref(), command, Some(selected))?;
        Ok(Self { path: path.to_owned(), settings: reader.settings })
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
}

/// A file while it is read.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    root: &'a Command,
    settings: BTreeMap<String, Setting>,
}

impl Reader<'_> {
    /// Takes the keys of the table that belongs to `command`, then those of the tables within, which win.
    /// `selected` leads from here to the command chosen, and is `None` off its path.
    fn take(
        &mut self,
        table: &DeTable<'_>,
        command: &Command,
        selected: Option<&[&str]>,
    ) -> Result<(), ConfigError> {
        let mut tables = Vec::new();
        let mut seen = BTreeMap::new();
        // The map is in alphabetical order; people read errors from the top of a file.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);

        for (key, value) in entries {
            let line = line(self.text, key.span().start);
            let name = key.get_ref().replace('_', "-");
            let wrong = |problem| {
                let place = Place { path: self.path.to_owned(), line: Some(line) };
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
            } else if let Some(flag) = flags_within(command).find(|flag| flag.get_long() == Some(&name)) {
                match values(value, flag) {
                    Ok(values) if selected.is_some() => {
                        self.settings.insert(name, Setting { line, values });
                    }
                    Ok(_) => {}
                    Err(problem) => return wrong(problem),
                }
            } else if matches!(value.get_ref(), DeValue::Table(_)) {
                return wrong(Problem::unknown_table(key.get_ref(), command));
            } else {
                let known: Vec<_> = flags_within(command).filter_map(Arg::get_long).collect();
                return wrong(Problem::unknown_key(key.get_ref(), &known, command, self.root));
            }
        }

        for (name, table, subcommand) in tables {
            let selected = match selected {
                Some([first, rest @ ..]) if *first == name => Some(rest),
                _ => None,
            };
            self.take(table, subcommand, selected)?;
        }
        Ok(())
    }
}

/// The flags of a command and of all commands within it that a file can hold.
fn flags_within(command: &Command) -> Box<dyn Iterator<Item = &Arg> + '_> {
    let own = command.get_arguments().filter(|arg| arg.get_long().is_some_and(|flag| flag != CONFIG_FLAG));
    Box::new(own.chain(command.get_subcommands().flat_map(flags_within)))
}

/// A value as it would be written on the command line, one text for each element of a list.
fn values(value: &Spanned<DeValue<'_>>, flag: &Arg) -> Result<Vec<OsString>, Problem> {
    let name = flag.get_long().unwrap_or_default();
    let repeatable = matches!(flag.get_action(), ArgAction::Append);
    let values = match value.get_ref() {
        DeValue::Array(elements) if repeatable => {
            elements.iter().map(|element| scalar(element.get_ref())).collect()
        }
        single => scalar(single).map(|text| vec![text]),
    };
    values.ok_or_else(|| Problem::Shape { key: name.to_owned(), list: repeatable })
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
