//! The risk of a change: harmless, destructive or impossible.
//!
//! A server applies whatever it can: it deletes what no longer fits, and relocates a whole stream
//! over an ocean because of one word in a file. So each change is judged before it is made.
//!
//! Invariant: a change that deletes, relocates or stops storing frames is never harmless.

use std::time::Duration;

use serde_json::Value;

use super::change::{Change, Running};
use super::declare::{Name, nanoseconds};

/// The risk of a change, with its reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Risk {
    Harmless,
    /// It loses frames or copies, or relocates them: done only if allowed.
    Destructive(String),
    /// The server can't do it to an existing stream or durable.
    Impossible(String),
}

pub(super) fn judge(name: &Name, change: &Change, running: &Running) -> Risk {
    match name {
        Name::Stream(stream) => judge_stream(stream, change, running),
        Name::Consumer { stream, durable } => judge_consumer(stream, durable, change),
    }
}

fn judge_stream(stream: &str, change: &Change, running: &Running) -> Risk {
    use Risk::{Destructive, Harmless, Impossible};

    let impossible = |what: &str| {
        Impossible(format!(
            "the server can't {what}; if its {} messages may be lost, delete it yourself (nats stream rm {stream}) \
             and apply again",
            running.messages
        ))
    };
    let by_hand = |what: &str| impossible(&format!("change {what} of a stream"));
    let words = (change.old.as_str().unwrap_or_default(), change.new.as_str().unwrap_or_default());
    let switched_off = change.old == Value::Bool(true);
    match change.key.as_str() {
        "storage" => by_hand("the storage"),
        "persist_mode" | "first_seq" => by_hand(&change.key),
        "retention" if words.0 == "workqueue" || words.1 == "workqueue" => by_hand("workqueue retention"),
        "retention" if words.1 == "interest" => Destructive(
            "frames would be deleted as soon as every durable has them, not after max_age".to_owned(),
        ),
        "mirror" if change.new.is_null() => {
            Destructive("this would permanently stop the mirror from following its stream".to_owned())
        }
        "mirror" | "mirror_direct" if running.config.contains_key("mirror") => by_hand("what is mirrored"),
        "mirror" => impossible("turn a stream with frames into a mirror"),
        "deny_delete" | "deny_purge" | "sealed" | "allow_msg_ttl" | "allow_msg_counter" if switched_off => {
            by_hand(&format!("{} once it is on", change.key))
        }
        "sealed" => Destructive("this would permanently stop the stream from storing frames".to_owned()),
        "placement" => match (&running.cluster, change.new["cluster"].as_str()) {
            (Some(old), Some(new)) if old == new && change.new["tags"].is_null() => Harmless,
            // Without clusters there is nowhere else.
            (None, _) if change.old.is_null() => Harmless,
            (old, new) => Destructive(format!(
                "this would relocate the stream and its data from {} to {}",
                old.as_deref().unwrap_or("its current place"),
                new.unwrap_or("another place")
            )),
        },
        "num_replicas" => match (change.old.as_i64(), change.new.as_i64()) {
            (Some(old), Some(new)) if new < old => {
                Destructive(format!("{} of {old} copies would be deleted", old - new))
            }
            _ => Harmless,
        },
        "subjects" => {
            let gone = uncovered(change);
            if gone.is_empty() || running.messages == 0 {
                Harmless
            } else {
                Destructive(format!("frames to {} would no longer be stored", gone.join(", ")))
            }
        }
        "subject_transform" if running.messages > 0 => Destructive(
            "new frames would get other partitions than stored ones, and shards read by partition".to_owned(),
        ),
        "max_bytes" => below(change, running.bytes, "bytes"),
        "max_msgs" => below(change, running.messages, "messages"),
        "max_msgs_per_subject" if shrinks(change) && running.messages > 0 => {
            Destructive("all but the newest frames of each subject would be deleted".to_owned())
        }
        "max_age" if shrinks(change) => {
            let limit = nanoseconds(change.new.as_i64().unwrap_or_default());
            let age = running.oldest.filter(|_| running.messages > 0).map(|oldest| running.now - oldest);
            match age.and_then(|age| Duration::try_from(age).ok()) {
                Some(age) if age > limit => Destructive(format!(
                    "frames older than {} would be deleted; the oldest is {} old",
                    humantime::format_duration(limit),
                    humantime::format_duration(Duration::from_secs(age.as_secs()))
                )),
                _ => Harmless,
            }
        }
        _ => Harmless,
    }
}

fn judge_consumer(stream: &str, durable: &str, change: &Change) -> Risk {
    match change.key.as_str() {
        "ack_policy" | "replay_policy" | "max_waiting" | "mem_storage" | "deliver_subject"
        | "flow_control" | "idle_heartbeat" => Risk::Impossible(format!(
            "the server can't change it; delete the durable yourself (nats consumer rm {stream} {durable}) and \
             apply again: the new one does not keep the old one's position"
        )),
        // Without a filter, a durable delivers everything.
        "filter_subjects" if !change.old.is_null() && uncovered(change).is_empty() => Risk::Harmless,
        "filter_subject" | "filter_subjects" => {
            Risk::Destructive("frames that no longer match would be skipped permanently".to_owned())
        }
        _ => Risk::Harmless,
    }
}

/// Returns the limit that a value sets; `None` if unlimited.
fn limit(value: &Value) -> Option<u64> {
    value.as_i64().filter(|&limit| limit > 0).map(i64::unsigned_abs)
}

fn shrinks(change: &Change) -> bool {
    limit(&change.new).is_some_and(|new| limit(&change.old).is_none_or(|old| new < old))
}

/// Judges a limit against what is stored.
fn below(change: &Change, used: u64, what: &str) -> Risk {
    match limit(&change.new) {
        Some(limit) if limit < used => {
            Risk::Destructive(format!("the oldest {} of {used} {what} would be deleted", used - limit))
        }
        _ => Risk::Harmless,
    }
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Returns the subjects of the old list that the new one does not match.
fn uncovered(change: &Change) -> Vec<&str> {
    texts(&change.old).filter(|old| !texts(&change.new).any(|new| covers(new, old))).collect()
}

/// Returns whether a subject with wildcards matches everything that another one does.
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
    use super::*;

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
