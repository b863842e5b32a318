//! The dashboards of videocall.rs go on: its metrics, with names, labels and units as its own
//! metrics server had them, come from Callsight's series by the optional rules.

use std::collections::{BTreeMap, BTreeSet};

use callsight_frame::{Frame, NetEq};
use serde_json::Value;

use crate::kit::callsight::Callsight;
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::prometheus::Prometheus;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};
use crate::rules::files;
use crate::rules::known::Known;

/// The labels of a metric, and the metrics that have them there.
type Family = (&'static [&'static str], &'static [&'static str]);

/// What videocall.rs's metrics server exports and a rule gives. Its labels with people's names are
/// missing, and `health_reports` had none.
const FAMILIES: [Family; 8] = [
    (&["meeting_id"], &["videocall_meeting_participants"]),
    (&["meeting_id", "session_id"], &["videocall_active_sessions_total"]),
    (&["meeting_id", "session_id", "peer_id"], &["videocall_peer_info"]),
    (
        &["meeting_id", "session_id", "peer_id", "server_url", "server_type"],
        &["videocall_client_active_server", "videocall_client_active_server_rtt_ms"],
    ),
    (&["meeting_id", "peer_id"], &["videocall_self_audio_enabled", "videocall_self_video_enabled"]),
    (&["meeting_id", "peer_id"], &["videocall_peer_connections_total"]),
    (&["instance"], &["videocall_health_reports_total"]),
    (
        &["meeting_id", "session_id", "from_peer", "to_peer"],
        &[
            "videocall_peer_can_listen",
            "videocall_peer_can_see",
            "videocall_neteq_audio_buffer_ms",
            "videocall_neteq_target_delay_ms",
            "videocall_neteq_packets_awaiting_decode",
            "videocall_neteq_packets_per_sec",
            "videocall_neteq_normal_ops_per_sec",
            "videocall_neteq_expand_ops_per_sec",
            "videocall_neteq_accelerate_ops_per_sec",
            "videocall_neteq_fast_accelerate_ops_per_sec",
            "videocall_neteq_preemptive_expand_ops_per_sec",
            "videocall_neteq_merge_ops_per_sec",
            "videocall_neteq_comfort_noise_ops_per_sec",
            "videocall_neteq_dtmf_ops_per_sec",
            "videocall_neteq_undefined_ops_per_sec",
            "videocall_audio_concealment_pct",
            "videocall_video_fps",
            "videocall_video_packets_buffered",
            "videocall_video_bitrate_kbps",
        ],
    ),
];

fn metrics() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    FAMILIES.into_iter().flat_map(|(labels, names)| names.iter().map(move |name| (*name, labels)))
}

#[test]
fn every_rule_gives_a_metric_of_videocall_rs_and_the_documents_say_which() {
    let recorded: BTreeSet<_> = files::optional_rules().into_iter().filter_map(|rule| rule.record).collect();
    assert_eq!(recorded, metrics().map(|(name, _)| name.to_owned()).collect());
    // None has the name of a metric of Callsight, and each builds on what there is.
    Known::all().record(files::optional_rules());

    let document = files::text("docs/migration.md");
    let section = document.split("\n## ").find(|section| section.starts_with("Old names")).unwrap();
    let names: BTreeSet<_> =
        section.split('`').filter(|word| word.starts_with("videocall_")).map(str::to_owned).collect();
    assert_eq!(names, recorded);
}

/// What a panel asks, with its variables filled in.
fn panel(name: &str, labels: &[&str]) -> String {
    let matchers: Vec<_> = labels.iter().map(|label| format!("{label}=~\".+\"")).collect();
    format!("{name}{{job=\"\",{}}}", matchers.join(","))
}

