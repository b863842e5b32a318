//! Two regions and the arbiter: three real nats-servers with gateways between them.
//!
//! They use the files of `jetstream/`, which get ports and passwords from the environment like any
//! other server, so that what tests show is true of what ships. Permissions are on: every client
//! connects as a user.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, jetstream};
use serde_json::Value;

use crate::nats::Nats;
use crate::process::temporary_directory;
use crate::{http, port, tool, wait};

/// The clusters, named like their regions. The first is the hub.
pub const CLUSTERS: [&str; 3] = ["us", "apac", "arbiter"];

/// The users of a region, see `jetstream/permissions`. A password is the user's name and `-secret`.
pub const USERS: [&str; 6] = ["relay", "exporter", "global", "replay", "operator", "system"];

/// How long the servers may take to find each other and agree on a leader.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// One server per cluster, on 127.0.0.1.
#[derive(Debug)]
pub struct SuperCluster {
    servers: Vec<ClusterServer>,
}

/// The server of one cluster: a [`Nats`] whose clients connect as a user.
#[derive(Debug)]
pub struct ClusterServer {
    cluster: &'static str,
    monitor: u16,
    nats: Nats,
}

impl SuperCluster {
    /// Returns once all servers have agreed on a leader.
    pub async fn start() -> Self {
        Self::start_from(&tool::root().join("jetstream"), &[]).await
    }

    /// Starts one from another folder of configurations, which may name more variables.
    pub async fn start_from(folder: &Path, extra: &[(&str, &str)]) -> Self {
        let servers = port::retry("the super-cluster", || {
            let gateways = CLUSTERS.map(|name| (name, port::free()));
            let mut servers: Vec<_> = gateways
                .iter()
                .map(|&(name, gateway)| {
                    let mut variables = vec![("GATEWAY_LISTEN".to_owned(), at(gateway))];
                    for (other, gateway) in gateways {
                        let urls = format!("[\"nats://{}\"]", at(gateway));
                        variables.push((format!("GATEWAY_{}", other.to_uppercase()), urls));
                    }
                    variables.extend(extra.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
                    ClusterServer::launch(name, folder.join(format!("{name}.conf")), variables)
                })
                .collect();
            servers.iter_mut().try_for_each(|server| server.wait_until_up())?;
            Ok(servers)
        });
        let started = Self { servers };
        started.settled().await;
        started
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

    /// The server of a cluster.
    pub fn server(&self, cluster: &str) -> &ClusterServer {
        self.servers.iter().find(|server| server.cluster == cluster).unwrap()
    }

    /// [`Self::server`], to kill it or to bring it back.
    pub fn server_mut(&mut self, cluster: &str) -> &mut ClusterServer {
        self.servers.iter_mut().find(|server| server.cluster == cluster).unwrap()
    }

    /// The URL of a cluster for one of [`USERS`].
    pub fn url(&self, cluster: &str, user: &str) -> String {
        self.server(cluster).url(user)
    }

    /// A client of a cluster, as one of [`USERS`].
    pub async fn client(&self, cluster: &str, user: &str) -> Client {
        self.server(cluster).client(user).await
    }

    /// JetStream of a cluster, as one of [`USERS`].
    pub async fn jetstream(&self, cluster: &str, user: &str) -> jetstream::Context {
        jetstream::new(self.client(cluster, user).await)
    }
}

impl ClusterServer {
    /// A server of one cluster, with ports and a store of its own, and more variables for its
    /// configuration, without their common prefix. It may end at once if a port is taken, see
    /// [`Nats::wait_until_up`].
    pub fn launch(cluster: &'static str, config: PathBuf, variables: Vec<(String, String)>) -> Self {
        let [port, monitor, routes] = [(); 3].map(|()| port::free());
        let store = temporary_directory();
        let mut environment = vec![
            ("SERVER_NAME".to_owned(), format!("{cluster}-1")),
            ("LISTEN".to_owned(), at(port)),
            ("MONITOR".to_owned(), at(monitor)),
            ("STORE".to_owned(), store.path().display().to_string()),
            // The limits of the streams add up to this; tests use next to none of it.
            ("STORE_LIMIT".to_owned(), "64GB".to_owned()),
            ("STORE_SYNC".to_owned(), "1s".to_owned()),
            ("CLUSTER_LISTEN".to_owned(), at(routes)),
            ("CLUSTER_ROUTES".to_owned(), format!("[\"nats://{}\"]", at(routes))),
        ];
        for user in USERS {
            environment.push((format!("{}_PASSWORD", user.to_uppercase()), format!("{user}-secret")));
        }
        environment.extend(variables);
        for (name, _) in &mut environment {
            name.insert_str(0, "CALLSIGHT_");
        }
        let arguments = vec![format!("--config={}", config.display())];
        let nats = Nats::launch(format!("nats-server {cluster}"), port, arguments, environment, store);
        Self { cluster, monitor, nats }
    }

    /// Where it answers over HTTP about itself.
    pub fn monitor_url(&self) -> String {
        format!("http://{}", at(self.monitor))
    }

    /// The URL for one of [`USERS`]. The product's commands take it for `--nats-url`.
    pub fn url(&self, user: &str) -> String {
        format!("nats://{user}:{user}-secret@{}", at(self.port()))
    }

    /// A client that reconnects forever, as the product's own do.
    pub async fn client(&self, user: &str) -> Client {
        ConnectOptions::with_user_and_password(user.to_owned(), format!("{user}-secret"))
            .custom_inbox_prefix(format!("_INBOX.{user}"))
            .connect(at(self.port()))
            .await
            .unwrap()
    }

    /// Checks that JetStream has a leader and is up to date.
    ///
    /// # Errors
    ///
    /// What the server says otherwise.
    pub async fn healthy(&self) -> Result<(), String> {
        let answer = http::get(&format!("{}/healthz", self.monitor_url()), &[]).await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{}: {}", self.cluster, answer.text())) }
    }

    /// What the server reports over HTTP, at `/jsz` for instance.
    pub async fn monitor(&self, path: &str) -> Value {
        let answer = http::get(&format!("{}{path}", self.monitor_url()), &[]).await.unwrap();
        serde_json::from_str(answer.text()).unwrap()
    }
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

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
