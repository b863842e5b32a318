//! The page in a real browser.

use serde_json::{Value, json};

use super::{Calls, Mood, scene, told};
use crate::kit::browser::{Answer, Browser, Page};
use crate::kit::callsight::Callsight;

/// A laptop's window, and one of which the browser itself takes its part.
const LAPTOPS: [(u32, u32); 3] = [(1366, 768), (1440, 900), (1366, 650)];

/// How far the page is too long and too wide, in pixels.
pub(super) const OVERFLOW: &str = "[document.documentElement.scrollHeight - innerHeight, document.documentElement.scrollWidth - innerWidth].map(pixels => Math.max(0, pixels))";

const UNFOLLOWED: &str = "the mirror does not follow its region and lacks 1234 frames";

const LIVE: &str = "document.body.dataset.fresh === 'live'";

pub(super) async fn open(browser: &Browser, callsight: &Callsight) -> Page {
    let page = browser.page(LAPTOPS[0].0, LAPTOPS[0].1).await;
    page.open(&format!("{}/", callsight.url())).await;
    page.until(LIVE).await;
    page
}

pub(super) async fn sentence_begins(page: &Page, begin: &str) {
    page.until(&format!("document.querySelector('h1').textContent.startsWith({})", json!(begin))).await;
}

#[tokio::test]
async fn it_follows_the_calls_and_survives_the_exporters_restart() {
    let (_nats, mut callsight, relay) = scene(&[]).await;
    let mut calls = Calls::new(40);
    calls.say(&relay, |_| Mood::Fine).await;
    let browser = Browser::start();
    let page = open(&browser, &callsight).await;
    sentence_begins(&page, "Good: all 40 sessions are fine in us").await;
    assert_eq!(page.evaluate("document.title").await, "good · Callsight");

    calls.say(&relay, |session| if session < 12 { Mood::Slow(900.0) } else { Mood::Fine }).await;
    sentence_begins(&page, "Bad in us: 12 of 40 sessions (30 %) in 3 meetings, RTT, since ").await;
    assert_eq!(page.evaluate("document.body.dataset.state").await, "bad");
    assert!(page.text("#announcer").await.starts_with("Bad in us: "), "it is announced");
    assert_eq!(page.text("#cause").await, "Network");
    assert!(page.text("#reason").await.starts_with("Round trips are long in all of the 12."));
    assert!(page.text("#announcer").await.ends_with(" UTC. Cause: Network"), "so is its cause");
    // These clients name no release.
    assert_eq!(page.evaluate("document.querySelector('#clients').hidden").await, true);
    let regions = page.text("#regions tbody").await;
    assert!(regions.contains("12 of 40") && regions.contains("since "), "{regions}");
    page.until("document.querySelectorAll('#worst tbody button').length === 12").await;
    page.until("document.querySelector('#regions svg .line').getAttribute('d').length > 10").await;
    assert_eq!(page.complaints(), Vec::<String>::new());

    callsight.kill9();
    page.until("document.body.dataset.fresh === 'stale'").await;
    assert!(page.text("#alarm").await.starts_with("Stale: the exporter does not answer."));
    // It keeps what it knew.
    sentence_begins(&page, "Bad in us: 12 of 40").await;

    callsight.restart();
    page.until(LIVE).await;
    sentence_begins(&page, "Bad in us: 12 of 40").await;
    assert_eq!(page.text("#alarm").await, "");
    page.forgive();
    calls.say(&relay, |_| Mood::Fine).await;
    sentence_begins(&page, "Good: all 40 sessions").await;
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn it_says_that_sessions_are_refused() {
    let (_nats, callsight, relay) = scene(&["--max-sessions", "4"]).await;
    let browser = Browser::start();
    let page = open(&browser, &callsight).await;
    page.until("document.querySelector('#refused').textContent === 'nothing, 1 min'").await;
    assert_eq!(page.evaluate("document.querySelector('#refused').className").await, "");

    Calls::new(12).say(&relay, |_| Mood::Fine).await;
    page.until("document.querySelector('#refused').textContent === 'frames max_sessions 8, 1 min'").await;
    assert_eq!(page.evaluate("document.querySelector('#refused').className").await, "is-bad");
    assert_eq!(page.text("#pipeline-word").await, "! ready, with warnings");
    // The warning may come a look later than the counts.
    page.until("document.querySelector('#notes').textContent.includes('aggregates are incomplete')").await;
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn it_can_be_used_by_keyboard_and_is_made_for_readers() {
    let (_nats, callsight, relay) = scene(&[]).await;
    let mut calls = Calls::new(16);
    calls.say(&relay, |session| if session < 4 { Mood::Deaf } else { Mood::Fine }).await;
    let browser = Browser::start();
    let page = open(&browser, &callsight).await;
    sentence_begins(&page, "Bad in us").await;
    page.until("document.querySelectorAll('#worst tbody button').length > 4").await;

    let focused = "document.activeElement.closest('#worst tbody') && document.activeElement.dataset.session";
    let mut session = Value::Null;
    for _ in 0..10 {
        page.press("Tab").await;
        session = page.evaluate(focused).await;
        if session.is_string() {
            break;
        }
    }
    assert!(session.is_string(), "ten tabs do not lead to the worst sessions");
    let outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle").await;
    assert_eq!(outline, "solid", "the focus is seen");

    page.press("Enter").await;
    page.until("document.querySelector('dialog').open").await;
    page.until("document.querySelectorAll('#receives tbody tr').length === 3").await;
    assert_eq!(page.text("#drill-heading").await, format!("Session {}", session.as_str().unwrap()));
    assert!(page.text("#receives tbody").await.contains("✕ not heard"));
    page.until("document.querySelectorAll('#meeting tbody tr').length === 4").await;
    // The focus can't leave it, whatever is pressed.
    for _ in 0..8 {
        page.press("Tab").await;
        let inside = "document.activeElement === document.body || !!document.activeElement.closest('dialog')";
        assert_eq!(page.evaluate(inside).await, true);
    }
    page.press("Escape").await;
    page.until("!document.querySelector('dialog').open").await;
    assert_eq!(page.evaluate(focused).await, session, "the focus is back where it was");

    // Numbers go on changing under the focus; the row stays.
    calls.say(&relay, |_| Mood::Fine).await;
    sentence_begins(&page, "Good").await;
    assert_eq!(page.evaluate(focused).await, session);

    // A chart says its value in its name, once there is a first look to show.
    page.until("[...document.querySelectorAll('svg')].every(svg => svg.getAttribute('aria-label')?.includes('now '))").await;
    for (what, lacking) in [
        ("landmarks", "['header', 'nav[aria-label]', 'main'].filter(name => !document.querySelector(name))"),
        ("one first heading", "document.querySelectorAll('h1').length === 1 ? [] : ['h1']"),
        (
            "captions",
            "[...document.querySelectorAll('table')].filter(table => !table.caption?.textContent).map(table => table.id)",
        ),
        (
            "scopes",
            "[...document.querySelectorAll('th')].filter(cell => !cell.scope).map(cell => cell.textContent)",
        ),
        (
            "names of charts",
            "[...document.querySelectorAll('svg')].filter(svg => !svg.getAttribute('aria-label')).map(String)",
        ),
        (
            "names of sections",
            "[...document.querySelectorAll('section, dialog')].filter(part => !part.getAttribute('aria-label') && !document.getElementById(part.getAttribute('aria-labelledby'))?.textContent).map(part => part.id || part.className)",
        ),
        (
            "live regions",
            "['#announcer[aria-live=polite]', '#alarm[role=alert]'].filter(name => !document.querySelector(name))",
        ),
        (
            "names of buttons",
            "[...document.querySelectorAll('button')].filter(button => !button.textContent).map(String)",
        ),
    ] {
        // The dialog's headings are empty until it is opened, which it has been.
        assert_eq!(page.evaluate(lacking).await, json!([]), "{what}");
    }
    assert_eq!(page.complaints(), Vec::<String>::new());
}

/// Elements whose text does not stand out enough from what is behind it: WCAG's AA.
pub(super) const TOO_FAINT: &str = r"(() => {
    const parse = color => color.match(/[\d.]+/g).map(Number);
    const light = color => {
        const [r, g, b] = parse(color).map(part => part / 255).map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if (parse(color)[3] !== 0) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const faint = [];
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        if (!own || element.closest('.unseen, .skip, noscript, dialog:not([open]), script, style')) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
        const contrast = (a + .05) / (b + .05);
        if (contrast < 4.5) faint.push(`${element.tagName} ${element.className} ${element.textContent.slice(0, 20)} ${contrast.toFixed(2)}`);
    }
    return faint;
})()";

