//! The browser client in a real Chromium, with a real call, up to the exporter's series.
//!
//! What a page can still send while it goes, and what a browser allows towards another origin, no
//! imitation of a browser shows.

use std::sync::{Arc, Mutex};

use callsight_frame::{Frame, JoinState};
use serde_json::json;
use warp::Filter;

use super::Way;
use super::client::{SECRET, claims, now, token};
use crate::kit::browser::{Browser, Page};
use crate::kit::callsight::Callsight;
use crate::kit::jwt::hs256;
use crate::kit::nats::Nats;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};
use crate::kit::web;

const RTT: &str = "videocall_session_rtt_seconds";

/// A page of an application, its call, and everything that its frames go through.
struct Scene {
    tokens: Arc<Mutex<Vec<String>>>,
    application: String,
    page: Page,
    browser: Browser,
    way: Way,
    callsight: Callsight,
    nats: Nats,
}

/// No session falls idle here: those that go have ended.
async fn scene() -> Scene {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create", "--idle-timeout=1h"]);
    callsight.ready().await;
    // Tokens to hand out before good ones.
    let tokens = Arc::<Mutex<Vec<String>>>::default();
    let next = Arc::clone(&tokens);
    let backend = warp::path("token").map(move || next.lock().unwrap().pop().unwrap_or_else(|| token("ana")));
    let application = web::serve(backend.or(web::pages(include_str!("browser.html")))).await;
    let mut way = Way::start(&nats.url(), &["--allow-origin", &application]);
    way.ready().await;
    let browser = Browser::start_with(web::CALLING);
    let page = browser.page(640, 480).await;
    page.open(&application).await;
    Scene { tokens, application, page, browser, way, callsight, nats }
}

impl Scene {
    async fn start(&self) {
        self.page.until("typeof page === 'object' && !page.health").await;
        self.page.evaluate(&format!("page.start({})", json!(self.way.url("")))).await;
    }

    /// The sessions that have series.
    async fn sessions(&self) -> Vec<String> {
        let rows = self.callsight.metrics().await.series(RTT);
        rows.into_iter().map(|(labels, _)| labels["session_id"].clone()).collect()
    }

    /// Waits until one session has series, and returns its id.
    async fn session(&self) -> String {
        wait::eventually_async(PATIENCE, "the session's series", async || {
            let sessions = self.sessions().await;
            wait::when(sessions, |sessions| sessions.len() == 1).map(|mut sessions| sessions.remove(0))
        })
        .await
    }

    /// Waits until no session has series.
    async fn gone(&self) {
        wait::eventually_async(PATIENCE, "no session to be left", async || {
            wait::when(self.sessions().await, Vec::is_empty).map(drop)
        })
        .await;
    }

