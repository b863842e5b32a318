//! The declarations of a folder: `streams/{STREAM}.json` and `consumers/{STREAM}/{DURABLE}.json`.
//!
//! Each file is what `nats stream add --config` and `nats consumer add --config` take.
//!
//! Invariant: a mistake is found before the server is asked, and its error names the file, the key
//! and a suggestion.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::declare::{Declared, Name};
use super::keys;
use crate::config::{one_line, read_text};

/// The error of declarations that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("cannot read `{}`", shown(path))]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    #[error("`{}` declares no stream; it needs streams/*.json, as in jetstream/", shown(.0))]
    Empty(PathBuf),
    #[error("`{}`: {problem}", shown(path))]
    Unusable {
        path: PathBuf,
        /// What is wrong, and how to fix it.
        problem: String,
    },
}

fn unusable(path: &Path, problem: impl Into<String>) -> FilesError {
    FilesError::Unusable { path: path.to_owned(), problem: problem.into() }
}

fn shown(path: &Path) -> String {
    one_line(&path.display().to_string())
}

/// Reads all declarations of a folder, streams first.
///
/// # Errors
/// [`FilesError`] for the first file that can't be used.
pub fn read(folder: &Path) -> Result<Vec<Declared>, FilesError> {
    let mut declared = Vec::new();
    let streams = folder.join("streams");
    for path in sorted(&streams, "json")? {
        let config = read_file(&path, keys::STREAM)?;
        let name = named(&path, &config, "name")?;
        declared.push(Declared { name: Name::Stream(name), config });
    }
    if declared.is_empty() {
        return Err(FilesError::Empty(folder.to_owned()));
    }
    let consumers = folder.join("consumers");
    if consumers.exists() {
        for of_stream in sorted(&consumers, "")? {
            let stream = stem(&of_stream);
            if !declared.iter().any(|one| one.name == Name::Stream(stream.clone())) {
                let problem = "the folder must be named after a stream; there is no";
                return Err(unusable(&of_stream, format!("{problem} streams/{stream}.json")));
            }
            for path in sorted(&of_stream, "json")? {
                let config = read_file(&path, keys::CONSUMER)?;
                let durable = named(&path, &config, "durable_name")?;
                if config.get("name").is_some_and(|name| *name != durable) {
                    let problem = "`name` and `durable_name` differ; the server requires them to be equal";
                    return Err(unusable(&path, problem));
                }
                declared.push(Declared { name: Name::Consumer { stream: stream.clone(), durable }, config });
            }
        }
    }
    Ok(declared)
}

/// Lists the entries of a folder with this extension, by name.
fn sorted(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, FilesError> {
    let unreadable = |source| FilesError::Unreadable { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().unwrap_or_default() == extension {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_file(path: &Path, keys: &[keys::Key]) -> Result<Map<String, Value>, FilesError> {
    let text = read_text(path).map_err(|source| FilesError::Unreadable { path: path.to_owned(), source })?;
    let config: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| unusable(path, format!("not a JSON object: {error}")))?;
    match keys::problem(keys, &config) {
        Some(problem) => Err(unusable(path, problem)),
        None => Ok(config),
    }
}

/// Returns the name in a configuration, which must be that of its file so that nothing is declared
/// twice.
fn named(path: &Path, config: &Map<String, Value>, key: &str) -> Result<String, FilesError> {
    let odd = |letter: char| letter.is_whitespace() || ".*>/\\".contains(letter);
    let problem = match config.get(key).and_then(Value::as_str) {
        None => format!("`{key}` is missing"),
        Some(name) if name != stem(path) => format!("`{key}` is `{name}`; rename the file to {name}.json"),
        Some(name) if name.is_empty() || name.contains(odd) => {
            format!("`{key}` must not be empty or contain white space or any of . * > / \\")
        }
        Some(name) => return Ok(name.to_owned()),
    };
    Err(unusable(path, problem))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_said_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let error = || read(folder.path()).unwrap_err().to_string();
        assert!(error().contains("streams"), "{}", error());
        fs::create_dir(folder.path().join("streams")).unwrap();
        assert!(error().contains("declares no stream"), "{}", error());

        for (text, words) in [
            ("{", "not a JSON object"),
            ("[]", "not a JSON object"),
            ("{}", "`name` is missing"),
            (r#"{"name": "B"}"#, "rename the file to B.json"),
            (r#"{"name": "A", "max_byte": 5}"#, "did you mean `max_bytes`?"),
        ] {
            write("streams/A.json", text);
            assert!(error().contains("A.json`: ") && error().contains(words), "{text}: {}", error());
        }
        write("streams/A.json", r#"{"name": "A"}"#);
        write("streams/README.md", "passed over");
        assert_eq!(read(folder.path()).unwrap().len(), 1);

        write("consumers/B/c.json", r#"{"durable_name": "c"}"#);
        assert!(error().contains("there is no streams/B.json"), "{}", error());
        fs::remove_dir_all(folder.path().join("consumers")).unwrap();
        write("consumers/A/c.json", r#"{"durable_name": "c", "name": "d"}"#);
        assert!(error().contains("differ"), "{}", error());
        write("consumers/A/c.json", r#"{"durable_name": "c", "ack_policy": "al"}"#);
        assert!(error().contains("one of none, all, explicit"), "{}", error());
        write("consumers/A/c.json", r#"{"durable_name": "c"}"#);
        assert_eq!(read(folder.path()).unwrap()[1].name.to_string(), "A/c");
    }
}
