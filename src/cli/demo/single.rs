//! All regions on one server: the quick start.
//!
//! Invariant: the streams of all regions exist once it has started.

use async_nats::Client;
use tempfile::TempDir;

use super::servers::{DemoServer, connect, free_address, nats_server};
use crate::cli::CliError;
use crate::config::NatsIdentity;
use crate::consume::{Source, SourceKind};
use crate::serve::Feed;
use crate::topology::ensure_streams;
use callsight_frame::subject::Region;

/// One nats-server with the streams of all regions.
pub(super) struct Single {
    server: DemoServer,
    client: Client,
}

impl Single {
    pub(super) async fn start(regions: &[Region], folder: &TempDir) -> Result<Self, CliError> {
        let address = free_address(4222)?;
        let mut command = nats_server()?;
        let port = address.port().to_string();
        command.args(["--addr", "127.0.0.1", "--port", &port, "--jetstream", "--store_dir"]);
        command.arg(folder.path().join("nats"));
        let mut server = DemoServer::start(command, "nats-server", address, folder.path())?;
        server.wait_until_up().await?;
        let client = connect(address, NatsIdentity::Anonymous, "demo").await?;
        let context = async_nats::jetstream::new(client.clone());
        for region in regions {
            let made = ensure_streams(&context, region, 1).await;
            made.map_err(|error| CliError::caused("cannot create the streams", error))?;
        }
        Ok(Self { server, client })
    }

    pub(super) fn feeds(&self, regions: &[Region]) -> Vec<Feed> {
        let feed = |region: &Region| Feed {
            source: Source::new(region.clone(), SourceKind::Own),
            client: self.client.clone(),
        };
        regions.iter().map(feed).collect()
    }

    /// Returns the relays' connection.
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn address(&self) -> String {
        format!("nats://{}", self.server.address)
    }

    pub(super) async fn stop(self) {
        let Self { server, client } = self;
        // It would log the loss of its server.
        drop(client);
        server.stop().await;
    }
}
