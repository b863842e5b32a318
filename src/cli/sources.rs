//! The stream of each region, and the connection to read it over.
//!
//! Invariant: a [`SourcesConfig`] has each region once, and its settings name no other region.

use std::fmt;
use std::str::FromStr;

use super::args::{distinct, joined, plain_subject, rejected};
use crate::config::{ConfigError, NatsConfig, NatsIdentity, NatsUrl};
use crate::consume::{JetStreamApi, Source, SourceKind};
use callsight_frame::subject::Region;

/// Flags of the sources of frames.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Stream")]
pub(super) struct SourceArgs {
    /// Regions whose calls to watch.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', required = true)]
    region: Vec<Region>,

    /// Region whose cluster the exporter connects to; the others are read from their mirrors there.
    ///
    /// Without it, every region is read from its own stream.
    #[arg(long, value_name = "REGION")]
    home: Option<Region>,

    /// Read regions other than `--home` from their own streams, through the gateways, instead of
    /// from mirrors
    #[arg(long)]
    via_gateway: bool,

    /// Name of a region's stream if it is not the usual one, such as `apac=HEALTH_APAC_COPY`.
    ///
    /// The usual names are `HEALTH_APAC`, and `HEALTH_APAC_MIRROR` for the mirror.
    #[arg(long, value_name = "REGION=NAME", value_delimiter = ',', value_parser = by_region(stream_name))]
    stream: Vec<ByRegion<String>>,

    /// JetStream domain to read a region from, beyond a leaf node, such as `apac=apac`
    #[arg(long, value_name = "REGION=DOMAIN", value_delimiter = ',', value_parser = by_region(stream_name))]
    jetstream_domain: Vec<ByRegion<String>>,

    /// Prefix of the JetStream API to read a region through if another account exports it, such as
    /// `apac=JS.apac`
    #[arg(long, value_name = "REGION=SUBJECT", value_delimiter = ',', value_parser = by_region(plain_subject("JS.apac.API")))]
    jetstream_prefix: Vec<ByRegion<String>>,

    /// NATS servers to prefer for a region, such as `apac=nats://apac-1:4222`.
    ///
    /// Repeat a region for several servers. It gets its own connection, as the same user, with the
    /// servers of `--nats-url` as its fallback.
    #[arg(
        long,
        value_name = "REGION=URL",
        value_delimiter = ',',
        value_parser = by_region(parsed::<NatsUrl>),
        hide_env_values = true
    )]
    region_nats_url: Vec<ByRegion<NatsUrl>>,
}

/// The value of a setting for one region.
type ByRegion<T> = (Region, T);

/// Returns a parser of `REGION=VALUE`, given that of the value.
fn by_region<T>(
    value: impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<ByRegion<T>, String> + Clone + Send + Sync + 'static {
    move |text| {
        let (region, text) = text.split_once('=').ok_or("write the region first, such as apac=…")?;
        Ok((parsed(region)?, value(text)?))
    }
}

/// Parses the name of a stream or a domain: one token.
fn stream_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("write a name of A-Z a-z 0-9 _ -".to_owned())
    }
}

fn parsed<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// The sources of all regions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SourcesConfig {
    /// At least one, each region once, with its own connection where it prefers other servers.
    pub(crate) sources: Vec<(Source, Option<NatsConfig>)>,
}

impl SourceArgs {
    /// Validates the flags for the connection that all regions share.
    pub(super) fn validate(self, nats: &NatsConfig) -> Result<SourcesConfig, ConfigError> {
        let regions = distinct(self.region);
        if self.via_gateway && self.home.is_none() {
            return rejected("`--via-gateway` needs `--home` too");
        }
        check("--stream", &self.stream, &regions, 1)?;
        check("--jetstream-domain", &self.jetstream_domain, &regions, 1)?;
        check("--jetstream-prefix", &self.jetstream_prefix, &regions, 1)?;
        check("--region-nats-url", &self.region_nats_url, &regions, usize::MAX)?;
        for (_, url) in &self.region_nats_url {
            if let Some(login) = url.login()
                && nats.identity != NatsIdentity::Login(login.clone())
            {
                return rejected("`--region-nats-url` must not name another user than `--nats-url`");
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
                source.stream.clone_from(stream);
            }
            let domain = of(&self.jetstream_domain, &region).next();
            let prefix = of(&self.jetstream_prefix, &region).next();
            source.api = match (domain, prefix) {
                (None, None) => JetStreamApi::Local,
                (Some(domain), None) => JetStreamApi::Domain(domain.clone()),
                (None, Some(prefix)) => JetStreamApi::Prefix(prefix.clone()),
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

/// Checks that values are for `regions`, and at most so many for each.
fn check<T>(flag: &str, values: &[ByRegion<T>], regions: &[Region], most: usize) -> Result<(), ConfigError> {
    for (region, _) in values {
        if !regions.contains(region) {
            return rejected(format!("`{flag}` is for region {region}, which `--region` does not name"));
        }
        if of(values, region).count() > most {
            return rejected(format!("`{flag}` is given twice for region {region}"));
        }
    }
    Ok(())
}

/// Returns the values for a region.
fn of<'a, T>(settings: &'a [ByRegion<T>], region: &'a Region) -> impl Iterator<Item = &'a T> {
    settings.iter().filter(move |(of, _)| of == region).map(|(_, value)| value)
}

/// Writes `us, apac (HEALTH_APAC_MIRROR)`: the regions, and the streams that are not their own.
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
