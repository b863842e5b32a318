//! Many lives of everything, in compressed time: nothing lives for ever, and nothing grows.
//!
//! Sessions, meetings, participants, servers, relays, exporters and connections come and go, always
//! under new names. Timeouts, retention and call lengths are short, so that an hour has as many of
//! each as weeks of production. What programs use at the beginning and at the end is compared, and
//! once the calls are over, nothing of them may be left, and every frame has to be accounted for.
//!
//! `CALLSIGHT_SOAK_SECONDS` is set by `./dev soak`.

#[cfg(test)]
#[path = "../chaos/account.rs"]
mod account;
#[cfg(test)]
mod figures;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with the integration tests, which use more of it")]
#[path = "../integration/kit/mod.rs"]
mod kit;
#[cfg(test)]
mod load;
#[cfg(test)]
mod world;

use std::env;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use callsight_frame::Reason;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use account::{Account, began_after};
use figures::Spans;
use kit::callsight::{Callsight, REGION};
use kit::scrape::Scrape;
use kit::supercluster::SETTLED_WITHIN;
use kit::wait;
use load::Published;
use world::World;

/// How long the calls go on unless somebody says otherwise.
const SECONDS: f64 = 25.0;

/// How often a session sends a frame; 5 s in production.
const FRAME_INTERVAL: Duration = Duration::from_millis(500);

/// `--idle-timeout`, by default 30 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// `--server-idle`, by default 15 minutes.
const SERVER_IDLE: Duration = Duration::from_secs(5);

/// How long the streams keep a message; 72 h in production.
const KEPT: Duration = Duration::from_secs(20);

/// The budgets, which floods exceed and nothing else does.
const MAX_SESSIONS: usize = 500;
const MAX_SERVERS: usize = 64;
const MAX_APPS: usize = 64;

/// `--max-series`, by default 125,000.
const MAX_SERIES: usize = 20_000;

