//! `jetstream/permissions`: everything that Callsight does works with them, and nothing else does.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::{self, consumer};
use async_nats::{Client, ConnectOptions, Event};
use callsight::topology::{consumer_config, ensure_streams, stream_config};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::ingest::client::token;
use crate::ingest::{Way, frame_of};
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::wait;

/// The server says at once what it refuses.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);

const USERS: [&str; 7] = ["relay", "ingest", "exporter", "global", "replay", "operator", "system"];

/// A server of region us with the permissions as they are in the repository. Every password is the
/// user's name and `-secret`.
pub(crate) fn nats_with_permissions() -> Nats {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/jetstream/permissions/us.conf");
    let variables: Vec<_> = USERS
        .iter()
        .map(|user| (format!("CALLSIGHT_{}_PASSWORD", user.to_uppercase()), format!("{user}-secret")))
        .collect();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    Nats::start_with(&std::fs::read_to_string(path).unwrap(), &variables)
}

#[test]
fn the_regions_differ_in_their_names_alone() {
    let directives = |region: &str, mirrors: bool| {
        let path = format!("{}/jetstream/permissions/{region}.conf", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        lines.filter(|line| mirrors || !line.contains("_MIRROR")).collect::<Vec<_>>().join("\n")
    };
    let us = directives("us", false).replace(".us.", ".apac.").replace("_US", "_APAC");
    assert_eq!(us, directives("apac", true));
}

/// A connection as one of the users, and what the server refused it.
pub(crate) struct User {
    client: Client,
    refusals: mpsc::UnboundedReceiver<String>,
}

impl User {
    pub(crate) async fn connect(nats: &Nats, name: &str) -> Self {
        let (sender, refusals) = mpsc::unbounded_channel();
        let client = ConnectOptions::with_user_and_password(name.to_owned(), format!("{name}-secret"))
            .custom_inbox_prefix(format!("_INBOX.{name}"))
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    sender.send(error.to_string()).unwrap();
                }
                async {}
            })
            .connect(nats.url())
            .await
            .unwrap();
        Self { client, refusals }
    }

    pub(crate) fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client.clone())
    }

    /// The next thing that the server refuses must be this.
    async fn is_refused(&mut self, what: &str) {
        let refusal = timeout(REFUSED_WITHIN, self.refusals.recv()).await;
        let refusal = refusal.unwrap_or_else(|_| panic!("nothing was refused instead of {what}")).unwrap();
        assert!(refusal.to_lowercase().contains(&what.to_lowercase()), "{refusal:?} instead of {what}");
    }

    async fn cannot_publish(&mut self, subject: &str) {
        self.client.publish(subject.to_owned(), "{}".into()).await.unwrap();
        self.client.flush().await.unwrap();
        self.is_refused(&format!("publish to \"{subject}\"")).await;
    }

    async fn cannot_subscribe(&mut self, subject: &str) {
        let _subscriber = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.client.flush().await.unwrap();
        self.is_refused(&format!("subscription to \"{subject}\"")).await;
    }
}

/// Streams and the durable, made by the operator as the design wants it.
async fn make_streams(nats: &Nats) -> User {
    let operator = User::connect(nats, "operator").await;
    let context = operator.jetstream();
    ensure_streams(&context, &"us".parse().unwrap(), 1).await.unwrap();
    let start = time::OffsetDateTime::now_utc() - Duration::from_secs(60);
    let durable = consumer_config(&"main".parse().unwrap(), start);
    context.create_consumer_on_stream(durable, "HEALTH_US").await.unwrap();
    operator
}

/// What a secret file holds, and the flags that use it.
fn login(user: &str) -> (tempfile::TempDir, Vec<String>) {
    let directory = temporary_directory();
    let file = directory.path().join("password");
    std::fs::write(&file, format!("{user}-secret\n")).unwrap();
    let flags = ["--nats-user", user, "--nats-password-file", file.to_str().unwrap()].map(str::to_owned);
    (directory, flags.to_vec())
}

