//! The keys of the configurations of streams and consumers in the server's API.
//!
//! The server rejects an unknown key without naming the file or a similar key. So files are checked
//! here first.
//!
//! Invariant: every key of the API is listed with the shape of its value.

use serde_json::{Map, Value};

use crate::config::{did_you_mean, nearest};

/// The shape of a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Text,
    Word(&'static [&'static str]),
    Flag,
    Number,
    Duration,
    Texts,
    Numbers,
    /// Any keys, with text as values.
    Metadata,
    Object(&'static [Key]),
    Objects(&'static [Key]),
}

/// A key and the shape of its value.
pub(super) type Key = (&'static str, Shape);

const PLACEMENT: &[Key] = &[("cluster", Shape::Text), ("tags", Shape::Texts)];

const TRANSFORM: &[Key] = &[("src", Shape::Text), ("dest", Shape::Text)];

const EXTERNAL: &[Key] = &[("api", Shape::Text), ("deliver", Shape::Text)];

const SOURCE: &[Key] = &[
    ("name", Shape::Text),
    ("opt_start_seq", Shape::Number),
    ("opt_start_time", Shape::Text),
    ("filter_subject", Shape::Text),
    ("external", Shape::Object(EXTERNAL)),
    ("subject_transforms", Shape::Objects(TRANSFORM)),
];

const REPUBLISH: &[Key] = &[("src", Shape::Text), ("dest", Shape::Text), ("headers_only", Shape::Flag)];

const CONSUMER_LIMITS: &[Key] =
    &[("inactive_threshold", Shape::Duration), ("max_ack_pending", Shape::Number)];

/// Keys of a stream's configuration, in the order of the files.
pub(super) const STREAM: &[Key] = &[
    ("name", Shape::Text),
    ("description", Shape::Text),
    ("subjects", Shape::Texts),
    ("mirror", Shape::Object(SOURCE)),
    ("sources", Shape::Objects(SOURCE)),
    ("subject_transform", Shape::Object(TRANSFORM)),
    ("placement", Shape::Object(PLACEMENT)),
    ("num_replicas", Shape::Number),
    ("storage", Shape::Word(&["file", "memory"])),
    ("retention", Shape::Word(&["limits", "interest", "workqueue"])),
    ("discard", Shape::Word(&["old", "new"])),
    ("max_age", Shape::Duration),
    ("max_bytes", Shape::Number),
    ("max_msgs", Shape::Number),
    ("max_msgs_per_subject", Shape::Number),
    ("max_msg_size", Shape::Number),
    ("max_consumers", Shape::Number),
    ("duplicate_window", Shape::Duration),
    ("allow_direct", Shape::Flag),
    ("mirror_direct", Shape::Flag),
    ("compression", Shape::Word(&["none", "s2"])),
    ("no_ack", Shape::Flag),
    ("first_seq", Shape::Number),
    ("republish", Shape::Object(REPUBLISH)),
    ("discard_new_per_subject", Shape::Flag),
    ("sealed", Shape::Flag),
    ("deny_delete", Shape::Flag),
    ("deny_purge", Shape::Flag),
    ("allow_rollup_hdrs", Shape::Flag),
    ("allow_msg_ttl", Shape::Flag),
    ("allow_msg_counter", Shape::Flag),
    ("allow_msg_schedules", Shape::Flag),
    ("allow_atomic", Shape::Flag),
    ("allow_batched", Shape::Flag),
    ("subject_delete_marker_ttl", Shape::Duration),
    ("persist_mode", Shape::Word(&["default", "async"])),
    ("consumer_limits", Shape::Object(CONSUMER_LIMITS)),
    ("metadata", Shape::Metadata),
];

/// Keys of a consumer's configuration, in the order of the files.
pub(super) const CONSUMER: &[Key] = &[
    ("name", Shape::Text),
    ("durable_name", Shape::Text),
    ("description", Shape::Text),
    (
        "deliver_policy",
        Shape::Word(&["all", "last", "new", "by_start_sequence", "by_start_time", "last_per_subject"]),
    ),
    ("opt_start_seq", Shape::Number),
    ("opt_start_time", Shape::Text),
    ("ack_policy", Shape::Word(&["none", "all", "explicit", "flow_control"])),
    ("ack_wait", Shape::Duration),
    ("max_ack_pending", Shape::Number),
    ("max_deliver", Shape::Number),
    ("backoff", Shape::Numbers),
    ("filter_subject", Shape::Text),
    ("filter_subjects", Shape::Texts),
    ("replay_policy", Shape::Word(&["instant", "original"])),
    ("max_waiting", Shape::Number),
    ("max_batch", Shape::Number),
    ("max_expires", Shape::Duration),
    ("max_bytes", Shape::Number),
    ("num_replicas", Shape::Number),
    ("mem_storage", Shape::Flag),
    ("headers_only", Shape::Flag),
    ("inactive_threshold", Shape::Duration),
    ("sample_freq", Shape::Text),
    ("rate_limit_bps", Shape::Number),
    ("deliver_subject", Shape::Text),
    ("deliver_group", Shape::Text),
    ("flow_control", Shape::Flag),
    ("idle_heartbeat", Shape::Duration),
    ("pause_until", Shape::Text),
    ("priority_groups", Shape::Texts),
    ("priority_policy", Shape::Text),
    ("priority_timeout", Shape::Duration),
    ("metadata", Shape::Metadata),
];

/// Returns the position of a key in a file.
pub(super) fn rank(keys: &[Key], name: &str) -> usize {
    keys.iter().position(|(key, _)| *key == name).unwrap_or(keys.len())
}

/// Returns whether the value of a key is a duration, in nanoseconds.
#[must_use]
pub fn is_duration(name: &str) -> bool {
    STREAM.iter().chain(CONSUMER).any(|(key, shape)| *key == name && matches!(shape, Shape::Duration))
}

/// Returns the first problem of a configuration.
pub(super) fn problem(keys: &[Key], config: &Map<String, Value>) -> Option<String> {
    config.iter().find_map(|(name, value)| {
        let Some((_, shape)) = keys.iter().find(|(key, _)| key == name) else {
            let meant = nearest(name, keys.iter().map(|(key, _)| *key)).map(did_you_mean);
            let advice = meant.unwrap_or_else(|| "the server's API has no such key".to_owned());
            return Some(format!("unknown key `{}`; {advice}", name.escape_debug()));
        };
        wrong(*shape, value).map(|wrong| {
            if wrong.contains('`') {
                format!("in `{name}`, {wrong}")
            } else {
                format!("`{name}` is {value}; {wrong}")
            }
        })
    })
}

/// Returns what the value must be instead, unless it fits.
fn wrong(shape: Shape, value: &Value) -> Option<String> {
    let all = |values: &Value, good: fn(&Value) -> bool| {
        values.as_array().is_some_and(|values| values.iter().all(good))
    };
    let (good, what) = match (shape, value) {
        (Shape::Object(keys), Value::Object(object)) => return problem(keys, object),
        (Shape::Objects(keys), Value::Array(objects)) => {
            return objects.iter().find_map(|object| wrong(Shape::Object(keys), object));
        }
        (Shape::Object(_), _) => (false, "an object"),
        (Shape::Objects(_), _) => (false, "a list of objects"),
        (Shape::Word(words), _) => {
            let known = value.as_str().is_some_and(|word| words.contains(&word));
            return (!known).then(|| format!("it must be one of {}", words.join(", ")));
        }
        (Shape::Text, _) => (value.is_string(), "text"),
        (Shape::Flag, _) => (value.is_boolean(), "true or false"),
        (Shape::Number, _) => (value.is_i64(), "a whole number"),
        (Shape::Duration, _) => (value.is_i64(), "a whole number of nanoseconds; an hour is 3600000000000"),
        (Shape::Texts, _) => (all(value, Value::is_string), "a list of texts"),
        (Shape::Numbers, _) => (all(value, Value::is_i64), "a list of whole numbers"),
        (Shape::Metadata, _) => {
            (value.as_object().is_some_and(|data| data.values().all(Value::is_string)), "an object of texts")
        }
    };
    (!good).then(|| format!("it must be {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_what_was_meant() {
        let stream = |config: Value| problem(STREAM, config.as_object().unwrap());
        assert_eq!(stream(json!({"name": "A", "placement": {"cluster": "us"}, "max_age": 5})), None);
        for (config, words) in [
            (json!({"max_agee": 5}), ["unknown key `max_agee`", "`max_age`"]),
            (json!({"max_age": "72h"}), ["`max_age` is \"72h\"", "nanoseconds"]),
            (json!({"storage": "disk"}), ["`storage` is \"disk\"", "file, memory"]),
            (json!({"placement": {"clutser": "us"}}), ["in `placement`", "`cluster`"]),
            (json!({"placement": {"cluster": 1}}), ["in `placement`, `cluster` is 1", "text"]),
            (json!({"mirror": "X"}), ["`mirror` is \"X\"", "object"]),
            (json!({"subjects": "a.*"}), ["`subjects` is \"a.*\"", "list"]),
            (json!({"num_replicas": 1.5}), ["`num_replicas` is 1.5", "whole"]),
        ] {
            let problem = stream(config.clone()).unwrap();
            assert!(words.iter().all(|word| problem.contains(word)), "{config}: {problem}");
        }
        let consumer = json!({"ack_polcy": "all"});
        assert!(problem(CONSUMER, consumer.as_object().unwrap()).unwrap().contains("`ack_policy`"));
    }
}