/// One frame of somebody who observes one peer, with all operations of NetEQ and a video.
fn observed(seq: u64) -> Frame<'static> {
    let mut frame = frame("ana", seq, &["ben"]);
    let peer = &mut frame.peers[0];
    let audio = peer.audio.as_mut().unwrap();
    audio.silent_concealed_samples = Some(0);
    let count = Some(seq);
    audio.neteq = Some(NetEq {
        normal: count,
        merge: count,
        expand: count,
        accelerate: count,
        fast_accelerate: count,
        preemptive_expand: count,
        comfort_noise: count,
        dtmf: count,
        undefined: count,
    });
    peer.video.as_mut().unwrap().frames_buffered = Some(2.0);
    frame
}

/// What the panels show of that somebody, in the units that they had.
const SHOWN: [(&str, f64); 9] = [
    ("videocall_meeting_participants", 1.0),
    ("videocall_client_active_server", 1.0),
    ("videocall_self_audio_enabled", 1.0),
    ("videocall_self_video_enabled", 0.0),
    ("videocall_peer_can_listen", 1.0),
    ("videocall_neteq_audio_buffer_ms", 62.0),
    ("videocall_neteq_target_delay_ms", 80.0),
    ("videocall_neteq_packets_awaiting_decode", 3.0),
    ("videocall_video_bitrate_kbps", 1_500.0),
];

#[tokio::test]
async fn panels_of_videocall_rs_go_on_and_end_with_the_calls() {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    let prometheus = Prometheus::start_with_optional_rules_and_hurry(&callsight.target());
    let url = nats.url();
    let calls = ["simulate", "--nats-url", &url, "--sessions=20", "--interval=1s", "--client=neteq"];
    let mut calls = Callsight::spawn(&calls);
    let health = Health::at(&nats).await;
    let mut seq = 0;
    let mut left: BTreeMap<_, _> = metrics().collect();
    wait::eventually_async(PATIENCE, "an answer in every panel", async || {
        seq += 1;
        health.publish(&observed(seq)).await;
        for (name, labels) in left.clone() {
            let found = prometheus.query(&panel(name, labels)).await;
            for series in found.as_array().unwrap() {
                let had: BTreeSet<_> =
                    series["metric"].as_object().unwrap().keys().map(String::as_str).collect();
                let expected: BTreeSet<_> = labels.iter().copied().chain(["__name__"]).collect();
                assert_eq!(had, expected, "{name}");
                let value = series["value"][1].as_str().unwrap();
                if value.parse::<f64>().is_ok_and(f64::is_finite) {
                    left.remove(name);
                }
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left.clone()) }
    })
    .await;

    for (name, value) in SHOWN {
        let (_, labels) = metrics().find(|(metric, _)| *metric == name).unwrap();
        let own = if labels.contains(&"from_peer") {
            r#"from_peer="ana",to_peer="ben""#
        } else {
            r#"meeting_id="standup""#
        };
        assert_eq!(prometheus.value(&format!("{name}{{{own}}}")).await, Some(value), "{name}");
    }
    let rtt_ms = prometheus.value(r#"videocall_client_active_server_rtt_ms{peer_id="ana"}"#).await.unwrap();
    assert!((40.0..=40.0 + seq as f64).contains(&rtt_ms), "{rtt_ms}");

    // Whoever leaves is gone with the next evaluation, in contrast to there.
    assert!(calls.terminate(PATIENCE).success(), "{}", calls.output());
    health.publish(&Frame { ended: Some(true), ..observed(seq + 1) }).await;
    let of_calls: Vec<_> =
        metrics().map(|(name, _)| name).filter(|name| !name.contains("health_reports")).collect();
    let remaining = format!("count by (__name__) ({{job=\"\",__name__=~\"{}\"}})", of_calls.join("|"));
    wait::eventually_async(PATIENCE, "nothing to be left", async || {
        wait::when(prometheus.query(&remaining).await, |found| *found == Value::Array(Vec::new()))
    })
    .await;
    assert!(prometheus.value("sum(videocall_health_reports_total)").await > Some(20.0));
}
