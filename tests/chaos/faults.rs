//! What breaks, and how it is mended.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{FromConsumer, pull};
use async_nats::jetstream::stream::Stream;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::account::{Account, began_after};
use crate::kit::supercluster::SETTLED_WITHIN;
use crate::kit::wait;
use crate::world::{Servers, World, members};

/// The longest that anything is away: longer than two heartbeats and an acknowledgement may take.
const LONGEST: f64 = 5.0;

/// How long a leader may take to step down.
const STEPS_DOWN_WITHIN: Duration = Duration::from_secs(30);

/// How long it is away for once, in a long run: longer than an exporter may stay ready.
const VERY_LONG: std::ops::Range<f64> = 13.0..20.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    ExporterKilled,
    ExporterVanished,
    ExporterFrozen,
    ExporterCut,
    ExporterStalled,
    ExporterStalledThenCut,
    ClientsCut,
    ClientsStalledThenCut,
    LeaderKilled,
    FollowerKilled,
    ArbiterKilled,
    LeaderFrozen,
    FollowerFrozen,
    LeaderPowerCut,
    LeaderDiskFull,
    FramesPurged,
    FramesDiscarded,
    ConsumerDeleted,
    ConsumerChanged,
    Elected,
    Rolled,
    BridgeCut,
}

/// A fault, its name in the tally, and how many times it is in the deck of one server and of three.
/// A single server leads everything.
const FAULTS: [(Fault, &str, usize, usize); 22] = {
    use Fault::*;
    [
        (ExporterKilled, "exporter killed", 4, 2),
        (ExporterVanished, "exporter and its link vanished", 2, 1),
        (ExporterFrozen, "exporter frozen", 2, 1),
        (ExporterCut, "exporter's link cut", 2, 1),
        (ExporterStalled, "exporter's link stalled", 2, 1),
        (ExporterStalledThenCut, "exporter's link stalled, then cut", 1, 1),
        (ClientsCut, "clients' link cut", 2, 1),
        (ClientsStalledThenCut, "clients' link stalled, then cut", 1, 1),
        (LeaderKilled, "leading server killed", 2, 2),
        (FollowerKilled, "following server killed", 0, 1),
        (ArbiterKilled, "arbiter killed", 0, 1),
        (LeaderFrozen, "leading server frozen", 2, 2),
        (FollowerFrozen, "following server frozen", 0, 1),
        (LeaderPowerCut, "power of leading server cut", 1, 1),
        (LeaderDiskFull, "disk of leading server full", 1, 1),
        (FramesPurged, "frames purged unread", 1, 1),
        (FramesDiscarded, "frames discarded unread", 1, 1),
        (ConsumerDeleted, "durable consumer deleted", 1, 0),
        (ConsumerChanged, "durable consumer changed", 1, 1),
        (Elected, "leader deposed", 0, 3),
        (Rolled, "servers of a region restarted in turn", 0, 1),
        (BridgeCut, "bridge between the regions cut", 0, 2),
    ]
};

/// A minute or more, which a short run does not have.
const SLOW: [Fault; 1] = [Fault::Rolled];

impl Fault {
    fn name(self) -> &'static str {
        FAULTS.iter().find(|(fault, ..)| *fault == self).unwrap().1
    }
}

/// The faults in random order: each comes as often as it is in the deck before any comes again.
pub(super) struct Deck {
    servers: usize,
    long: bool,
    left: Vec<Fault>,
}

impl Deck {
    pub(super) fn new(servers: usize, long: bool) -> Self {
        Self { servers, long, left: Vec::new() }
    }

    fn times(&self, fault: Fault) -> usize {
        let (.., one, three) = FAULTS.iter().find(|(known, ..)| *known == fault).unwrap();
        let times = if self.servers == 1 { *one } else { *three };
        if self.long || !SLOW.contains(&fault) { times } else { 0 }
    }

    /// The next fault, and how long it is to last.
    pub(super) fn draw(&mut self, rng: &mut StdRng) -> (Fault, Duration) {
        if self.left.is_empty() {
            let faults = FAULTS.iter().map(|(fault, ..)| *fault);
            self.left = faults.flat_map(|fault| std::iter::repeat_n(fault, self.times(fault))).collect();
            self.left.shuffle(rng);
        }
        // Short ones are many, and long ones happen.
        let away = LONGEST * rng.random_range(0.1_f64..1.0).powi(2);
        let very_long = rng.random_range(VERY_LONG);
        let away = if self.long && rng.random_bool(0.1) { very_long } else { away };
        (self.left.pop().unwrap(), Duration::from_secs_f64(away))
    }

