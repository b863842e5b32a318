//! How rendered manifests differ, object by object, as `helm diff` would show it without its plugin.

use std::collections::BTreeMap;

/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// The largest table of a comparison line by line; beyond it both versions are shown whole.
const MAX_CELLS: usize = 16_000_000;

/// The difference between two renderings, empty if there is none.
pub(crate) fn manifests(before: &str, after: &str) -> String {
    let (before, after) = (objects(before), objects(after));
    let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
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

/// The lines of each object, by kind and name. What a secret holds is not shown, only that it differs.
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

/// Puts a digest in the place of each value under `data` and `stringData`.
fn hide(lines: &mut [String]) {
    let mut within = false;
    for line in lines {
        if !line.starts_with(' ') {
            within = line.starts_with("data:") || line.starts_with("stringData:");
        } else if within {
            let digest = ring::digest::digest(&ring::digest::SHA256, line.as_bytes());
            let short: String = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
            let key = line.split(':').next().unwrap_or_default().to_owned();
            *line = format!("{key}: (hidden, {short})");
        }
    }
}

/// One line of a difference.
#[derive(Clone, Copy)]
enum Edit<'a> {
    Same(&'a str),
    Removed(&'a str),
    Added(&'a str),
}

fn unified(old: &[String], new: &[String]) -> String {
    let edits = edits(old, new);
    let changed: Vec<bool> = edits.iter().map(|edit| !matches!(edit, Edit::Same(_))).collect();
    let near = |at: usize| {
        let from = at.saturating_sub(CONTEXT);
        changed[from..(at + CONTEXT + 1).min(changed.len())].contains(&true)
    };
    let mut text = String::new();
    let mut left_out = false;
    for (at, edit) in edits.iter().enumerate() {
        if !near(at) {
            left_out = true;
            continue;
        }
        if left_out {
            text.push_str("  …\n");
            left_out = false;
        }
        let (sign, line) = match edit {
            Edit::Same(line) => (' ', line),
            Edit::Removed(line) => ('-', line),
            Edit::Added(line) => ('+', line),
        };
        text.push_str(&format!("{sign} {line}\n"));
    }
    text
}

/// By the longest common subsequence of what lies between the equal ends.
fn edits<'a>(old: &'a [String], new: &'a [String]) -> Vec<Edit<'a>> {
    let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let tail =
        old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(old, new)| old == new).count();
    let (old_end, new_end) = (old.len() - tail, new.len() - tail);
    let (a, b) = (&old[head..old_end], &new[head..new_end]);
    let mut edits: Vec<_> = old[..head].iter().map(|line| Edit::Same(line)).collect();
    if a.len().saturating_mul(b.len()) > MAX_CELLS {
        edits.extend(a.iter().map(|line| Edit::Removed(line)));
        edits.extend(b.iter().map(|line| Edit::Added(line)));
    } else {
        // `lengths[i][j]` is that of the longest common subsequence of `a[i..]` and `b[j..]`.
        let width = b.len() + 1;
        let mut lengths = vec![0_u32; (a.len() + 1) * width];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                lengths[i * width + j] = if a[i] == b[j] {
                    lengths[(i + 1) * width + j + 1] + 1
                } else {
                    lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < a.len() || j < b.len() {
            if i < a.len() && j < b.len() && a[i] == b[j] {
                edits.push(Edit::Same(&a[i]));
                (i, j) = (i + 1, j + 1);
            } else if j == b.len()
                || i < a.len() && lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]
            {
                edits.push(Edit::Removed(&a[i]));
                i += 1;
            } else {
                edits.push(Edit::Added(&b[j]));
                j += 1;
            }
        }
    }
    edits.extend(old[old_end..].iter().map(|line| Edit::Same(line)));
    edits
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
        assert!(manifests("", BEFORE).contains("Service callsight is added:\n+ "));
    }

    #[test]
    fn edits_lead_from_the_one_to_the_other() {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        for (old, new) in [("abcdef", "abxdyf"), ("", "abc"), ("abc", ""), ("aaab", "baaa"), ("xaxbx", "ab")]
        {
            let (old, new) = (lines(old), lines(new));
            let edits = edits(&old, &new);
            let side = |keep_removed: bool| {
                edits
                    .iter()
                    .filter_map(|edit| match edit {
                        Edit::Same(line) => Some((*line).to_owned()),
                        Edit::Removed(line) => keep_removed.then(|| (*line).to_owned()),
                        Edit::Added(line) => (!keep_removed).then(|| (*line).to_owned()),
                    })
                    .collect::<Vec<_>>()
            };
            assert_eq!((side(true), side(false)), (old.clone(), new.clone()));
        }
    }
}
