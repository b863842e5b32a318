//! The reference of all settings, in Markdown.
//!
//! Invariant: it is rendered from the declaration of the flags alone, so it can't differ from the
//! program.

use clap::{Arg, Command};

use super::layers::{CONFIG_FLAG, environment_name, uniform};

/// Renders a section for each command within `command`, with a table of its settings.
pub fn reference(command: Command) -> String {
    let mut text = String::new();
    let name = command.get_name().to_owned();
    for subcommand in uniform(command).get_subcommands() {
        section(&mut text, &name, subcommand);
    }
    text
}

fn section(text: &mut String, parent: &str, command: &Command) {
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    text.push_str(&format!("\n## `{name}`\n\n{about}.\n"));
    let mut flags = command.get_arguments().filter(|arg| arg.get_long().is_some()).peekable();
    if flags.peek().is_some() {
        text.push_str("\n| flag | environment | TOML key | default | meaning |\n|---|---|---|---|---|\n");
    }
    for arg in flags {
        text.push_str(&row(arg));
    }
    for subcommand in command.get_subcommands() {
        section(text, &name, subcommand);
    }
}

fn row(arg: &Arg) -> String {
    let flag = arg.get_long().unwrap_or_default();
    let environment = environment_name(flag);
    let key = if flag == CONFIG_FLAG { String::new() } else { format!("`{flag}`") };
    let default = match arg.get_default_values() {
        [] if arg.is_required_set() => "required".to_owned(),
        [] => String::new(),
        values => {
            let values: Vec<_> = values.iter().map(|value| value.to_string_lossy()).collect();
            format!("`{}`", values.join(","))
        }
    };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut meaning = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    if !meaning.ends_with('.') {
        meaning.push('.');
    }
    for value in arg.get_possible_values().iter().filter(|_| !arg.is_hide_possible_values_set()) {
        let name = value.get_name();
        let help = value.get_help().map(|help| format!(": {help}")).unwrap_or_default();
        meaning.push_str(&format!("<br>`{name}`{help}"));
    }
    format!("| `--{flag}` | `{environment}` | {key} | {default} | {meaning} |\n")
}