fn simulate(nats: &Nats, flags: &[String], extra: &[&str]) -> std::process::Output {
    let url = nats.url();
    let mut args = vec!["simulate", "--nats-url", &url, "--region", "us"];
    args.extend(flags.iter().map(String::as_str));
    args.extend(extra);
    Callsight::run(&args)
}

#[tokio::test]
async fn relay_exporter_and_dead_letters_work_with_no_more_than_they_are_given() {
    let nats = nats_with_permissions();
    let operator = make_streams(&nats).await;
    let (_relay_file, relay) = login("relay");
    let (_exporter_file, exporter) = login("exporter");
    let (_replay_file, replay) = login("replay");
    let exporter: Vec<_> = exporter.iter().map(String::as_str).collect();

    let mut callsight = Callsight::serve(&nats, &exporter);
    callsight.ready().await;
    let published = simulate(
        &nats,
        &relay,
        &["--sessions", "10", "--frames", "50", "--interval", "100ms", "--leave-at-end=false"],
    );
    assert!(published.status.success(), "{published:?}");
    let folded = |expected: f64| {
        callsight.metrics_when(wait::PATIENCE, "the frames", move |scrape| {
            wait::when(scrape.sum("callsight_frames_folded_total", &[]), |&folded| folded >= expected)
        })
    };
    folded(50.0).await;

    // A relay that goes mad gets its frame buried, and somebody can read what became of it.
    let relay_user = User::connect(&nats, "relay").await;
    let ack = relay_user.jetstream().publish("health.diagnostics.us.relay.mad", "nonsense".into()).await;
    ack.unwrap().await.unwrap();
    callsight
        .metrics_when(wait::PATIENCE, "the dead letter", |scrape| {
            wait::when(scrape.sum("callsight_dead_letters_total", &[]), |&letters| letters >= 1.0)
        })
        .await;
    let url = nats.url();
    let mut check = vec!["frame", "check", "--dlq", "--nats-url", &url];
    check.extend(replay.iter().map(String::as_str));
    let shown = Callsight::run(&check);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("health.diagnostics.us.relay.mad"), "{shown:?}");

    // The same user replays.
    let mut past = vec!["replay", "--nats-url", &url, "--region", "us", "--from", "1h ago", "--frames", "-"];
    past.extend(replay.iter().map(String::as_str));
    let replayed = Callsight::run(&past);
    assert!(replayed.status.success(), "{replayed:?}");
    assert_eq!(String::from_utf8_lossy(&replayed.stdout).lines().count(), 51);
    assert!(!String::from_utf8_lossy(&replayed.stderr).to_lowercase().contains("violation"), "{replayed:?}");

    // A restart acknowledges, resets the durable, and restores what was live.
    let live = callsight.metrics().await.sum("videocall_sessions", &[]);
    assert!(live > 0.0);
    callsight.restart();
    callsight.ready().await;
    assert_eq!(callsight.metrics().await.sum("videocall_sessions", &[]), live);
    let log = callsight.process().output();
    assert!(log.contains("live sessions restored"), "{log}");
    assert!(!log.to_lowercase().contains("violation"), "{log}");
    let durable: consumer::PullConsumer =
        operator.jetstream().get_consumer_from_stream("callsight-main", "HEALTH_US").await.unwrap();
    assert_eq!(durable.cached_info().num_pending + durable.cached_info().num_ack_pending as u64, 0);
    assert!(callsight.terminate().success());
}

#[tokio::test]
async fn a_relay_does_nothing_but_publish_in_its_region() {
    let nats = nats_with_permissions();
    make_streams(&nats).await;
    let mut relay = User::connect(&nats, "relay").await;
    for subject in [
        "health.diagnostics.apac.relay.r1",
        "health.deadletter.us.malformed",
        "$JS.API.STREAM.INFO.HEALTH_US",
        "$JS.API.CONSUMER.CREATE.HEALTH_US",
        "$JS.API.CONSUMER.MSG.NEXT.HEALTH_US.callsight-main",
        "$JS.ACK.HEALTH_US.callsight-main.1.1.1.1.0",
        "_INBOX.exporter.x",
    ] {
        relay.cannot_publish(subject).await;
    }
    for subject in ["health.>", "health.diagnostics.us.relay.r1", "_INBOX.>", "_INBOX.exporter.>", ">"] {
        relay.cannot_subscribe(subject).await;
    }
}

