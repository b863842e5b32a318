//! On whose side it is: causes, releases, and both directions of a pair, from the frames of clients
//! that report all they can.

use callsight_frame::{
    App, Audio, CandidateType, Client, Frame, Join, JoinFailure, JoinState, Path, Peer, Platform, Protocol,
    QualityLimitation, Sending, Video,
};
use serde_json::{Value, json};

use super::page::{OVERFLOW, TOO_FAINT, open, sentence_begins};
use super::{Calls, Mood, scene, told};
use crate::kit::browser::{Browser, Page};
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::relay::Relay;

const SESSIONS: usize = 24;

/// In the first three meetings the first one's uplink loses packets, and all have a new release.
/// The last meeting has old clients, which report nothing of the kind.
fn lossy_uplinks(session: usize, frame: &mut Frame<'_>) {
    let seq = frame.seq.get();
    let (new, lossy) = (session < 12, session < 12 && session.is_multiple_of(Calls::MEETING));
    if session >= 20 {
        return;
    }
    frame.client = Some(Client {
        app: Some(App::new(if new { "web-2" } else { "web-1" }).unwrap()),
        platform: Some(if new { Platform::Safari } else { Platform::Chrome }),
    });
    frame.path = Some(Path {
        candidate_type: Some(if lossy { CandidateType::Relay } else { CandidateType::Host }),
        protocol: Some(if lossy { Protocol::Tls } else { Protocol::Udp }),
        available_outgoing_kbps: Some(1_650.0),
        ..Path::default()
    });
    frame.send = Some(Sending {
        rtt_ms: Some(95.0),
        audio_packets_sent: Some(50 * seq),
        audio_packets_lost: Some(if lossy { 9 * seq } else { 0 }),
        fps: Some(12.0),
        frame_height: Some(360),
        bitrate_kbps: Some(412.0),
        limited: Some(QualityLimitation {
            bandwidth_ms: Some(if lossy { 10_000 * seq } else { 0 }),
            ..QualityLimitation::default()
        }),
        ..Sending::default()
    });
    for peer in &mut frame.peers {
        *peer = received(session, seq, peer);
    }
}

/// What a session receives of a peer.
fn received<'a>(session: usize, seq: u64, peer: &Peer<'a>) -> Peer<'a> {
    let number: usize = peer.peer_id.as_str().trim_start_matches("session-").parse().unwrap();
    let from_lossy = number < 12 && number.is_multiple_of(Calls::MEETING);
    let unwanted = (session, number) == (0, 2);
    let audio = peer.audio.clone().unwrap();
    Peer {
        can_see: !unwanted,
        video_enabled: true,
        video_wanted: Some(!unwanted),
        audio: Some(Audio {
            concealed_samples: Some(if from_lossy { 9_600 * seq } else { 0 }),
            packets_lost: Some(if from_lossy { 7 * seq } else { 0 }),
            ..audio
        }),
        video: (!unwanted).then(|| Video {
            fps: Some(24.0),
            frame_height: Some(720),
            freeze_count: Some(0),
            ..Video::default()
        }),
        screen: ((session, number) == (0, 1)).then(|| Video { fps: Some(5.0), ..Video::default() }),
        ..peer.clone()
    }
}

async fn lossy_scene() -> (Nats, Callsight, Relay, Calls) {
    let (nats, callsight, relay) = scene(&[]).await;
    let mut calls = Calls::new(SESSIONS);
    // A loss is that since the frame before.
    for _ in 0..2 {
        calls.say_more(&relay, |_| Mood::Fine, lossy_uplinks).await;
    }
    told(&callsight, "lossy uplinks", |answer| answer["all"]["sessions_degraded"] == 12).await;
    (nats, callsight, relay, calls)
}

async fn drill(page: &Page, session: &str) {
    page.evaluate(&format!("openSession({})", json!(session))).await;
    page.until("document.querySelectorAll('#meeting tbody tr').length === 4").await;
}

/// What is found about a session.
async fn findings(page: &Page) -> Vec<Value> {
    let found = "[...document.querySelectorAll('#findings li')].map(item => item.textContent)";
    page.evaluate(found).await.as_array().unwrap().clone()
}

