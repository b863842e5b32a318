//! The bridge under load: each region in turn is killed or frozen while the other goes on.
//!
//! What is promised of it: the other region publishes, and creates consumers and streams, all the
//! while; when the lost one is back, the mirror has every acknowledged frame in the order of its
//! stream; and publishers, who only have to be patient, have lost nothing. How long each takes is
//! measured and printed; `docs/topology.md` has the figures.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, Context, Message};
use callsight::topology::{placed, stream_name};
use callsight_frame::Frame;
use callsight_frame::subject::Region;
use callsight_publish::{PublishStats, Publisher, PublisherConfig};
use futures_util::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::kit::frames::frame;
use crate::kit::stream::declare;
use crate::kit::supercluster::{ClusterServer, SETTLED_WITHIN, SuperCluster};
use crate::kit::wait;

/// How often each region's relay sends a frame.
const PACE: Duration = Duration::from_millis(10);

/// Everything must be right again by then.
const DEADLINE: Duration = SETTLED_WITHIN;

const MIRROR: &str = "HEALTH_APAC_MIRROR";

/// How long a region is away at least: longer than an election takes, and an acknowledgement is
/// waited for.
const AWAY: Duration = Duration::from_secs(8);

fn region(name: &str) -> Region {
    name.parse().unwrap()
}

/// Publishes frames of one session without end, as a relay in its region does.
pub(super) struct Load {
    region: Region,
    publisher: Arc<Publisher>,
    stop: Arc<AtomicBool>,
    sending: JoinHandle<u64>,
}

impl Load {
    async fn start(cluster: &SuperCluster, name: &str) -> Self {
        Self::start_at(cluster.server(name), &region(name)).await
    }

    pub(super) async fn start_at(server: &ClusterServer, region: &Region) -> Self {
        let config =
            PublisherConfig { buffer: 100_000, ..PublisherConfig::new(region.clone(), "relay", "relay-1") };
        let publisher = Arc::new(Publisher::start(server.client("relay").await, config).await.unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let sending = tokio::spawn(send(Arc::clone(&publisher), Arc::clone(&stop), region.clone()));
        Self { region: region.clone(), publisher, stop, sending }
    }

    /// How many frames it has taken on and the stream has not acknowledged.
    fn held(&self) -> u64 {
        let stats = self.publisher.stats();
        stats.accepted - stats.acknowledged
    }

    fn acknowledged(&self) -> u64 {
        self.publisher.stats().acknowledged
    }

    /// Returns once something that was sent from now on is acknowledged.
    pub(super) async fn goes_on(&self) {
        // What was under way may still be acknowledged; what is accepted now can't have been.
        let accepted = self.publisher.stats().accepted;
        let what = format!("{} to take frames", self.region);
        wait::eventually_async(DEADLINE, &what, async || {
            wait::when(self.acknowledged(), |&acknowledged| acknowledged > accepted)
        })
        .await;
    }

    /// Stops sending and waits until everything is acknowledged; how many frames that was.
    pub(super) async fn settle(self) -> (u64, PublishStats) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sending.await.unwrap();
        let stats = self.publisher.flush(DEADLINE).await.unwrap();
        assert_eq!((stats.accepted, stats.acknowledged, stats.failed), (sent, sent, 0), "{}", self.region);
        (sent, stats)
    }
}

async fn send(publisher: Arc<Publisher>, stop: Arc<AtomicBool>, session: Region) -> u64 {
    let mut every = interval(PACE);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for seq in 1.. {
        every.tick().await;
        if stop.load(Ordering::Relaxed) {
            return seq - 1;
        }
        publisher.publish(&frame(session.as_str(), seq, &[])).unwrap();
    }
    unreachable!()
}

