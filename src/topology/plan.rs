//! The step that makes a stream or a durable what is declared.
//!
//! Invariant: a step with a destructive change is refused unless that is allowed, and one with an
//! impossible change always.

use serde::Serialize;
use serde_json::{Map, Value};

use super::change::{Change, Running, overlaid, same};
use super::declare::{Declared, Name};
use super::risk::{Risk, judge};

/// Keys that matter only when a durable is created: where it begins says nothing of where it is
/// now.
const BEGINNING: [&str; 3] = ["deliver_policy", "opt_start_seq", "opt_start_time"];

/// The action of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Same,
    Create,
    Change,
    /// Refuse it: a change is impossible, or destructive and not allowed.
    Refused,
}

/// The differences of a stream or a durable from its declaration, and what to do about them.
#[derive(Clone, Debug)]
pub struct Step {
    pub name: Name,
    pub action: Action,
    pub changes: Vec<Change>,
    /// Complete configuration to send to the server.
    pub config: Map<String, Value>,
}

impl Step {
    /// Compares a declaration with what runs; `None` if it does not exist.
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
                Risk::Harmless => None,
                Risk::Destructive(_) if allow_destructive => None,
                Risk::Destructive(reason) => Some(format!("{reason}; allow it with --allow-destructive")),
                Risk::Impossible(reason) => Some(reason),
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
                // Only mirrors may have this key.
                target.remove("mirror_direct");
            } else {
                target.insert(key.clone(), overlaid(old(key), new));
            }
        }
        Self { name, action, changes, config: target }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use time::OffsetDateTime;

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
            last_sequence: 100,
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
    fn what_loses_frames_must_be_allowed() {
        for (key, old, new, words) in [
            ("retention", json!("limits"), json!("interest"), "as soon as every durable has them"),
            (
                "placement",
                json!({"cluster": "us"}),
                json!({"cluster": "apac"}),
                "relocate the stream and its data from us to apac",
            ),
            ("num_replicas", json!(3), json!(1), "2 of 3 copies"),
            ("max_bytes", json!(-1), json!(4_000), "oldest 6000 of 10000 bytes"),
            ("max_msgs", json!(-1), json!(99), "oldest 1 of 100 messages"),
            (
                "max_age",
                json!(3 * DAY),
                json!(DAY),
                "older than 1day would be deleted; the oldest is 2days old",
            ),
            ("max_msgs_per_subject", json!(-1), json!(1), "newest"),
            ("subjects", json!(["a.*", "b.*"]), json!(["a.*"]), "frames to b.* would no longer be stored"),
            (
                "subject_transform",
                json!({"src": "a", "dest": "b"}),
                json!({"src": "a", "dest": "c"}),
                "partitions",
            ),
            ("sealed", json!(false), json!(true), "permanently"),
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
            ("subjects", json!(["a.*"]), json!(["a.*", "a.*.m0"])),
        ] {
            let step = stream_step(json!({key: new}), json!({key: old}), false);
            assert_eq!((step.action, step.changes.len()), (Action::Change, 1), "{key}");
        }
    }

    #[test]
    fn a_filter_that_lets_more_through_is_harmless_and_one_that_lets_less_is_not() {
        let name = Name::Consumer { stream: "A".to_owned(), durable: "c".to_owned() };
        let step = |old: Value, new: Value| {
            let declared = Declared { name: name.clone(), config: object(json!({"filter_subjects": new})) };
            Step::new(&declared, Some(&running(json!({"filter_subjects": old}))), false)
        };
        assert_eq!(step(json!(["a.1"]), json!(["a.1", "a.m1"])).action, Action::Change);
        for (old, new) in [(json!(["a.1", "a.m1"]), json!(["a.1"])), (Value::Null, json!(["a.1"]))] {
            let step = step(old.clone(), new);
            assert_eq!(step.action, Action::Refused, "{old}");
            assert!(step.changes[0].refused.as_ref().unwrap().contains("skipped permanently"), "{old}");
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
}
