//! `callsight demo --call`: a real call in a real browser, made bad by hand.

use serde_json::{Value, json};

use super::{ONE_AT_A_TIME, address, assert_gone, servers};
use crate::ingest::client::{raw, request, send};
use crate::kit::browser::{Browser, Page};
use crate::kit::callsight::Callsight;
use crate::kit::process::Process;
use crate::kit::wait::{self, PATIENCE};
use crate::kit::{http, media};

/// Waits until the demo says where a part of it is.
fn place(demo: &Process, name: &str) -> String {
    wait::eventually(PATIENCE, name, || {
        let output = demo.output();
        address(&output, name).map(str::to_owned).ok_or(output)
    })
}

/// Waits until the triage page says something of the call, and returns all that it says.
async fn triage(callsight: &str, what: &str, says: impl Fn(&Value) -> bool) -> Value {
    wait::eventually_async(4 * PATIENCE, what, async || {
        let answer = http::get(&format!("{callsight}api/triage"), &[]).await?;
        let summary: Value = serde_json::from_str(answer.text()).map_err(|error| error.to_string())?;
        if says(&summary) {
            return Ok(summary);
        }
        Err(format!("{} worst: {}", summary["verdict"], summary["worst_sessions"]))
    })
    .await
}

fn sessions(summary: &Value) -> &Value {
    &summary["all"]["sessions"]
}

/// Moves a slider, as a hand does.
async fn slide(page: &Page, person: &str, path: &str, value: u32) {
    let moved = format!(
        "(() => {{
            const slider = document.querySelector('#{person} [data-path=\"{path}\"]');
            slider.value = {value};
            slider.dispatchEvent(new Event('input'));
            return slider.nextElementSibling.textContent;
        }})()"
    );
    let shown = page.evaluate(&moved).await;
    assert!(shown.as_str().unwrap().starts_with(&format!("{value} ")), "{shown}");
}

/// Presses a button of a participant, with the keyboard: a page may play only after such a thing.
async fn press(page: &Page, button: &str) {
    page.evaluate(&format!("document.querySelector('{button}').focus()")).await;
    page.press("Enter").await;
}

async fn until_status(page: &Page, person: &str, status: &str) {
    page.until(&format!("document.querySelector('#{person} .status').textContent === '{status}'")).await;
}

