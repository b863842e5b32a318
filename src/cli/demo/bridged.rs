//! Two regions and the arbiter, as in production, and a link that can be cut.
//!
//! The servers run from the files of `jetstream/`, which are part of the binary. Only the
//! advertised addresses differ: each gateway is known to the others under the address of a link to
//! it.
//!
//! Invariant: gateways never learn the real address of another region's gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use async_nats::Client;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::bridge::Bridge;
use super::link::RegionLink;
use super::servers::{ANY, DemoServer, RegionServers, connect, free_address, nats_server};
use super::supercluster::{CLUSTERS, PlannedServer, advertise, plan, replicas};
use crate::cli::CliError;
use crate::config::{Login, NatsIdentity};
use crate::consume::{Source, SourceKind};
use crate::topology::{Bond, Declared, ReconcileError, Reconciler};
use callsight_frame::subject::Region;

/// Regions among the clusters: the first is the hub.
pub(super) const REGIONS: [&str; 2] = [CLUSTERS[0], CLUSTERS[1]];

/// Files of `jetstream/`, by the name under which others include them.
const FILES: [(&str, &str); 13] = {
    macro_rules! file {
        ($name:literal) => {
            ($name, include_str!(concat!("../../../jetstream/", $name)))
        };
    }
    [
        file!("us.conf"),
        file!("apac.conf"),
        file!("arbiter.conf"),
        file!("server.conf"),
        file!("jetstream.conf"),
        file!("cluster.conf"),
        file!("gateway.conf"),
        file!("permissions/us.conf"),
        file!("permissions/apac.conf"),
        file!("permissions/arbiter.conf"),
        file!("tls/client.conf"),
        file!("tls/cluster.conf"),
        file!("tls/gateway.conf"),
    ]
};

/// Number of attempts with other ports.
const ATTEMPTS: usize = 3;

/// Maximum time for the servers to connect and elect a leader.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// Starts `per_region` servers in each region, the arbiter and the links between them, and connects
/// to the regions.
pub(super) async fn start(per_region: usize, folder: &TempDir) -> Result<RegionServers, CliError> {
    for (name, text) in FILES {
        let path = folder.path().join(name);
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        written
            .and_then(|()| std::fs::write(&path, advertise(text)))
            .map_err(|error| CliError::caused("cannot write the servers' configuration", error))?;
    }
    let (cut, _) = watch::channel(false);
    let mut attempts = 1..=ATTEMPTS;
    let (planned, servers, links) = loop {
        // Another process may take one of the many ports before its server does.
        match launch(per_region, folder, &cut).await {
            Err(error) if attempts.next().is_none() => return Err(error),
            Err(error) => tracing::debug!(%error, "starting the servers again"),
            Ok(started) => break started,
        }
    };
    let addresses = |cluster: &str| -> Vec<SocketAddr> {
        let members = planned.iter().filter(|server| server.cluster == cluster);
        members.map(|server| server.clients).collect()
    };
    let regions = regions()?;
    let (mut relays, mut ingests, mut operators) = (Vec::new(), Vec::new(), Vec::new());
    for region in regions.clone() {
        let servers = addresses(region.as_str());
        relays.push((connect_as(&servers, "relay").await?, vec![region.clone()]));
        ingests.push((connect_as(&servers, "ingest").await?, region));
        operators.push(async_nats::jetstream::new(connect_as(&servers, "operator").await?));
    }
    let exporter = connect_as(&addresses(REGIONS[0]), "global").await?;
    create_streams(connect_as(&addresses(REGIONS[0]), "operator").await?, &regions, replicas(per_region))
        .await?;
    let places = CLUSTERS.map(|cluster| {
        let urls: Vec<_> = addresses(cluster).iter().map(|address| format!("nats://{address}")).collect();
        format!("{cluster:8}{}", urls.join("  "))
    });
    let [hub, other] = regions;
    let bridge = Bridge { _links: links, cut, operators, region: other.clone() };
    Ok(RegionServers {
        addresses: places.join("\n            "),
        servers,
        relays,
        ingests,
        sources: vec![Source::new(hub, SourceKind::Own), Source::new(other, SourceKind::Mirror)],
        exporter,
        bridge: Some(bridge),
    })
}

/// Creates the streams of both regions, the mirror, and the durables of an exporter that reads both
/// in the hub.
async fn create_streams(hub: Client, regions: &[Region], replicas: usize) -> Result<(), CliError> {
    let declared = Declared::builtin(regions, &[], replicas, Bond::Gateways);
    let reconciler = Reconciler::new(hub, SETTLED_WITHIN);
    let apply = async || {
        for step in reconciler.plan(&declared, false).await? {
            reconciler.apply(&step).await?;
        }
        Ok::<_, ReconcileError>(())
    };
    let deadline = Instant::now() + SETTLED_WITHIN;
    // Until all servers have joined, some placements are rejected.
    while let Err(error) = apply().await {
        if Instant::now() > deadline {
            return Err(CliError::caused("cannot create the streams", error));
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Starts the servers and the links to their gateways.
async fn launch(
    per_region: usize,
    folder: &TempDir,
    cut: &watch::Sender<bool>,
) -> Result<(Vec<PlannedServer>, Vec<DemoServer>, Vec<RegionLink>), CliError> {
    let mut given = BTreeSet::new();
    let mut planned = plan(per_region, || {
        loop {
            let address = free_address(ANY)?;
            if given.insert(address) {
                return Ok::<_, CliError>(address);
            }
        }
    })?;
    planned[0].clients = free_address(4222)?;
    let mut links = Vec::new();
    let mut seen = BTreeMap::new();
    for server in &planned {
        let link = RegionLink::open(server.gateway, server.cluster, REGIONS[1], cut.subscribe()).await;
        let link = link.map_err(|error| CliError::caused("cannot open a link between the regions", error))?;
        seen.insert(server.gateway, link.address());
        links.push(link);
    }
    let mut servers = Vec::new();
    for server in &planned {
        let store = folder.path().join("nats").join(&server.name);
        // Here, a user's name is also the password.
        let environment = server.environment(&planned, &store, str::to_owned, |server| seen[&server.gateway]);
        let mut command = nats_server()?;
        command.arg("--config").arg(folder.path().join(format!("{}.conf", server.cluster)));
        command.envs(environment);
        let name = format!("nats-server-{}", server.name);
        servers.push(DemoServer::start(command, &name, server.clients, folder.path())?);
    }
    for server in &mut servers {
        server.wait_until_up().await?;
    }
    // By now, one whose port is taken has ended.
    servers.iter_mut().try_for_each(DemoServer::check_running)?;
    Ok((planned, servers, links))
}

fn regions() -> Result<[Region; 2], CliError> {
    let [hub, other] = REGIONS.map(str::parse);
    Ok([hub.map_err(CliError::other)?, other.map_err(CliError::other)?])
}

async fn connect_as(servers: &[SocketAddr], user: &str) -> Result<Client, CliError> {
    let login = Login::User { user: user.to_owned(), password: user.to_owned() };
    connect(servers, NatsIdentity::Login(login), user).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_program_brings_every_file_that_another_one_includes() {
        for (name, text) in FILES {
            let folder = Path::new(name).parent().unwrap();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            for (_, rest) in lines.filter_map(|line| line.split_once("include \"")) {
                let included = folder.join(rest.split('"').next().unwrap());
                assert!(FILES.iter().any(|(other, _)| Path::new(other) == included), "{name}: {included:?}");
            }
            let gateway = advertise(text) != text;
            assert_eq!(gateway, CLUSTERS.iter().any(|cluster| name == format!("{cluster}.conf")), "{name}");
        }
    }
}
