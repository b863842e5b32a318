//! The page of the past, and that it is what the page of the present was.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::sleep;

use super::page::OVERFLOW;
use super::{Calls, Mood, scene};
use crate::kit::browser::Browser;
use crate::kit::callsight::Callsight;
use crate::kit::http::{self, Response};
use crate::kit::nats::Nats;
use crate::kit::port;
use crate::kit::process::Process;
use crate::kit::wait::{self, PATIENCE};
use crate::replay::moment;

/// How many moments are compared.
const MOMENTS: usize = 20;

/// A running `callsight rewind`.
struct Rewind {
    port: u16,
    process: Process,
}

impl Rewind {
    async fn start(nats: &Nats, extra: &[&str]) -> Self {
        let port = port::free();
        let (listen, url) = (format!("127.0.0.1:{port}"), nats.url());
        let args = [
            "rewind",
            "--region=us",
            "--step=1s",
            "--idle-timeout=10m",
            "--listen",
            &listen,
            "--nats-url",
            &url,
        ];
        let rewind = Self { port, process: Callsight::spawn(&[&args[..], extra].concat()) };
        wait::eventually_async(PATIENCE, "rewind to listen", async || {
            http::get(&rewind.url("/livez"), &[]).await.map(drop)
        })
        .await;
        rewind
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn get(&self, path: &str) -> Response {
        http::get(&self.url(path), &[]).await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        serde_json::from_str(answer.text()).unwrap()
    }

    /// The status and the error of what can't be answered.
    async fn refused(&self, path: &str) -> (u16, String) {
        let answer = self.get(path).await;
        let error =
            serde_json::from_str::<Value>(answer.text()).unwrap()["error"].as_str().unwrap().to_owned();
        (answer.status, error)
    }

    /// Waits until the window of a query is `folded` or `failed`.
    async fn window(&self, query: &str) -> Value {
        wait::eventually_async(PATIENCE, "the window", async || {
            let window = self.json(&format!("/api/window?{query}")).await;
            wait::when(window, |window| ["folded", "failed"].contains(&window["state"].as_str().unwrap()))
        })
        .await
    }
}

fn between(from: OffsetDateTime, to: OffsetDateTime) -> String {
    format!("from={}&to={}", moment(from), moment(to))
}

/// A summary without what depends on who looked, and when and how often he had looked before.
fn of_the_moment(mut summary: Value) -> Value {
    for name in ["as_of", "started_at", "look_seconds", "deployment", "pipeline", "history"] {
        summary.as_object_mut().unwrap().remove(name);
    }
    forget(&mut summary);
    summary
}

/// A spell begins with the look that finds it, and the sentence says when that was.
fn forget(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| {
                !["since", "since_before", "last_frame_age_seconds"].contains(&name.as_str())
            });
            members.values_mut().for_each(forget);
        }
        Value::Array(values) => values.iter_mut().for_each(forget),
        Value::String(text) => {
            if let Some(at) = text.find(", since ").or_else(|| text.find(", for ")) {
                text.truncate(at);
            }
        }
        _ => {}
    }
}

