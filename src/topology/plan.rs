//! What would have to change, and what must not.
//!
//! A server that is told another configuration takes whatever it can: it throws away what no longer fits, and copies a
//! whole stream over an ocean because a word in a file is another one. So what is declared is first compared with what
//! runs, and each difference judged: harmless, destructive (it costs frames, or copies, or moves them, and needs a
//! yes), or impossible (the server can't do it to a stream that is there).
//!
//! Only what the declaration says is compared. What it leaves open is the server's or the operator's to choose.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::declare::{Declared, Name, nanoseconds};

/// Limits for which 0, -1 and nothing all mean "none".
const LIMITS: [&str; 7] = [
    "max_age",
    "max_bytes",
    "max_msgs",
    "max_msgs_per_subject",
    "max_msg_size",
    "max_consumers",
    "max_deliver",
];

/// Lists in which the order means nothing.
const SETS: [&str; 3] = ["subjects", "filter_subjects", "tags"];

/// Where a durable begins matters when it is made, and tells nothing of where it stands.
const BEGINNING: [&str; 3] = ["deliver_policy", "opt_start_seq", "opt_start_time"];

/// A stream or a durable as it is.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its configuration, in the form of the server's API.
    pub config: Map<String, Value>,
    /// How many messages a stream holds.
    pub messages: u64,
    /// How much they take.
    pub bytes: u64,
    /// When the oldest of them came.
    pub oldest: Option<OffsetDateTime>,
    /// The server's time.
    pub now: OffsetDateTime,
    /// The cluster that a stream is kept in, where there are clusters.
    pub cluster: Option<String>,
}

/// What has to be done to one stream or durable.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Nothing.
    Same,
    /// Make it.
    Create,
    /// Change it.
    Change,
    /// Something that is not done, or not without a yes.
    Refused,
}

/// A stream or a durable, and what it takes to make it what is declared.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is about.
    pub name: Name,
    /// What is to be done.
    pub action: Action,
    /// Every difference.
    pub changes: Vec<Change>,
    /// The whole configuration that the server is to be given.
    pub config: Map<String, Value>,
}

/// A difference between what is declared and what runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The key.
    pub key: String,
    /// What the server has; null if nothing.
    pub old: Value,
    /// What is declared.
    pub new: Value,
    /// Why it is not made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What a change would do.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Harmless,
    Destructive(String),
    Impossible(String),
}

impl Step {
    /// Compares what is declared with what runs, if anything does.
    #[must_use]
    pub fn new(declared: &Declared, running: Option<&Running>, allow_destructive: bool) -> Self {
        let Declared { name, config } = declared.clone();
        let Some(running) = running else {
            return Self { name, action: Action::Create, changes: Vec::new(), config };
        };
        let old = |key: &str| running.config.get(key).unwrap_or(&Value::Null);
        let mut changes: Vec<Change> = config
            .iter()
            .filter(|(key, _)| !BEGINNING.contains(&key.as_str()))
            .filter(|(key, new)| !same(key, new, old(key)))
            .map(|(key, new)| Change {
                key: key.clone(),
                old: old(key).clone(),
                new: new.clone(),
                refused: None,
            })
            .collect();
        if matches!(name, Name::Stream(_)) && !config.contains_key("mirror") && old("mirror").is_object() {
            let (key, old) = ("mirror".to_owned(), old("mirror").clone());
            changes.push(Change { key, old, new: Value::Null, refused: None });
        }
        for change in &mut changes {
            change.refused = match judge(&name, change, running) {
                Verdict::Harmless => None,
                Verdict::Destructive(_) if allow_destructive => None,
                Verdict::Destructive(reason) => Some(format!("{reason}; --allow-destructive does it")),
                Verdict::Impossible(reason) => Some(reason),
            };
        }
        let action = if changes.is_empty() {
            Action::Same
        } else if changes.iter().any(|change| change.refused.is_some()) {
            Action::Refused
        } else {
            Action::Change
        };
        let mut target = running.config.clone();
        for Change { key, new, .. } in &changes {
            if new.is_null() {
                target.remove(key);
                // Only a mirror can answer for its stream.
                target.remove("mirror_direct");
            } else {
                target.insert(key.clone(), overlaid(old(key), new));
            }
        }
        Self { name, action, changes, config: target }
    }
}