/// How often each exporter is scraped in all ways.
const SCRAPE_EVERY: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn after_many_lives_of_everything_nothing_has_grown_and_nothing_is_left() {
    let seconds = env::var("CALLSIGHT_SOAK_SECONDS").map(|text| text.parse().unwrap()).unwrap_or(SECONDS);
    let lasts = Duration::from_secs_f64(seconds);
    let at_most = |share: u32, most: u64| (lasts / share).min(Duration::from_secs(most));
    let mut rng = StdRng::seed_from_u64(rand::random());
    say(&format!(
        "soak for {lasts:.0?}, {} build",
        if cfg!(debug_assertions) { "debug (opt-level 1)" } else { "release" }
    ));

    let world = World::start(&mut rng).await;
    let end = Instant::now() + lasts;
    let publishing = tokio::spawn(load::publish(Arc::clone(&world.load), end));
    // One that fails, fails the run at once.
    tokio::join!(
        async { publishing.await.unwrap() },
        world.events(end, at_most(16, 6), rng.random()),
        world.rollouts(end, at_most(4, 20)),
        world.scrapes(end),
        world.samples(end, at_most(100, 5), at_most(4, 60)),
    );

    let published = world.load.lock().await.flush().await;
    assert_accounted(&world, published).await;
    assert_gone(&world.main).await;
    assert_gone(&*world.colour.lock().await).await;
    assert_newcomer_is_named(&world).await;
    say(&lives(&world, published).await);
    assert_churned(&world).await;

    let spans = Spans::of(lasts);
    let (samples, retired) = (world.samples.lock().await, world.retired.lock().await);
    let (table, broken) = figures::table(&figures::rows(&samples, &retired, &spans), &spans);
    say(&table);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The streams have what was published, and each exporter has folded or counted it.
async fn assert_accounted(world: &World, published: Published) {
    let stored = world.stream_state().await.last_sequence;
    // A frame whose acknowledgement was lost is stored again if the server has forgotten it.
    assert!(
        (published.acknowledged..=published.acknowledged + published.retried).contains(&stored),
        "{stored} messages are stored, and {published:?}"
    );
    let colour = world.colour.lock().await;
    for exporter in [&world.main, &*colour] {
        let Some(began) = began_after(exporter, REGION) else { panic!("{}", exporter.process().output()) };
        let share = stored - began;
        let account = exporter
            .metrics_when(SETTLED_WITHIN, &format!("an account of {share} messages"), |scrape| {
                wait::when(Account::of(scrape, REGION), |account| {
                    account.settled() >= share && account.letters_settled()
                })
            })
            .await;
        assert_eq!(account.settled(), share, "{account:?}");
        assert_eq!(account.received - account.redelivered, account.taken(), "{account:?}");
    }
    assert_eq!(began_after(&world.main, REGION), Some(0));
}

/// Nothing is left of sessions, servers and releases.
async fn assert_gone(exporter: &Callsight) {
    let deadline = IDLE_TIMEOUT + SERVER_IDLE + SETTLED_WITHIN;
    exporter
        .metrics_when(deadline, "everything to be gone", |scrape| {
            let left: Vec<_> = scrape.names().into_iter().filter(|name| is_anybodys(scrape, name)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}: {:?}", named(scrape))) }
        })
        .await;
}

/// Whether a metric has series of a session, or of a server or a release that has a name.
fn is_anybodys(scrape: &Scrape, name: &str) -> bool {
    let live = ["videocall_sessions", "callsight_live_series"].contains(&name) && scrape.sum(name, &[]) > 0.0;
    live || scrape.series(name).iter().any(|(labels, _)| {
        labels.contains_key("session_id")
            || labels.get("server_url").is_some_and(|url| url.contains("://"))
            || labels.get("app").is_some_and(|app| app.starts_with("web-"))
    })
}

/// The servers that have series under their own name.
fn named(scrape: &Scrape) -> Vec<String> {
    let urls = scrape.values_of("server_url").into_keys().filter(|url| url.contains("://"));
    urls.map(str::to_owned).collect()
}

/// After all that, there is room for somebody new.
async fn assert_newcomer_is_named(world: &World) {
    let url = {
        let mut load = world.load.lock().await;
        let url = load.newcomer().await;
        load.flush().await;
        url
    };
    world
        .main
        .metrics_when(SETTLED_WITHIN, "a new server by its name", |scrape| {
            let sessions = scrape.value("videocall_sessions", &[("server_url", &url)]);
            wait::when((sessions, named(scrape)), |(sessions, _)| *sessions == Some(1.0)).map(drop)
        })
        .await;
    assert_gone(&world.main).await;
}

/// Everything that is to come and go did.
async fn assert_churned(world: &World) {
    let scrape = world.main.metrics().await;
    for reason in Reason::ALL {
        let rejected = scrape.sum("callsight_frames_rejected_total", &[("reason", reason.label())]);
        assert!(rejected > 0.0, "no frame was rejected for {}", reason.label());
    }
    for reason in ["ended", "idle"] {
        let removed = scrape.sum("callsight_sessions_removed_total", &[("reason", reason)]);
        assert!(removed > 0.0, "no session was removed because it was {reason}");
    }
    for (metric, labels) in [
        ("callsight_frames_refused_total", ("reason", "max_sessions")),
        ("callsight_refused_total", ("limit", "server_urls")),
        ("callsight_refused_total", ("limit", "apps")),
    ] {
        assert!(scrape.sum(metric, &[labels]) > 0.0, "the budget {} was never exceeded", labels.1);
    }
    assert!(scrape.sum("callsight_frames_repeated_total", &[]) > 0.0);
    assert!(world.stream_state().await.first_sequence > 1, "the stream discarded nothing");
    assert!(world.load.lock().await.begun.servers > 3 * MAX_SERVERS as u64);
}

/// How many of everything there were.
async fn lives(world: &World, published: Published) -> String {
    let (scrape, begun) = (world.main.metrics().await, world.load.lock().await.begun);
    let removed = |reason| scrape.sum("callsight_sessions_removed_total", &[("reason", reason)]);
    let state = world.stream_state().await;
    let account = Account::of(&scrape, REGION);
    let mut rows = vec![
        ("sessions begun".to_owned(), begun.sessions),
        ("meetings".to_owned(), begun.meetings),
        ("servers".to_owned(), begun.servers),
        ("relays".to_owned(), begun.relays),
        ("frames acknowledged".to_owned(), published.acknowledged),
        ("frames folded".to_owned(), account.folded),
        ("frames repeated".to_owned(), account.repeated),
        ("frames rejected".to_owned(), account.rejected),
        ("frames refused".to_owned(), account.refused),
        ("frames missed".to_owned(), account.missed),
        ("frames discarded by the stream's limits".to_owned(), state.first_sequence - 1),
        ("dead letters lost, all counted".to_owned(), account.letters_lost),
        ("sessions removed as ended".to_owned(), removed("ended") as u64),
        ("sessions removed as idle".to_owned(), removed("idle") as u64),
        ("rollouts".to_owned(), world.retired.lock().await.len() as u64),
        ("scrapes and pages".to_owned(), world.scrapes.load(Ordering::Relaxed)),
        ("answers of `/readyz` that were 503".to_owned(), world.unready.load(Ordering::Relaxed)),
    ];
    rows.extend(world.events.lock().await.iter().map(|(event, times)| ((*event).to_owned(), *times)));
    let rows: Vec<_> = rows.iter().map(|(what, count)| format!("| {what} | {count} |\n")).collect();
    format!("\n| | times |\n|---|---|\n{}", rows.concat())
}

#[expect(
    clippy::print_stdout,
    reason = "who waits for hours wants to see how it goes, and the table is the result"
)]
fn say(text: &str) {
    println!("{text}");
}
