//! Two regions and the arbiter, as in production but with one server each, and a link that can be
//! cut.
//!
//! The servers run from the files of `jetstream/`, which are part of the binary. Only the
//! advertised addresses differ: each server is known to the others under the address of a link to
//! it.
//!
//! Invariant: gateways never learn the real address of the region that can be cut.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use async_nats::Client;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::bridge::Bridge;
use super::link::RegionLink;
use super::servers::{DemoServer, RegionServers, connect, free_address, nats_server};
use crate::cli::CliError;
use crate::config::{Login, NatsIdentity};
use crate::consume::{Source, SourceKind};
use crate::topology::{Bond, Declared, ReconcileError, Reconciler};
use callsight_frame::subject::Region;

/// Clusters of the files: the first is the hub, the last has no streams.
const CLUSTERS: [&str; 3] = ["us", "apac", "arbiter"];

/// Regions among the clusters.
pub(super) const REGIONS: [&str; 2] = ["us", "apac"];

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

/// Text of the gateway's section in a server's file, and only there.
const GATEWAY: &str = r#"include "gateway.conf" }"#;

/// Users of `permissions`; here, the name is also the password.
const USERS: [&str; 6] = ["relay", "exporter", "global", "replay", "operator", "system"];

/// Number of attempts with other ports.
const ATTEMPTS: usize = 3;

/// Maximum time for the servers to connect and elect a leader.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// Starts three servers and the links between them, and connects to those with streams.
pub(super) async fn start(folder: &TempDir) -> Result<RegionServers, CliError> {
    for (name, text) in FILES {
        let path = folder.path().join(name);
        // Others know the server under the address of the link to it.
        let text = text.replace(GATEWAY, &format!("advertise: $CALLSIGHT_GATEWAY_ADVERTISE, {GATEWAY}"));
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        written
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| CliError::caused("cannot write the servers' configuration", error))?;
    }
    let (cut, _) = watch::channel(false);
    let mut attempts = 1..=ATTEMPTS;
    let (servers, links) = loop {
        // Another process may take one of the many ports before its server does.
        match launch(folder, &cut).await {
            Err(error) if attempts.next().is_none() => return Err(error),
            Err(error) => tracing::debug!(%error, "starting the servers again"),
            Ok(started) => break started,
        }
    };
    let regions = regions()?;
    let (mut relays, mut operators) = (Vec::new(), Vec::new());
    for (server, region) in servers.iter().zip(regions.clone()) {
        relays.push((connect_as(server.address, "relay").await?, vec![region]));
        operators.push(async_nats::jetstream::new(connect_as(server.address, "operator").await?));
    }
    let exporter = connect_as(servers[0].address, "global").await?;
    create_streams(connect_as(servers[0].address, "operator").await?, &regions).await?;
    let places = CLUSTERS.iter().zip(&servers);
    let addresses = places.map(|(cluster, server)| format!("{cluster} nats://{}", server.address));
    let [hub, other] = regions;
    let bridge = Bridge { _links: links, cut, operators, region: other.clone() };
    Ok(RegionServers {
        addresses: addresses.collect::<Vec<_>>().join("   "),
        servers,
        relays,
        sources: vec![Source::new(hub, SourceKind::Own), Source::new(other, SourceKind::Mirror)],
        exporter,
        bridge: Some(bridge),
    })
}

