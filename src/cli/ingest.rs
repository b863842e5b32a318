//! `callsight ingest`: the way in for clients that no relay serves.
//!
//! Invariant: without a key it starts only if the settings say so aloud.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::sleep;

use super::args::{NatsArgs, PLENTY, ProcessArgs, distinct, rejected};
use super::process::{Prepared, prepared};
use super::{CliError, service_stop_signal};
use crate::config::{ConfigError, NatsConfig, SECOND, duration_between, named, socket_address, whole};
use crate::ingest::tokens::{ClaimNames, TokenPreset, TokenRules, key_files};
use crate::ingest::{AllowedOrigin, Ingest, IngestConfig, SERVICE_TYPE, ServerPattern, network};
use crate::nats::{self, Refusals};
use callsight_frame::subject::{Region, publish_subject};

/// Rates a second, from 1 to a million.
const RATES: std::ops::RangeInclusive<NonZeroU32> = NonZeroU32::MIN..=NonZeroU32::MIN.saturating_add(999_999);

/// Take health frames over HTTP, from clients that no relay serves, and publish them to JetStream
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Stream")]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    nats: NatsArgs,

    /// Region of the stream to publish to
    #[arg(long, value_name = "REGION", required = true)]
    region: Region,

    /// Name of this instance in subjects, 1 to 64 of A-Z a-z 0-9 _ -; by default the host's name
    #[arg(long, value_name = "NAME", value_parser = server_id)]
    server_id: Option<String>,

    /// Maximum number of frames that wait while the stream is away or slow; further ones are
    /// refused.
    ///
    /// Frames take at most 64 MiB of memory in all, whatever their number.
    #[arg(long, value_name = "N", default_value = "8192", value_parser = whole(1..=PLENTY))]
    buffer: usize,

    /// Time that the stream may take to confirm a frame before its client is told to send it again,
    /// from 1s to 1m
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = duration_between(SECOND..=Duration::from_secs(60))
    )]
    ack_timeout: Duration,

    #[command(flatten)]
    http: IngestHttpArgs,

    #[command(flatten)]
    tokens: TokenArgs,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

/// Flags of the HTTP server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
struct IngestHttpArgs {
    /// Address to take frames, and serve metrics and health, on
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9465", value_parser = socket_address)]
    listen: SocketAddr,

    /// File with TLS, and with basic auth for metrics, in the format of Prometheus's web config.
    ///
    /// It is reloaded when it changes; only a restart removes TLS or all users. `/livez` and
    /// `/readyz` require no password, and frames require a token instead.
    #[arg(long, value_name = "FILE")]
    web_config: Option<PathBuf>,

    /// Maximum number of open connections; beyond it, the longest silent one is closed
    #[arg(long, value_name = "N", default_value = "4096", value_parser = whole(1..=PLENTY))]
    max_connections: usize,

    /// Origin of pages that may send frames, such as `https://app.example.com`, or `*` for any.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    allow_origin: Vec<AllowedOrigin>,

    /// Time after SIGTERM in which requests are still answered, up to 10m.
    ///
    /// `/readyz` answers 503 meanwhile, so that a load balancer sends requests elsewhere before the
    /// port is closed. A second signal ends it.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = duration_between(Duration::ZERO..=Duration::from_secs(600))
    )]
    drain: Duration,
}

/// Flags that decide whose frames are accepted.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Tokens")]
pub(super) struct TokenArgs {
    /// File with a secret that signs tokens (HS256), at least 32 bytes.
    ///
    /// Separate several with commas or repeat the flag. Files with keys are reloaded when they
    /// change.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub(super) token_secret: Vec<PathBuf>,

    /// File with public keys that verify tokens, in PEM (ES256, EdDSA) or as a JWKS.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub(super) token_key: Vec<PathBuf>,

    /// Whose tokens they are, and so where meeting and participant are in them
    #[arg(long, value_name = "NAME", default_value = "callsight", value_parser = named(&PRESETS))]
    token_preset: TokenPreset,

    /// Claim with the meeting, instead of the preset's: its key, or a path such as `video.room`
    #[arg(long, value_name = "CLAIM", value_parser = claim)]
    token_meeting_claim: Option<String>,

    /// Claim with the participant, instead of the preset's
    #[arg(long, value_name = "CLAIM", value_parser = claim)]
    token_peer_claim: Option<String>,

    /// Claim with the session, instead of `session_id`.
    ///
    /// A token without it is good for sessions whose id is `{peer_id}:` and anything without a
    /// colon.
    #[arg(long, value_name = "CLAIM", value_parser = claim)]
    token_session_claim: Option<String>,

    /// Issuer (`iss`) that tokens must have, by default any.
    ///
    /// Separate several with commas or repeat the flag; one of them is enough.
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    token_issuer: Vec<String>,

    /// Audience (`aud`) that tokens must have, by default any.
    ///
    /// Separate several with commas or repeat the flag; one of them is enough.
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    token_audience: Vec<String>,
}

/// Flags that bound what strangers can spend.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Accept frames of anybody about anybody, without tokens: for tests, or behind a proxy that
    /// checks who speaks
    #[arg(long, help_heading = "Tokens")]
    without_tokens: bool,

    /// Frames a second of one participant, on average over 10 s
    #[arg(long, value_name = "N", default_value = "2", value_parser = whole(RATES))]
    rate_participant: NonZeroU32,

    /// Requests a second of one address, on average over 10 s; an office of hundreds may share one.
    ///
    /// Of IPv6, an address is a network of 64 bits.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = whole(RATES))]
    rate_address: NonZeroU32,

    /// Address or network (CIDR) of a proxy whose `X-Forwarded-For` names the client's address.
    ///
    /// Separate several with commas or repeat the flag. Name all proxies in a row.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = network)]
    trusted_proxy: Vec<IpNet>,

    /// Host of servers that frames may name, such as `relay.example.com` or `*.example.com`, by
    /// default any.
    ///
    /// Separate several with commas or repeat the flag. Any other server becomes
    /// `https://other.invalid`, so that clients can't fill the exporter's `--max-server-urls`.
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    server_pattern: Vec<ServerPattern>,
}

