//! The difference of rendered manifests, object by object, as the plugin `helm diff` shows it.
//!
//! Invariant: no value of a Secret is shown.

use std::collections::{BTreeMap, BTreeSet};

use similar::Algorithm;

/// The number of unchanged lines around a change.
const CONTEXT: usize = 3;

/// The difference of two renderings; empty if there is none.
pub(crate) fn manifests(before: &str, after: &str) -> String {
    let (before, after) = (objects(before), objects(after));
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let mut text = String::new();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        let (old_lines, new_lines) = (old.map_or(&[][..], Vec::as_slice), new.map_or(&[][..], Vec::as_slice));
        if old_lines == new_lines {
            continue;
        }
        let what = match (old, new) {
            (None, _) => "is added",
            (_, None) => "is removed",
            _ => "is changed",
        };
        text.push_str(&format!("{name} {what}:\n"));
        text.push_str(&unified(old_lines, new_lines));
    }
    text
}

/// The lines of each object, by kind and name, without the values of Secrets.
fn objects(manifest: &str) -> BTreeMap<String, Vec<String>> {
    let mut objects = BTreeMap::new();
    for document in manifest.split("\n---").map(|document| document.trim_start_matches('-')) {
        let lines: Vec<_> =
            document.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).collect();
        let of = |key: &str| lines.iter().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let Some(kind) = of("kind:") else { continue };
        let metadata = lines.iter().skip_while(|line| **line != "metadata:");
        let name = metadata.clone().find_map(|line| line.strip_prefix("  name:")).map_or("", str::trim);
        let mut lines: Vec<String> = lines.iter().map(|line| line.trim_end().to_owned()).collect();
        if kind == "Secret" {
            hide(&mut lines);
        }
        objects.insert(format!("{kind} {}", name.trim_matches('"')), lines);
    }
    objects
}

/// Replaces each value under `data` and `stringData` by a digest, which shows whether it differs.
fn hide(lines: &mut [String]) {
    let mut within = false;
    for line in lines {
        if !line.starts_with(' ') {
            within = line.starts_with("data:") || line.starts_with("stringData:");
        } else if within {
            let digest = ring::digest::digest(&ring::digest::SHA256, line.as_bytes());
            let short: String = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
            // What is indented further is the rest of a value.
            let key = line.strip_prefix("  ").filter(|key| !key.starts_with(' '));
            let key = key.and_then(|key| Some(key.split_once(':')?.0)).unwrap_or("  …");
            *line = format!("  {key}: (hidden, {short})");
        }
    }
}

/// The changed lines with [`CONTEXT`] lines around them, `…` where lines are left out.
fn unified(old: &[String], new: &[String]) -> String {
    let mut text = String::new();
    let mut shown = 0;
    for hunk in similar::group_diff_ops(similar::capture_diff_slices(Algorithm::Myers, old, new), CONTEXT) {
        if hunk.first().is_some_and(|first| first.old_range().start > shown) {
            text.push_str("  …\n");
        }
        shown = hunk.last().map_or(shown, |last| last.old_range().end);
        for change in hunk.iter().flat_map(|op| op.iter_changes(old, new)) {
            text.push_str(&format!("{} {}\n", change.tag(), change.value()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "---\n# Source: a.yaml\napiVersion: v1\nkind: Service\nmetadata:\n  name: callsight\n\
        spec:\n  a: 1\n  b: 2\n  c: 3\n  d: 4\n  selector:\n    colour: blue\n---\nkind: Secret\nmetadata:\n  name: s\n\
        data:\n  password: aHVudGVyMg==\n";

    #[test]
    fn only_what_changed_is_shown_with_a_little_around_it() {
        let after = BEFORE.replace("colour: blue", "colour: green");
        assert_eq!(
            manifests(BEFORE, &after),
            "Service callsight is changed:\n  …\n    c: 3\n    d: 4\n    selector:\n-     colour: blue\n+     colour: green\n"
        );
        assert_eq!(manifests(BEFORE, BEFORE), "");
    }

    #[test]
    fn objects_come_and_go_and_secrets_are_never_shown() {
        let gone = manifests(BEFORE, "");
        assert!(
            gone.contains("Service callsight is removed:\n- ") && gone.contains("Secret s is removed"),
            "{gone}"
        );
        assert!(!gone.contains("aHVudGVyMg"), "{gone}");
        let other = manifests(BEFORE, &BEFORE.replace("aHVudGVyMg==", "b3RoZXI="));
        assert!(other.starts_with("Secret s is changed") && !other.contains("b3RoZXI"), "{other}");
        let long = BEFORE.replace("password: aHVudGVyMg==", "password: |\n    hunter2");
        let added = manifests("", &long);
        assert!(added.contains("+   password: (hidden") && !added.contains("hunter2"), "{added}");
        assert!(manifests("", BEFORE).contains("Service callsight is added:\n+ "));
    }
}
