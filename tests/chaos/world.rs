//! All that can break: servers, links, exporters.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use callsight_publish::Publisher;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use tempfile::TempDir;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::account::{Account, began_after};
use crate::clients::{self, Clients};
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::proxy::Proxy;
use crate::kit::stream::{Health, declare};
use crate::kit::supercluster::{
    PlannedServer, RegionLink, SETTLED_WITHIN, SuperCluster, advertise, plan, replicas,
};
use crate::kit::{http, tool, wait};
use crate::readiness::{Now, Watch, Watched};
use crate::say;
use crate::tally::Stored;

/// What a kill leaves of a file is up to the operating system, and it does not matter: what was
/// acknowledged is on the disk, also after a cut of power.
const SYNC: &str = "always";

/// Far beyond any test: no session falls idle, and the gauges of each can be compared with its last
/// frame. Every session has pairs, however many there are.
const FLAGS: [&str; 3] = ["--idle-timeout=1h", "--pair-max-sessions=0", "--max-sessions=1000000"];

/// The two regions of production.
const REGIONS: [&str; 2] = ["us", "apac"];

pub(super) struct World {
    pub(super) servers: Servers,
    /// Of each server, the link of exporters and that of relays.
    pub(super) to_exporters: Vec<Proxy>,
    pub(super) to_clients: Vec<Proxy>,
    pub(super) sites: Vec<Site>,
    pub(super) exporters: Vec<Exporter>,
    /// As an operator.
    pub(super) jetstream: jetstream::Context,
    /// As the servers' own user, who may depose the leader of all.
    pub(super) system: Option<async_nats::Client>,
    pub(super) now: Arc<std::sync::Mutex<Now>>,
    began: Instant,
    /// How often each fault happened.
    pub(super) faults: BTreeMap<&'static str, u64>,
}

pub(super) enum Servers {
    One(Nats),
    Three { cluster: SuperCluster, cut: watch::Sender<bool>, _links: Vec<RegionLink>, _folder: TempDir },
}

/// A region, with the clients of its relay.
pub(super) struct Site {
    pub(super) region: &'static str,
    pub(super) stream: String,
    pub(super) clients: Arc<Mutex<Clients>>,
    /// The clients' own, for its counts.
    publisher: Arc<Publisher>,
    pub(super) publishing: JoinHandle<()>,
    /// What is no longer in the stream.
    pub(super) removed: Stored,
    paused: Option<OwnedMutexGuard<Clients>>,
}

/// An exporter, through all its lives.
pub(super) struct Exporter {
    pub(super) name: &'static str,
    pub(super) process: Callsight,
    /// The servers that it connects to.
    pub(super) servers: Vec<usize>,
    pub(super) views: Vec<View>,
    pub(super) watch: Watch,
}

/// One region as an exporter reads it.
pub(super) struct View {
    /// Index of the region's site.
    pub(super) site: usize,
    pub(super) region: &'static str,
    pub(super) stream: String,
    pub(super) durable: &'static str,
    /// For each process that was killed, the stream sequences after which it began and the next
    /// one did.
    pub(super) lives: Vec<(u64, u64)>,
    /// What was removed before it was read.
    pub(super) missed: Vec<RangeInclusive<u64>>,
    /// The dead letters that the processes that were killed counted as lost.
    pub(super) letters_lost: u64,
}

impl World {
    /// One server, with one exporter.
    pub(super) async fn one(rng: &mut StdRng) -> Self {
        let nats = Nats::start_with(&format!("jetstream {{ sync_interval: {SYNC} }}"), &[]);
        Health::create(&nats).await;
        let jetstream = nats.jetstream().await;
        let (to_exporters, to_clients) = (Proxy::to(nats.port()).await, Proxy::to(nats.port()).await);
        let clients = Clients::start("us", &[to_clients.url()], None, rng.random()).await;
        let mut world = Self {
            servers: Servers::One(nats),
            sites: vec![Site::start("us", clients, 6)],
            to_exporters: vec![to_exporters],
            to_clients: vec![to_clients],
            exporters: Vec::new(),
            jetstream,
            system: None,
            now: Arc::default(),
            began: Instant::now(),
            faults: BTreeMap::new(),
        };
        let url = world.to_exporters[0].url();
        world.serve("main", url, &["--create"], vec![0], &[("us", "HEALTH_US", "callsight-main")]).await;
        world
    }

