//! Frames that no code of ours wrote, and frames by hand.

use std::fs;

use serde_json::{Value, json};

use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::python;
use crate::kit::wait::{self, PATIENCE};

const PYTHON_CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/python_client.py");

fn python_client(nats: &Nats, session: &str, frames: &str, more: &[&str]) {
    let url = nats.url();
    let args: Vec<_> = [PYTHON_CLIENT, &url, "us", "standup", session, "ana", frames]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    let output = python::run(&args, "");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("acknowledged {frames} of {frames}\n"));
}

#[tokio::test]
async fn a_client_in_python_is_folded() {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    python_client(&nats, "python-1", "5", &[]);
    python_client(&nats, "python-2", "3", &["--ended"]);
    callsight
        .metrics_when(PATIENCE, "all frames to be folded", |scrape| {
            wait::when(scrape.sum("callsight_frames_folded_total", &[]), |folded| *folded == 8.0).map(drop)
        })
        .await;
    let scrape = callsight.metrics().await;

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