#[tokio::test]
async fn everything_fits_on_a_laptop_in_light_and_dark() {
    let (_nats, callsight, relay) = scene(&[]).await;
    let mut calls = Calls::new(60);
    calls.say(&relay, |session| if session % 2 == 0 { Mood::Slow(700.0) } else { Mood::Fine }).await;
    let mut answer = told(&callsight, "a bad time", |answer| answer["verdict"]["state"] == "bad").await;
    // Four regions, and as many of everything else as there can be.
    for (list, count) in
        [("/regions", 4), ("/pipeline/regions", 4), ("/history/regions", 4), ("/servers", 12)]
    {
        let list = answer.pointer_mut(list).unwrap().as_array_mut().unwrap();
        for number in list.len()..count {
            let mut another = list[0].clone();
            another["region"] = format!("region-{number}").into();
            list.push(another);
        }
    }
    answer["all"]["clients"] = (0..6)
        .map(|number| json!({ "app": format!("web-2.{number}"), "platform": "chrome", "sessions": 10, "sessions_degraded": 5 }))
        .collect();
    answer["client_outlier"] = "web-2.0".into();
    // A long one.
    answer["verdict"]["evidence"] = format!("Network: {}.", "a cause and its numbers, ".repeat(12)).into();
    let browser = Browser::start();
    let page = browser.page(1366, 768).await;
    let json = Answer { status: 200, content_type: "application/json", body: answer.to_string() };
    page.answer("/api/triage", json).await;
    page.open(&format!("{}/", callsight.url())).await;
    page.until(LIVE).await;
    page.until("document.querySelectorAll('#regions tbody tr').length === 4").await;
    for (width, height) in LAPTOPS {
        page.resize(width, height).await;
        assert_eq!(page.evaluate(OVERFLOW).await, json!([0, 0]), "{width}×{height}");
        for (table, least) in [("worst", 5), ("servers", 3), ("clients", 2)] {
            let rows = format!(
                "[...document.querySelectorAll('#{table} tbody tr')].filter(row => row.offsetHeight > 0).length"
            );
            let shown = page.evaluate(&rows).await.as_i64().unwrap();
            assert!(shown >= least, "{width}×{height}: {shown} rows of {table}");
        }
    }
    // The same while the view of three of them is lost.
    for number in 1..4 {
        answer["regions"][number]["state"] = "unknown".into();
        let pipeline = answer.pointer_mut(&format!("/pipeline/regions/{number}")).unwrap();
        let why = if number < 3 { "NATS does not answer: the connection is lost" } else { UNFOLLOWED };
        for (field, value) in [
            ("ready", false.into()),
            ("reason", "mirror_unheard".into()),
            ("since", "2026-11-25T14:03:10Z".into()),
            ("why", Value::from(why)),
        ] {
            pipeline[field] = value;
        }
    }
    let json = Answer { status: 200, content_type: "application/json", body: answer.to_string() };
    page.answer("/api/triage", json).await;
    page.until("document.querySelectorAll('#notes li').length === 2").await;
    page.until("document.querySelectorAll('#regions tr.old').length === 3").await;
    for (width, height) in LAPTOPS {
        page.resize(width, height).await;
        assert_eq!(page.evaluate(OVERFLOW).await, json!([0, 0]), "{width}×{height}");
    }
    let ground = "getComputedStyle(document.body).backgroundColor";
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        page.prefer(&[("prefers-color-scheme", scheme)]).await;
        assert_eq!(page.evaluate(TOO_FAINT).await, json!([]), "{scheme}");
        grounds.push(page.evaluate(ground).await);
    }
    assert_ne!(grounds[0], grounds[1]);
    let moves = "getComputedStyle(document.querySelector('.bar i')).transitionDuration";
    page.prefer(&[("prefers-reduced-motion", "no-preference")]).await;
    assert_eq!(page.evaluate(moves).await, "0.3s");
    page.prefer(&[("prefers-reduced-motion", "reduce")]).await;
    assert_eq!(page.evaluate(moves).await, "0s");
    assert_eq!(page.complaints(), Vec::<String>::new());
}

