//! Two regions and the arbiter, as in production but with one server each, and a link that can be cut.
//!
//! The servers run from the very files of `jetstream/`, which the program brings along. Only the way to the region that
//! can be cut is another: each server is known to the others under the address of a link that leads to it, so that
//! whoever learns of a gateway learns of nothing else.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config;
use serde_json::json;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::link::Link;
use super::servers::{Server, free_address, nats_server};
use crate::cli::CliError;
use crate::config::{Login, NatsConfig, NatsIdentity, NatsTls};
use crate::consume::{Reader, Source, SourceKind};
use crate::nats;
use crate::serve::Feed;
use crate::topology::{
    consumer_config, dead_letter_stream_config, mirror_config, mirror_stream_name, placed, stream_config,
    stream_name,
};
use callsight_frame::subject::Region;

/// The clusters of the files. The first is the hub, the last holds no streams.
const CLUSTERS: [&str; 3] = ["us", "apac", "arbiter"];

/// The regions among them.
pub(super) const REGIONS: [&str; 2] = ["us", "apac"];

/// The files, by the name that they are included under.
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

/// What stands in the gateway's part of a server's file, and only there.
const GATEWAY: &str = r#"include "gateway.conf" }"#;

/// The users of `permissions`. What they may is told there; here, each has its name for a password.
const USERS: [&str; 6] = ["relay", "exporter", "global", "replay", "operator", "system"];

/// How often other ports are tried.
const ATTEMPTS: usize = 3;

/// How long the servers may take to find each other and agree on a leader.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// How long a server may take to tell how far a stream is.
const TELL_WITHIN: Duration = Duration::from_millis(500);

/// Three servers, the links between them, and connections to those with streams.
pub(super) struct Bridged {
    servers: Vec<Server>,
    _links: Vec<Link>,
    cut: watch::Sender<bool>,
    /// Of each region, as relays.
    relays: Vec<Client>,
    /// To the hub, as the exporter that reads all regions there.
    global: Client,
    /// Of each region, as those who make streams.
    operators: Vec<Context>,
}

impl Bridged {
    pub(super) async fn start(reader: &Reader, folder: &TempDir) -> Result<Self, CliError> {
        for (name, text) in FILES {
            let path = folder.path().join(name);
            // Every server is known to the others by the link to it.
            let text = text.replace(GATEWAY, &format!("advertise: $CALLSIGHT_GATEWAY_ADVERTISE, {GATEWAY}"));
            let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            written
                .and_then(|()| std::fs::write(&path, text))
                .map_err(|error| CliError::caused("cannot write the servers' configuration", error))?;
        }
        let (cut, _) = watch::channel(false);
        let mut attempts = 1..=ATTEMPTS;
        let (servers, links) = loop {
            // Of so many ports, somebody may take one before its server does.
            match launch(folder, &cut).await {
                Err(error) if attempts.next().is_none() => return Err(error),
                Err(error) => tracing::debug!(%error, "starting the servers again"),
                Ok(started) => break started,
            }
        };
        let mut relays = Vec::new();
        let mut operators = Vec::new();
        for server in &servers[..REGIONS.len()] {
            relays.push(connect(server.address, "relay").await?);
            operators.push(async_nats::jetstream::new(connect(server.address, "operator").await?));
        }
        let global = connect(servers[0].address, "global").await?;
        let bridged = Self { servers, _links: links, cut, relays, global, operators };
        bridged.make_streams(reader).await?;
        Ok(bridged)
    }

