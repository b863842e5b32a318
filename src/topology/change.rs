//! The differences between what is declared and what runs.
//!
//! Only the keys of the declaration are compared. What it leaves open is for the server or the
//! operator to choose.
//!
//! Invariant: a value that the server treats as the declared one is no difference.

use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

/// Limits for which 0, -1 and absence mean "unlimited".
const LIMITS: [&str; 7] = [
    "max_age",
    "max_bytes",
    "max_msgs",
    "max_msgs_per_subject",
    "max_msg_size",
    "max_consumers",
    "max_deliver",
];

/// Lists without an order.
const SETS: [&str; 3] = ["subjects", "filter_subjects", "tags"];

/// A stream or a durable as the server has it.
#[derive(Clone, Debug)]
pub struct Running {
    /// Configuration in the form of the server's API.
    pub config: Map<String, Value>,
    /// Number of messages in a stream.
    pub messages: u64,
    /// Size of the messages in bytes.
    pub bytes: u64,
    /// Sequence of the newest message, even if it was deleted.
    pub last_sequence: u64,
    /// Time of the oldest message.
    pub oldest: Option<OffsetDateTime>,
    /// Time of the server.
    pub now: OffsetDateTime,
    /// Cluster of a stream; `None` without clusters.
    pub cluster: Option<String>,
}

/// A difference between what is declared and what runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Key of the configuration.
    pub key: String,
    /// Value of the server; null if absent.
    pub old: Value,
    /// Declared value; null to remove it.
    pub new: Value,
    /// The reason why the change is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Lays the keys of a declared object over those of the server.
pub(super) fn overlaid(old: &Value, new: &Value) -> Value {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut both = old.clone();
            for (key, value) in new {
                let old = both.get(key).unwrap_or(&Value::Null).clone();
                both.insert(key.clone(), overlaid(&old, value));
            }
            Value::Object(both)
        }
        _ => new.clone(),
    }
}

/// Returns whether the server leaves such a value out, as Go's `omitempty` does.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
    }
}

/// Returns whether the server treats both values alike.
pub(super) fn same(key: &str, declared: &Value, running: &Value) -> bool {
    let unset = |value: &Value| {
        is_empty(value)
            || matches!(value.as_str(), Some("none" | "default"))
            || (value.as_i64() == Some(-1) && LIMITS.contains(&key))
    };
    match (declared, running) {
        (declared, running) if unset(declared) && unset(running) => true,
        // The server reports its own default instead.
        (Value::Number(number), Value::Number(_)) if number.as_i64() == Some(0) && !LIMITS.contains(&key) => {
            true
        }
        (Value::Object(declared), Value::Object(running)) => {
            declared.iter().all(|(key, value)| same(key, value, running.get(key).unwrap_or(&Value::Null)))
        }
        (Value::Array(declared), Value::Array(running)) if declared.len() == running.len() => {
            match SETS.contains(&key) {
                true => declared.iter().all(|one| running.contains(one)),
                false => declared.iter().zip(running).all(|(one, other)| same("", one, other)),
            }
        }
        (declared, running) => declared == running,
    }
}