/// What the declaration says of an object goes over what the server has.
fn overlaid(old: &Value, new: &Value) -> Value {
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

/// Whether the server does what is declared.
fn same(key: &str, declared: &Value, running: &Value) -> bool {
    let unset = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty() || text == "none" || text == "default",
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Number(number) => {
            let value = number.as_i64();
            value == Some(0) || (value == Some(-1) && LIMITS.contains(&key))
        }
    };
    match (declared, running) {
        (declared, running) if unset(declared) && unset(running) => true,
        // The server takes its own default then, and reports it.
        (Value::Number(number), Value::Number(_)) if number.as_i64() == Some(0) && !LIMITS.contains(&key) => {
            true
        }
        (Value::Object(declared), Value::Object(running)) => {
            declared.iter().all(|(key, value)| same(key, value, running.get(key).unwrap_or(&Value::Null)))
        }
        (Value::Array(declared), Value::Array(running)) if SETS.contains(&key) => {
            declared.len() == running.len() && declared.iter().all(|one| running.contains(one))
        }
        (Value::Array(declared), Value::Array(running)) => {
            declared.len() == running.len()
                && declared.iter().zip(running).all(|(declared, running)| same("", declared, running))
        }
        (declared, running) => declared == running,
    }
}

fn judge(name: &Name, change: &Change, running: &Running) -> Verdict {
    match name {
        Name::Stream(stream) => judge_stream(stream, change, running),
        Name::Consumer { stream, durable } => judge_consumer(stream, durable, change),
    }
}

fn judge_stream(stream: &str, change: &Change, running: &Running) -> Verdict {
    use Verdict::{Destructive, Harmless, Impossible};

    let by_hand = |what: &str| {
        Impossible(format!(
            "the server can't change {what} of a stream; if its {} messages may go, delete it yourself \
             (nats stream rm {stream}) and apply again",
            running.messages
        ))
    };
    let words = (change.old.as_str().unwrap_or_default(), change.new.as_str().unwrap_or_default());
    let switched_off = change.old == Value::Bool(true);
    match change.key.as_str() {
        "storage" => by_hand("the storage"),
        "persist_mode" | "first_seq" => by_hand(&change.key),
        "retention" if words.0 == "workqueue" || words.1 == "workqueue" => by_hand("workqueue retention"),
        "retention" if words.1 == "interest" => {
            Destructive("frames would go as soon as every durable has them, not after max_age".to_owned())
        }
        "mirror" if change.new.is_null() => Destructive(
            "it would stop being a mirror, for good: it would no longer follow its stream".to_owned(),
        ),
        "mirror" | "mirror_direct" if running.config.contains_key("mirror") => by_hand("what is mirrored"),
        "mirror" => Impossible(format!(
            "the server can't make a mirror of a stream that has frames of its own; if its {} messages may go, \
             delete it yourself (nats stream rm {stream}) and apply again",
            running.messages
        )),
        "deny_delete" | "deny_purge" | "sealed" | "allow_msg_ttl" | "allow_msg_counter" if switched_off => {
            by_hand(&format!("{} once it is on", change.key))
        }
        "sealed" => Destructive("it would take no more frames, for good".to_owned()),
        "placement" => match (&running.cluster, change.new["cluster"].as_str()) {
            (Some(old), Some(new)) if old == new && change.new["tags"].is_null() => Harmless,
            (old, new) => Destructive(format!(
                "it would move with all it holds, from {} to {}",
                old.as_deref().unwrap_or("where it is"),
                new.unwrap_or("another place")
            )),
        },
        "num_replicas" => match (change.old.as_i64(), change.new.as_i64()) {
            (Some(old), Some(new)) if new < old => {
                Destructive(format!("{} of {old} copies would go", old - new))
            }
            _ => Harmless,
        },
        "subjects" => {
            let gone = dropped(&change.old, &change.new);
            if gone.is_empty() || running.messages == 0 {
                Harmless
            } else {
                Destructive(format!("frames to {} would no longer be stored", gone.join(", ")))
            }
        }
        "subject_transform" if running.messages > 0 => Destructive(
            "frames would get other partitions than those before them, and shards read by partition"
                .to_owned(),
        ),
        "max_bytes" => below(change, running.bytes, "bytes"),
        "max_msgs" => below(change, running.messages, "messages"),
        "max_msgs_per_subject" if shrinks(change) && running.messages > 0 => {
            Destructive("all but the newest frames of each subject would go".to_owned())
        }
        "max_age" if shrinks(change) => {
            let limit = nanoseconds(change.new.as_i64().unwrap_or_default());
            let age = running.oldest.filter(|_| running.messages > 0).map(|oldest| running.now - oldest);
            match age.and_then(|age| Duration::try_from(age).ok()) {
                Some(age) if age > limit => Destructive(format!(
                    "frames older than {} would go, the oldest is {} old",
                    humantime::format_duration(limit),
                    humantime::format_duration(Duration::from_secs(age.as_secs()))
                )),
                _ => Harmless,
            }
        }
        _ => Harmless,
    }
}

