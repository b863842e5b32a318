//! What a loss of power loses, by how often the servers sync.
//!
//! The servers run on disks that forget what was not synced. `always` must lose no acknowledged
//! frame, and a period no frame that is older than it. The server's own default must lose some,
//! which shows that the cut is one: `docs/topology.md` promises the one and warns of the other.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::RawMessageErrorKind;
use async_nats::jetstream::{self, Context};
use callsight::topology::{stream_config, stream_name};
use callsight_frame::subject::Region;
use callsight_frame::{Form, Frame};
use futures_util::{StreamExt, TryStreamExt};
use tokio::task::JoinSet;

use super::bridge::print;
use crate::kit::callsight::Callsight;
use crate::kit::frames::{frame, rtt_ms};
use crate::kit::nats::Nats;
use crate::kit::region::{REGION, RegionServers};
use crate::kit::relay::{Crowd, Relay};
use crate::kit::stream::Health;
use crate::kit::wait;

/// What production uses.
const ALWAYS: &str = "always";

/// What laptops use.
const EVERY_SECOND: &str = "1s";

/// The default of nats-server.
const DEFAULT: &str = "2m";

/// Clients that publish at once, each waiting for its acknowledgements.
const CLIENTS: usize = 16;

/// Acknowledged frames before the first cut.
const FRAMES: usize = 2_000;

/// Messages that are read at a time.
const READS: usize = 256;

/// How long before a cut a frame was acknowledged that `1s` must not lose. A busy machine syncs
/// later than it should.
const SYNCED_AFTER: Duration = Duration::from_secs(4);

/// A frame's session and sequence number.
type FrameId = (String, u64);

/// When each frame was acknowledged.
type Acknowledged = BTreeMap<FrameId, Instant>;

/// What was acknowledged, and the longest time without.
#[derive(Debug, Default)]
struct Log {
    frames: Acknowledged,
    last: Option<Instant>,
    pause: Duration,
}

fn region() -> Region {
    REGION.parse().unwrap()
}

/// Clients that publish until they are stopped.
struct Clients {
    running: JoinSet<()>,
    log: Arc<Mutex<Log>>,
}

impl Clients {
    fn start(jetstream: &Context, name: &str) -> Self {
        let log = Arc::default();
        let mut running = JoinSet::new();
        for client in 0..CLIENTS {
            running.spawn(publish(jetstream.clone(), format!("{name}-{client}"), Arc::clone(&log)));
        }
        Self { running, log }
    }

    fn count(&self) -> usize {
        self.log.lock().unwrap().frames.len()
    }

    /// The longest time without an acknowledgement since it was last asked for.
    fn pause(&self) -> f64 {
        std::mem::take(&mut self.log.lock().unwrap().pause).as_secs_f64()
    }

    async fn until_acknowledged(&self, frames: usize) {
        let begin = self.count();
        wait::eventually_async(wait::PATIENCE, &format!("{frames} acknowledged frames"), async || {
            wait::when(self.count() - begin, |count| *count >= frames)
        })
        .await;
    }

    /// What was acknowledged to them, now that nobody acknowledges anything.
    async fn stop(mut self) -> Acknowledged {
        self.running.shutdown().await;
        std::mem::take(&mut self.log.lock().unwrap().frames)
    }
}

/// Publishes the frames of a session one by one, the same again until it is acknowledged.
async fn publish(jetstream: Context, session: String, log: Arc<Mutex<Log>>) {
    for seq in 1.. {
        while !is_stored(&jetstream, &frame(&session, seq, &[])).await {}
        let (now, mut log) = (Instant::now(), log.lock().unwrap());
        let before = log.last.replace(now).unwrap_or(now);
        log.pause = log.pause.max(now - before);
        log.frames.insert((session.clone(), seq), now);
    }
}

async fn is_stored(jetstream: &Context, frame: &Frame<'_>) -> bool {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("{}:{}", frame.session_id, frame.seq.get()));
    let subject = format!("health.diagnostics.{REGION}.relay.relay-1");
    let sent = jetstream.publish_with_headers(subject, headers, frame.encode(Form::Compact).into()).await;
    match sent {
        Ok(ack) => ack.await.is_ok(),
        Err(_) => false,
    }
}

/// A region with a stream of as many replicas as servers, which lose what they do not sync from now
/// on.
async fn start(servers: usize, sync: &str) -> RegionServers {
    let mut region_servers = RegionServers::start(servers, sync).await;
    let jetstream = region_servers.jetstream().await;
    // Three servers that have just started may be busy with elections.
    wait::eventually_async(wait::PATIENCE, "the stream to be created", async || {
        let created = jetstream.create_stream(stream_config(&region(), servers)).await;
        created.map_err(|error| error.to_string())
    })
    .await;
    region_servers.settled().await;
    region_servers.restart_on_disks_that_forget().await;
    region_servers
}