/// It runs where strangers reach it: whoever takes it over can publish frames as such, and no more.
#[tokio::test]
async fn an_ingest_does_nothing_but_publish_what_came_over_http() {
    let nats = nats_with_permissions();
    make_streams(&nats).await;
    let mut ingest = User::connect(&nats, "ingest").await;
    for subject in [
        "health.diagnostics.us.relay.r1",
        "health.diagnostics.apac.ingest.edge-1",
        "health.deadletter.us.malformed",
        "$JS.API.INFO",
        "$JS.API.STREAM.INFO.HEALTH_US",
        "$JS.API.STREAM.MSG.GET.HEALTH_US",
        "$JS.API.DIRECT.GET.HEALTH_US",
        "$JS.API.CONSUMER.CREATE.HEALTH_US",
        "$JS.API.CONSUMER.MSG.NEXT.HEALTH_US.callsight-main",
        "$JS.ACK.HEALTH_US.callsight-main.1.1.1.1.0",
        "_INBOX.exporter.x",
    ] {
        ingest.cannot_publish(subject).await;
    }
    for subject in ["health.>", "health.diagnostics.us.ingest.edge-1", "_INBOX.>", "_INBOX.relay.>", ">"] {
        ingest.cannot_subscribe(subject).await;
    }
}

#[tokio::test]
async fn an_ingest_is_ready_and_stores_frames_with_no_more_than_it_is_given() {
    let nats = nats_with_permissions();
    let operator = make_streams(&nats).await;
    let (_file, login) = login("ingest");
    let login: Vec<_> = login.iter().map(String::as_str).collect();
    let mut way = Way::start(&nats.url(), &login);
    way.ready().await;
    assert_eq!(way.post(&token("ana"), &frame_of("ana:1", 1, &[])).await.status, 204);
    let mut stream = operator.jetstream().get_stream("HEALTH_US").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1, "the frame, and nothing of readiness");
    assert!(way.terminate().success());
    let log = way.process.output();
    assert!(!log.to_lowercase().contains("violation"), "{log}");
}

#[tokio::test]
async fn an_exporter_reads_its_stream_and_changes_nothing_else() {
    let nats = nats_with_permissions();
    make_streams(&nats).await;
    let mut exporter = User::connect(&nats, "exporter").await;
    for subject in [
        "health.diagnostics.us.relay.r1",
        "health.deadletter.apac.malformed",
        "$JS.API.STREAM.DELETE.HEALTH_US",
        "$JS.API.STREAM.PURGE.HEALTH_US",
        "$JS.API.STREAM.UPDATE.HEALTH_US",
        "$JS.API.STREAM.CREATE.HEALTH_EU",
        "$JS.API.STREAM.MSG.DELETE.HEALTH_US",
        "$JS.API.STREAM.INFO.HEALTH_APAC",
        "$JS.API.CONSUMER.DELETE.HEALTH_US.callsight-main",
        "$JS.API.CONSUMER.DURABLE.CREATE.HEALTH_US.callsight-main",
        "$JS.API.CONSUMER.CREATE.HEALTH_US.callsight-main",
        "$JS.API.CONSUMER.RESET.HEALTH_US.other",
        "$JS.ACK.HEALTH_US.other.1.1.1.1.0",
        "$JS.ACK.HEALTH_APAC.callsight-main.1.1.1.1.0",
    ] {
        exporter.cannot_publish(subject).await;
    }
    for subject in ["health.>", "_INBOX.relay.>", "_INBOX.>", "$JS.EVENT.>"] {
        exporter.cannot_subscribe(subject).await;
    }
}