fn judge_consumer(stream: &str, durable: &str, change: &Change) -> Verdict {
    match change.key.as_str() {
        "ack_policy" | "replay_policy" | "max_waiting" | "mem_storage" | "deliver_subject"
        | "flow_control" | "idle_heartbeat" => Verdict::Impossible(format!(
            "the server can't change it; delete the durable yourself (nats consumer rm {stream} {durable}) and \
             apply again: the new one knows nothing of how far the old one was"
        )),
        "filter_subject" | "filter_subjects" => Verdict::Destructive(
            "frames that it no longer asks for are passed over by it, for good".to_owned(),
        ),
        _ => Verdict::Harmless,
    }
}

/// The limit that a value sets, if it sets one.
fn limit(value: &Value) -> Option<u64> {
    value.as_i64().filter(|&limit| limit > 0).map(i64::unsigned_abs)
}

fn shrinks(change: &Change) -> bool {
    limit(&change.new).is_some_and(|new| limit(&change.old).is_none_or(|old| new < old))
}

/// A limit that is lower than what is there throws the rest away.
fn below(change: &Change, used: u64, what: &str) -> Verdict {
    match limit(&change.new) {
        Some(limit) if limit < used => {
            Verdict::Destructive(format!("the oldest {} of {used} {what} would go", used - limit))
        }
        _ => Verdict::Harmless,
    }
}

/// The subjects that a stream would no longer take.
fn dropped(old: &Value, new: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let kept: Vec<String> = list(new).iter().filter_map(|one| one.as_str().map(str::to_owned)).collect();
    list(old)
        .iter()
        .filter_map(|one| one.as_str().map(str::to_owned))
        .filter(|old| !kept.iter().any(|new| covers(new, old)))
        .collect()
}