/// Every message of a stream, in order.
pub(super) async fn read(jetstream: &Context, stream: &str) -> Vec<Message> {
    let stream = jetstream.get_stream(stream).await.unwrap();
    let config = pull::Config {
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::None,
        inactive_threshold: Duration::from_secs(60),
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let expected = usize::try_from(stream.cached_info().state.messages).unwrap();
    let messages = consumer.messages().await.unwrap().take(expected);
    let read = messages.map(Result::unwrap).collect::<Vec<_>>();
    timeout(DEADLINE, read).await.unwrap()
}

/// Sequence, time, subject, headers and content.
pub(super) fn identity(message: &Message) -> (u64, time::OffsetDateTime, String, String, Vec<u8>) {
    let info = message.info().unwrap();
    let headers = format!("{:?}", message.headers);
    (info.stream_sequence, info.published, message.subject.to_string(), headers, message.payload.to_vec())
}

/// The stream has every frame of the session once.
fn is_complete(messages: &[Message], session: &str, sent: u64) {
    let frames: Vec<_> = messages.iter().map(|message| Frame::decode(&message.payload).unwrap()).collect();
    assert!(frames.iter().all(|frame| frame.session_id.as_str() == session));
    let seqs: BTreeSet<u64> = frames.iter().map(|frame| frame.seq.get()).collect();
    let missing: Vec<_> = (1..=sent).filter(|seq| !seqs.contains(seq)).collect();
    assert!(missing.is_empty(), "{session} lost {missing:?}");
    assert_eq!(frames.len() as u64, sent, "{session}: frames are stored twice");
}

/// The last sequence that a stream holds, once anybody answers for it.
async fn last_sequence(jetstream: &Context, stream: &str) -> u64 {
    wait::eventually_async(DEADLINE, &format!("{stream} to be there"), async || {
        let stream = jetstream.get_stream(stream).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(stream.cached_info().state.last_sequence)
    })
    .await
}

async fn eventually_made<T, E: std::fmt::Display>(
    what: &str,
    mut make: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    wait::eventually_async(DEADLINE, what, async || make().await.map_err(|error| error.to_string())).await
}

/// Waits until the mirror has all that its stream has now. More goes on coming.
async fn mirror_follows(jetstream: &Context) {
    let target = last_sequence(jetstream, "HEALTH_APAC").await;
    wait::eventually_async(DEADLINE, "the mirror to follow", async || {
        let info = jetstream.get_stream(MIRROR).await.map_err(|error| error.to_string())?;
        let info = info.cached_info();
        wait::when(info.state.last_sequence, |&last| last >= target)
            .map_err(|last| format!("{last} of {target}, {:?}", info.mirror))
    })
    .await;
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Killed,
    Frozen,
}

#[expect(clippy::print_stdout, reason = "the figures are what one wants to see")]
pub(super) fn print(text: &str) {
    println!("{text}");
}

/// Each region is lost and comes back, under load.
async fn survives(loss: Loss) {
    let mut cluster = SuperCluster::start().await;
    declare(cluster.client("us", "operator").await, 1).await;
    let loads = [Load::start(&cluster, "us").await, Load::start(&cluster, "apac").await];
    for (lost, left, other) in [("apac", "us", &loads[0]), ("us", "apac", &loads[1])] {
        for load in &loads {
            load.goes_on().await;
        }
        let operator = cluster.jetstream(left, "operator").await;
        mirror_follows(&operator).await;
        let begin = Instant::now();
        match loss {
            Loss::Killed => cluster.server_mut(lost).kill9(),
            Loss::Frozen => cluster.server(lost).stop(),
        }

        other.goes_on().await;
        let published = begin.elapsed();
        let durable = pull::Config {
            durable_name: Some(format!("while-{lost}-was-away")),
            ack_policy: AckPolicy::All,
            ..pull::Config::default()
        };
        let stream = stream_name(&region(left));
        let consumer = eventually_made("a consumer", async || {
            operator.create_consumer_on_stream(durable.clone(), &stream).await
        })
        .await;
        let created = begin.elapsed();
        let config = placed(
            jetstream::stream::Config { name: format!("WHILE_{lost}_WAS_AWAY"), ..Default::default() },
            &region(left),
        );
        eventually_made("a stream", async || operator.create_stream(config.clone()).await).await;
        let streamed = begin.elapsed();
        let mut messages = consumer.messages().await.unwrap();
        let message = timeout(DEADLINE, messages.next()).await.unwrap().unwrap().unwrap();
        assert!(message.subject.starts_with(&format!("health.diagnostics.{left}.")), "{}", message.subject);
        if lost == "apac" {
            let copy = read(&operator, MIRROR).await;
            assert!(copy.iter().all(|message| message.subject.starts_with("health.diagnostics.apac.")));
            assert!(!copy.is_empty(), "nothing is left of apac");
        }
        tokio::time::sleep(AWAY.saturating_sub(begin.elapsed())).await;
        other.goes_on().await;

        // Its relay holds what it could not send; or what was sent, and is not acknowledged.
        let of_lost = loads.iter().find(|load| load.region.as_str() == lost).unwrap();
        let held = of_lost.held();
        assert!(held > 0, "{lost} is away and all of its frames are acknowledged");

        let away = begin.elapsed();
        let back = Instant::now();
        match loss {
            Loss::Killed => cluster.server_mut(lost).restart(),
            Loss::Frozen => cluster.server(lost).cont(),
        }
        of_lost.goes_on().await;
        let taking = back.elapsed();
        mirror_follows(&operator).await;
        let mirrored = back.elapsed();
        cluster.settled().await;
        print(&format!(
            "{lost} {loss:?} for {:.1} s, {held} frames held: {left} published on after {:.1} s, had a new consumer after \
             {:.1} s and a new stream after {:.1} s; back, {lost} took frames after {:.1} s, the mirror had all after \
             {:.1} s, everything was up to date after {:.1} s",
            away.as_secs_f64(),
            published.as_secs_f64(),
            created.as_secs_f64(),
            streamed.as_secs_f64(),
            taking.as_secs_f64(),
            mirrored.as_secs_f64(),
            back.elapsed().as_secs_f64(),
        ));
    }

    let operator = cluster.jetstream("us", "operator").await;
    for load in loads {
        let name = load.region.clone();
        let name = name.as_str();
        let (sent, stats) = load.settle().await;
        let stream = read(&operator, &stream_name(&region(name))).await;
        is_complete(&stream, name, sent);
        print(&format!("{name}: {sent} frames, all acknowledged, {} sent again", stats.retried));
        if name == "apac" {
            wait::eventually_async(DEADLINE, "the mirror to have all", async || {
                wait::when(last_sequence(&operator, MIRROR).await, |&last| last == sent)
            })
            .await;
            let copy = read(&operator, MIRROR).await;
            let [stream, copy] = [stream, copy].map(|list| list.iter().map(identity).collect::<Vec<_>>());
            assert!(stream == copy, "the mirror differs from its stream");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_killed_stops_nobody_and_loses_nothing() {
    survives(Loss::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_freezes_stops_nobody_and_loses_nothing() {
    survives(Loss::Frozen).await;
}

#[tokio::test]
async fn without_its_arbiter_one_region_is_not_enough_to_create() {
    let mut cluster = SuperCluster::start().await;
    declare(cluster.client("us", "operator").await, 1).await;
    let load = Load::start(&cluster, "us").await;
    let mut operator = cluster.jetstream("us", "operator").await;
    operator.set_timeout(Duration::from_secs(2));
    let stream = async |name: &str| {
        let config = jetstream::stream::Config { name: name.to_owned(), ..Default::default() };
        operator.create_stream(placed(config, &region("us"))).await
    };

    // Two of three are a majority.
    cluster.server_mut("arbiter").kill9();
    let begin = Instant::now();
    eventually_made("a stream without the arbiter", async || stream("A").await).await;
    print(&format!("arbiter killed: us created a stream after {:.1} s", begin.elapsed().as_secs_f64()));

    // One is none: what is there goes on, nothing new can be made.
    cluster.server_mut("apac").kill9();
    load.goes_on().await;
    // While a leader of before still believes in itself, it may.
    wait::eventually_async(DEADLINE, "the meta group to have lost its leader", async || {
        wait::when(cluster.server("us").healthy().await, Result::is_err).map(drop)
    })
    .await;
    let error = stream("B").await.unwrap_err();
    print(&format!("apac and arbiter killed: us goes on publishing; creating a stream: {error}"));
    load.goes_on().await;

    let begin = Instant::now();
    cluster.server_mut("arbiter").restart();
    eventually_made("a stream with the arbiter again", async || stream("C").await).await;
    print(&format!("arbiter back: us created a stream after {:.1} s", begin.elapsed().as_secs_f64()));
    load.settle().await;
}