/// Acknowledged frames that the stream does not have.
async fn lost(servers: &RegionServers, acknowledged: &Acknowledged) -> Acknowledged {
    let jetstream = servers.jetstream().await;
    // Servers that are just back may not know yet who answers for a new consumer.
    let stored = wait::eventually_async(wait::PATIENCE, "the stream to be read", async || {
        stored(&jetstream).await.map_err(|error| error.to_string())
    })
    .await;
    let distinct: BTreeSet<&FrameId> = stored.iter().collect();
    assert_eq!(distinct.len(), stored.len(), "frames are stored twice");
    let mut lost = acknowledged.clone();
    lost.retain(|frame, _| !distinct.contains(frame));
    lost
}

/// The frames of the stream, as its leader has them: a consumer may be placed on a replica that is
/// not current.
async fn stored(jetstream: &Context) -> Result<Vec<FrameId>, Box<dyn Error>> {
    let stream = jetstream.get_stream(stream_name(&region())).await?;
    let state = &stream.cached_info().state;
    // Of an empty stream the first sequence is 0, which cannot be asked for.
    let sequences = futures_util::stream::iter(state.first_sequence.max(1)..=state.last_sequence);
    let messages = sequences.map(|sequence| stream.get_raw_message(sequence)).buffered(READS);
    let identities = messages.map(|message| match message {
        Ok(message) => {
            let frame = Frame::decode(&message.payload)?;
            Ok(Some((frame.session_id.to_string(), frame.seq.get())))
        }
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error.into()),
    });
    identities.try_filter_map(async |identity| Ok(identity)).try_collect().await
}

/// The stream's state, once anybody answers for it.
async fn stream(jetstream: &Context) -> jetstream::stream::Info {
    wait::eventually_async(wait::PATIENCE, "the stream to have a leader", async || {
        let stream = jetstream.get_stream(stream_name(&region())).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(stream.cached_info().clone())
    })
    .await
}

fn print_lost(sync: &str, servers: usize, what: &str, lost: usize, acknowledged: &Acknowledged) {
    let of = acknowledged.len();
    print(&format!("{sync}, {servers} servers, {what}: lost {lost} of {of} acknowledged frames"));
}