/// The presets on the command line, with their help.
const PRESETS: [(&str, &str, TokenPreset); 3] = [
    ("callsight", "`meeting_id` and `peer_id`", TokenPreset::Callsight),
    ("livekit", "`video.room` and `sub`", TokenPreset::LiveKit),
    ("jitsi", "`room` and `context.user.id`", TokenPreset::Jitsi),
];

impl TokenArgs {
    pub(super) fn rules(&self) -> TokenRules {
        let preset = ClaimNames::of(self.token_preset);
        TokenRules {
            claims: ClaimNames {
                meeting: self.token_meeting_claim.clone().unwrap_or(preset.meeting),
                peer: self.token_peer_claim.clone().unwrap_or(preset.peer),
                session: self.token_session_claim.clone().unwrap_or(preset.session),
            },
            issuers: self.token_issuer.clone(),
            audiences: self.token_audience.clone(),
        }
    }
}

/// Parses the name of a claim.
fn claim(text: &str) -> Result<String, String> {
    if text.split('.').all(|key| !key.is_empty()) {
        return Ok(text.to_owned());
    }
    Err("write the key of a claim, such as room, or a path such as video.room".to_owned())
}

/// Parses the name of an instance, a token of subjects.
fn server_id(text: &str) -> Result<String, String> {
    if fit(text) == text {
        return Ok(text.to_owned());
    }
    Err("write 1 to 64 of A-Z a-z 0-9 _ -, such as ingest-1".to_owned())
}

/// Makes a token of subjects out of any text.
fn fit(text: &str) -> String {
    let plain = |character: char| match character {
        'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '-' => character,
        _ => '-',
    };
    let fit: String = text.chars().take(64).map(plain).collect();
    if fit.is_empty() { SERVICE_TYPE.to_owned() } else { fit }
}

/// The validated settings of the way in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    nats: NatsConfig,
    ingest: IngestConfig,
    drain: Duration,
}

impl IngestArgs {
    fn validate(self) -> Result<(ProcessArgs, Settings), ConfigError> {
        let Self { nats, region, server_id, buffer, ack_timeout, http, tokens, limits, process } = self;
        let rules = tokens.rules();
        let keys = key_files(distinct(tokens.token_secret), distinct(tokens.token_key));
        match (&keys, limits.without_tokens) {
            (None, false) => {
                return rejected(
                    "no key that verifies tokens: give `--token-secret` or `--token-key`, or accept frames of \
                     anybody with `--without-tokens`",
                );
            }
            (Some(_), true) => {
                return rejected("`--without-tokens` cannot be used with `--token-secret` or `--token-key`");
            }
            _ => {}
        }
        let server_id =
            server_id.unwrap_or_else(|| fit(&rustix::system::uname().nodename().to_string_lossy()));
        let ingest = IngestConfig {
            region,
            server_id,
            listen: http.listen,
            web_config: http.web_config,
            max_connections: http.max_connections,
            origins: http.allow_origin,
            keys,
            rules,
            participant_rate: limits.rate_participant,
            address_rate: limits.rate_address,
            trusted_proxies: limits.trusted_proxy,
            servers: limits.server_pattern,
            buffer,
            ack_timeout,
        };
        Ok((process, Settings { nats: nats.validate(SERVICE_TYPE)?, ingest, drain: http.drain }))
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nats, ingest: IngestConfig { region, server_id, listen, keys, rules, .. }, .. } = self;
        let subject = publish_subject(region, SERVICE_TYPE, server_id, None).unwrap_or_default();
        write!(f, "subject {subject}.m{{N}}; listen {listen}; ")?;
        match keys {
            None => write!(f, "without tokens")?,
            Some(_) => write!(f, "tokens with {} and {}", rules.claims.meeting, rules.claims.peer)?,
        }
        write!(f, "; NATS {nats}")
    }
}

/// Prepares the way in.
pub(super) fn prepare(args: IngestArgs) -> Result<Prepared, ConfigError> {
    Ok(prepared(args.validate()?, run))
}

/// Takes frames until a signal.
async fn run(Settings { nats, ingest, drain }: Settings) -> Result<(), CliError> {
    let refusals = Refusals::default();
    let name = format!("callsight ingest {}", ingest.server_id);
    let client = nats::connect_noting(&nats, &name, refusals.clone()).await.map_err(CliError::other)?;
    // Before anything says that it listens: a signal that comes then must end it in order.
    let stop = service_stop_signal()?;
    let ingest = Ingest::start(client, refusals, ingest).await.map_err(CliError::other)?;
    let signal = stop.await;
    tracing::info!(signal, ?drain, "stopping");
    if !drain.is_zero() {
        let again = service_stop_signal()?;
        ingest.drain();
        tokio::select! {
            () = sleep(drain) => {}
            _ = again => {}
        }
    }
    ingest.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_makes_a_token_of_subjects() {
        for (name, expected) in [
            ("edge-1", "edge-1"),
            ("edge.us.example", "edge-us-example"),
            ("édge 1", "-dge-1"),
            ("", "ingest"),
        ] {
            assert_eq!(fit(name), expected);
        }
        assert_eq!(fit(&"x".repeat(200)).len(), 64);
    }
}