#[tokio::test]
async fn the_api_tells_what_is_sent_and_received() {
    let (_nats, callsight, _relay, _calls) = lossy_scene().await;
    let answer = told(&callsight, "a cause", |answer| answer["verdict"]["cause"] == "uplink").await;
    assert_eq!(answer["client_outlier"], "web-2");
    assert_eq!(answer["packets_lost_limit_ratio"], 0.05);
    let clients = answer["all"]["clients"].as_array().unwrap();
    let safari = json!({ "app": "web-2", "platform": "safari", "sessions": 12, "sessions_degraded": 12 });
    assert!(clients.len() == 3 && clients.contains(&safari), "{clients:?}");
    let region = &answer["regions"][0];
    assert_eq!((&region["cause"], &region["sessions_degraded_by"]["uplink"]), (&json!("uplink"), &json!(3)));
    let worst = answer["worst_sessions"].as_array().unwrap();
    let first = worst.iter().find(|session| session["session_id"] == "session-0").unwrap();
    for (field, value) in [
        ("app", json!("web-2")),
        ("platform", json!("safari")),
        ("candidate_type", json!("relay")),
        ("protocol", json!("tls")),
        ("degraded_by", json!(["uplink"])),
        ("evidence", json!("sending")),
        ("sent_packets_lost_ratio", json!(0.18)),
        ("packets_lost_ratio", json!(0.0)),
        ("limited_by", json!("bandwidth")),
    ] {
        assert_eq!(first[field], value, "{field}");
    }

    let get = async |session: &str| -> Value {
        let answer = callsight.get(&format!("/api/triage/session/{session}")).await;
        serde_json::from_slice(&answer.body).unwrap()
    };
    let detail = get("session-0").await;
    assert_eq!(
        detail["sends"],
        json!({
            "rtt_ms": 95.0, "video_frames_per_second": 12.0, "video_height": 360.0,
            "bitrate_kbps": 412.0, "available_kbps": 1650.0,
        })
    );
    let receives = detail["receives"].as_array().unwrap();
    let screen = receives.iter().find(|pair| pair["peer_id"] == "session-1").unwrap();
    assert_eq!(
        (&screen["screen_frames_per_second"], &screen["video_height"], &screen["packets_lost_ratio"]),
        (&json!(5.0), &json!(720.0), &json!(0.0))
    );
    let received_by = detail["received_by"].as_array().unwrap();
    assert!(received_by.iter().all(|pair| pair["packets_lost_ratio"] == 0.12), "{received_by:?}");

    // Of an old client nothing is known, which is not zero.
    let old = get("session-20").await;
    for field in
        ["app", "platform", "candidate_type", "protocol", "evidence", "sent_packets_lost_ratio", "limited_by"]
    {
        assert_eq!(old["session"][field], Value::Null, "{field}");
    }
    assert!(old["sends"].as_object().unwrap().values().all(Value::is_null), "{}", old["sends"]);
}