#[tokio::test]
async fn replay_only_reads() {
    let nats = nats_with_permissions();
    make_streams(&nats).await;
    let relay = User::connect(&nats, "relay").await;
    let stored = relay.jetstream().publish("health.diagnostics.us.relay.r1", "frame".into()).await;
    let sequence = stored.unwrap().await.unwrap().sequence;

    let mut replay = User::connect(&nats, "replay").await;
    let stream = replay.jetstream().get_stream("HEALTH_US").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 1);
    assert_eq!(&*stream.direct_get(sequence).await.unwrap().payload, b"frame");
    let ordered = stream.create_consumer(OrderedConfig::default()).await.unwrap();
    let message = ordered.messages().await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(&*message.payload, b"frame");

    for subject in [
        "health.diagnostics.us.relay.r1",
        "health.deadletter.us.malformed",
        "$JS.API.STREAM.DELETE.HEALTH_US",
        "$JS.API.STREAM.PURGE.HEALTH_US",
        "$JS.API.STREAM.MSG.DELETE.HEALTH_US",
        "$JS.API.CONSUMER.DELETE.HEALTH_US.callsight-main",
        "$JS.API.CONSUMER.RESET.HEALTH_US.callsight-main",
        "$JS.API.CONSUMER.DURABLE.CREATE.HEALTH_US.mine",
        "$JS.ACK.HEALTH_US.callsight-main.1.1.1.1.0",
    ] {
        replay.cannot_publish(subject).await;
    }
    for subject in ["health.>", "_INBOX.exporter.>"] {
        replay.cannot_subscribe(subject).await;
    }
}

#[tokio::test]
async fn an_operator_makes_streams_and_publishes_no_frame() {
    let nats = nats_with_permissions();
    let mut operator = make_streams(&nats).await;
    let context = operator.jetstream();
    context.update_stream(stream_config(&"us".parse().unwrap(), 1)).await.unwrap();
    context.delete_consumer_from_stream("callsight-main", "HEALTH_US").await.unwrap();
    context.delete_stream("HEALTH_US_DLQ").await.unwrap();
    operator.cannot_publish("health.diagnostics.us.relay.r1").await;
    operator.cannot_subscribe("_INBOX.relay.>").await;
    operator.cannot_subscribe("health.>").await;
}

#[tokio::test]
async fn nobody_gets_in_without_a_password() {
    let nats = nats_with_permissions();
    let error = async_nats::connect(nats.url()).await.unwrap_err();
    assert_eq!(error.kind(), async_nats::ConnectErrorKind::AuthorizationViolation);
}

/// Who may make a consumer for the moment could have it deliver where he may not publish himself.
/// What NATS allows nevertheless is described in `docs/security.md`.
#[tokio::test]
async fn a_consumer_for_the_moment_publishes_for_nobody() {
    let nats = nats_with_permissions();
    let context = make_streams(&nats).await.jetstream();
    context.create_stream(stream_config(&"apac".parse().unwrap(), 1)).await.unwrap();
    let relay = User::connect(&nats, "relay").await;
    let stored = relay.jetstream().publish("health.diagnostics.us.relay.r1", "frame".into()).await;
    stored.unwrap().await.unwrap();

    let replay = User::connect(&nats, "replay").await;
    let create = async |config: Value| {
        let request = json!({"stream_name": "HEALTH_US", "config": config}).to_string();
        let answer =
            replay.client.request("$JS.API.CONSUMER.CREATE.HEALTH_US", request.into()).await.unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap()
    };
    let durable = create(json!({"durable_name": "callsight-main", "ack_policy": "all"})).await;
    assert_eq!(durable["error"]["err_code"], 10_020, "{durable}");
    let cycle = json!({"deliver_subject": "health.diagnostics.us.relay.r2", "ack_policy": "none"});
    let cycle = create(cycle).await;
    assert_eq!(cycle["error"]["err_code"], 10_081, "{cycle}");
    for subject in ["health.diagnostics.apac.relay.r2", "$JS.API.STREAM.DELETE.HEALTH_US"] {
        create(json!({"deliver_subject": subject, "ack_policy": "none"})).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (stream, messages) in [("HEALTH_US", 1), ("HEALTH_APAC", 0)] {
        let stream = context.get_stream(stream).await.unwrap();
        assert_eq!(stream.cached_info().state.messages, messages);
    }
}
