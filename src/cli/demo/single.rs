//! All regions on one server: the quick start.
//!
//! Invariant: the streams of all regions exist once it has started.

use tempfile::TempDir;

use super::servers::{DemoServer, RegionServers, connect, free_address, nats_server};
use crate::cli::CliError;
use crate::config::NatsIdentity;
use crate::consume::{Source, SourceKind};
use crate::topology::ensure_streams;
use callsight_frame::subject::Region;

/// Starts one nats-server with the streams of all regions.
pub(super) async fn start(regions: &[Region], folder: &TempDir) -> Result<RegionServers, CliError> {
    let address = free_address(4222)?;
    let mut command = nats_server()?;
    let port = address.port().to_string();
    command.args(["--addr", "127.0.0.1", "--port", &port, "--jetstream", "--store_dir"]);
    command.arg(folder.path().join("nats"));
    let mut server = DemoServer::start(command, "nats-server", address, folder.path())?;
    server.wait_until_up().await?;
    let client = connect(&[address], NatsIdentity::Anonymous, "demo").await?;
    let context = async_nats::jetstream::new(client.clone());
    for region in regions {
        let made = ensure_streams(&context, region, 1).await;
        made.map_err(|error| CliError::caused("cannot create the streams", error))?;
    }
    Ok(RegionServers {
        servers: vec![server],
        addresses: format!("nats://{address}"),
        relays: vec![(client.clone(), regions.to_vec())],
        ingests: regions.iter().map(|region| (client.clone(), region.clone())).collect(),
        sources: regions.iter().map(|region| Source::new(region.clone(), SourceKind::Own)).collect(),
        exporter: client,
        bridge: None,
    })
}