/// Creates the streams of both regions, the mirror, and the durables of an exporter that reads both
/// in the hub.
async fn create_streams(hub: Client, regions: &[Region]) -> Result<(), CliError> {
    let declared = Declared::builtin(regions, &[], 1, Bond::Gateways);
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

/// Starts the servers and the links between them.
async fn launch(
    folder: &TempDir,
    cut: &watch::Sender<bool>,
) -> Result<(Vec<DemoServer>, Vec<RegionLink>), CliError> {
    let mut gateways = Vec::new();
    let (mut links, mut straight) = (Vec::new(), Vec::new());
    for _ in CLUSTERS {
        let gateway = free_address(0)?;
        links.push(RegionLink::to(gateway, cut.subscribe()).await?);
        straight.push(RegionLink::for_one(gateway).await?);
        gateways.push(gateway);
    }
    let mut servers = Vec::new();
    for (index, cluster) in CLUSTERS.into_iter().enumerate() {
        // The hub and the arbiter have a link that is never cut.
        let stays = |other: usize| cluster != REGIONS[1] && CLUSTERS[other] != REGIONS[1];
        let seen =
            |other: usize| if stays(other) { straight[other].address() } else { links[other].address() };
        let address = if index == 0 { free_address(4222)? } else { free_address(0)? };
        let environment = environment(index, address, &gateways, links[index].address(), seen, folder)?;
        let mut command = nats_server()?;
        command.arg("--config").arg(folder.path().join(format!("{cluster}.conf")));
        command.envs(environment);
        servers.push(DemoServer::start(command, &format!("nats-server-{cluster}"), address, folder.path())?);
    }
    for server in &mut servers {
        server.wait_until_up().await?;
    }
    links.append(&mut straight);
    Ok((servers, links))
}

fn regions() -> Result<[Region; 2], CliError> {
    let [hub, other] = REGIONS.map(str::parse);
    Ok([hub.map_err(CliError::other)?, other.map_err(CliError::other)?])
}

/// Returns the variables of a server's files; `seen` is the address under which it finds another
/// one.
fn environment(
    index: usize,
    address: SocketAddr,
    gateways: &[SocketAddr],
    advertised: SocketAddr,
    seen: impl Fn(usize) -> SocketAddr,
    folder: &TempDir,
) -> Result<Vec<(String, String)>, CliError> {
    let cluster = CLUSTERS[index];
    let routes = free_address(0)?;
    let store = folder.path().join("nats").join(cluster);
    let mut values = vec![
        ("SERVER_NAME".to_owned(), format!("{cluster}-1")),
        ("LISTEN".to_owned(), address.to_string()),
        ("MONITOR".to_owned(), free_address(0)?.to_string()),
        ("STORE".to_owned(), shown(&store)),
        // At least the limits of all streams together, although the demo stores little.
        ("STORE_LIMIT".to_owned(), "64GB".to_owned()),
        ("STORE_SYNC".to_owned(), "1s".to_owned()),
        ("CLUSTER_LISTEN".to_owned(), routes.to_string()),
        ("CLUSTER_ROUTES".to_owned(), format!("[\"nats://{routes}\"]")),
        ("GATEWAY_LISTEN".to_owned(), gateways[index].to_string()),
        ("GATEWAY_ADVERTISE".to_owned(), format!("\"{advertised}\"")),
    ];
    for (other, name) in CLUSTERS.iter().enumerate() {
        values.push((format!("GATEWAY_{}", name.to_uppercase()), format!("[\"nats://{}\"]", seen(other))));
    }
    values.extend(USERS.map(|user| (format!("{}_PASSWORD", user.to_uppercase()), user.to_owned())));
    Ok(values.into_iter().map(|(name, value)| (format!("CALLSIGHT_{name}"), value)).collect())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

async fn connect_as(server: SocketAddr, user: &str) -> Result<Client, CliError> {
    let login = Login::User { user: user.to_owned(), password: user.to_owned() };
    connect(server, NatsIdentity::Login(login), user).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_brings_every_file_that_another_one_includes() {
        for (name, text) in FILES {
            let folder = Path::new(name).parent().unwrap();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            for (_, rest) in lines.filter_map(|line| line.split_once("include \"")) {
                let included = folder.join(rest.split('"').next().unwrap());
                assert!(FILES.iter().any(|(other, _)| Path::new(other) == included), "{name}: {included:?}");
            }
            let gateway = text.contains(GATEWAY);
            assert_eq!(gateway, CLUSTERS.iter().any(|cluster| name == format!("{cluster}.conf")), "{name}");
        }
    }
}