#[tokio::test]
async fn a_real_call_is_made_bad_by_hand_and_callsight_says_whose_it_is() {
    let _turn = (media::turn().await, ONE_AT_A_TIME.lock().await);
    let mut demo = Callsight::spawn(&["demo", "--call"]);
    let started = servers(&demo);
    let url = place(&demo, "Call ");
    let callsight = place(&demo, "Callsight ");
    assert_requests_are_checked(url.trim_end_matches('/')).await;

    let browser = Browser::start();
    let page = browser.page(1280, 900).await;
    page.open(&url).await;
    page.until("document.querySelectorAll('article').length === 2").await;
    press(&page, "#start").await;
    for person in ["ana", "ben"] {
        until_status(&page, person, "in the call").await;
    }
    let calm = |summary: &Value| sessions(summary) == 2 && summary["verdict"]["state"] == "good";
    triage(&callsight, "two sessions and nothing bad", calm).await;

    // What Ana sends is lost, which nobody else can help.
    slide(&page, "ana", "up loss", 30).await;
    let blamed = |cause: &'static str, participant: &'static str| {
        move |summary: &Value| {
            let worst = &summary["worst_sessions"][0];
            let bad = summary["verdict"]["state"] == "bad" && summary["verdict"]["cause"] == cause;
            bad && worst["participant_id"] == participant
        }
    };
    let summary = triage(&callsight, "Ana's uplink", blamed("uplink", "ana")).await;
    let signals = &summary["worst_sessions"][0]["degraded_by"];
    assert!(signals.as_array().unwrap().contains(&json!("uplink")), "{signals}");
    page.until("document.querySelector('#alerts').textContent.includes('CallUplinkDegradedfiring')").await;
    slide(&page, "ana", "up loss", 0).await;
    triage(&callsight, "nothing bad any more", calm).await;

    // Ben's way to the server and back is long, and Ana's is not.
    slide(&page, "ben", "down delay", 400).await;
    // The sound that is missing while the delay grows is soon forgotten.
    let slow = |summary: &Value| {
        let only_slow = summary["worst_sessions"][0]["degraded_by"] == json!(["rtt"]);
        blamed("network", "ben")(summary) && only_slow && summary["all"]["sessions_degraded"] == 1
    };
    triage(&callsight, "Ben's network, and nothing of Ana's", slow).await;
    slide(&page, "ben", "down delay", 0).await;

    // What is hidden or muted is not missed.
    press(&page, "#ben [data-act=hide]").await;
    press(&page, "#ana [data-act=mute]").await;
    let session = triage(&callsight, "nothing bad while hidden and muted", calm).await;
    let ben = session["worst_sessions"].as_array().unwrap();
    let ben = ben.iter().find(|session| session["participant_id"] == "ben").unwrap();
    let detail = format!("{callsight}api/triage/session/{}", ben["session_id"].as_str().unwrap());
    wait::eventually_async(PATIENCE, "Ben asks for no video, and Ana is muted", async || {
        let answer = http::get(&detail, &[]).await?;
        let detail: Value = serde_json::from_str(answer.text()).map_err(|error| error.to_string())?;
        let pair = &detail["receives"][0];
        let told = [&pair["video_wanted"], &pair["peer_microphone_on"]];
        if told == [&json!(false); 2] { Ok(()) } else { Err(pair.to_string()) }
    })
    .await;

    // Whoever leaves says so; whoever crashes is there until the session is idle for too long.
    press(&page, "#ben [data-act=leave]").await;
    until_status(&page, "ben", "has left").await;
    triage(&callsight, "Ana alone", |summary| sessions(summary) == 1).await;
    press(&page, "#ben [data-act=join]").await;
    triage(&callsight, "Ben again", |summary| sessions(summary) == 2).await;
    press(&page, "#ana [data-act=crash]").await;
    until_status(&page, "ana", "has crashed").await;
    let summary = triage(&callsight, "an answer", |_| true).await;
    assert_eq!(sessions(&summary), 2, "nobody was told");
    let alone =
        |summary: &Value| sessions(summary) == 1 && summary["worst_sessions"][0]["participant_id"] == "ben";
    triage(&callsight, "Ben alone", alone).await;

    assert_eq!(page.complaints(), Vec::<String>::new());
    drop(browser);
    assert!(demo.terminate(PATIENCE).success(), "{}", demo.output());
    assert_gone(&started);
    assert!(demo.output().ends_with("\nstopped\n"), "{}", demo.output());
}

/// Asserts that the page's server refuses what is wrong, and whoever is not its page.
async fn assert_requests_are_checked(url: &str) {
    let host = url.strip_prefix("http://").unwrap();
    let body = r#"{"participant":"ana","up":{"delay_ms":0,"loss":2},"down":{"delay_ms":0,"loss":0}}"#;
    let json = ("Content-Type", "application/json");
    for (method, path, headers, status, error) in [
        ("PUT", "/api/network", &[json][..], 400, "`up.loss` is 2; write 0 to 1"),
        ("PUT", "/api/network", &[], 415, "write the content type application/json"),
        ("POST", "/api/network", &[json], 405, "this path has another method"),
        ("GET", "/nothing", &[], 404, "not found; open the address that `callsight demo --call` prints"),
    ] {
        let answer = send(host, method, path, headers, body.as_bytes()).await.unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        let said: Value = serde_json::from_str(answer.text()).unwrap();
        assert_eq!(said["error"], error, "{method} {path}");
    }
    let foreign = raw(host, &request("elsewhere.example", "GET", "/api/setup", &[], b"")).await.unwrap();
    assert_eq!(foreign.status, 404, "{}", foreign.text());
}