    /// The names of what this deck does not have.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let missing = FAULTS.iter().filter(|(fault, ..)| self.times(*fault) == 0);
        missing.map(|(_, name, ..)| *name).collect()
    }
}

impl World {
    /// Breaks something and mends it.
    pub(super) async fn break_something(&mut self, (fault, away): (Fault, Duration), rng: &mut StdRng) {
        self.announce(Some((fault.name(), away)));
        let exporter = rng.random_range(0..self.exporters.len());
        match fault {
            Fault::ExporterKilled => self.kill_exporter(exporter, away / 4).await,
            Fault::ExporterVanished => self.lose_exporter(exporter).await,
            Fault::ExporterFrozen => {
                self.exporters[exporter].process.process().stop();
                sleep(away).await;
                self.exporters[exporter].process.process().cont();
            }
            Fault::ExporterCut => self.links(exporter, |link| link.cut()),
            Fault::ExporterStalled => {
                self.links(exporter, |link| link.stall());
                sleep(away).await;
                self.links(exporter, |link| link.resume());
            }
            Fault::ExporterStalledThenCut => {
                self.links(exporter, |link| link.stall());
                sleep(away).await;
                self.links(exporter, |link| link.cut());
                self.links(exporter, |link| link.resume());
            }
            Fault::ClientsCut => self.to_clients.iter().for_each(|link| link.cut()),
            Fault::ClientsStalledThenCut => {
                self.to_clients.iter().for_each(|link| link.stall());
                sleep(away).await;
                self.to_clients.iter().for_each(|link| link.cut());
                self.to_clients.iter().for_each(|link| link.resume());
            }
            Fault::LeaderKilled | Fault::FollowerKilled | Fault::ArbiterKilled => {
                let server = self.pick(fault, rng).await;
                self.server(server).kill9();
                // Without a leader for a while, and mostly with another one.
                sleep(if self.cluster().is_some() { away } else { away / 4 }).await;
                self.server(server).restart();
                self.servers_settled().await;
            }
            Fault::LeaderFrozen | Fault::FollowerFrozen => {
                let server = self.pick(fault, rng).await;
                self.server(server).stop();
                sleep(away).await;
                self.server(server).cont();
                self.servers_settled().await;
            }
            Fault::LeaderPowerCut => {
                let server = self.pick(fault, rng).await;
                self.server(server).restart_on_a_disk_that_forgets();
                self.servers_settled().await;
                sleep(away / 2).await;
                self.server(server).cut_power();
                sleep(away / 4).await;
                self.server(server).restart();
                self.servers_settled().await;
            }
            Fault::LeaderDiskFull => {
                let server = self.pick(fault, rng).await;
                self.server(server).process().limit_files(true);
                sleep(away).await;
                self.server(server).process().limit_files(false);
                // A server whose disk was full stores nothing until it is restarted.
                self.server(server).kill9();
                self.server(server).restart();
                self.servers_settled().await;
            }
            Fault::FramesPurged | Fault::FramesDiscarded => self.remove_unread(fault, away).await,
            Fault::ConsumerDeleted => {
                let view = &self.exporters[exporter].views[0];
                let stream = self.stream(&view.stream).await;
                stream.delete_consumer(view.durable).await.unwrap();
                sleep(away).await;
                // Killed before it has made the durable again, the exporter would begin anywhere.
                let made = async || stream.get_consumer::<pull::Config>(view.durable).await;
                wait::eventually_async(SETTLED_WITHIN, "the durable to be made again", made).await;
            }
            Fault::ConsumerChanged => self.change_consumer(exporter, away).await,
            Fault::Elected => {
                if !self.depose(rng).await {
                    self.announce(None);
                    return;
                }
            }
            Fault::Rolled => {
                let region = rng.random_range(0..self.sites.len());
                for server in members(self.cluster().unwrap(), self.sites[region].region) {
                    self.server(server).drain();
                    self.server(server).restart();
                    self.servers_settled().await;
                }
            }
            Fault::BridgeCut => {
                let Servers::Three { cut, .. } = &self.servers else { unreachable!() };
                cut.send_replace(true);
                sleep(away).await;
                cut.send_replace(false);
                self.servers_settled().await;
            }
        }
        self.announce(None);
        *self.faults.entry(fault.name()).or_default() += 1;
    }

