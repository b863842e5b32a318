//! Whole applications in a real Chromium, up to what triage tells of each participant.

mod example;
mod janus;
mod janus_server;
mod tutorial;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::ingest::Way;
use crate::kit::browser::Browser;
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::wait::{self, PATIENCE};
use crate::kit::web;

/// Everything that the frames of an application's pages go through, and a browser for them.
struct Scene {
    browser: Browser,
    way: Way,
    callsight: Callsight,
    _nats: Nats,
}

/// What triage tells of a session.
#[derive(Debug)]
struct Told {
    degraded_by: Value,
    /// What it receives of each peer, by the peer's id.
    receives: BTreeMap<String, Value>,
}

/// The sessions that are live, by their participants.
type Sessions = BTreeMap<String, Told>;

impl Scene {
    /// Pages of the origin may send frames, with the tests' tokens.
    async fn start(origin: &str) -> Self {
        Self::start_with(|nats| Way::start(nats, &["--rate-participant=100", "--allow-origin", origin])).await
    }

    /// The same with another way in to the NATS of this URL. No session falls idle: those that go
    /// have ended.
    async fn start_with(way: impl FnOnce(&str) -> Way) -> Self {
        let nats = Nats::start();
        let mut callsight = Callsight::serve(&nats, &["--create", "--idle-timeout=1h"]);
        let mut way = way(&nats.url());
        let browser = Browser::start_with(web::CALLING);
        way.ready().await;
        callsight.ready().await;
        Self { browser, way, callsight, _nats: nats }
    }

    /// The address for the client.
    fn endpoint(&self) -> String {
        format!("http://{}", self.way.target())
    }

    async fn sessions(&self) -> Sessions {
        let mut sessions = BTreeMap::new();
        for (labels, _) in self.callsight.metrics().await.series("videocall_session_last_seen_age_seconds") {
            let answer = self.callsight.get(&format!("/api/triage/session/{}", labels["session_id"])).await;
            // It may have ended since.
            let Ok(mut detail) = serde_json::from_slice::<Value>(&answer.body) else { continue };
            let Some(pairs) = detail["receives"].as_array() else { continue };
            let receives =
                pairs.iter().map(|pair| (pair["peer_id"].as_str().unwrap().to_owned(), pair.clone()));
            let receives = receives.collect();
            let degraded_by = detail["session"]["degraded_by"].take();
            sessions.insert(labels["peer_id"].clone(), Told { degraded_by, receives });
        }
        sessions
    }

    /// Waits until what triage tells satisfies a condition.
    async fn until(&self, what: &str, condition: impl Fn(&Sessions) -> bool) {
        wait::eventually_async(PATIENCE * 4, what, async || {
            wait::when(self.sessions().await, |sessions| condition(sessions))
        })
        .await;
    }
}

/// Whether a peer's audio and video arrive, with statistics of both.
fn arrives(pair: &Value) -> bool {
    let measured = |name: &str| pair[name].as_f64().is_some_and(|value| value > 0.0);
    let yes = ["hears", "sees", "peer_microphone_on", "peer_camera_on"];
    yes.iter().all(|name| pair[name] == true)
        && ["video_height", "video_frames_per_second", "audio_buffer_ms"].iter().all(|name| measured(name))
}

/// Whether everybody receives all others, and nobody else.
fn everybody_receives_all_others(sessions: &Sessions, peers: &[&str]) -> bool {
    sessions.keys().eq(peers)
        && sessions.iter().all(|(own, told)| {
            let others = peers.iter().filter(|peer| *peer != own);
            told.receives.keys().eq(others) && told.receives.values().all(arrives)
        })
}
