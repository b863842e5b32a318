//! Two regions and the arbiter, as three real nats-servers with gateways between them.
//!
//! They are started from the very files of `jetstream/`, which are told their ports by the environment as every other
//! server is: what the tests show is true of what is shipped. Permissions are on, so a client connects as somebody.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, jetstream};
use serde_json::Value;
use tempfile::TempDir;

use super::http;
use super::process::{Process, temporary_directory};
use super::{port, tool, wait};

/// The clusters, which are called like their regions. The first is the hub.
pub(crate) const CLUSTERS: [&str; 3] = ["us", "apac", "arbiter"];

/// Who may connect in a region, see `jetstream/permissions`. Every password is the user's name and `-secret`.
pub(crate) const USERS: [&str; 6] = ["relay", "exporter", "global", "replay", "operator", "system"];

/// How often other ports are tried when somebody else was quicker.
const ATTEMPTS: usize = 5;

/// How long the servers may take to find each other and agree on a leader.
pub(crate) const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// One server a cluster, on 127.0.0.1. All of it ends with the value.
#[derive(Debug)]
pub(crate) struct SuperCluster {
    servers: Vec<Server>,
}

/// The server of one cluster. It keeps its ports and its store over a restart.
#[derive(Debug)]
pub(crate) struct Server {
    cluster: &'static str,
    config: PathBuf,
    environment: Vec<(String, String)>,
    port: u16,
    monitor: u16,
    store: TempDir,
    process: Process,
}

impl SuperCluster {
    /// Returns once all servers have agreed on a leader.
    pub(crate) async fn start() -> Self {
        Self::start_from(&Path::new(env!("CARGO_MANIFEST_DIR")).join("jetstream"), &[]).await
    }

    /// One from another folder of configurations, which may name more variables.
    pub(crate) async fn start_from(folder: &Path, extra: &[(&str, &str)]) -> Self {
        for _ in 0..ATTEMPTS {
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
                    Server::launch(name, folder.join(format!("{name}.conf")), variables)
                })
                .collect();
            if servers.iter_mut().all(|server| server.wait_until_up().is_ok()) {
                let started = Self { servers };
                started.settled().await;
                return started;
            }
        }
        panic!("the super-cluster found no free ports in {ATTEMPTS} attempts")
    }

    /// Waits until every server that runs is in touch with the leader, and all that it holds is up to date.
    pub(crate) async fn settled(&self) {
        wait::eventually_async(SETTLED_WITHIN, "the super-cluster to settle", async || {
            for server in &self.servers {
                server.healthy().await?;
            }
            Ok::<_, String>(())
        })
        .await;
    }

    pub(crate) fn server(&self, cluster: &str) -> &Server {
        self.servers.iter().find(|server| server.cluster == cluster).unwrap()
    }

    /// To kill it, or to bring it back.
    pub(crate) fn server_mut(&mut self, cluster: &str) -> &mut Server {
        self.servers.iter_mut().find(|server| server.cluster == cluster).unwrap()
    }

    /// Where clients of a cluster connect, as one of [`USERS`]. The product's commands take it for `--nats-url`.
    pub(crate) fn url(&self, cluster: &str, user: &str) -> String {
        self.server(cluster).url(user)
    }

    pub(crate) async fn client(&self, cluster: &str, user: &str) -> Client {
        self.server(cluster).client(user).await
    }

    pub(crate) async fn jetstream(&self, cluster: &str, user: &str) -> jetstream::Context {
        jetstream::new(self.client(cluster, user).await)
    }
}

impl Server {
    /// A server of one cluster, with ports and a store of its own, and more variables for its configuration; their
    /// common prefix is added. It may end at once if a port is taken: see [`Self::wait_until_up`].
    pub(crate) fn launch(cluster: &'static str, config: PathBuf, variables: Vec<(String, String)>) -> Self {
        let [port, monitor, routes] = [(); 3].map(|()| port::free());
        let store = temporary_directory();
        let mut environment = vec![
            ("SERVER_NAME".to_owned(), format!("{cluster}-1")),
            ("LISTEN".to_owned(), at(port)),
            ("MONITOR".to_owned(), at(monitor)),
            ("STORE".to_owned(), store.path().display().to_string()),
            // For the sum of what the streams may take, of which tests fill next to nothing.
            ("STORE_LIMIT".to_owned(), "64GB".to_owned()),
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
        let process = launch(cluster, &config, &environment);
        Self { cluster, config, environment, port, monitor, store, process }
    }

    /// Where it says over HTTP how it is doing.
    pub(crate) fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor)
    }

    /// Where it listens for clients, on the loopback address.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Where clients connect, as one of [`USERS`]. The product's commands take it for `--nats-url`.
    pub(crate) fn url(&self, user: &str) -> String {
        format!("nats://{user}:{user}-secret@{}", at(self.port))
    }

    /// A client that goes on reconnecting for ever, as the product's own do.
    pub(crate) async fn client(&self, user: &str) -> Client {
        ConnectOptions::with_user_and_password(user.to_owned(), format!("{user}-secret"))
            .custom_inbox_prefix(format!("_INBOX.{user}"))
            .connect(at(self.port))
            .await
            .unwrap()
    }

    /// Whether JetStream here is in touch with the leader and up to date; if not, why.
    pub(crate) async fn healthy(&self) -> Result<(), String> {
        let answer = http::get(&format!("http://127.0.0.1:{}/healthz", self.monitor), &[]).await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{}: {}", self.cluster, answer.text())) }
    }

    /// What the server says of itself over HTTP, `/jsz` for instance.
    pub(crate) async fn monitor(&self, path: &str) -> Value {
        let answer = http::get(&format!("http://127.0.0.1:{}{path}", self.monitor), &[]).await.unwrap();
        serde_json::from_str(answer.text()).unwrap()
    }

    /// The folder of its streams.
    pub(crate) fn store(&self) -> &Path {
        self.store.path()
    }

    /// SIGKILL. [`Self::restart`] brings it back with what its store holds.
    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub(crate) fn stop(&self) {
        self.process.stop();
    }

    /// SIGCONT, after [`Self::stop`].
    pub(crate) fn cont(&self) {
        self.process.cont();
    }

    /// Ends it if it still runs (SIGTERM) and starts it again with the same ports and store. Returns once it accepts
    /// clients; whether it has found the others is for [`SuperCluster::settled`] to say.
    pub(crate) fn restart(&mut self) {
        if self.process.exited().is_none() {
            self.process.terminate(wait::PATIENCE);
        }
        self.process = launch(self.cluster, &self.config, &self.environment);
        self.wait_until_up().unwrap_or_else(|reason| panic!("{} did not come back: {reason}", self.cluster));
    }

    /// Fails if the server ended instead, most likely because a port is taken.
    pub(crate) fn wait_until_up(&mut self) -> Result<(), String> {
        let what = format!("the nats-server of {}", self.cluster);
        wait::eventually(wait::PATIENCE, &what, || {
            let output = self.process.output();
            if let Some(status) = self.process.exited() {
                return Ok(Err(format!("{status}\n{output}")));
            }
            wait::when(output, |output| output.contains("Server is ready")).map(|_| Ok(()))
        })
    }
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn launch(cluster: &str, config: &Path, environment: &[(String, String)]) -> Process {
    let mut command = Command::new(tool::find("nats-server", "nats-server"));
    command.arg("--config").arg(config).envs(environment.iter().map(|(name, value)| (name, value)));
    Process::spawn(&format!("nats-server {cluster}"), &mut command)
}