    fn links(&self, exporter: usize, change: impl Fn(&crate::kit::proxy::Proxy)) {
        self.exporters[exporter].servers.iter().for_each(|server| change(&self.to_exporters[*server]));
    }

    /// A stream, once it answers: servers that have just settled may still elect its leader.
    pub(super) async fn stream(&self, name: &str) -> Stream {
        let answers = async || self.jetstream.get_stream(name).await;
        wait::eventually_async(SETTLED_WITHIN, "the stream to answer", answers).await
    }

    /// The server that a fault is about, in the region of a random stream.
    async fn pick(&self, fault: Fault, rng: &mut impl Rng) -> usize {
        let Some(cluster) = self.cluster() else { return 0 };
        if fault == Fault::ArbiterKilled {
            return members(cluster, "arbiter")[0];
        }
        let views: Vec<_> = self.exporters.iter().flat_map(|exporter| &exporter.views).collect();
        let stream = &views.choose(rng).unwrap().stream;
        let leader = wait::eventually_async(SETTLED_WITHIN, "the stream to have a leader", async || {
            let stream = self.stream(stream).await;
            let leader = stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
            leader.ok_or_else(|| "it has none".to_owned())
        })
        .await;
        let leader = cluster.servers().iter().position(|server| server.planned().name == leader).unwrap();
        if matches!(fault, Fault::FollowerKilled | Fault::FollowerFrozen) {
            let region = members(cluster, cluster.servers()[leader].planned().cluster);
            let others: Vec<_> = region.into_iter().filter(|server| *server != leader).collect();
            return *others.choose(rng).unwrap();
        }
        leader
    }

    /// SIGKILL. What the exporter had acknowledged is where the next one has to begin, exactly.
    async fn kill_exporter(&mut self, number: usize, away: Duration) {
        // What it counts after its last scrape nobody sees, so no acknowledgement may follow.
        self.links(number, |link| link.stall());
        self.exporters[number].kill().await;
        self.links(number, |link| link.cut());
        self.links(number, |link| link.resume());
        let exporter = &mut self.exporters[number];
        let mut floors = Vec::new();
        for view in &exporter.views {
            floors.push(settled_ack_floor(&self.jetstream, &view.stream, view.durable).await);
        }
        sleep(away).await;
        let began: Vec<_> =
            exporter.views.iter().map(|view| began_after(&exporter.process, view.region)).collect();
        exporter.next_life(began.clone()).await;
        for ((view, floor), began) in exporter.views.iter().zip(floors).zip(began) {
            if began.is_some() {
                let next = began_after(&exporter.process, view.region);
                assert_eq!(next, Some(floor), "{}: it begins where the last one acknowledged", view.stream);
            }
        }
    }

    /// The machine of the exporter goes off without a word: the server goes on delivering to
    /// nobody.
    async fn lose_exporter(&mut self, number: usize) {
        self.links(number, |link| link.lose());
        let exporter = &mut self.exporters[number];
        exporter.kill().await;
        let began = exporter.views.iter().map(|view| began_after(&exporter.process, view.region)).collect();
        exporter.next_life(began).await;
    }

    /// Frames are removed from the stream that its exporter could not read, and it has to count
    /// them. A mirror of the stream keeps what it has of them.
    async fn remove_unread(&mut self, fault: Fault, away: Duration) {
        self.settle().await;
        let before = self.missed().await;
        // It connects again and gets no answer, so nothing is delivered to it.
        self.links(0, |link| link.stall());
        self.links(0, |link| link.cut());
        sleep(away).await;
        self.pause_clients().await;
        let site = self.exporters[0].views[0].site;
        let name = self.sites[site].stream.clone();
        let present = self.read(&name).await;
        let last = self.last_sequence(&name).await;
        let stream = self.stream(&name).await;
        if fault == Fault::FramesPurged {
            stream.purge().await.unwrap();
        } else {
            let config = stream.cached_info().config.clone();
            let full = jetstream::stream::Config { max_messages: 1, ..config.clone() };
            self.jetstream.update_stream(full).await.unwrap();
            self.jetstream.update_stream(config).await.unwrap();
        }
        let first = self.stream(&name).await.cached_info().state.first_sequence;
        self.sites[site].removed.extend(present.into_iter().filter(|(sequence, _)| *sequence < first));
        self.links(0, |link| link.resume());
        self.resume_clients();
        self.settle().await;
        let gone = first.min(last + 1);
        let after = self.missed().await;
        for (exporter, (before, after)) in self.exporters.iter_mut().zip(before.into_iter().zip(after)) {
            for (view, (before, after)) in exporter.views.iter_mut().zip(before.into_iter().zip(after)) {
                if after > before {
                    assert_eq!(view.site, site, "{} of {} lost nothing", view.stream, exporter.name);
                    view.missed.push(gone - (after - before)..=gone - 1);
                }
            }
        }
    }