const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";

/// The same answer, with every text in it a hostile one.
fn hostile(value: &mut Value) {
    match value {
        Value::String(text) => *text = HOSTILE.to_owned(),
        Value::Array(list) => list.iter_mut().for_each(hostile),
        Value::Object(map) => map.values_mut().for_each(hostile),
        _ => {}
    }
}

#[tokio::test]
async fn a_hostile_label_is_shown_as_text() {
    let (_nats, callsight, relay) = scene(&[]).await;
    let mut calls = Calls::new(8);
    calls.say(&relay, |session| if session < 4 { Mood::Deaf } else { Mood::Fine }).await;
    let mut answer = told(&callsight, "a bad time", |answer| answer["verdict"]["state"] == "bad").await;
    let browser = Browser::start();

    // What the limits of a frame let through: a meeting that is named like a script.
    let page = open(&browser, &callsight).await;
    page.until("document.querySelector('#worst tbody').textContent.includes('javascript:alert@1')").await;
    assert_eq!(page.evaluate("document.links.length").await, 4, "no label is a link");

    // And what they don't: should any of it ever get into an answer, it is still text.
    let page = browser.page(1366, 768).await;
    for (path, part) in [
        ("/api/triage/session/session-1", "/api/triage/session/"),
        ("/api/triage/meeting/javascript:alert@1", "/api/triage/meeting/"),
    ] {
        let mut detail = serde_json::from_slice(&callsight.get(path).await.body).unwrap();
        hostile(&mut detail);
        let body = detail.to_string();
        page.answer(part, Answer { status: 200, content_type: "application/json", body }).await;
    }
    hostile(&mut answer);
    let all = Answer { status: 200, content_type: "application/json", body: answer.to_string() };
    page.answer("/api/triage", all).await;
    page.open(&format!("{}/", callsight.url())).await;
    page.until(LIVE).await;
    sentence_begins(&page, HOSTILE).await;
    page.until("document.querySelectorAll('#worst tbody button').length > 0").await;
    page.evaluate("document.querySelector('#worst tbody button').click()").await;
    page.until("document.querySelectorAll('#receives tbody tr').length > 0").await;
    page.until("document.querySelectorAll('#meeting tbody tr').length > 0").await;
    for place in [
        "h1",
        "#evidence",
        "#regions tbody",
        "#servers tbody",
        "#worst tbody",
        "#pipeline tbody",
        "#drill-facts",
        "#receives tbody",
        "#meeting tbody",
    ] {
        let shown = page.evaluate(&format!("document.querySelector('{place}').textContent")).await;
        assert!(shown.as_str().unwrap().contains("<img src=x"), "{place}: {shown}");
    }
    assert_eq!(page.evaluate("document.images.length + document.scripts.length").await, 1, "its own script");
    assert_ne!(page.evaluate("document.title").await, "owned");
    assert_eq!(page.complaints(), Vec::<String>::new());
}