    /// The topology of production, with an exporter in apac that reads its stream, and one in the
    /// hub that reads the hub's and the mirror.
    pub(super) async fn three(rng: &mut StdRng) -> Self {
        let folder = configurations();
        let mut attempts = 1..=3;
        let (cluster, cut, links, to_exporters, to_clients) = loop {
            match launch(folder.path()).await {
                Ok(launched) => break launched,
                // Another process may have taken one of the many ports.
                Err(reason) => {
                    assert!(attempts.next().is_some(), "the super-cluster does not start: {reason}")
                }
            }
        };
        cluster.settled().await;
        let jetstream = cluster.jetstream("us", "operator").await;
        declare(cluster.client("us", "operator").await, replicas(3)).await;
        let system = Some(cluster.client("us", "system").await);
        let mut sites = Vec::new();
        for region in REGIONS {
            let members = members(&cluster, region);
            let urls: Vec<_> = members.iter().map(|index| to_clients[*index].url()).collect();
            let clients = Clients::start(region, &urls, Some("relay"), rng.random()).await;
            sites.push(Site::start(region, clients, 1));
        }
        let url = |region: &str, user: &str| {
            let members = members(&cluster, region);
            let urls: Vec<_> = members.iter().map(|index| to_exporters[*index].url_as(user)).collect();
            urls.join(",")
        };
        let (local, global) = (url("apac", "exporter"), url("us", "global"));
        let [us, apac] = REGIONS.map(|region| members(&cluster, region));
        let mut world = Self {
            servers: Servers::Three { cluster, cut, _links: links, _folder: folder },
            to_exporters,
            to_clients,
            sites,
            exporters: Vec::new(),
            jetstream,
            system,
            now: Arc::default(),
            began: Instant::now(),
            faults: BTreeMap::new(),
        };
        let own = [("apac", "HEALTH_APAC", "callsight-main")];
        world.serve("local", local, &["--region=apac", "--home=apac"], apac, &own).await;
        let flags =
            ["--deployment=global", "--nats-inbox-prefix=_INBOX.global", "--region=us,apac", "--home=us"];
        let all =
            [("us", "HEALTH_US", "callsight-global"), ("apac", "HEALTH_APAC_MIRROR", "callsight-global")];
        world.serve("global", global, &flags, us, &all).await;
        world
    }

    async fn serve(
        &mut self,
        name: &'static str,
        url: String,
        flags: &[&str],
        servers: Vec<usize>,
        views: &[(&'static str, &str, &'static str)],
    ) {
        let process = Callsight::serve_at(&url, &[flags, &FLAGS].concat());
        let site = |region| self.sites.iter().position(|site| site.region == region).unwrap();
        let views: Vec<_> = views
            .iter()
            .map(|&(region, stream, durable)| {
                let (site, stream) = (site(region), stream.to_owned());
                View { site, region, stream, durable, lives: Vec::new(), missed: Vec::new(), letters_lost: 0 }
            })
            .collect();
        let watched = views.iter().map(|view| {
            let publisher = Arc::clone(&self.sites[view.site].publisher);
            Watched { region: view.region, publisher }
        });
        let watch = Watch::start(process.url(), watched.collect(), Arc::clone(&self.now));
        let exporter = Exporter { name, process, servers, views, watch };
        exporter.watch.began(exporter.consuming().await);
        exporter.ready().await;
        self.exporters.push(exporter);
    }

    pub(super) fn server(&mut self, index: usize) -> &mut Nats {
        match &mut self.servers {
            Servers::One(nats) => nats,
            Servers::Three { cluster, .. } => cluster.nth_mut(index),
        }
    }

    pub(super) fn cluster(&self) -> Option<&SuperCluster> {
        match &self.servers {
            Servers::One(_) => None,
            Servers::Three { cluster, .. } => Some(cluster),
        }
    }

    /// Waits until every server has its leaders and is up to date.
    pub(super) async fn servers_settled(&self) {
        if let Some(cluster) = self.cluster() {
            cluster.settled().await;
        }
    }

    /// Time for some frames, and sometimes for everything to recover.
    pub(super) async fn breathe(&self, rng: &mut impl Rng) {
        sleep(Duration::from_secs_f64(rng.random_range(0.1_f64..1.5).powi(2))).await;
    }

    pub(super) fn assert_publishing(&self) {
        for site in &self.sites {
            assert!(!site.publishing.is_finished(), "the clients of {} gave up", site.region);
        }
    }

    /// Makes the clients pause, and returns once everything is stored.
    pub(super) async fn pause_clients(&mut self) {
        for site in &mut self.sites {
            let clients = Arc::clone(&site.clients).lock_owned().await;
            clients.flush().await;
            site.paused = Some(clients);
        }
    }

    pub(super) fn resume_clients(&mut self) {
        for site in &mut self.sites {
            site.paused = None;
        }
    }

    pub(super) async fn stop_publishing(&mut self) {
        self.pause_clients().await;
        for site in &mut self.sites {
            site.publishing.abort();
            let _ = (&mut site.publishing).await;
        }
        self.resume_clients();
    }