#[tokio::test]
async fn the_page_says_on_whose_side_it_is() {
    let (_nats, callsight, relay, mut calls) = lossy_scene().await;
    let browser = Browser::start();
    let page = open(&browser, &callsight).await;
    sentence_begins(&page, "Bad in us: 12 of 24 sessions (50 %) in 3 meetings, audio, since ").await;
    assert_eq!(page.text("#cause").await, "Uplink");
    let reason = page.text("#reason").await;
    assert!(reason.starts_with("What 3 of the 12 send is lost, and 9 suffer by it alone."), "{reason}");
    // The cause that a screen reader announces comes with its evidence.
    for table in ["regions", "servers"] {
        let cause =
            page.evaluate(&format!("document.querySelector('#{table} tbody tr .cause').textContent")).await;
        assert!(cause.as_str().unwrap().starts_with("uplink: Uplink: "), "{table}: {cause}");
    }
    assert_eq!(page.evaluate("document.querySelector('#clients').hidden").await, false);
    assert!(page.text("#clients h2").await.to_lowercase().ends_with("web-2 stands out"));
    let cells = "[...document.querySelectorAll('#clients tbody tr')].map(row => [...row.cells].map(cell => cell.textContent).join())";
    assert_eq!(
        page.evaluate(cells).await,
        json!(["web-2,safari,12,12,100 %", "web-1,chrome,8,0,0 %", "not told,not told,4,0,0 %"])
    );
    let row = "[...document.querySelector('#worst [data-session=session-0]').closest('tr').cells].slice(3).map(cell => cell.textContent)";
    assert_eq!(
        page.evaluate(row).await,
        json!(["web-2 safari", "relay tls", "50 ms", "18 %", "0 %", "uplinks"])
    );

    // The one whose uplink it is.
    drill(&page, "session-0").await;
    assert_eq!(
        findings(&page).await,
        [
            "What session-0 sends is lost: 18 %.",
            "The bandwidth limits the video that session-0 sends.",
            "session-1, session-2 and session-3 hear session-0 badly: up to 12 % of the packets are lost on the way.",
        ]
    );
    assert_eq!(page.text("#receives-heading .word").await, "✓ all 3 are fine");
    assert_eq!(page.text("#received-heading .word").await, "✕ 3 of 3 bad");
    let cells = |table: &str| {
        format!(
            "Object.fromEntries([...document.querySelectorAll('#{table} tbody tr')].map(row => [row.cells[0].textContent, [...row.cells].slice(1).map(cell => cell.textContent)]))"
        )
    };
    let receives = page.evaluate(&cells("receives")).await;
    assert_eq!(
        receives["session-1"],
        json!(["0 %", "heard", "0 %", "62 ms", "seen", "720p 24/s", "0", "5/s"])
    );
    // Media that nobody asks for are not missed.
    assert_eq!(
        receives["session-2"],
        json!(["0 %", "heard", "0 %", "62 ms", "not asked for", "–", "–", "–"])
    );
    let received = page.evaluate(&cells("received")).await;
    assert_eq!(
        received["session-3"],
        json!(["12 %", "heard", "20 %", "62 ms", "seen", "720p 24/s", "0", "–"])
    );
    let facts = "Object.fromEntries([...document.querySelectorAll('.facts > div')].map(fact => [...fact.children].map(part => part.textContent)))";
    let shown = page.evaluate(facts).await;
    for (name, value) in [
        ("Client", "web-2 safari"),
        ("Path", "relay tls"),
        ("Lost", "18 %"),
        ("RTT of media", "95 ms"),
        ("Picture", "360p 12/s"),
        ("Bit rate", "412 kbit/s"),
        ("Available", "1.6 Mbit/s"),
        ("Limited by", "bandwidth"),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    for scheme in ["light", "dark"] {
        page.prefer(&[("prefers-color-scheme", scheme)]).await;
        assert_eq!(page.evaluate(TOO_FAINT).await, json!([]), "{scheme}");
    }

    // One who suffers by it.
    drill(&page, "session-1").await;
    page.until("document.querySelector('#findings').textContent.includes('session-1 lacks')").await;
    assert_eq!(findings(&page).await, ["What session-0 sends is lost: 18 %; session-1 lacks 12 % of it."]);
    assert_eq!(page.text("#receives-heading .word").await, "✕ 1 of 3 bad");

    // What an old client does not report is a dash.
    drill(&page, "session-20").await;
    page.until("document.querySelector('#findings').textContent === 'Nothing is bad.'").await;
    let shown = page.evaluate(facts).await;
    for name in ["Client", "Path", "Lost", "RTT of media", "Picture", "Bit rate", "Available", "Limited by"] {
        assert_eq!(shown[name], "–", "{name}");
    }
    page.press("Escape").await;

    // Others can't even join.
    let barred = |session, frame: &mut Frame<'_>| {
        if session < 9 {
            let reason = Some(JoinFailure::Ice);
            frame.join = Some(Join { state: JoinState::Failed, setup_ms: Some(15_000.0), reason });
        }
    };
    calls.say_more(&relay, |_| Mood::Fine, barred).await;
    sentence_begins(&page, "Bad in us: 9 of 24 sessions (38 %) in 3 meetings, joins, since ").await;
    assert_eq!(page.text("#cause").await, "Network");
    assert!(page.text("#reason").await.starts_with("No packets arrive when all of the 9 join."));
    assert!(page.text("#tile-sessions").await.contains("9 can't join"));
    drill(&page, "session-5").await;
    page.until("document.querySelector('#findings').textContent.includes('join')").await;
    assert_eq!(findings(&page).await, ["session-5 can't join the call, or not in time: no packets arrive."]);
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn on_a_phone_nothing_is_wider_than_the_screen() {
    let (_nats, callsight, _relay, _calls) = lossy_scene().await;
    let browser = Browser::start();
    let page = open(&browser, &callsight).await;
    sentence_begins(&page, "Bad in us").await;
    page.until("!document.querySelector('#clients').hidden").await;
    for width in [390, 320] {
        page.resize(width, 844).await;
        assert_eq!(page.evaluate(OVERFLOW).await[1], 0, "{width}");
        drill(&page, "session-0").await;
        let dialog =
            "(({scrollWidth, clientWidth}) => scrollWidth - clientWidth)(document.querySelector('dialog'))";
        assert_eq!(page.evaluate(dialog).await, 0, "{width}");
        assert_eq!(page.evaluate(OVERFLOW).await[1], 0, "{width}, with a session");
        page.press("Escape").await;
        page.until("!document.querySelector('dialog').open").await;
    }
    assert_eq!(page.complaints(), Vec::<String>::new());
}
