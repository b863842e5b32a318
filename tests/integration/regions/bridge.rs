//! An exporter that watches two regions from one place, and one that has to go a long way round for
//! a while.

use async_nats::jetstream::Context;
use callsight::topology::{
    Deployment, consumer_config, dead_letter_stream_config, mirror_config, placed, stream_config,
};
use callsight_frame::subject::Region;
use callsight_frame::{Form, Frame};
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::kit::callsight::Callsight;
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::port;
use crate::kit::proxy::Proxy;
use crate::kit::scrape::Scrape;
use crate::kit::stream::Health;
use crate::kit::supercluster::{SETTLED_WITHIN, SuperCluster};
use crate::kit::wait::{self, PATIENCE};

/// No session falls idle while the bridge is down.
const NEVER_IDLE: &str = "--idle-timeout=1h";

/// The user and the deployment of an exporter that reads all regions, as `jetstream/permissions`
/// has them.
const GLOBAL: [&str; 3] = ["--deployment=global", "--nats-inbox-prefix=_INBOX.global", NEVER_IDLE];

/// Both regions' streams and the mirror, with durables for exporters that may not make them.
async fn start() -> (SuperCluster, Context) {
    let cluster = SuperCluster::start().await;
    let operator = cluster.jetstream("us", "operator").await;
    let [us, apac]: [Region; 2] = ["us", "apac"].map(|region| region.parse().unwrap());
    for (config, durables) in [
        (placed(stream_config(&us, 1), &us), &["global"][..]),
        (placed(stream_config(&apac, 1), &apac), &["global", "main"]),
        (placed(dead_letter_stream_config(&apac, 1), &apac), &[]),
        (placed(mirror_config(&apac, 1), &us), &["global"]),
    ] {
        let name = config.name.clone();
        operator.create_stream(config).await.unwrap();
        for deployment in durables {
            let deployment: Deployment = deployment.parse().unwrap();
            let config = consumer_config(&deployment, OffsetDateTime::UNIX_EPOCH);
            operator.create_consumer_on_stream(config, &name).await.unwrap();
        }
    }
    (cluster, operator)
}

/// Stores a frame in a region, as a relay there.
async fn say(relay: &Context, region: &str, frame: &Frame<'_>) {
    say_bytes(relay, region, frame.encode(Form::Compact)).await;
}

async fn say_bytes(relay: &Context, region: &str, payload: Vec<u8>) {
    let subject = format!("health.diagnostics.{region}.relay.r1");
    wait::eventually_async(SETTLED_WITHIN, "the frame to be stored", async || {
        let ack = relay
            .publish(subject.clone(), payload.clone().into())
            .await
            .map_err(|error| error.to_string())?;
        ack.await.map_err(|error| error.to_string())
    })
    .await;
}

fn count(scrape: &Scrape, name: &str, region: &str) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter is whole")]
    let count = scrape.value(name, &[("region", region)]).unwrap_or_default() as u64;
    count
}

async fn folded(exporter: &Callsight, region: &str, frames: u64) {
    exporter
        .metrics_when(SETTLED_WITHIN, &format!("{frames} frames of {region}"), |scrape| {
            wait::when(count(scrape, "callsight_frames_folded_total", region), |folded| *folded == frames)
                .map(drop)
        })
        .await;
}

/// How old the newest frame of the stream is, when its mirror heard of it, and how many frames it
/// lacks.
fn freshness(scrape: &Scrape) -> [f64; 3] {
    ["callsight_stream_last_frame_age_seconds", "callsight_mirror_lag_seconds", "callsight_mirror_lag_frames"]
        .map(|name| scrape.value(name, &[("region", "apac")]).unwrap_or(f64::NAN))
}