/// Whether one subject, wildcards and all, takes everything that the other does.
fn covers(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (wide.split('.'), narrow.split('.'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(wide), Some(narrow)) if wide == narrow || (wide == "*" && narrow != ">") => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DAY: i64 = 86_400_000_000_000;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    /// A stream with 100 messages of 10,000 bytes, two days old.
    fn running(config: Value) -> Running {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(10 * 86_400);
        let oldest = Some(now - Duration::from_secs(2 * 86_400));
        Running {
            config: object(config),
            messages: 100,
            bytes: 10_000,
            oldest,
            now,
            cluster: Some("us".to_owned()),
        }
    }

    fn stream_step(declared: Value, config: Value, allow: bool) -> Step {
        let declared = Declared { name: Name::Stream("A".to_owned()), config: object(declared) };
        Step::new(&declared, Some(&running(config)), allow)
    }

    #[test]
    fn what_the_server_adds_is_no_difference() {
        let declared = json!({
            "name": "A", "subjects": ["b.*", "a.*"], "max_msgs": -1, "max_bytes": 0, "duplicate_window": 0,
            "placement": {"cluster": "us"}, "mirror_direct": false, "metadata": {"team": "calls"},
        });
        let server = json!({
            "name": "A", "subjects": ["a.*", "b.*"], "max_msgs": -1, "max_bytes": -1,
            "duplicate_window": 120_000_000_000_u64, "placement": {"cluster": "us", "tags": []}, "compression": "none",
            "consumer_limits": {}, "metadata": {"team": "calls", "_nats.ver": "2.15.1"}, "max_age": 5,
        });
        let step = stream_step(declared, server, false);
        assert_eq!((step.action, step.changes), (Action::Same, vec![]));
    }

    #[test]
    fn a_change_keeps_what_the_declaration_does_not_say() {
        let step = stream_step(
            json!({"name": "A", "max_bytes": 20_000, "metadata": {"team": "calls"}}),
            json!({"name": "A", "max_bytes": 10_000, "max_age": 5, "metadata": {"other": "1"}}),
            false,
        );
        assert_eq!(step.action, Action::Change);
        let expected = json!({
            "name": "A", "max_bytes": 20_000, "max_age": 5, "metadata": {"other": "1", "team": "calls"},
        });
        assert_eq!(Value::Object(step.config), expected);
    }

    #[test]
    fn what_costs_frames_needs_a_yes() {
        for (key, old, new, words) in [
            ("retention", json!("limits"), json!("interest"), "as soon as every durable has them"),
            (
                "placement",
                json!({"cluster": "us"}),
                json!({"cluster": "apac"}),
                "move with all it holds, from us to apac",
            ),
            ("num_replicas", json!(3), json!(1), "2 of 3 copies"),
            ("max_bytes", json!(-1), json!(4_000), "oldest 6000 of 10000 bytes"),
            ("max_msgs", json!(-1), json!(99), "oldest 1 of 100 messages"),
            ("max_age", json!(3 * DAY), json!(DAY), "older than 1day would go, the oldest is 2days old"),
            ("max_msgs_per_subject", json!(-1), json!(1), "newest"),
            ("subjects", json!(["a.*", "b.*"]), json!(["a.*"]), "frames to b.* would no longer be stored"),
            (
                "subject_transform",
                json!({"src": "a", "dest": "b"}),
                json!({"src": "a", "dest": "c"}),
                "partitions",
            ),
            ("sealed", json!(false), json!(true), "for good"),
        ] {
            let both = [false, true].map(|allow| stream_step(json!({key: new}), json!({key: old}), allow));
            let [refused, allowed] = both;
            assert_eq!((refused.action, allowed.action), (Action::Refused, Action::Change), "{key}");
            let reason = refused.changes[0].refused.as_ref().unwrap();
            assert!(reason.contains(words) && reason.contains("--allow-destructive"), "{key}: {reason}");
        }
        let mirror = json!({"mirror": {"name": "B"}, "mirror_direct": true});
        let step = stream_step(json!({"subjects": ["a"]}), mirror, false);
        assert_eq!(step.action, Action::Refused);
        assert_eq!(Value::Object(step.config), json!({"subjects": ["a"]}));
        assert!(step.changes.iter().any(|change| change.key == "mirror" && change.refused.is_some()));
    }

    #[test]
    fn what_the_server_cannot_do_is_said_whatever_is_allowed() {
        for (key, old, new) in [
            ("storage", json!("file"), json!("memory")),
            ("retention", json!("limits"), json!("workqueue")),
            ("mirror", json!({"name": "B"}), json!({"name": "C"})),
            ("mirror", Value::Null, json!({"name": "C"})),
            ("deny_delete", json!(true), json!(false)),
        ] {
            let mut server = Map::new();
            if !old.is_null() {
                server.insert(key.to_owned(), old);
            }
            let step = stream_step(json!({key: new}), Value::Object(server), true);
            assert_eq!(step.action, Action::Refused, "{key}");
            let reason = step.changes[0].refused.as_ref().unwrap();
            assert!(reason.contains("can't") && reason.contains("nats stream rm A"), "{key}: {reason}");
        }
    }

    #[test]
    fn limits_above_what_is_there_and_more_of_anything_are_harmless() {
        for (key, old, new) in [
            ("max_bytes", json!(20_000), json!(10_000)),
            ("max_msgs", json!(-1), json!(100)),
            ("max_age", json!(5 * DAY), json!(3 * DAY)),
            ("num_replicas", json!(1), json!(3)),
            ("subjects", json!(["a.b", "a.c.d"]), json!(["a.>"])),
            ("description", json!("x"), json!("y")),
            // It is there already.
            ("placement", Value::Null, json!({"cluster": "us"})),
        ] {
            let step = stream_step(json!({key: new}), json!({key: old}), false);
            assert_eq!((step.action, step.changes.len()), (Action::Change, 1), "{key}");
        }
    }

    #[test]
    fn a_durable_is_not_asked_where_it_began() {
        let name = Name::Consumer { stream: "A".to_owned(), durable: "c".to_owned() };
        let declared = json!({"durable_name": "c", "deliver_policy": "new", "ack_policy": "all"});
        let declared = Declared { name, config: object(declared) };
        let at = json!({
            "durable_name": "c", "deliver_policy": "by_start_time", "opt_start_time": "2026-01-01T00:00:00Z",
            "ack_policy": "all",
        });
        assert_eq!(Step::new(&declared, Some(&running(at)), false).action, Action::Same);
        let explicit = json!({"durable_name": "c", "ack_policy": "explicit"});
        let step = Step::new(&declared, Some(&running(explicit)), true);
        assert_eq!(step.action, Action::Refused);
        assert!(step.changes[0].refused.as_ref().unwrap().contains("nats consumer rm A c"));
    }

    #[test]
    fn wildcards_cover_what_they_match() {
        for (wide, narrow) in [("a.>", "a.b.c"), ("a.*", "a.b"), ("a.*", "a.*"), (">", "a"), ("a.>", "a.>")] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [("a.b", "a.*"), ("a.*", "a.>"), ("a.*", "a.b.c"), ("a.>", "a"), ("a.b", "a")] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }
}
