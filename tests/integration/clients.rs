//! Frames that no code of ours wrote, and frames by hand.

use std::fs;

use async_nats::Client;
use callsight::topology::stream_config;
use callsight_frame::subject::MeetingPartition;
use callsight_publish::{Publisher, PublisherConfig};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::kit::callsight::Callsight;
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::python;
use crate::kit::region::{REGION, RegionServers};
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

const PYTHON_CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/python_client.py");

fn python_client(nats: &Nats, session: &str, frames: &str, more: &[&str]) {
    python_client_at(&nats.url(), session, frames, more);
}

/// Returns what it says about its retries.
fn python_client_at(url: &str, session: &str, frames: &str, more: &[&str]) -> String {
    let args: Vec<_> = [PYTHON_CLIENT, url, "us", "standup", session, "ana", frames]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    let output = python::run(&args, "");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("acknowledged {frames} of {frames}\n"));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Three replicas answer a copy of a frame with an error while they still store the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_a_frame_at_the_same_time_are_sent_until_they_are_acknowledged() {
    let mut servers = RegionServers::start(3, "1s").await;
    let jetstream = servers.jetstream().await;
    let stream = jetstream.create_stream(stream_config(&REGION.parse().unwrap(), 3)).await.unwrap();

    let info = stream.get_info().await.unwrap();
    let cluster = info.cluster.unwrap();
    let leader = servers.named(cluster.leader.as_deref().unwrap()).url();
    let followers: Vec<_> = cluster.replicas.into_iter().map(|replica| replica.name).collect();
    let client = async_nats::connect(&leader).await.unwrap();
    let mut sent = client.subscribe("health.diagnostics.>").await.unwrap();
    let publishers = [relay(client.clone()).await, relay(client.clone()).await];
    let publish =
        |seq| publishers.iter().for_each(|publisher| publisher.publish(&frame("rust", seq, &[])).unwrap());

    // While the followers stand still, the leader has not stored what it was sent.
    for follower in &followers {
        servers.named(follower).stop();
    }
    let python = std::array::from_fn::<_, 2, _>(|_| {
        let leader = leader.clone();
        tokio::task::spawn_blocking(move || python_client_at(&leader, "python", "5", &[]))
    });
    publish(1);
    let mut from_python = 0;
    let third = async {
        while from_python < 3 {
            from_python += usize::from(sent.next().await.unwrap().subject.contains("python"));
        }
    };
    timeout(PATIENCE, third).await.expect("a copy of a frame in Python that is sent again");
    wait::eventually_async(PATIENCE, "a copy of a frame in Rust that is sent again", async || {
        let retried: u64 = publishers.iter().map(|publisher| publisher.stats().retried).sum();
        wait::when(retried, |retried| *retried > 0)
    })
    .await;
    for follower in &followers {
        servers.named(follower).cont();
    }

    let frames = 500;
    for seq in 2..=frames {
        for publisher in &publishers {
            publisher.room().await.unwrap();
        }
        publish(seq);
    }
    for publisher in publishers {
        let stats = publisher.shutdown(PATIENCE).await.unwrap();
        assert_eq!((stats.acknowledged, stats.failed), (frames, 0));
    }
    let mut said = String::new();
    for copy in python {
        said += &copy.await.unwrap();
    }
    assert!(said.contains("10158"), "{said}");
    assert_eq!(stream.get_info().await.unwrap().state.messages, 5 + frames);
}

async fn relay(client: Client) -> Publisher {
    let config = PublisherConfig::new(REGION.parse().unwrap(), "relay", "relay-1");
    Publisher::start(client, config).await.unwrap()
}

#[tokio::test]
async fn a_client_in_python_is_folded() {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    python_client(&nats, "python-1", "5", &[]);
    python_client(&nats, "python-2", "3", &["--ended"]);
    let scrape = callsight.folded(PATIENCE, 8).await;
    let last = MeetingPartition::of("standup").to_string();
    for message in Health::at(&nats).await.read().await {
        assert_eq!(message.subject.as_str(), format!("health.diagnostics.us.relay.python-1.{last}"));
    }

    // The URL came with a path and a token.
    let server = [("server_url", "https://relay-1.example:4433"), ("server_type", "webtransport")];
    let session =
        [("meeting_id", "standup"), ("session_id", "python-1"), ("peer_id", "ana"), server[0], server[1]];
    assert_eq!(scrape.value("videocall_session_rtt_seconds", &session), Some(0.045));
    assert_eq!(scrape.value("videocall_session_audio_enabled", &session), Some(1.0));
    assert_eq!(scrape.value("videocall_session_video_enabled", &session), Some(0.0));
    let pair = [("meeting_id", "standup"), ("session_id", "python-1"), ("peer_id", "ana-remote")];
    for (name, value) in [
        ("videocall_pair_can_listen", 1.0),
        ("videocall_pair_can_see", 1.0),
        ("videocall_pair_audio_buffer_seconds", 0.065),
        ("videocall_pair_audio_samples_total", 240_000.0),
        ("videocall_pair_audio_concealed_samples_total", 2_400.0),
        ("videocall_pair_video_frames_per_second", 30.0),
        ("videocall_pair_video_freezes_total", 0.0),
    ] {
        assert_eq!(scrape.value(name, &pair), Some(value), "{name}");
    }
    for (operation, count) in [("normal", Some(490.0)), ("expand", Some(10.0)), ("merge", None)] {
        let labels: Vec<_> = pair.into_iter().chain([("operation", operation)]).collect();
        assert_eq!(scrape.value("videocall_pair_neteq_operations_total", &labels), count, "{operation}");
    }

    // The other session said that it ended; what it had counted stays.
    assert!(!scrape.any("videocall_session_rtt_seconds", &[("session_id", "python-2")]));
    assert_eq!(scrape.value("videocall_audio_samples_total", &server), Some(48_000.0 * 8.0));
    assert_eq!(scrape.value("videocall_audio_packets_lost_total", &server), Some(0.0));
    assert_eq!(scrape.sum("callsight_frames_rejected_total", &[]), 0.0);
}

