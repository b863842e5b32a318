//! What breaks, and the exporter's lives between one kill and the next.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::proxy::Proxy;
use crate::kit::stream::Health;
use crate::kit::wait;

/// Far beyond any test: no session falls idle, and the gauges of each can be compared with its last
/// frame. Every session has pairs, however many there are.
const FLAGS: [&str; 3] = ["--create", "--idle-timeout=1h", "--pair-max-sessions=0"];

/// The longest that anything is away: longer than two heartbeats and an acknowledgement may take.
const LONGEST: f64 = 5.0;

/// All that can break.
pub(super) struct World {
    pub(super) nats: Nats,
    pub(super) callsight: Callsight,
    pub(super) jetstream: jetstream::Context,
    to_callsight: Proxy,
    to_clients: Proxy,
    /// For each exporter that was killed, the stream sequences after which it began and the next
    /// one did.
    pub(super) lives: Vec<(u64, u64)>,
    /// How often each fault happened.
    pub(super) faults: BTreeMap<&'static str, u64>,
}

impl World {
    pub(super) async fn start(nats: Nats) -> Self {
        Health::create(&nats).await;
        let jetstream = nats.jetstream().await;
        let (to_callsight, to_clients) = (Proxy::to(nats.port()).await, Proxy::to(nats.port()).await);
        let mut callsight = Callsight::serve_at(&to_callsight.url(), &FLAGS);
        callsight.ready().await;
        let (lives, faults) = (Vec::new(), BTreeMap::new());
        Self { nats, callsight, jetstream, to_callsight, to_clients, lives, faults }
    }

    pub(super) fn publishers_url(&self) -> String {
        self.to_clients.url()
    }

    pub(super) fn reconnections(&self) -> u64 {
        self.to_callsight.connections()
    }

    /// Time for some frames, and sometimes for everything to recover.
    pub(super) async fn breathe(&self, rng: &mut StdRng) {
        sleep(Duration::from_secs_f64(rng.random_range(0.1_f64..1.5).powi(2))).await;
    }

    /// Breaks something and mends it.
    pub(super) async fn break_something(&mut self, rng: &mut StdRng) {
        // Short ones are many, and long ones happen.
        let away = Duration::from_secs_f64(LONGEST * rng.random_range(0.1_f64..1.0).powi(2));
        let fault = match rng.random_range(0..100) {
            0..20 => {
                self.kill_exporter(away / 4).await;
                "exporter killed"
            }
            20..30 => {
                self.lose_exporter().await;
                "exporter and its link vanished"
            }
            30..42 => {
                self.callsight.process().stop();
                sleep(away).await;
                self.callsight.process().cont();
                "exporter stopped"
            }
            42..52 => {
                self.nats.kill9();
                sleep(away / 4).await;
                self.nats.restart();
                "server killed"
            }
            52..62 => {
                self.nats.stop();
                sleep(away).await;
                self.nats.cont();
                "server stopped"
            }
            62..74 => {
                self.to_callsight.cut();
                "exporter's link cut"
            }
            74..82 => {
                self.to_clients.cut();
                "clients' link cut"
            }
            82..90 => {
                self.to_callsight.stall();
                sleep(away).await;
                self.to_callsight.resume();
                "exporter's link stalled"
            }
            90..95 => {
                self.to_callsight.stall();
                sleep(away).await;
                self.to_callsight.cut();
                self.to_callsight.resume();
                "exporter's link stalled, then cut"
            }
            _ => {
                self.to_clients.stall();
                sleep(away).await;
                self.to_clients.cut();
                self.to_clients.resume();
                "clients' link stalled, then cut"
            }
        };
        *self.faults.entry(fault).or_default() += 1;
    }

    /// SIGKILL. What the exporter had acknowledged is where the next one has to begin, exactly.
    async fn kill_exporter(&mut self, away: Duration) {
        self.callsight.kill9();
        let floor = self.settled_ack_floor().await;
        sleep(away).await;
        let began = self.began();
        self.next_life(began).await;
        if began.is_some() {
            assert_eq!(self.began(), Some(floor), "the next exporter begins where the last one acknowledged");
        }
    }

    /// The machine of the exporter goes off without a word: the server goes on delivering to
    /// nobody.
    async fn lose_exporter(&mut self) {
        self.to_callsight.lose();
        self.callsight.kill9();
        let began = self.began();
        self.next_life(began).await;
    }

    async fn next_life(&mut self, began: Option<u64>) {
        self.callsight.restart();
        let after = wait::eventually_async(wait::PATIENCE, "the exporter to consume", async || {
            self.began().ok_or(())
        })
        .await;
        if let Some(began) = began {
            self.lives.push((began, after));
        }
    }

    /// The sequence after which this life of the exporter began, from its log.
    pub(super) fn began(&self) -> Option<u64> {
        let log = self.callsight.process().output();
        let line = log.lines().find(|line| line.contains(" consuming ") || line.ends_with(" consuming"))?;
        let after = line.split("after=").nth(1)?;
        Some(after.split_ascii_whitespace().next().unwrap().parse().unwrap())
    }

    /// What is acknowledged, once all acknowledgements of an exporter that is gone have come.
    async fn settled_ack_floor(&self) -> u64 {
        let mut before = None;
        wait::eventually_async(wait::PATIENCE, "the durable to be left alone", async || {
            let stream = self.jetstream.get_stream("HEALTH_US").await.map_err(|error| error.to_string())?;
            let info = stream.consumer_info("callsight-main").await.map_err(|error| error.to_string())?;
            let seen = (info.num_waiting, info.ack_floor.stream_sequence);
            let last = before.replace(seen);
            if info.num_waiting == 0 && last == Some(seen) { Ok(seen.1) } else { Err(format!("{seen:?}")) }
        })
        .await
    }
}
