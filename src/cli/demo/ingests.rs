//! The way in over HTTP of each region, to which a part of the simulated clients sends.
//!
//! Invariant: the command that is shown works as it stands.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::Client;
use callsight_frame::subject::Region;
use callsight_frame::{Frame, MeetingId, PeerId, Seq, Server, ServerType, ServerUrl, SessionId};

use super::call::origin;
use super::servers::free_address;
use crate::cli::CliError;
use crate::ingest::tokens::{ClaimNames, SigningKey, TokenPreset, TokenRules, key_files, new_claims};
use crate::ingest::{AllowedOrigin, Ingest, IngestConfig};
use crate::nats::Refusals;
use crate::simulate::IngestTarget;

/// The usual port of the first one; the next ones follow.
const PORT: u16 = 9465;

/// How long the token is good that is shown.
const TOKEN_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Chooses an address for each region, and a secret for the tokens of all.
pub(super) fn plan(ingests: &[(Client, Region)]) -> Result<Vec<IngestTarget>, CliError> {
    let secret = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let target = |((_, region), port): (&(Client, Region), u16)| {
        let (region, address) = (region.clone(), free_address(port)?);
        Ok(IngestTarget { region, address, secret: secret.clone() })
    };
    ingests.iter().zip(PORT..).map(target).collect()
}

/// Starts them, with the secret in a file of the folder. The page of a call may send to them.
pub(super) async fn start(
    ingests: &[(Client, Region)],
    targets: &[IngestTarget],
    page: Option<SocketAddr>,
    folder: &Path,
) -> Result<Vec<Ingest>, CliError> {
    let path = folder.join("tokens");
    let origins = page.map(|page| origin(page).parse::<AllowedOrigin>());
    let origins = origins.transpose().map_err(CliError::failed)?;
    let mut started = Vec::new();
    for ((client, _), IngestTarget { region, address, secret }) in ingests.iter().zip(targets) {
        std::fs::write(&path, secret)
            .map_err(|error| CliError::caused("cannot write the secret of tokens", error))?;
        let config = IngestConfig {
            region: region.clone(),
            server_id: "demo".to_owned(),
            listen: *address,
            web_config: None,
            max_connections: 256,
            origins: origins.iter().cloned().collect(),
            keys: key_files(vec![path.clone()], Vec::new()),
            rules: TokenRules {
                claims: ClaimNames::of(TokenPreset::Callsight),
                issuers: Vec::new(),
                audiences: Vec::new(),
            },
            participant_rate: NonZeroU32::MIN,
            address_rate: NonZeroU32::MIN.saturating_add(999),
            trusted_proxies: Vec::new(),
            servers: Vec::new(),
            buffer: 1024,
            ack_timeout: Duration::from_secs(5),
        };
        let ingest = Ingest::start(client.clone(), Refusals::default(), config).await;
        started.push(ingest.map_err(CliError::other)?);
    }
    Ok(started)
}

/// The command that sends a frame of a session of one's own.
pub(super) fn command(target: &IngestTarget) -> Result<String, CliError> {
    let IngestTarget { address, secret, .. } = target;
    let key = SigningKey::Hs256(secret.clone().into_bytes());
    let token = key.sign(&new_claims("demo", "you", None, TOKEN_FOR), None);
    let token = token.ok_or_else(|| CliError::failed("cannot sign a token"))?;
    let frame = frame().map_err(CliError::other)?;
    let frame = serde_json::to_string(&frame).map_err(CliError::other)?;
    Ok(format!(
        "curl -i http://{address}/v1/frames -H 'Authorization: Bearer {token}' \\\n  \
         -H 'Content-Type: application/json' --data-binary '{frame}'"
    ))
}

fn frame() -> Result<Frame<'static>, callsight_frame::Rejection> {
    let server = Server::new(ServerUrl::new("https://sfu-1.example.com")?, ServerType::WebRtc);
    let (meeting, session, peer) = (MeetingId::new("demo")?, SessionId::new("you:1")?, PeerId::new("you")?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    Ok(Frame {
        server: Some(Server { rtt_ms: Some(41.0), ..server }),
        ..Frame::new(meeting, session, peer, Seq::FIRST, now)
    })
}
