//! The difference of rendered manifests, object by object, as the plugin `helm diff` shows it.
//!
//! Invariant: no value of a Secret is shown.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize as _;
use similar::TextDiff;
use yaml_serde::{Mapping, Value};

/// The number of unchanged lines around a change.
const CONTEXT: usize = 3;

/// The difference of two renderings; empty if there is none.
///
/// # Errors
/// One of them is not YAML.
pub(crate) fn manifests(before: &str, after: &str) -> Result<String, yaml_serde::Error> {
    let (before, after) = (objects(before)?, objects(after)?);
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let mut text = String::new();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old == new {
            continue;
        }
        let what = match (old, new) {
            (None, _) => "is added",
            (_, None) => "is removed",
            _ => "is changed",
        };
        text.push_str(&format!("{name} {what}:\n"));
        let [old, new] = [old, new].map(|text| text.map_or("", String::as_str));
        text.push_str(&TextDiff::from_lines(old, new).unified_diff().context_radius(CONTEXT).to_string());
    }
    Ok(text)
}

/// The text of each object, by kind and name, without the values of Secrets.
fn objects(manifest: &str) -> Result<BTreeMap<String, String>, yaml_serde::Error> {
    let mut objects = BTreeMap::new();
    for document in yaml_serde::Deserializer::from_str(manifest) {
        let mut object = Value::deserialize(document)?;
        let Some(kind) = object["kind"].as_str().map(str::to_owned) else { continue };
        if kind == "Secret" {
            for key in ["data", "stringData"] {
                object.get_mut(key).into_iter().for_each(hide);
            }
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        objects.insert(format!("{kind} {name}"), yaml_serde::to_string(&object)?);
    }
    Ok(objects)
}

/// Replaces each value of a mapping by a digest, which shows whether it differs.
fn hide(secrets: &mut Value) {
    for secret in secrets.as_mapping_mut().into_iter().flat_map(Mapping::values_mut) {
        let digest = ring::digest::digest(&ring::digest::SHA256, format!("{secret:?}").as_bytes());
        let short: String = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        *secret = format!("(hidden, {short})").into();
    }
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
            manifests(BEFORE, &after).unwrap(),
            "Service callsight is changed:\n@@ -8,4 +8,4 @@\n   c: 3\n   d: 4\n   selector:\n-    colour: blue\n+    colour: green\n"
        );
        assert_eq!(manifests(BEFORE, BEFORE).unwrap(), "");
    }

    #[test]
    fn objects_come_and_go_and_secrets_are_never_shown() {
        let gone = manifests(BEFORE, "").unwrap();
        assert!(
            gone.contains("Service callsight is removed:\n@@ ") && gone.contains("Secret s is removed"),
            "{gone}"
        );
        assert!(!gone.contains("aHVudGVyMg"), "{gone}");
        let other = manifests(BEFORE, &BEFORE.replace("aHVudGVyMg==", "b3RoZXI=")).unwrap();
        assert!(other.starts_with("Secret s is changed") && !other.contains("b3RoZXI"), "{other}");
        let long = BEFORE.replace("password: aHVudGVyMg==", "password: |\n    hunter2");
        let added = manifests("", &long).unwrap();
        assert!(added.contains("+  password: (hidden") && !added.contains("hunter2"), "{added}");
        assert!(manifests("", BEFORE).unwrap().contains("Service callsight is added:\n@@ "));
    }
}
