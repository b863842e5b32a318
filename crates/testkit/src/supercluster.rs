//! Two regions and the arbiter: real nats-servers with gateways between them.
//!
//! They use the files of `jetstream/`, which get ports and passwords from the environment like any
//! other server, so that what tests show is true of what ships. Permissions are on: every client
//! connects as a user.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, ServerAddr, jetstream};
use serde_json::Value;

use crate::nats::Nats;
use crate::process::temporary_directory;
use crate::{http, port, tool, wait};

// The demo starts the same servers. It is published and this crate is not, so it has the files.
#[path = "../../../src/cli/demo/link.rs"]
mod link;
#[path = "../../../src/cli/demo/supercluster.rs"]
mod planned;

pub use link::RegionLink;
pub use planned::{CLUSTERS, PlannedServer, USERS, advertise, replicas};

/// How long the servers may take to find each other and agree on a leader.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// The servers of both regions and the arbiter, on 127.0.0.1.
#[derive(Debug)]
pub struct SuperCluster {
    servers: Vec<ClusterServer>,
}

/// A server of a cluster: a [`Nats`] whose clients connect as a user.
#[derive(Debug)]
pub struct ClusterServer {
    planned: PlannedServer,
    nats: Nats,
}

/// Plans so many servers per region, and the arbiter, on free ports.
pub fn plan(per_region: usize) -> Vec<PlannedServer> {
    let Ok(planned) = planned::plan(per_region, free);
    planned
}

fn free() -> Result<SocketAddr, Infallible> {
    Ok(at(port::free()))
}

impl SuperCluster {
    /// One server per cluster. Returns once all have agreed on a leader.
    pub async fn start() -> Self {
        Self::start_from(&tool::root().join("jetstream"), &[]).await
    }

    /// Starts one from another folder of configurations, which may name more variables.
    pub async fn start_from(folder: &Path, extra: &[(&str, &str)]) -> Self {
        let servers = port::retry("the super-cluster", || {
            let planned = plan(1);
            Self::launch(folder, &planned, |server| server.gateway, |_| owned(extra))
        });
        servers.settled().await;
        servers
    }

    /// Starts planned servers, whose gateways the others find under the address that `seen`
    /// returns, with `extra` variables for each.
    ///
    /// # Errors
    ///
    /// If one ended instead, most likely because a port is taken.
    pub fn launch(
        folder: &Path,
        planned: &[PlannedServer],
        seen: impl Fn(&PlannedServer) -> SocketAddr,
        extra: impl Fn(&PlannedServer) -> Vec<(String, String)>,
    ) -> Result<Self, String> {
        let launch = |server: &PlannedServer| {
            let config = folder.join(format!("{}.conf", server.cluster));
            ClusterServer::launch_one_of(planned, server.clone(), config, &seen, extra(server))
        };
        let mut servers: Vec<_> = planned.iter().map(launch).collect();
        servers.iter_mut().try_for_each(|server| server.wait_until_up())?;
        Ok(Self { servers })
    }

    /// Waits until every server that runs has a leader and is up to date.
    pub async fn settled(&self) {
        wait::eventually_async(SETTLED_WITHIN, "the super-cluster to settle", async || {
            for server in &self.servers {
                server.healthy().await?;
            }
            Ok::<_, String>(())
        })
        .await;
    }

    /// All servers, in the order of the plan.
    pub fn servers(&self) -> &[ClusterServer] {
        &self.servers
    }

    /// The server of this index in the plan, to break it.
    pub fn nth_mut(&mut self, index: usize) -> &mut ClusterServer {
        &mut self.servers[index]
    }

    /// The first server of a cluster.
    pub fn server(&self, cluster: &str) -> &ClusterServer {
        self.servers.iter().find(|server| server.planned.cluster == cluster).unwrap()
    }

    /// [`Self::server`], to kill it or to bring it back.
    pub fn server_mut(&mut self, cluster: &str) -> &mut ClusterServer {
        self.servers.iter_mut().find(|server| server.planned.cluster == cluster).unwrap()
    }