    /// How many frames each exporter counted as missed, for each of its views.
    async fn missed(&self) -> Vec<Vec<u64>> {
        let mut missed = Vec::new();
        for exporter in &self.exporters {
            let scrape = exporter.process.metrics().await;
            let views = exporter.views.iter();
            missed.push(views.map(|view| Account::of(&scrape, view.region).missed).collect());
        }
        missed
    }

    /// Somebody gives the durable another filter for a while: the exporter gets nothing.
    async fn change_consumer(&mut self, number: usize, away: Duration) {
        let view = &self.exporters[number].views[0];
        let stream = self.stream(&view.stream).await;
        let answers = async || stream.get_consumer::<pull::Config>(view.durable).await;
        let consumer = wait::eventually_async(SETTLED_WITHIN, "the durable to answer", answers).await;
        let config = pull::Config::try_from_consumer_config(consumer.cached_info().config.clone()).unwrap();
        let changed = pull::Config {
            filter_subject: format!("health.diagnostics.{}.relay.nobody.*", view.region),
            filter_subjects: Vec::new(),
            ..config.clone()
        };
        let changes = async |config: &pull::Config| {
            let answers = async || stream.update_consumer(config.clone()).await;
            wait::eventually_async(SETTLED_WITHIN, "the durable to be changed", answers).await;
        };
        changes(&changed).await;
        sleep(away).await;
        changes(&config).await;
    }

    /// The leader of a stream, of a durable, or of all steps down. Returns whether it did: a server
    /// that has lost its place in the meantime does not answer.
    async fn depose(&self, rng: &mut impl Rng) -> bool {
        let views: Vec<_> = self.exporters.iter().flat_map(|exporter| &exporter.views).collect();
        let view = views.choose(rng).unwrap();
        let what = rng.random_range(0..3);
        let step_down = async || -> Result<Value, String> {
            match what {
                0 => ask(&self.jetstream, format!("STREAM.LEADER.STEPDOWN.{}", view.stream)).await,
                1 => {
                    let subject = format!("CONSUMER.LEADER.STEPDOWN.{}.{}", view.stream, view.durable);
                    ask(&self.jetstream, subject).await
                }
                _ => {
                    let system = self.system.as_ref().unwrap();
                    let answer = system.request("$JS.API.META.LEADER.STEPDOWN", "".into()).await;
                    let answer = answer.map_err(|error| error.to_string())?;
                    serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())
                }
            }
        };
        let stepped_down = timeout(STEPS_DOWN_WITHIN, async {
            while !matches!(step_down().await, Ok(answer) if answer["success"] == true) {
                sleep(Duration::from_millis(200)).await;
            }
        });
        let stepped_down = stepped_down.await.is_ok();
        self.servers_settled().await;
        stepped_down
    }
}

async fn ask(jetstream: &jetstream::Context, subject: String) -> Result<Value, String> {
    jetstream.request(subject, &json!({})).await.map_err(|error| error.to_string())
}

/// What is acknowledged, once all acknowledgements of an exporter that is gone have come.
async fn settled_ack_floor(jetstream: &jetstream::Context, stream: &str, durable: &str) -> u64 {
    let mut before = None;
    wait::eventually_async(SETTLED_WITHIN, "the durable to be left alone", async || {
        let stream = jetstream.get_stream(stream).await.map_err(|error| error.to_string())?;
        let info = stream.consumer_info(durable).await.map_err(|error| error.to_string())?;
        let seen = (info.num_waiting, info.ack_floor.stream_sequence);
        let last = before.replace(seen);
        if info.num_waiting == 0 && last == Some(seen) { Ok(seen.1) } else { Err(format!("{seen:?}")) }
    })
    .await
}
