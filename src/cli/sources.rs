//! Which stream each region is read from, and over which connection.

use std::fmt;
use std::str::FromStr;

use super::args::{distinct, is_plain, joined};
use crate::config::{ConfigError, NatsConfig, NatsIdentity, NatsUrl};
use crate::consume::{JetStreamApi, Source, SourceKind};
use callsight_frame::subject::Region;

/// Where the frames come from.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// A region whose calls to watch.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', required = true, help_heading = "Stream")]
    region: Vec<Region>,

    /// The region whose cluster the exporter connects to; the others are read from their mirrors there.
    ///
    /// Without it, every region is read from its own stream.
    #[arg(long, value_name = "REGION", help_heading = "Stream")]
    home: Option<Region>,

    /// Read the regions other than `--home` from their own streams, through the gateways, instead of from mirrors
    #[arg(long, help_heading = "Stream")]
    via_gateway: bool,

    /// A stream of another name than usual: `apac=HEALTH_APAC_COPY`.
    ///
    /// The usual ones are `HEALTH_APAC`, and `HEALTH_APAC_MIRROR` for the mirror.
    #[arg(
        long,
        value_name = "REGION=NAME",
        value_delimiter = ',',
        value_parser = by_region::<StreamName>,
        help_heading = "Stream"
    )]
    stream: Vec<ByRegion<StreamName>>,

    /// The JetStream domain that a region is read from, beyond a leaf node: `apac=apac`
    #[arg(
        long,
        value_name = "REGION=DOMAIN",
        value_delimiter = ',',
        value_parser = by_region::<StreamName>,
        help_heading = "Stream"
    )]
    jetstream_domain: Vec<ByRegion<StreamName>>,

    /// The prefix of the JetStream API that a region is read through, where another account exports it: `apac=JS.apac`
    #[arg(
        long,
        value_name = "REGION=SUBJECT",
        value_delimiter = ',',
        value_parser = by_region::<ApiPrefix>,
        help_heading = "Stream"
    )]
    jetstream_prefix: Vec<ByRegion<ApiPrefix>>,

    /// NATS servers that a region is rather read from than from those of `--nats-url`: `apac=nats://apac-1:4222`.
    ///
    /// Name a region several times for several servers. It gets a connection of its own, as the same user; the
    /// servers of `--nats-url` are its fallback.
    #[arg(
        long,
        value_name = "REGION=URL",
        value_delimiter = ',',
        value_parser = by_region::<NatsUrl>,
        hide_env_values = true,
        help_heading = "Stream"
    )]
    region_nats_url: Vec<ByRegion<NatsUrl>>,
}

/// A setting of one region.
#[derive(Clone, Debug)]
struct ByRegion<T> {
    region: Region,
    value: T,
}

fn by_region<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<ByRegion<T>, String> {
    let (region, value) =
        text.split_once('=').ok_or_else(|| "write the region before it, such as apac=…".to_owned())?;
    let region = region.parse().map_err(|error| format!("{error}"))?;
    let value = value.parse().map_err(|error: T::Err| error.to_string())?;
    Ok(ByRegion { region, value })
}

/// The name of a stream or of a domain: one token.
#[derive(Clone, Debug)]
struct StreamName(String);

impl FromStr for StreamName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err("write a name of A-Z a-z 0-9 _ -")
        }
    }
}

/// What the subjects of a JetStream API begin with.
#[derive(Clone, Debug)]
struct ApiPrefix(String);

impl FromStr for ApiPrefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_plain(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err("write a subject without wildcards, such as JS.apac.API")
        }
    }
}

/// The regions, and where each is read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SourcesConfig {
    /// At least one, each region once; the connection is its own where it prefers other servers.
    pub(crate) sources: Vec<(Source, Option<NatsConfig>)>,
}