/// The client's own function, on the vectors of the specification.
const PARTITIONS: &str = r#"
import json, sys
sys.path.insert(0, sys.argv[1])
from python_client import partition
entries = json.load(open(sys.argv[2]))
for entry in entries:
    assert partition(entry["text"]) == entry["partition"], entry
print(len(entries))
"#;

#[test]
fn a_client_in_python_finds_the_partition_of_any_meeting() {
    let root = env!("CARGO_MANIFEST_DIR");
    let [clients, vectors] =
        ["tests/clients", "spec/vectors/partitions.json"].map(|path| format!("{root}/{path}"));
    let output = python::run(&["-", &clients, &vectors], PARTITIONS);
    assert!(output.status.success(), "{output:?}");
    let count: usize = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(count > 20, "{count}");
}

#[test]
fn frames_go_through_the_command_and_come_back() {
    let frame = json!({
        "v": 1, "meeting_id": "standup", "session_id": "s-1", "peer_id": "ana", "seq": 7,
        "sent_at_ms": 1_764_000_000_000_u64,
        "server": { "url": "https://relay.example", "type": "webrtc", "rtt_ms": 48.5 },
        "peers": [{ "peer_id": "bo", "can_listen": true, "can_see": false, "audio_enabled": true,
                    "video_enabled": false, "audio": { "buffer_ms": 0.0, "neteq": { "expand": 0 } } }],
    });
    let directory = temporary_directory();
    let mut decoded = Vec::new();
    for form in ["named", "compact"] {
        let file = directory.path().join(form);
        let path = file.to_str().unwrap();
        let encoded = Callsight::run_with_input(&["frame", "encode", "--form", form], &frame.to_string());
        assert!(encoded.status.success(), "{encoded:?}");
        fs::write(&file, &encoded.stdout).unwrap();
        let checked = Callsight::run(&["frame", "check", path]);
        assert!(checked.status.success(), "{checked:?}");
        let verdict = String::from_utf8(checked.stdout).unwrap();
        assert!(
            verdict.starts_with(&format!("ok: {form}, {} bytes, meeting standup,", encoded.stdout.len())),
            "{verdict}"
        );
        let output = Callsight::run(&["frame", "decode", path]);
        assert!(output.status.success(), "{output:?}");
        decoded.push(serde_json::from_slice::<Value>(&output.stdout).unwrap());
    }
    assert_eq!(decoded, [frame.clone(), frame.clone()]);

    let hex = Callsight::run_with_input(&["frame", "encode", "--hex"], &frame.to_string()).stdout;
    let output = Callsight::run_with_input(&["frame", "decode", "--hex"], &String::from_utf8(hex).unwrap());
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), frame);

    let refused = Callsight::run_with_input(&["frame", "check", "--hex"], "93 01 a1 78");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(String::from_utf8(refused.stderr).unwrap(), "error: 1 of 1 frames rejected\n");
}

/// Validates the vectors by a schema: frames are valid, and rejected messages are not, if they are
/// JSON and JSON Schema can express why.
const VALIDATE: &str = r#"
import json, sys, msgpack, jsonschema
schema, folder = json.load(open(sys.argv[1])), sys.argv[2]
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
frames = json.load(open(folder + "/frames.json"))
for entry in frames:
    validator.validate(entry["json"])
refused = 0
for entry in json.load(open(folder + "/rejected.json")):
    try:
        frame = msgpack.unpackb(bytes.fromhex(entry["hex"]))
    except ValueError:
        continue
    if not isinstance(frame, dict) or entry["reason"] in ("bad_url", "not_finite"):
        continue
    assert not validator.is_valid(frame), entry
    refused += 1
print(len(frames), refused)
"#;

#[test]
fn the_schema_agrees_with_the_vectors() {
    let schema = Callsight::run(&["frame", "schema"]);
    assert!(schema.status.success(), "{schema:?}");
    let folder = temporary_directory();
    let path = folder.path().join("schema.json");
    fs::write(&path, &schema.stdout).unwrap();
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/spec/vectors");
    let output = python::run(&["-", path.to_str().unwrap(), vectors], VALIDATE);
    assert!(output.status.success(), "{output:?}");
    let counts = String::from_utf8(output.stdout).unwrap();
    let counts: Vec<usize> = counts.split_whitespace().map(|count| count.parse().unwrap()).collect();
    assert!(counts.iter().all(|count| *count > 80), "{counts:?}");
}
