//! All regions on one server: the quick start.

use async_nats::Client;
use tempfile::TempDir;

use super::servers::{Server, free_address, nats_server};
use crate::cli::CliError;
use crate::config::{NatsConfig, NatsIdentity, NatsTls};
use crate::consume::{Source, SourceKind};
use crate::nats;
use crate::serve::Feed;
use crate::topology::ensure_streams;
use callsight_frame::subject::Region;

/// One nats-server with the streams of all regions.
pub(super) struct Single {
    server: Server,
    client: Client,
}

impl Single {
    pub(super) async fn start(regions: &[Region], folder: &TempDir) -> Result<Self, CliError> {
        let address = free_address(4222)?;
        let mut command = nats_server()?;
        let port = address.port().to_string();
        command.args(["--addr", "127.0.0.1", "--port", &port, "--jetstream", "--store_dir"]);
        command.arg(folder.path().join("nats"));
        let mut server = Server::start(command, "nats-server", address, folder.path())?;
        server.wait_until_up().await?;
        let config = NatsConfig {
            servers: vec![format!("nats://{address}").parse().map_err(CliError::other)?],
            fallback: Vec::new(),
            identity: NatsIdentity::Anonymous,
            tls: NatsTls::default(),
            inbox_prefix: "_INBOX.demo".to_owned(),
        };
        let client = nats::connect(&config, "callsight demo").await.map_err(CliError::other)?;
        let context = async_nats::jetstream::new(client.clone());
        for region in regions {
            let made = ensure_streams(&context, region, 1).await;
            made.map_err(|error| CliError::caused("cannot make the streams", error))?;
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

    /// The connection that relays publish over.
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn address(&self) -> String {
        format!("nats://{}", self.server.address)
    }

    pub(super) async fn stop(self) {
        let Self { server, client } = self;
        // So that it doesn't complain of a server that went away.
        drop(client);
        server.stop().await;
    }
}