impl SourceArgs {
    /// What they mean together, beside the connection that is for all.
    pub(super) fn validate(self, nats: &NatsConfig) -> Result<SourcesConfig, ConfigError> {
        let regions = distinct(self.region);
        let rejected = |message: String| Err(ConfigError::Rejected(message));
        if self.via_gateway && self.home.is_none() {
            return rejected("`--via-gateway` needs `--home` too".to_owned());
        }
        let named = [
            ("--stream", self.stream.iter().map(|setting| &setting.region).collect::<Vec<_>>()),
            ("--jetstream-domain", self.jetstream_domain.iter().map(|setting| &setting.region).collect()),
            ("--jetstream-prefix", self.jetstream_prefix.iter().map(|setting| &setting.region).collect()),
            ("--region-nats-url", self.region_nats_url.iter().map(|setting| &setting.region).collect()),
        ];
        for (flag, named) in named {
            if let Some(region) = named.iter().find(|region| !regions.contains(region)) {
                return rejected(format!("`{flag}` is for region {region}, which `--region` does not name"));
            }
            let twice = |region: &Region| named.iter().filter(|other| **other == region).count() > 1;
            if flag != "--region-nats-url"
                && let Some(region) = named.iter().find(|region| twice(region))
            {
                return rejected(format!("`{flag}` is there twice for region {region}"));
            }
        }
        for url in &self.region_nats_url {
            if let Some(login) = url.value.login()
                && nats.identity != NatsIdentity::Login(login.clone())
            {
                return rejected("`--region-nats-url` must name no other user than `--nats-url`".to_owned());
            }
        }
        let mut sources = Vec::with_capacity(regions.len());
        for region in regions {
            let kind = match &self.home {
                Some(home) if *home != region && self.via_gateway => SourceKind::Remote,
                Some(home) if *home != region => SourceKind::Mirror,
                _ => SourceKind::Own,
            };
            let mut source = Source::new(region.clone(), kind);
            if let Some(stream) = of(&self.stream, &region).next() {
                source.stream.clone_from(&stream.0);
            }
            let domain = of(&self.jetstream_domain, &region).next();
            let prefix = of(&self.jetstream_prefix, &region).next();
            source.api = match (domain, prefix) {
                (None, None) => JetStreamApi::Local,
                (Some(domain), None) => JetStreamApi::Domain(domain.0.clone()),
                (None, Some(prefix)) => JetStreamApi::Prefix(prefix.0.clone()),
                (Some(_), Some(_)) => {
                    return rejected(format!(
                        "`--jetstream-prefix` cannot be used with `--jetstream-domain` for region {region}"
                    ));
                }
            };
            let servers: Vec<_> = of(&self.region_nats_url, &region).cloned().collect();
            let own = (!servers.is_empty()).then(|| nats.preferring(servers));
            sources.push((source, own));
        }
        Ok(SourcesConfig { sources })
    }
}

/// The settings of a region.
fn of<'a, T>(settings: &'a [ByRegion<T>], region: &'a Region) -> impl Iterator<Item = &'a T> {
    settings.iter().filter(move |setting| setting.region == *region).map(|setting| &setting.value)
}

/// `us, apac (HEALTH_APAC_MIRROR)`: the regions, and the streams that are not the region's own.
impl fmt::Display for SourcesConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(source, nats): &(Source, Option<NatsConfig>)| {
            let Source { region, stream, api, .. } = source;
            let usual = *source == Source::new(region.clone(), SourceKind::Own);
            let api = match api {
                JetStreamApi::Local => String::new(),
                JetStreamApi::Domain(domain) => format!(" in domain {domain}"),
                JetStreamApi::Prefix(prefix) => format!(" at {prefix}"),
            };
            let at = nats.as_ref().map(|nats| format!(" over {nats}")).unwrap_or_default();
            if usual && at.is_empty() { region.to_string() } else { format!("{region} ({stream}{api}{at})") }
        };
        f.write_str(&joined(&self.sources.iter().map(shown).collect::<Vec<_>>()))
    }
}