    /// Makes the streams of both regions, the mirror, and the durables of an exporter that reads both in the hub.
    async fn make_streams(&self, reader: &Reader) -> Result<(), CliError> {
        let operator = &self.operators[0];
        let [hub, other] = regions()?;
        let mut streams: Vec<Config> = Vec::new();
        for region in [&hub, &other] {
            streams.push(placed(stream_config(region, 1), region));
            streams.push(placed(dead_letter_stream_config(region, 1), region));
        }
        streams.push(placed(mirror_config(&other, 1), &hub));
        let deadline = Instant::now() + SETTLED_WITHIN;
        for config in streams {
            // Until all have agreed on a leader there is nobody who makes any.
            while let Err(error) = operator.get_or_create_stream(config.clone()).await {
                if Instant::now() > deadline {
                    return Err(CliError::caused("cannot make the streams", error));
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
        for Feed { source, .. } in self.feeds()? {
            let config = consumer_config(&reader.deployment, OffsetDateTime::now_utc());
            let made = operator.create_consumer_on_stream(config, &source.stream).await;
            made.map_err(|error| CliError::caused("cannot make the durable consumers", error))?;
        }
        Ok(())
    }

    /// Both regions as they are read in the hub.
    pub(super) fn feeds(&self) -> Result<Vec<Feed>, CliError> {
        let [hub, other] = regions()?;
        let sources = [Source::new(hub, SourceKind::Own), Source::new(other, SourceKind::Mirror)];
        Ok(sources.into_iter().map(|source| Feed { source, client: self.global.clone() }).collect())
    }

    /// The connection that relays of a region publish over.
    pub(super) fn relay(&self, index: usize) -> &Client {
        &self.relays[index]
    }

    /// Cuts the link to the region beyond it, or mends it.
    pub(super) fn set_cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    pub(super) fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    /// How many frames the region's stream has that its mirror has not, each asked where it is; unknown while one of
    /// them does not answer.
    pub(super) async fn behind(&self) -> Option<u64> {
        let region: Region = REGIONS[1].parse().ok()?;
        let (origin, mirror) = (stream_name(&region), mirror_stream_name(&region));
        let (origin, mirror) = tokio::join!(
            last_sequence(&self.operators[1], &origin),
            last_sequence(&self.operators[0], &mirror)
        );
        Some(origin?.saturating_sub(mirror?))
    }

    pub(super) fn addresses(&self) -> String {
        let places = CLUSTERS.iter().zip(&self.servers);
        let places = places.map(|(cluster, server)| format!("{cluster} nats://{}", server.address));
        places.collect::<Vec<_>>().join("   ")
    }

    pub(super) async fn stop(self) {
        let Self { servers, relays, global, operators, .. } = self;
        // So that they don't complain of servers that went away.
        drop((relays, global, operators));
        for server in servers {
            server.stop().await;
        }
    }
}

/// Starts the servers and the links between them.
async fn launch(folder: &TempDir, cut: &watch::Sender<bool>) -> Result<(Vec<Server>, Vec<Link>), CliError> {
    let mut gateways = Vec::new();
    let (mut links, mut straight) = (Vec::new(), Vec::new());
    for _ in CLUSTERS {
        let gateway = free_address(0)?;
        links.push(Link::to(gateway, cut.subscribe()).await?);
        straight.push(Link::for_one(gateway).await?);
        gateways.push(gateway);
    }
    let mut servers = Vec::new();
    for (index, cluster) in CLUSTERS.into_iter().enumerate() {
        // The hub and the arbiter go straight to each other: that link stays.
        let stays = |other: usize| cluster != REGIONS[1] && CLUSTERS[other] != REGIONS[1];
        let seen =
            |other: usize| if stays(other) { straight[other].address() } else { links[other].address() };
        let address = if index == 0 { free_address(4222)? } else { free_address(0)? };
        let environment = environment(index, address, &gateways, links[index].address(), seen, folder)?;
        let mut command = nats_server()?;
        command.arg("--config").arg(folder.path().join(format!("{cluster}.conf")));
        command.envs(environment);
        servers.push(Server::start(command, &format!("nats-server-{cluster}"), address, folder.path())?);
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

/// What the files want to know of a server; `seen` is where it finds another.
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
        // The limits of all streams together; the demo fills next to nothing of it.
        ("STORE_LIMIT".to_owned(), "64GB".to_owned()),
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

async fn connect(server: SocketAddr, user: &str) -> Result<Client, CliError> {
    let config = NatsConfig {
        servers: vec![format!("nats://{server}").parse().map_err(CliError::other)?],
        fallback: Vec::new(),
        identity: NatsIdentity::Login(Login::User { user: user.to_owned(), password: user.to_owned() }),
        tls: NatsTls::default(),
        inbox_prefix: format!("_INBOX.{user}"),
    };
    nats::connect(&config, "callsight demo").await.map_err(CliError::other)
}

async fn last_sequence(context: &Context, stream: &str) -> Option<u64> {
    let question = json!({});
    let asking = context.request::<_, _, serde_json::Value>(format!("STREAM.INFO.{stream}"), &question);
    timeout(TELL_WITHIN, asking).await.ok()?.ok()?["state"]["last_seq"].as_u64()
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
