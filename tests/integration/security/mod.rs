//! Who gets in, what they may do there, and what they can't break.

mod connection;
mod crowd;
pub(crate) mod permissions;
mod web;

use std::fs;
use std::path::Path;

/// The last column of the bounds in `docs/security.md` names tests.
#[test]
fn the_tests_that_the_documentation_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut sources, mut folders) =
        (String::new(), ["src", "crates", "tests"].map(|name| root.join(name)).to_vec());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let is_test = |name: &str| {
        let before =
            sources.split_once(&format!("fn {name}()")).and_then(|(before, _)| before.rsplit_once("#["));
        before.is_some_and(|(_, attribute)| {
            attribute.starts_with("test]") || attribute.starts_with("tokio::test")
        })
    };
    let text = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let (_, section) = text.split_once("## What strangers can make grow\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let cells = section.lines().filter_map(|line| line.strip_suffix('|')?.rsplit('|').next());
    let names: Vec<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 30, "{names:?}");
    let absent: Vec<_> = names.into_iter().filter(|name| !is_test(name)).collect();
    assert!(absent.is_empty(), "docs/security.md names tests that are not there: {absent:?}");
}