    /// Something breaks, which is announced, or everything is sound again.
    pub(super) fn announce(&self, fault: Option<(&'static str, Duration)>) {
        if let Some((fault, away)) = fault {
            let mut text =
                format!("{:>7.1} s  {fault}, {away:.1?}; acknowledged", self.began.elapsed().as_secs_f64());
            for site in &self.sites {
                let acknowledged = site.publisher.stats().acknowledged;
                write!(text, " {} {acknowledged}", site.region).unwrap();
            }
            say(&text);
        }
        let mut now = self.now.lock().unwrap();
        now.broken = fault.is_some();
        now.fault = fault.map_or(now.fault, |(fault, _)| fault);
    }

    pub(super) async fn last_sequence(&self, name: &str) -> u64 {
        wait::eventually_async(SETTLED_WITHIN, &format!("{name} to be there"), async || {
            let stream = self.jetstream.get_stream(name).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(stream.cached_info().state.last_sequence)
        })
        .await
    }
}

impl Site {
    fn start(region: &'static str, clients: Clients, frames: usize) -> Self {
        let publisher = clients.publisher();
        let clients = Arc::new(Mutex::new(clients));
        Self {
            region,
            publisher,
            stream: format!("HEALTH_{}", region.to_uppercase()),
            publishing: tokio::spawn(clients::publish(Arc::clone(&clients), frames)),
            clients,
            removed: Stored::new(),
            paused: None,
        }
    }
}

impl Exporter {
    /// Waits until it reads all of its regions, and returns after which sequences it began.
    pub(super) async fn consuming(&self) -> Vec<u64> {
        wait::eventually_async(SETTLED_WITHIN, &format!("exporter {} to consume", self.name), async || {
            let began: Option<Vec<_>> =
                self.views.iter().map(|view| began_after(&self.process, view.region)).collect();
            began.ok_or_else(|| self.process.process().output())
        })
        .await
    }

    pub(super) async fn ready(&self) {
        let url = format!("{}/readyz", self.process.url());
        let what = format!("exporter {} to be ready", self.name);
        wait::eventually_async(SETTLED_WITHIN, &what, async || {
            let answer = http::get(&url, &[]).await?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text().to_owned()) }
        })
        .await;
    }

    /// How many dead letters it counted as lost in all of its lives.
    pub(super) async fn letters_lost(&self, region: &str) -> u64 {
        let Some(view) = self.views.iter().find(|view| view.region == region) else { return 0 };
        view.letters_lost + Account::of(&self.process.metrics().await, region).letters_lost
    }

    /// SIGKILL. Its links must be stalled or lost.
    pub(super) async fn kill(&mut self) {
        let scrape = self.process.metrics().await;
        for view in &mut self.views {
            view.letters_lost += Account::of(&scrape, view.region).letters_lost;
        }
        self.watch.ended();
        self.process.kill9();
    }

    /// Starts it again after a kill.
    pub(super) async fn next_life(&mut self, began: Vec<Option<u64>>) {
        self.process.restart();
        let next = self.consuming().await;
        self.watch.began(next.clone());
        for ((view, began), next) in self.views.iter_mut().zip(began).zip(next) {
            if let Some(began) = began {
                view.lives.push((began, next));
            }
        }
    }
}

type Launched = (SuperCluster, watch::Sender<bool>, Vec<RegionLink>, Vec<Proxy>, Vec<Proxy>);

/// Starts the servers with links between the regions that can be cut, and links to their clients
/// that break.
async fn launch(folder: &Path) -> Result<Launched, String> {
    let planned = plan(3);
    let (cut, _) = watch::channel(false);
    let (mut links, mut to_exporters, mut to_clients) = (Vec::new(), Vec::new(), Vec::new());
    for server in &planned {
        let link = RegionLink::open(server.gateway, server.cluster, REGIONS[1], cut.subscribe()).await;
        links.push(link.map_err(|error| error.to_string())?);
        to_exporters.push(Proxy::to(server.clients.port()).await);
        to_clients.push(Proxy::to(server.clients.port()).await);
    }
    let number = |server: &PlannedServer| planned.iter().position(|other| other.name == server.name).unwrap();
    let cluster = SuperCluster::launch(
        folder,
        &planned,
        |server| links[number(server)].address(),
        |server| {
            // Clients learn of all servers of a cluster, and must not find a way around the links.
            let advertised = to_exporters[number(server)].address();
            vec![
                ("CLIENT_ADVERTISE".to_owned(), format!("\"{advertised}\"")),
                ("STORE_SYNC".to_owned(), SYNC.to_owned()),
            ]
        },
    )?;
    Ok((cluster, cut, links, to_exporters, to_clients))
}

/// A copy of `jetstream/` whose servers are known by the addresses of their links.
fn configurations() -> TempDir {
    let copy = temporary_directory();
    for folder in ["", "tls", "permissions"] {
        fs::create_dir_all(copy.path().join(folder)).unwrap();
        for entry in fs::read_dir(tool::root().join("jetstream").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "conf") {
                let mut text = advertise(&fs::read_to_string(&path).unwrap());
                if path.ends_with("jetstream/server.conf") {
                    text.push_str("\nclient_advertise: $CALLSIGHT_CLIENT_ADVERTISE\n");
                }
                fs::write(copy.path().join(folder).join(path.file_name().unwrap()), text).unwrap();
            }
        }
    }
    copy
}

/// The indices of a cluster's servers.
pub(super) fn members(cluster: &SuperCluster, name: &str) -> Vec<usize> {
    let servers = cluster.servers().iter().enumerate();
    servers.filter(|(_, server)| server.planned().cluster == name).map(|(index, _)| index).collect()
}
