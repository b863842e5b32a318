//! The servers of one region, without the other regions: as many as a stream has replicas.
//!
//! Their JetStream is set up by `jetstream/jetstream.conf`, like that of any other server.

use std::fs;

use async_nats::{Client, ConnectOptions, ServerAddr, jetstream};

use crate::nats::Nats;
use crate::process::temporary_directory;
use crate::{http, port, tool, wait};

/// Its name, and that of its cluster.
pub const REGION: &str = "us";

/// Servers on 127.0.0.1 that form one cluster, or a single one without a cluster.
#[derive(Debug)]
pub struct RegionServers {
    servers: Vec<Nats>,
    monitors: Vec<u16>,
}

impl RegionServers {
    /// Starts them with one of the values of `CALLSIGHT_STORE_SYNC`. Returns once they have a
    /// leader.
    pub async fn start(count: usize, sync: &str) -> Self {
        let (servers, monitors) = port::retry("the servers of a region", || {
            let routes: Vec<_> = (0..count).map(|_| port::free()).collect();
            let monitors: Vec<_> = (0..count).map(|_| port::free()).collect();
            let mut servers: Vec<_> =
                (0..count).map(|index| launch(index, sync, &routes, monitors[index])).collect();
            servers.iter_mut().try_for_each(Nats::wait_until_up)?;
            Ok((servers, monitors))
        });
        let started = Self { servers, monitors };
        started.settled().await;
        started
    }

    /// Starts all again on disks that hold what they have now, and of what follows only what was
    /// synced when [`Self::cut_power`] comes.
    pub async fn restart_on_disks_that_forget(&mut self) {
        // One after the other, they would wait for the leader that they lose.
        self.servers.iter_mut().for_each(Nats::kill9);
        self.servers.iter_mut().for_each(Nats::start_on_a_disk_that_forgets);
        self.settled().await;
    }

    /// Cuts the power of all servers at once; [`Self::restart`] brings them back.
    pub fn cut_power(&mut self) {
        self.servers.iter_mut().for_each(Nats::kill9);
        self.servers.iter_mut().for_each(Nats::cut_power);
    }

    /// Starts all again, and returns once they have a leader and are up to date.
    pub async fn restart(&mut self) {
        self.servers.iter_mut().for_each(Nats::restart);
        self.settled().await;
    }

    /// Waits until every server has a leader, and each of its replicas is up to date.
    pub async fn settled(&self) {
        wait::eventually_async(wait::PATIENCE, "the region to settle", async || {
            for monitor in &self.monitors {
                let answer = http::get(&format!("http://127.0.0.1:{monitor}/healthz"), &[]).await?;
                wait::when(answer, |answer| answer.status == 200)
                    .map_err(|answer| answer.text().to_owned())?;
            }
            Ok::<_, String>(())
        })
        .await;
    }

    /// The URLs of all servers, as a client should have them.
    pub fn url(&self) -> String {
        self.servers.iter().map(Nats::url).collect::<Vec<_>>().join(",")
    }

    /// The server of a name.
    pub fn named(&mut self, name: &str) -> &mut Nats {
        let index = (0..self.servers.len()).find(|index| server_name(*index) == name).unwrap();
        &mut self.servers[index]
    }

    /// A client that knows all servers.
    pub async fn client(&self) -> Client {
        let servers: Vec<ServerAddr> =
            self.servers.iter().map(|server| server.url().parse().unwrap()).collect();
        ConnectOptions::new().retry_on_initial_connect().connect(servers).await.unwrap()
    }

    /// JetStream, over a connection of its own.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }
}

fn server_name(index: usize) -> String {
    format!("{REGION}-{}", index + 1)
}

fn launch(index: usize, sync: &str, routes: &[u16], monitor: u16) -> Nats {
    let store = temporary_directory();
    let name = server_name(index);
    fs::copy(tool::root().join("jetstream/jetstream.conf"), store.path().join("jetstream.conf")).unwrap();
    let mut config = format!(
        "server_name: {name}\nhttp: 127.0.0.1:{monitor}\njetstream: {{ include \"jetstream.conf\" }}\n\
         lame_duck_grace_period: 1s\nlame_duck_duration: 30s\n"
    );
    if routes.len() > 1 {
        let urls: Vec<_> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        config += &format!(
            "cluster: {{ name: {REGION}, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
            routes[index],
            urls.join(", ")
        );
    }
    let file = store.path().join("nats-server.conf");
    fs::write(&file, config).unwrap();
    let port = port::free();
    let arguments =
        vec!["--addr=127.0.0.1".to_owned(), format!("--port={port}"), format!("--config={}", file.display())];
    let environment = [
        ("STORE", store.path().join("store").display().to_string()),
        // The limits of the streams add up to this; tests use next to none of it.
        ("STORE_LIMIT", "64GB".to_owned()),
        ("STORE_SYNC", sync.to_owned()),
    ];
    let environment = environment.map(|(name, value)| (format!("CALLSIGHT_{name}"), value)).to_vec();
    Nats::launch(format!("nats-server {name}"), port, arguments, environment, store)
}
