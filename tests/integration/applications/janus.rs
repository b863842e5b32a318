//! Four pages in a room of a real Janus.
//!
//! In such a room each page has one connection to send, and one that brings everybody's media, or
//! one for each of the others. Only the messages of the room say what is whose. What a page does
//! not ask for never comes, and must be nobody's fault.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use warp::Filter;

use super::janus_server::Janus;
use super::{Scene, everybody_receives_all_others};
use crate::ingest::client::token;
use crate::kit::browser::Page;
use crate::kit::{media, web};

const ROOM: &str = "standup";
const PEERS: [&str; 4] = ["ana", "bo", "eve", "zoe"];
const PAGE: &str = "<!doctype html><title>a room</title><body><script type=module src=/room.js></script>";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_of_janus_blames_nobody_for_what_is_not_wanted() {
    let _turn = media::turn().await;
    let script = web::script("room.js", web::bundle("applications/room.js"));
    let tokens = warp::path!("token" / String).map(|peer: String| token(&peer));
    let application = web::serve(tokens.or(script).or(web::pages(PAGE))).await;
    let janus = Janus::start(ROOM);
    let scene = Scene::start(&application).await;

    let mut pages = BTreeMap::<&str, Page>::new();
    for peer in PEERS {
        let page = scene.browser.window(320, 240).await;
        let asked = format!("peer={peer}&janus={}&endpoint={}", janus.url(), scene.endpoint());
        let each = if peer == "eve" { "&each" } else { "" };
        page.open(&format!("{application}/?{asked}{each}")).await;
        pages.insert(peer, page);
    }
    scene
        .until("each of four to hear and see the three others", |sessions| {
            everybody_receives_all_others(sessions, &PEERS)
        })
        .await;

    // One pauses a video, another one is not subscribed at all, and the third misses both media.
    pages["ana"].evaluate("page.pause('bo')").await;
    pages["zoe"].evaluate("page.unsubscribe('bo')").await;
    pages["bo"].evaluate("page.silence()").await;
    scene
        .until("only those to be degraded that miss something", |sessions| {
            let is = |who: &str, audio: bool, video: bool, by: Value| {
                let pair = sessions.get(who).and_then(|told| told.receives.get("bo"));
                pair.is_some_and(|pair| {
                    let wanted = pair["audio_wanted"] == audio && pair["video_wanted"] == video;
                    wanted && pair["degraded_by"] == by
                })
            };
            let session = |who: &str, by: Value| sessions.get(who).is_some_and(|told| told.degraded_by == by);
            is("eve", true, true, json!(["audio", "video"]))
                && is("ana", true, false, json!(["audio"]))
                && is("zoe", false, false, json!([]))
                && session("eve", json!(["audio", "video"]))
                && session("zoe", json!([]))
        })
        .await;

    // One leaves, and the tab of another one is closed.
    pages.remove("bo").unwrap().evaluate("page.leave()").await;
    pages.remove("zoe").unwrap().close().await;
    scene
        .until("the two that are left to receive each other", |sessions| {
            everybody_receives_all_others(sessions, &["ana", "eve"])
        })
        .await;
    for (peer, page) in pages {
        assert_eq!(media::problems(&page.evaluate("page.problems").await), Vec::<&Value>::new(), "{peer}");
        assert_eq!(page.complaints(), Vec::<String>::new(), "{peer}");
    }
}