#[tokio::test]
async fn a_moment_is_shown_as_the_page_of_the_present_showed_it() {
    let (nats, callsight, relay) = scene(&["--pair-max-sessions=0"]).await;
    let began = OffsetDateTime::now_utc();
    let mut calls = Calls::new(24);
    let mut live = Vec::new();
    let deadline = began + 6 * PATIENCE;
    for round in 0_usize.. {
        let mood = |session: usize| match (session + round) % 7 {
            _ if round % 4 == 3 => Mood::Fine,
            0 if round % 3 == 0 => Mood::Hidden,
            1 | 2 if round % 2 == 0 => Mood::Slow(700.0),
            3 => Mood::Deaf,
            _ => Mood::Fine,
        };
        calls.say(&relay, mood).await;
        callsight.folded(PATIENCE, calls.said()).await;
        // The exporter looks once a second while somebody views: this view, and the next look.
        let said = OffsetDateTime::now_utc();
        let shown = async || {
            let answer = callsight.get("/api/triage").await;
            let summary: Value = serde_json::from_str(answer.text()).unwrap();
            let at = OffsetDateTime::parse(
                summary["as_of"].as_str().unwrap_or_default(),
                &time::format_description::well_known::Rfc3339,
            );
            match at {
                Ok(at) if at > said => Ok((at, summary)),
                _ => Err(answer.text().to_owned()),
            }
        };
        let (at, summary) = wait::eventually_async(PATIENCE, "a look at the round", shown).await;
        live.push((at, summary));
        if live.len() == MOMENTS {
            break;
        }
        assert!(OffsetDateTime::now_utc() < deadline, "only {} moments", live.len());
        // A step must come between this look and the next frames.
        let step = OffsetDateTime::from_unix_timestamp(at.unix_timestamp() + 1).unwrap();
        sleep((step - OffsetDateTime::now_utc()).try_into().unwrap_or_default()).await;
    }
    crate::replay::until_the_next_step().await;

    let rewind =
        Rewind::start(&nats, &["--from", &moment(began), "--to", &moment(OffsetDateTime::now_utc())]).await;
    wait::eventually_async(PATIENCE, "the first window", async || {
        let ready = rewind.get("/readyz").await;
        wait::when((ready.status, ready.text().to_owned()), |(status, _)| *status == 200).map(drop)
    })
    .await;
    let mut bad = 0;
    for (at, summary) in live {
        // The first step after the look.
        let step = OffsetDateTime::from_unix_timestamp(at.unix_timestamp() + 1).unwrap();
        let past = rewind.json(&format!("/api/triage?at={}", moment(step))).await;
        assert_eq!(past["as_of"], moment(step));
        bad += usize::from(past["verdict"]["state"] == "bad");
        assert_eq!(of_the_moment(past.clone()), of_the_moment(summary), "at {at}");
        for session in past["worst_sessions"].as_array().unwrap() {
            let id = session["session_id"].as_str().unwrap();
            let detail = rewind.json(&format!("/api/triage/session/{id}?at={}", moment(step))).await;
            assert_eq!(detail["session"]["session_id"], id);
        }
    }
    assert!((1..MOMENTS).contains(&bad), "{bad} of the moments were bad");
}

#[tokio::test]
async fn what_cannot_be_shown_is_said() {
    let (nats, callsight, relay) = scene(&[]).await;
    let began = OffsetDateTime::now_utc();
    let mut calls = Calls::new(8);
    calls.say(&relay, |session| if session < 4 { Mood::Slow(900.0) } else { Mood::Fine }).await;
    callsight.folded(PATIENCE, calls.said()).await;
    crate::replay::until_the_next_step().await;
    let ended = OffsetDateTime::now_utc();
    let rewind = Rewind::start(&nats, &["--max-windows=2", "--max-window=1h"]).await;
    assert_eq!(rewind.get("/readyz").await.status, 200, "no window to wait for");

    let now = between(began, ended);
    for (path, status, error) in [
        (
            "/api/triage?at=yesterday".to_owned(),
            400,
            "`yesterday` is no time: write one such as 2026-01-31T09:30:00Z",
        ),
        ("/api/triage".to_owned(), 400, "`at` is missing"),
        ("/api/triage?at=2h%20ago".to_owned(), 404, "is in no window: choose one that has it"),
        ("/api/window?from=now".to_owned(), 400, "`to` is missing"),
        ("/api/window?from=now&to=1m%20ago".to_owned(), 400, "the window ends before it begins"),
        ("/api/window?from=2h%20ago&to=now".to_owned(), 400, "the window is longer than 1h"),
        (format!("/api/window?{now}&meeting=a%20b"), 400, "`a b` is no meeting id"),
        ("/nothing".to_owned(), 404, "not found; the paths are /, "),
    ] {
        let (found, text) = rewind.refused(&path).await;
        assert!(found == status && text.contains(error), "{path}: {found} {text}");
    }
    let post = http::post(&rewind.url("/api/windows")).await.unwrap();
    assert_eq!(post.status, 405);

    // Of a meeting alone, nobody else is there.
    let whole = rewind.window(&now).await;
    assert_eq!((&whole["state"], &whole["progress"]), (&json!("folded"), &json!(1.0)), "{whole}");
    let one = rewind.window(&format!("{now}&meeting=meeting-1")).await;
    assert_eq!(one["timeline"]["regions"][0]["sessions"].as_array().unwrap().last().unwrap(), 4);
    assert_eq!(whole["timeline"]["regions"][0]["sessions"].as_array().unwrap().last().unwrap(), 8);
    let verdict = &whole["timeline"]["verdicts"][0];
    assert!(
        verdict["bad"] == true
            && verdict["sentence"].as_str().unwrap().starts_with("Bad in us: 4 of 8 sessions")
    );
    let (status, error) = rewind.refused(&format!("/api/triage/session/nobody?at={}", moment(ended))).await;
    assert!(status == 404 && error.contains("the page did not list this session"), "{error}");

    // There is place for two: the one that was used longest ago goes. Before all frames is nothing.
    let early = between(began - Duration::from_secs(1800), began - Duration::from_secs(1700));
    let failed = rewind.window(&early).await;
    assert_eq!(failed["state"], "failed");
    assert!(failed["note"].as_str().unwrap().starts_with("the streams hold no frame from "), "{failed}");
    let windows = rewind.json("/api/windows").await;
    assert_eq!(windows["windows"].as_array().unwrap().len(), 2);
    assert!(windows["windows"][1]["meeting"] == "meeting-1", "{windows}");

    // NATS goes away: what is folded stays, what is not says why.
    drop(nats);
    for (at, sessions) in [(began, 0), (ended, 4)] {
        let at = format!("/api/triage?at={}&{now}&meeting=meeting-1", moment(at));
        assert_eq!(rewind.json(&at).await["all"]["sessions"], sessions);
    }
    let away = rewind.window(&between(began - Duration::from_secs(60), ended)).await;
    assert!(away["note"].as_str().unwrap().starts_with("NATS does not answer"), "{away}");
}