/// Cuts the power of all servers under load, and returns how many acknowledged frames are lost, and
/// how long before the cut the first of them was acknowledged.
async fn lost_with_all(servers: usize, sync: &str) -> (usize, Duration) {
    let mut region = start(servers, sync).await;
    let clients = Clients::start(&region.jetstream().await, "cut");
    let begin = Instant::now();
    clients.until_acknowledged(FRAMES).await;
    while sync == EVERY_SECOND && begin.elapsed() < 2 * SYNCED_AFTER {
        clients.until_acknowledged(1).await;
    }
    let cut = Instant::now();
    region.cut_power();
    let acknowledged = clients.stop().await;
    region.restart().await;
    let lost = lost(&region, &acknowledged).await;
    print_lost(sync, servers, "all without power", lost.len(), &acknowledged);
    let first = lost.values().min().map_or(Duration::ZERO, |first| cut.saturating_duration_since(*first));

    // Whatever was lost, the stream stores what is published now.
    let clients = Clients::start(&region.jetstream().await, "afterwards");
    clients.until_acknowledged(100).await;
    assert!(self::lost(&region, &clients.stop().await).await.is_empty());
    (lost.len(), first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_always_syncs_loses_nothing_with_its_power() {
    assert_eq!(lost_with_all(1, ALWAYS).await.0, 0);
    assert!(lost_with_all(1, DEFAULT).await.0 > 0, "without syncing, nothing was lost: this was no cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_always_syncs_loses_nothing_with_its_power() {
    assert_eq!(lost_with_all(3, ALWAYS).await.0, 0);
    assert!(lost_with_all(3, DEFAULT).await.0 > 0, "without syncing, nothing was lost: this was no cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_syncs_every_second_loses_only_the_last_frames_with_its_power() {
    let (lost, first) = lost_with_all(1, EVERY_SECOND).await;
    print(&format!("the first of them was acknowledged {:.2} s before the cut", first.as_secs_f64()));
    assert!(lost > 0, "nothing was lost, so this was no cut");
    assert!(first < SYNCED_AFTER, "a frame of {first:?} before the cut is lost");
}

/// Cuts the power of the stream's leader, with a follower away or not, and returns how many
/// acknowledged frames are lost.
async fn lost_with_the_leader(sync: &str, follower_away: bool) -> usize {
    let mut region = start(3, sync).await;
    let jetstream = region.jetstream().await;
    let clients = Clients::start(&jetstream, "cut");
    clients.until_acknowledged(FRAMES).await;
    let leader = stream(&jetstream).await.cluster.unwrap().leader.unwrap();
    let others: Vec<_> = (1..=3).map(|n| format!("{REGION}-{n}")).filter(|name| *name != leader).collect();
    if follower_away {
        region.named(&others[0]).kill9();
        clients.until_acknowledged(FRAMES).await;
        // Only the last server has all, and it is away while the others begin without it.
        region.named(&others[1]).kill9();
    }
    region.named(&leader).cut_power();
    if follower_away {
        region.named(&others[0]).restart();
    } else {
        let begin = Instant::now();
        clients.until_acknowledged(100).await;
        print(&format!(
            "without the leader, frames are acknowledged after {:.1} s",
            begin.elapsed().as_secs_f64()
        ));
    }
    region.named(&leader).restart();
    stream(&jetstream).await;
    if follower_away {
        region.named(&others[1]).restart();
    }
    clients.until_acknowledged(100).await;
    let acknowledged = clients.stop().await;
    // Replicas that do not sync may disagree for good (docs/topology.md).
    if sync == ALWAYS {
        region.settled().await;
    }
    let lost = lost(&region, &acknowledged).await.len();
    let what = if follower_away { "the leader's power with a follower away" } else { "the leader's power" };
    print_lost(sync, 3, what, lost, &acknowledged);
    lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_restart_one_by_one_lose_nothing() {
    let mut region = start(3, ALWAYS).await;
    let clients = Clients::start(&region.jetstream().await, "restart");
    for name in [1, 2, 3].map(|number| format!("{REGION}-{number}")) {
        clients.until_acknowledged(100).await;
        region.named(&name).lame_duck();
        region.named(&name).restart();
        region.settled().await;
        print(&format!("{name} restarted: nothing is acknowledged for {:.2} s", clients.pause()));
    }
    clients.until_acknowledged(100).await;
    assert!(lost(&region, &clients.stop().await).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_without_power_of_three_loses_nothing() {
    for sync in [ALWAYS, DEFAULT] {
        assert_eq!(lost_with_the_leader(sync, false).await, 0, "{sync}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_power_while_a_follower_is_away_loses_nothing_if_it_syncs() {
    assert_eq!(lost_with_the_leader(ALWAYS, true).await, 0);
    assert!(
        lost_with_the_leader(DEFAULT, true).await > 0,
        "without syncing, nothing was lost: this was no cut"
    );
}

/// Frames of a session, of each part of the test below.
const PART: u64 = 5;

/// An exporter of a server that loses its power, and the frames that it has folded; `unread` of the
/// lost ones it never received.
async fn exporter_of_a_stream_that_lost_its_end(unread: bool) {
    let mut nats = Nats::start_with(&format!("jetstream {{ sync_interval: {DEFAULT} }}"), &[]);
    let health = Health::create(&nats).await;
    let (relay, crowd) = (Relay::start(&nats).await, Crowd::new("", 40));
    let mut exporter = Callsight::serve(&nats, &["--create", "--idle-timeout=1h"]);
    exporter.ready().await;
    let part = PART * crowd.len() as u64;
    let speak = async |part: u64| {
        for seq in part * PART + 1..=(part + 1) * PART {
            crowd.speak(&relay, seq).await;
        }
        relay.settle().await;
    };

    // The first part is on the disk, the second is not, and the third has its sequences.
    speak(0).await;
    let mut expected = part;
    is_folded(&exporter, expected).await;
    wait::eventually_async(wait::PATIENCE, "the acknowledgement", async || {
        wait::when(health.durable().await.ack_floor.stream_sequence, |floor| *floor == part)
    })
    .await;
    nats.restart_on_a_disk_that_forgets();
    if unread {
        exporter.process().stop();
    } else {
        expected += part;
    }
    speak(1).await;
    if !unread {
        is_folded(&exporter, expected).await;
    }
    nats.cut_power();
    nats.restart();
    assert_eq!(health.messages().await, part, "the stream has what was on the disk");
    if unread {
        exporter.process().cont();
    }
    speak(2).await;
    expected += part;
    is_folded(&exporter, expected).await;
    exporter.ready().await;

    let scrape = exporter.metrics().await;
    for name in ["repeated", "rejected"] {
        assert_eq!(scrape.sum(&format!("callsight_frames_{name}_total"), &[]), 0.0, "{name}");
    }
    assert_eq!(scrape.sum("videocall_sessions", &[]), crowd.len() as f64);
    let shown = scrape.series("videocall_session_rtt_seconds");
    assert_eq!(shown.len(), crowd.len());
    for (labels, rtt) in shown {
        assert_eq!(rtt, rtt_ms(3 * PART) / 1e3, "{labels:?} is stuck");
    }
    let missed = scrape.sum("callsight_frames_missed_total", &[]);
    print(&format!("lost unread: {unread}, counted as missed: {missed}"));
}

/// Waits until exactly so many frames are folded.
async fn is_folded(exporter: &Callsight, frames: u64) {
    let scrape = exporter.folded(wait::PATIENCE, frames as usize).await;
    assert_eq!(scrape.sum("callsight_frames_folded_total", &[]), frames as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exporter_goes_on_where_the_power_set_its_stream_back() {
    exporter_of_a_stream_that_lost_its_end(false).await;
    exporter_of_a_stream_that_lost_its_end(true).await;
}