    /// Waits until the stream has what is expected, and returns that.
    async fn stored<T>(&self, what: &str, find: impl Fn(&[Frame<'_>]) -> Option<T>) -> T {
        let health = Health::at(&self.nats).await;
        wait::eventually_async(PATIENCE, what, async || {
            let messages = health.read().await;
            let frames: Vec<_> =
                messages.iter().map(|message| Frame::decode(&message.payload).unwrap()).collect();
            find(&frames).ok_or_else(|| format!("{:#?}", frames.last()))
        })
        .await
    }
}

fn heard(frame: &Frame<'_>) -> u64 {
    let audio = frame.peers.first().and_then(|peer| peer.audio.as_ref());
    audio.and_then(|audio| audio.packets_received).unwrap_or_default()
}

fn restarts(frame: &Frame<'_>) -> Option<u64> {
    frame.path.as_ref().and_then(|path| path.ice_restarts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_reports_its_call_until_it_ends_it() {
    let scene = scene().await;
    scene.start().await;
    let session = scene.session().await;
    assert!(session.starts_with("ana:"), "{session}");
    let row = [
        ("meeting_id", "standup"),
        ("session_id", &*session),
        ("peer_id", "ana"),
        ("server_url", "https://sfu-1.example.com"),
        ("server_type", "webrtc"),
        ("app", "web-2.14.0"),
        ("platform", "chrome"),
    ];
    assert!(scene.callsight.metrics().await.any(RTT, &row), "{row:?}");
    let before = scene
        .stored("a call that is heard, seen and joined", |frames| {
            let frame = frames.last()?;
            let peer = frame.peers.first()?;
            let seen = peer.video.as_ref()?.frames_decoded? > 0 && peer.screen.is_some();
            let joined = frame.join.as_ref()?.state == JoinState::Joined;
            let on = frame.audio_enabled? && frame.video_enabled? && frame.tab_visible?;
            (heard(frame) > 0 && seen && joined && on && restarts(frame) == Some(0)).then(|| heard(frame))
        })
        .await;

    scene.page.evaluate("page.restart()").await;
    scene
        .stored("the ICE restart, and more packets after it", |frames| {
            let after = frames.iter().position(|frame| restarts(frame) == Some(1))?;
            frames[after..].iter().any(|frame| heard(frame) > heard(&frames[after])).then_some(())
        })
        .await;
    scene
        .stored("counters that never decrease", |frames| {
            let growing = frames.is_sorted_by_key(heard) && frames.is_sorted_by_key(|frame| frame.seq);
            (growing && heard(frames.last()?) > before).then_some(())
        })
        .await;

    scene.page.evaluate("page.health.end()").await;
    scene.gone().await;
    let ended = scene.stored("the last frame", |frames| frames.last()?.ended?.then_some(frames.len())).await;
    assert_eq!(scene.page.evaluate("page.problems").await, json!([]));
    assert_eq!(scene.page.complaints(), Vec::<String>::new());

    // A page that is loaded again is a new session, and ends the one before; so does a closed tab.
    scene.page.open(&scene.application).await;
    scene.start().await;
    let second = scene.session().await;
    assert_ne!(second, session);
    scene.page.open(&scene.application).await;
    scene.gone().await;
    scene.start().await;
    let third = scene.session().await;
    assert!(![&session, &second].contains(&&third), "{third}");
    let Scene { page, browser, callsight, nats, way, tokens, application } = scene;
    let other = browser.page(640, 480).await;
    other.open(&application).await;
    page.close().await;
    let scene = Scene { page: other, browser, callsight, nats, way, tokens, application };
    scene.gone().await;
    let sessions = scene
        .stored("three sessions, each with a last frame", |frames| {
            let last: Vec<_> = frames.iter().filter(|frame| frame.ended == Some(true)).collect();
            (frames.len() > ended && last.len() == 3)
                .then(|| last.iter().map(|frame| frame.session_id.as_str().to_owned()).collect::<Vec<_>>())
        })
        .await;
    assert_eq!(sessions, [session, second, third]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_renews_its_token_and_outlasts_the_way_in() {
    let mut scene = scene().await;
    let expired = hs256(SECRET.as_bytes(), &claims("ana", &json!({"exp": now() - 600})));
    scene.tokens.lock().unwrap().push(expired);
    scene.start().await;
    scene.session().await;
    assert_eq!(scene.page.evaluate("page.tokens.length").await, 2);
    let problems = scene.page.evaluate("page.problems").await;
    assert!(problems[0].as_str().unwrap().contains("401 expired"), "{problems}");
    assert_eq!(scene.way.metrics().await.sum("callsight_ingest_frames_total", &[("reason", "expired")]), 1.0);

    scene.way.terminate();
    let stored = scene.stored("frames", |frames| Some(frames.len())).await;
    scene.page.until("page.problems.some((problem) => problem.includes('no answer'))").await;
    scene.way.restart();
    scene.way.ready().await;
    // Those that waited come first, and none is missing.
    scene
        .stored("all frames of the outage", |frames| {
            let seqs = frames.iter().map(|frame| frame.seq.get());
            (frames.len() > stored + 2 && seqs.eq(1..=frames.len() as u64)).then_some(())
        })
        .await;
    scene.page.evaluate("page.health.end()").await;
    scene.gone().await;
}
