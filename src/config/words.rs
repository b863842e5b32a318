//! Text for messages about settings.
//!
//! Invariant: what comes from outside is shown on one line, without control characters or
//! passwords.

use std::error::Error;
use std::iter;

/// Returns the known name that was probably meant. Measure and bound are those that clap uses for
/// flags.
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

/// Joins names as `a`, `b` or `c`.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// Hides what stands before an `@`: the text may be a URL in the wrong place, with a password in
/// it.
pub(super) fn redacted(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((secret, host)) => {
            let scheme =
                secret.split_once("://").map(|(scheme, _)| format!("{scheme}://")).unwrap_or_default();
            format!("{scheme}***@{host}")
        }
        None => text.to_owned(),
    }
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let chain = iter::successors(Some(error), |&error| error.source());
    one_line(&chain.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// Escapes control characters, so that a text stays in its line and can't control a terminal.
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