    /// The URL of a cluster for one of [`USERS`].
    pub fn url(&self, cluster: &str, user: &str) -> String {
        self.server(cluster).url(user)
    }

    /// A client that knows all servers of a cluster, as one of [`USERS`].
    pub async fn client(&self, cluster: &str, user: &str) -> Client {
        let members = self.servers.iter().filter(|server| server.planned.cluster == cluster);
        connect(members.map(|server| server.planned.clients), user).await
    }

    /// JetStream of a cluster, as one of [`USERS`].
    pub async fn jetstream(&self, cluster: &str, user: &str) -> jetstream::Context {
        jetstream::new(self.client(cluster, user).await)
    }
}

impl ClusterServer {
    /// The only server of a cluster, with more variables for its configuration, without their
    /// common prefix. It may end at once if a port is taken, see [`Nats::wait_until_up`].
    pub fn launch(cluster: &'static str, config: PathBuf, extra: &[(&str, &str)]) -> Self {
        let Ok(planned) = PlannedServer::new(cluster, 1, free);
        let all = [planned.clone()];
        Self::launch_one_of(&all, planned, config, |server| server.gateway, owned(extra))
    }

    fn launch_one_of(
        all: &[PlannedServer],
        planned: PlannedServer,
        config: PathBuf,
        seen: impl Fn(&PlannedServer) -> SocketAddr,
        extra: Vec<(String, String)>,
    ) -> Self {
        let store = temporary_directory();
        let mut environment = planned.environment(all, store.path(), |user| format!("{user}-secret"), seen);
        environment.extend(extra.into_iter().map(|(name, value)| (format!("CALLSIGHT_{name}"), value)));
        let arguments = vec![format!("--config={}", config.display())];
        let name = format!("nats-server {}", planned.name);
        let nats = Nats::launch(name, planned.clients.port(), arguments, environment, store);
        Self { planned, nats }
    }

    /// Its cluster, name and addresses.
    pub fn planned(&self) -> &PlannedServer {
        &self.planned
    }

    /// Where it answers over HTTP about itself.
    pub fn monitor_url(&self) -> String {
        format!("http://{}", self.planned.monitor)
    }

    /// The URL for one of [`USERS`]. The product's commands take it for `--nats-url`.
    pub fn url(&self, user: &str) -> String {
        format!("nats://{user}:{user}-secret@{}", self.planned.clients)
    }

    /// A client of this server, as one of [`USERS`].
    pub async fn client(&self, user: &str) -> Client {
        connect([self.planned.clients], user).await
    }

    /// Checks that JetStream has a leader and is up to date.
    ///
    /// # Errors
    ///
    /// What the server says otherwise.
    pub async fn healthy(&self) -> Result<(), String> {
        let answer = http::get(&format!("{}/healthz", self.monitor_url()), &[]).await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{}: {}", self.planned.name, answer.text())) }
    }

    /// What the server reports over HTTP, at `/jsz` for instance.
    pub async fn monitor(&self, path: &str) -> Value {
        let answer = http::get(&format!("{}{path}", self.monitor_url()), &[]).await.unwrap();
        serde_json::from_str(answer.text()).unwrap()
    }
}

/// A client that reconnects forever, as the product's own do, and only to these addresses: what the
/// servers advertise may be a link that a test breaks.
async fn connect(servers: impl IntoIterator<Item = SocketAddr>, user: &str) -> Client {
    let servers: Vec<ServerAddr> =
        servers.into_iter().map(|address| address.to_string().parse().unwrap()).collect();
    ConnectOptions::with_user_and_password(user.to_owned(), format!("{user}-secret"))
        .custom_inbox_prefix(format!("_INBOX.{user}"))
        .ignore_discovered_servers()
        .connect(servers)
        .await
        .unwrap()
}

impl Deref for ClusterServer {
    type Target = Nats;

    fn deref(&self) -> &Nats {
        &self.nats
    }
}

impl DerefMut for ClusterServer {
    fn deref_mut(&mut self) -> &mut Nats {
        &mut self.nats
    }
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}