#[tokio::test]
async fn one_walks_through_an_incident() {
    let (nats, callsight, relay) = scene(&[]).await;
    let began = OffsetDateTime::now_utc();
    let mut calls = Calls::new(20);
    for bad in [0, 8, 0] {
        calls.say(&relay, |session| if session < bad { Mood::Slow(800.0) } else { Mood::Fine }).await;
        callsight.folded(PATIENCE, calls.said()).await;
        crate::replay::until_the_next_step().await;
        crate::replay::until_the_next_step().await;
    }
    let rewind = Rewind::start(&nats, &["--live-url", &callsight.url()]).await;
    let browser = Browser::start();
    let page = browser.page(1366, 768).await;
    page.open(&rewind.url("/")).await;
    page.until("document.querySelector('h1').textContent === 'Choose a window'").await;

    let fill = |id: &str, at: OffsetDateTime| {
        format!("document.getElementById('{id}').value = {}", json!(moment(at)))
    };
    page.evaluate(&fill("from", began - Duration::from_secs(1))).await;
    page.evaluate(&fill("to", OffsetDateTime::now_utc())).await;
    page.evaluate("document.querySelector('#window button').click()").await;
    // It begins where the trouble began.
    page.until("document.querySelector('h1').textContent.startsWith('Bad in us: 8 of 20 sessions')").await;
    assert_eq!(page.evaluate("document.body.dataset.fresh").await, "past");
    assert_eq!(page.evaluate("document.querySelectorAll('#verdicts button').length").await, 2);
    assert_eq!(page.evaluate("document.getElementById('live').href").await, callsight.url() + "/");
    let at = page.evaluate("new URLSearchParams(location.search).get('at')").await;

    // The detail is of that moment.
    page.evaluate("document.querySelector('#worst tbody button').click()").await;
    page.until("document.querySelector('#drill-facts').textContent.includes('800 ms')").await;
    page.press("Escape").await;

    // Keys move by a step: before it, all was well.
    for key in ["ArrowLeft", "ArrowLeft"] {
        page.press(key).await;
    }
    page.until("document.querySelector('h1').textContent.startsWith('Good: all 20 sessions')").await;
    page.press("End").await;
    page.until("document.querySelector('#slider').value === document.querySelector('#slider').max").await;
    page.until("document.querySelector('h1').textContent.startsWith('Good: all 20 sessions')").await;

    // Played from the beginning it comes by the trouble again.
    page.press("Home").await;
    page.press(" ").await;
    page.until("document.querySelector('h1').textContent.startsWith('Bad in us: 8 of 20 sessions')").await;
    page.until("document.getElementById('play').textContent === 'Play'").await;

    // The address carries the moment to somebody else, who has a small screen.
    page.evaluate(&format!("goTo(steps().findIndex((seconds) => 1000 * seconds >= Date.parse({at})))")).await;
    page.until(&format!("new URLSearchParams(location.search).get('at') === {at}")).await;
    let address = page.evaluate("location.href").await;
    let other = browser.page(390, 844).await;
    other.open(address.as_str().unwrap()).await;
    other.until("document.querySelector('h1').textContent.startsWith('Bad in us: 8 of 20 sessions')").await;
    assert_eq!(other.evaluate(OVERFLOW).await[1], 0, "it is not wider than the screen");
    assert_eq!((page.complaints(), other.complaints()), (Vec::<String>::new(), Vec::<String>::new()));
    assert!(rewind.process.output().contains("serving the past"));
}