#[tokio::test]
async fn a_mirror_tells_a_silent_region_from_a_bridge_that_is_down() {
    let (cluster, operator) = start().await;
    let mut global = Callsight::serve_at(
        &cluster.url("us", "global"),
        &[&GLOBAL[..], &["--region=us,apac", "--home=us"]].concat(),
    );
    let mut local =
        Callsight::serve_at(&cluster.url("apac", "exporter"), &["--region=apac", "--home=apac", NEVER_IDLE]);
    global.ready().await;
    local.ready().await;
    let [us, apac] = [cluster.jetstream("us", "relay").await, cluster.jetstream("apac", "relay").await];
    say(&us, "us", &frame("s1", 1, &["bo"])).await;
    say(&apac, "apac", &frame("s2", 1, &["bo"])).await;
    say_bytes(&apac, "apac", b"no frame".to_vec()).await;
    folded(&global, "us", 1).await;
    folded(&global, "apac", 1).await;
    folded(&local, "apac", 1).await;

    // Both have refused the same frame, and the region's own dead-letter stream has one letter
    // about it.
    for exporter in [&global, &local] {
        exporter
            .metrics_when(PATIENCE, "the dead letter", |scrape| {
                wait::when(count(scrape, "callsight_dead_letters_total", "apac"), |letters| *letters == 1)
            })
            .await;
    }
    let letters = operator.get_stream("HEALTH_APAC_DLQ").await.unwrap().get_info().await.unwrap();
    assert_eq!(letters.state.messages, 1);

    // Silence: frames grow old, and the mirror goes on hearing that there are none.
    global
        .metrics_when(PATIENCE, "the region to be seen as silent", |scrape| {
            wait::when(freshness(scrape), |[age, heard, frames]| *age > 6.0 && *heard < 4.0 && *frames == 0.0)
        })
        .await;
    let own = local.metrics().await;
    assert!(own.any("callsight_stream_last_frame_age_seconds", &[("region", "apac")]));
    assert!(!own.any("callsight_mirror_lag_seconds", &[]), "it reads the stream itself");

    // The bridge down, or the region frozen: the mirror hears nothing any more, and the other
    // region goes on.
    cluster.server("apac").stop();
    global
        .metrics_when(PATIENCE, "the bridge to be seen as down", |scrape| {
            wait::when(freshness(scrape), |[_, heard, _]| *heard > 8.0)
        })
        .await;
    say(&us, "us", &frame("s1", 2, &["bo"])).await;
    folded(&global, "us", 2).await;
    cluster.server("apac").cont();

    for seq in 2..=9 {
        say(&apac, "apac", &frame("s2", seq, &["bo"])).await;
    }
    folded(&global, "apac", 9).await;
    global
        .metrics_when(PATIENCE, "the bridge to be seen as up", |scrape| {
            wait::when(freshness(scrape), |[_, heard, frames]| *heard < 4.0 && *frames == 0.0)
        })
        .await;
    folded(&local, "apac", 9).await;
}

#[tokio::test]
async fn through_the_gateway_a_region_is_read_itself() {
    let (cluster, _operator) = start().await;
    let relay = cluster.jetstream("apac", "relay").await;
    say(&relay, "apac", &frame("s2", 1, &["bo"])).await;
    let args = [&GLOBAL[..], &["--region=us,apac", "--home=us", "--via-gateway"]].concat();
    let mut global = Callsight::serve_at(&cluster.url("us", "global"), &args);
    global.ready().await;
    say(&relay, "apac", &frame("s2", 2, &["bo"])).await;
    folded(&global, "apac", 2).await;
    let scrape = global.metrics().await;
    assert!(!scrape.any("callsight_mirror_lag_seconds", &[]));
    assert!(
        scrape.value("videocall_sessions", &[("region", "apac")]).is_some_and(|sessions| sessions == 1.0)
    );

    // A mirror that nobody made is said to be missing.
    let args = [&GLOBAL[..], &["--region=apac", "--home=us", "--stream=apac=HEALTH_APAC_COPY"]].concat();
    let other = Callsight::serve_at(&cluster.url("us", "global"), &args);
    other.listening().await;
    wait::eventually_async(PATIENCE, "the missing stream to be named", async || {
        let answer = other.get("/readyz").await;
        wait::when(answer.text().to_owned(), |text| {
            text.contains("stream HEALTH_APAC_COPY of region apac does not exist")
        })
    })
    .await;
}

/// How often an exporter began to read its durable, or tried to.
fn attempts(exporter: &Callsight) -> usize {
    exporter.process().output().lines().filter(|line| line.contains(" consuming ")).count()
}

#[tokio::test]
async fn failed_attempts_do_not_keep_a_successor_from_the_frames() {
    let (cluster, operator) = start().await;
    let link = Proxy::to(cluster.server("us").port()).await;
    let args = [&GLOBAL[..], &["--region=apac", "--home=us", "--via-gateway"]].concat();
    let mut exporter = Callsight::serve_at(&link.url_as("global"), &args);
    exporter.ready().await;
    let relay = cluster.jetstream("apac", "relay").await;
    let before = 20;
    for seq in 1..=before {
        say(&relay, "apac", &frame("s1", seq, &["bo"])).await;
    }
    folded(&exporter, "apac", before).await;
    wait::eventually_async(PATIENCE, "the acknowledgement", async || {
        let durable =
            operator.get_stream("HEALTH_APAC").await.unwrap().consumer_info("callsight-global").await;
        wait::when(durable.unwrap().ack_floor.stream_sequence, |floor| *floor == before)
    })
    .await;

    // The server still delivers to it, so the first attempt of its successor fails. It leaves a
    // request that is served for two seconds: beside the stream an early one may succeed, from the
    // other side of a gateway it would fail in the same way.
    link.lose();
    exporter.kill9();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut successor = Callsight::serve_at(&cluster.url("us", "global"), &args);
    let (last, attempts) = tokio::join!(publish_until(stopped, &relay, before), async {
        wait::eventually_async(PATIENCE, "an attempt to fail", async || {
            wait::when(successor.process().output(), |log| log.contains("a delivery was lost on the way"))
        })
        .await;
        link.cut();
        successor.ready().await;
        stop.send(()).unwrap();
        attempts(&successor)
    });
    folded(&successor, "apac", last - before).await;
    assert!((2..=5).contains(&attempts), "{attempts} attempts:\n{}", successor.process().output());

    let scrape = successor.metrics().await;
    let [received, redelivered, repeated] = ["received", "redelivered", "repeated"]
        .map(|name| count(&scrape, &format!("callsight_frames_{name}_total"), "apac"));
    assert_eq!((received - redelivered, repeated), (last - before, 0));
    let stored = operator.get_stream("HEALTH_APAC").await.unwrap().get_info().await.unwrap().state;
    assert_eq!(stored.messages, last);
}

