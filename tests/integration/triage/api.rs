//! `/api/triage`: the numbers behind the page.

use serde_json::{Value, json};

use super::{Calls, Mood, scene, sentence, told};
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::{http, wait};

async fn get(callsight: &Callsight, path: &str) -> (u16, Value) {
    let answer = callsight.get(path).await;
    assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

#[tokio::test]
async fn it_tells_whether_it_is_bad_where_for_how_many_and_by_what() {
    let (_nats, callsight, relay) = scene(&[]).await;
    let idle = told(&callsight, "a first answer", |answer| answer["verdict"]["state"] == "idle").await;
    assert_eq!((sentence(&idle), &idle["version"]), ("No calls in us", &json!(1)));

    let mut calls = Calls::new(40);
    calls.say(&relay, |_| Mood::Fine).await;
    let good = told(&callsight, "all sessions", |answer| answer["all"]["sessions"] == 40).await;
    assert_eq!(sentence(&good), "Good: all 40 sessions are fine in us");
    assert_eq!((&good["all"]["meetings"], &good["all"]["rtt_p95_ms"]), (&json!(10), &json!(50.0)));

    // Two whole meetings are slow, and one session of a third; another one's tab is hidden.
    let slow = |session| match session {
        0..=8 => Mood::Slow(800.0 + f64::from(u8::try_from(session).unwrap())),
        9 => Mood::Hidden,
        _ => Mood::Fine,
    };
    calls.say(&relay, slow).await;
    let bad = told(&callsight, "nine degraded", |answer| answer["all"]["sessions_degraded"] == 9).await;
    let (begin, since) = sentence(&bad).split_once(", since ").unwrap();
    assert_eq!(begin, "Bad in us: 9 of 40 sessions (23 %) in 3 meetings, RTT");
    assert!(since.ends_with(" UTC") && since.len() == "14:03:10 UTC".len(), "{since}");
    let verdict = &bad["verdict"];
    assert_eq!(
        (&verdict["state"], &verdict["region"], &verdict["cause"], &verdict["signals"]),
        (&json!("bad"), &json!("us"), &json!("network"), &json!(["rtt"]))
    );
    assert!(verdict["evidence"].as_str().unwrap().contains("1 hidden tab not judged"), "{verdict}");
    assert_eq!(
        bad["all"]["sessions_degraded_by"],
        json!({ "rtt": 9, "audio": 0, "video": 0, "join": 0, "uplink": 0 })
    );
    assert_eq!((&bad["all"]["sessions_hidden"], &bad["servers_total"]), (&json!(1), &json!(3)));
    let worst: Vec<_> = bad["worst_sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["session_id"].clone())
        .collect();
    assert_eq!(worst[..3], ["session-8", "session-7", "session-6"]);
    assert_eq!(bad["pipeline"]["ready"], true);

    calls.say(&relay, |session| if session < 20 { Mood::Deaf } else { Mood::Fine }).await;
    let deaf = told(&callsight, "twenty deaf", |answer| answer["all"]["sessions_degraded"] == 20).await;
    assert!(sentence(&deaf).starts_with("Bad in us: 20 of 40 sessions (50 %) in 5 meetings, audio, since "));
    // The spell goes on: it is still the same one that began with the slow ones.
    assert_eq!(deaf["verdict"]["since"], bad["verdict"]["since"]);
    assert_ne!(deaf["verdict"]["cause"], "network");

    calls.say(&relay, |_| Mood::Fine).await;
    let again = told(&callsight, "recovery", |answer| answer["verdict"]["state"] == "good").await;
    assert_eq!(again["verdict"]["since"], Value::Null);
    let history = &told(&callsight, "the bad time in the history", |answer| {
        let degraded = answer["history"]["regions"][0]["sessions_degraded"].as_array().unwrap();
        degraded.len() > 1 && degraded.last() == Some(&json!(0))
    })
    .await["history"];
    let steps = history["at_unix_seconds"].as_array().unwrap().len();
    for list in ["sessions", "sessions_degraded", "rtt_p50_ms", "rtt_p95_ms"] {
        assert_eq!(history["regions"][0][list].as_array().unwrap().len(), steps, "{list}");
    }
}

#[tokio::test]
async fn it_names_the_server_that_holds_the_trouble() {
    let (_nats, callsight, relay) = scene(&[]).await;
    let mut calls = Calls::new(60);
    calls.say(&relay, |session| if session % 3 == 1 { Mood::Slow(900.0) } else { Mood::Fine }).await;
    let bad = told(&callsight, "twenty degraded", |answer| answer["all"]["sessions_degraded"] == 20).await;
    let (begin, _) = sentence(&bad).split_once(", since").unwrap();
    assert_eq!(begin, "Bad in us on relay-2.example:4433: 20 of 20 sessions (100 %) in 15 meetings, RTT");
    let first = &bad["servers"][0];
    assert_eq!(
        (&first["server_url"], &first["state"]),
        (&json!("https://relay-2.example:4433"), &json!("bad"))
    );
    assert_eq!((&first["server_type"], &first["rtt_p95_ms"]), (&json!("webtransport"), &json!(900.0)));
}

#[tokio::test]
async fn a_session_opens_into_who_hears_and_sees_whom() {
    let (_nats, callsight, relay) = scene(&[]).await;
    let mut calls = Calls::new(8);
    calls.say(&relay, |session| if session == 5 { Mood::Deaf } else { Mood::Fine }).await;
    told(&callsight, "the deaf one", |answer| answer["all"]["sessions_degraded"] == 1).await;

    let (status, detail) = get(&callsight, "/api/triage/session/session-5").await;
    assert_eq!((status, &detail["session"]["meeting_id"]), (200, &json!("meeting-1")));
    assert_eq!(detail["session"]["degraded_by"], json!(["audio"]));
    assert_eq!(
        (&detail["session"]["meeting_sessions"], &detail["session"]["meeting_sessions_degraded"]),
        (&json!(4), &json!(1))
    );
    let pairs = |list: &str| detail[list].as_array().unwrap().clone();
    let receives = pairs("receives");
    assert_eq!(receives.len(), 3);
    for pair in &receives {
        assert_eq!((&pair["hears"], &pair["peer_microphone_on"]), (&json!(false), &json!(true)));
        assert_eq!((&pair["participant_id"], &pair["audio_buffer_ms"]), (&json!("session-5"), &json!(62.0)));
    }
    let received_by = pairs("received_by");
    let mut by: Vec<_> = received_by.iter().map(|pair| pair["participant_id"].as_str().unwrap()).collect();
    by.sort_unstable();
    assert_eq!(by, ["session-4", "session-6", "session-7"]);
    assert!(received_by.iter().all(|pair| pair["hears"] == true && pair["peer_id"] == "session-5"));

    // As browsers write them, percent-encoded.
    let (status, meeting) = get(&callsight, "/api/triage/meeting/javascript%3Aalert%401").await;
    assert_eq!((status, &meeting["meeting_id"]), (200, &json!("javascript:alert@1")));
    assert_eq!((&meeting["sessions_total"], &meeting["pairs_total"]), (&json!(4), &json!(12)));

    for (path, status, error) in [
        ("/api/triage/session/nobody", 404, "there is no live session `nobody`"),
        ("/api/triage/meeting/meeting", 404, "there is no live meeting `meeting`"),
        ("/api/triage/session/%3Cimg%3E", 400, "`<img>` is no session id"),
        ("/api/triage/meeting/a%20b", 400, "`a b` is no meeting id"),
    ] {
        let (answered, body) = get(&callsight, path).await;
        let told = body["error"].as_str().unwrap();
        assert!(answered == status && told.starts_with(error), "{path}: {answered} {told}");
    }
    assert_eq!(callsight.get("/api/triage/session").await.status, 404);
    let refused = http::post(&format!("{}/api/triage", callsight.url())).await.unwrap();
    assert_eq!(refused.status, 405);
}

#[tokio::test]
async fn without_detail_the_aggregates_answer() {
    let (_nats, callsight, relay) = scene(&["--detail", "off"]).await;
    let mut calls = Calls::new(20);
    calls.say(&relay, |session| if session < 10 { Mood::Slow(450.0) } else { Mood::Fine }).await;
    let bad = told(&callsight, "round trips of the last minute", |answer| {
        answer["all"]["sessions_degraded"] == 10 && answer["all"]["rtt_p95_ms"].is_number()
    })
    .await;
    assert!(
        sentence(&bad).starts_with("Bad in us: 10 of 20 sessions (50 %), RTT, since "),
        "{}",
        sentence(&bad)
    );
    assert_eq!((&bad["detail"], &bad["all"]["meetings_degraded"]), (&json!("off"), &Value::Null));
    // In the bucket from 400 to 500 ms.
    let p95 = bad["all"]["rtt_p95_ms"].as_f64().unwrap();
    assert!((400.0..=500.0).contains(&p95), "{p95}");
    assert_eq!(bad["worst_sessions"], json!([]));
    let (status, body) = get(&callsight, "/api/triage/session/session-1").await;
    assert_eq!(status, 404);
    assert!(body["error"].as_str().unwrap().contains("--detail session"), "{body}");
}

#[tokio::test]
async fn page_and_api_are_behind_the_password_and_keep_others_out() {
    let nats = Nats::start();
    let folder = temporary_directory();
    let web = folder.path().join("web.yml");
    let hash = bcrypt::hash("hunter2", 4).unwrap();
    std::fs::write(&web, format!("basic_auth_users: {{ops: '{hash}'}}\n")).unwrap();
    let mut callsight = Callsight::serve(&nats, &["--create", "--web-config", web.to_str().unwrap()]);
    callsight.ready().await;
    for path in ["/", "/api/triage", "/api/triage/session/s1", "/api/triage/meeting/m1"] {
        assert_eq!(callsight.get(path).await.status, 401, "{path}");
    }
    // ops:hunter2
    let password = ("authorization", "Basic b3BzOmh1bnRlcjI=");
    wait::eventually_async(wait::PATIENCE, "an answer", async || {
        wait::when(callsight.get_with("/api/triage", &[password]).await.status, |status| *status == 200)
    })
    .await;
    for path in ["/", "/api/triage", "/api/triage/session/s1"] {
        let answer = callsight.get_with(path, &[password]).await;
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
    }
}

#[tokio::test]
async fn it_says_when_it_cannot_tell() {
    let (mut nats, callsight, relay) = scene(&[]).await;
    let mut calls = Calls::new(8);
    calls.say(&relay, |_| Mood::Fine).await;
    told(&callsight, "all sessions", |answer| answer["all"]["sessions"] == 8).await;
    drop(relay);
    nats.kill9();
    let unknown = told(&callsight, "doubt", |answer| answer["verdict"]["state"] == "unknown").await;
    assert!(sentence(&unknown).starts_with("Can't tell for us since "), "{}", sentence(&unknown));
    assert_eq!(
        (&unknown["pipeline"]["ready"], &unknown["regions"][0]["state"]),
        (&json!(false), &json!("unknown"))
    );
    nats.restart();
    told(&callsight, "certainty again", |answer| answer["verdict"]["state"] == "good").await;
}