/// Stores frames after `seq` without a pause, and returns the last one's.
async fn publish_until(mut stopped: oneshot::Receiver<()>, relay: &Context, mut seq: u64) -> u64 {
    while stopped.try_recv() == Err(TryRecvError::Empty) {
        seq += 1;
        say(relay, "apac", &frame("s1", seq, &["bo"])).await;
    }
    seq
}

/// Waits until the exporter is connected to a cluster.
async fn connected_to(cluster: &SuperCluster, place: &str) {
    wait::eventually_async(SETTLED_WITHIN, &format!("the exporter to be connected to {place}"), async || {
        let connections = cluster.server(place).monitor("/connz").await;
        let connections = connections["connections"].as_array().into_iter().flatten();
        let names: Vec<_> = connections.map(|connection| connection["name"].to_string()).collect();
        wait::when(names, |names| names.iter().any(|name| name == "\"callsight global\"")).map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_had_to_go_elsewhere_comes_home() {
    let (cluster, _operator) = start().await;
    let link = Proxy::to(cluster.server("apac").port()).await;
    let home = link.url_as("global");
    let fallback = format!("--nats-fallback-url={}", cluster.url("us", "global"));
    let args = [&GLOBAL[..], &["--region=apac", "--home=apac", &fallback]].concat();
    let mut exporter = Callsight::serve_at(&home, &args);
    exporter.ready().await;
    connected_to(&cluster, "apac").await;
    let relay = cluster.jetstream("apac", "relay").await;
    let mut seq = 0;
    let mut speak = async || {
        for _ in 0..20 {
            seq += 1;
            say(&relay, "apac", &frame("s2", seq, &["bo"])).await;
        }
        seq
    };
    let said = speak().await;
    folded(&exporter, "apac", said).await;

    // Nobody answers at home: the way leads through the other region, and back through the gateway.
    link.stall();
    link.cut();
    connected_to(&cluster, "us").await;
    let said = speak().await;
    folded(&exporter, "apac", said).await;

    link.resume();
    connected_to(&cluster, "apac").await;
    let said = speak().await;
    folded(&exporter, "apac", said).await;
    let scrape = exporter.metrics().await;
    let [received, redelivered, repeated] = ["received", "redelivered", "repeated"]
        .map(|name| count(&scrape, &format!("callsight_frames_{name}_total"), "apac"));
    assert_eq!((received - redelivered, repeated), (said, 0));
    wait::eventually_async(PATIENCE, "the connection elsewhere to be closed", async || {
        let connections = cluster.server("us").monitor("/connz").await;
        let text = connections["connections"].to_string();
        wait::when(text, |text| !text.contains("callsight global")).map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_region_may_be_in_a_domain_and_on_servers_of_its_own() {
    let nats = Nats::start_with("jetstream: { domain: far }", &[]);
    let health = Health::create(&nats).await;
    let nobody = format!("nats://127.0.0.1:{}", port::free());
    let servers = format!("--region-nats-url=us={}", nats.url());
    let mut expected = 0;
    for (deployment, api) in
        [("one", "--jetstream-domain=us=far"), ("two", "--jetstream-prefix=us=$JS.far.API")]
    {
        let deployment = format!("--deployment={deployment}");
        let mut exporter =
            Callsight::serve_at(&nobody, &["--create", NEVER_IDLE, &deployment, &servers, api]);
        exporter.ready().await;
        expected += 1;
        health.publish(&frame("s1", expected, &["bo"])).await;
        exporter
            .metrics_when(PATIENCE, "the session", |scrape| {
                wait::when(scrape.sum("videocall_sessions", &[("region", "us")]), |sessions| *sessions > 0.5)
                    .map(drop)
            })
            .await;
        assert!(exporter.terminate().success());
    }
    let other = Callsight::serve_at(&nats.url(), &["--create", "--jetstream-domain=us=elsewhere"]);
    other.listening().await;
    wait::eventually_async(PATIENCE, "a domain that is not there to be missed", async || {
        let answer = other.get("/readyz").await;
        wait::when(answer.text().to_owned(), |text| text.contains("NATS does not answer")).map(drop)
    })
    .await;
}
