//! The fleet: what runs in which region, how to reach it, and what the gates require.
//!
//! One file describes it for every deployment, so that an operator chooses a strategy and a version
//! and nothing else. It is YAML, like the charts' values next to it, and an unknown key is an
//! error.
//!
//! Invariant: a [`Fleet`] that was read has unique names and only references to its own services.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::colour::Colour;
use super::compare::ComparisonTerms;
use super::judge::Tolerances;
use crate::config::{NatsUrl, duration, one_line, read_text};
use crate::http_client::{Address, HttpAccess};
use callsight_frame::subject::Region;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fleet {
    /// In the order in which a region deploys them.
    pub(crate) services: Vec<FleetService>,
    /// In the order in which they are deployed; the first is the canary.
    pub(crate) regions: Vec<FleetRegion>,
    #[serde(default)]
    pub(crate) gates: GateSettings,
}

/// One release of one chart, in every region.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FleetService {
    /// The name for `--services` and for the keys of a region.
    pub(crate) name: String,
    pub(crate) kind: ServiceKind,
    /// As helm takes it: a folder, or a name in `repository`.
    pub(crate) chart: String,
    /// Where a chart that is not a folder comes from.
    pub(crate) repository: Option<String>,
    /// The chart's version, for one from a repository.
    pub(crate) chart_version: Option<String>,
    /// The release's name, which is also that of the workload and the service.
    pub(crate) release: String,
    pub(crate) namespace: String,
    /// What a restart restarts; required for a plain service: `statefulset/nats`.
    pub(crate) workload: Option<String>,
    /// The port of an exporter's services.
    #[serde(default = "metrics_port")]
    pub(crate) port: u16,
}

fn metrics_port() -> u16 {
    9464
}

/// How a service is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ServiceKind {
    /// Two colours side by side, one of them active: `helm/callsight`.
    Exporter,
    /// In place, by its own workload's rolling update.
    Plain,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FleetRegion {
    /// Its name, as in subjects and streams.
    #[serde(deserialize_with = "parsed")]
    pub(crate) name: Region,
    /// The context of its cluster in the kubeconfig.
    pub(crate) context: String,
    /// Values files by service, the later one wins.
    #[serde(default)]
    pub(crate) values: BTreeMap<String, Vec<PathBuf>>,
    /// Values by service that are whole files, `key=path`, as helm's `--set-file` takes them.
    #[serde(default)]
    pub(crate) set_file: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(crate) exporters: ExporterAddresses,
    /// Monitoring addresses of its NATS servers.
    #[serde(default)]
    pub(crate) monitors: Vec<FleetAddress>,
    /// The clusters to which they must have a gateway, both ways.
    #[serde(default)]
    pub(crate) gateways: Vec<String>,
    /// Certificates that must not expire soon.
    #[serde(default)]
    pub(crate) certificates: Vec<CertificatePlace>,
    /// How to delete a durable; without it that is left to the operator.
    pub(crate) nats: Option<NatsAccess>,
}

/// Where each colour's exporters answer, one address per shard, and the service that leads to the
/// active colour. What is not given is reached through the services of the release.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ExporterAddresses {
    pub(crate) blue: Vec<FleetAddress>,
    pub(crate) green: Vec<FleetAddress>,
    pub(crate) active: Option<FleetAddress>,
}

/// An operator's connection to a region's NATS.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct NatsAccess {
    #[serde(deserialize_with = "nats_urls")]
    pub(crate) url: Vec<NatsUrl>,
    pub(crate) creds: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
}

/// What the gates require.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct GateSettings {
    /// How long a new exporter may take to become ready.
    #[serde(deserialize_with = "span")]
    pub(crate) ready_within: Duration,
    /// How long it may take, in addition to the window, to agree with the old one.
    #[serde(deserialize_with = "span")]
    pub(crate) compare_within: Duration,
    /// How long both are watched for a comparison.
    #[serde(deserialize_with = "span")]
    pub(crate) window: Duration,
    /// The window in the region that is the canary.
    #[serde(deserialize_with = "span")]
    pub(crate) soak: Duration,
    /// How far a new exporter may be behind the stream.
    #[serde(deserialize_with = "span")]
    pub(crate) max_lag: Duration,
    pub(crate) compare: Tolerances,
    /// Days for which a certificate must still be valid.
    pub(crate) certificate_days: u32,
    pub(crate) http: HttpAccess,
}

impl Default for GateSettings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            ready_within: seconds(300),
            compare_within: seconds(300),
            window: seconds(30),
            soak: seconds(600),
            max_lag: seconds(10),
            compare: Tolerances::default(),
            certificate_days: 14,
            http: HttpAccess::default(),
        }
    }
}

impl GateSettings {
    /// The terms of a comparison; a canary watches for as long as it soaks.
    pub(crate) fn terms(&self, soak: bool) -> ComparisonTerms {
        let window = if soak { self.soak.max(self.window) } else { self.window };
        let timeout = self.compare_within + window;
        ComparisonTerms { timeout, window, max_lag: self.max_lag, tolerances: self.compare }
    }
}

/// Where a server answers over HTTP: a URL, or a pod or service to which kubectl forwards a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FleetAddress {
    Direct(Address),
    /// `[NAMESPACE/]svc/NAME:PORT`, or a pod, through the API server.
    Forwarded {
        /// That of the service unless given.
        namespace: Option<String>,
        resource: String,
        port: u16,
    },
}

impl FromStr for FleetAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WRITE: &str = "write http://host:port, or svc/NAME:PORT to have kubectl forward a port";
        if text.contains("://") {
            return text.parse().map(Self::Direct).map_err(|_| WRITE);
        }
        let (path, port) = text.rsplit_once(':').ok_or(WRITE)?;
        let port = port.parse().map_err(|_| WRITE)?;
        let parts: Vec<_> = path.split('/').collect();
        let (namespace, kind, name) = match parts[..] {
            [kind, name] => (None, kind, name),
            [namespace, kind, name] => (Some(namespace.to_owned()), kind, name),
            _ => return Err(WRITE),
        };
        if !matches!(kind, "svc" | "service" | "pod") || name.is_empty() {
            return Err(WRITE);
        }
        Ok(Self::Forwarded { namespace, resource: format!("{kind}/{name}"), port })
    }
}

impl fmt::Display for FleetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(endpoint) => endpoint.fmt(f),
            Self::Forwarded { resource, port, .. } => write!(f, "{resource}:{port}"),
        }
    }
}

impl<'de> Deserialize<'de> for FleetAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// Where a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CertificatePlace {
    /// A file in PEM.
    File(PathBuf),
    /// A key of a secret in the cluster.
    Secret { namespace: String, name: String, key: String },
    /// What a server presents: `tls://host:port`, or `nats://host:port` for one that speaks NATS
    /// first.
    Server { host: String, port: u16, nats: bool },
}

impl FromStr for CertificatePlace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WRITE: &str = "write secret/NAMESPACE/NAME or secret/NAMESPACE/NAME/KEY, file:PATH, tls://host:port \
                             or nats://host:port";
        if let Some(path) = text.strip_prefix("file:") {
            return Ok(Self::File(path.into()));
        }
        if let Some(path) = text.strip_prefix("secret/") {
            let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
            let parts = match parts[..] {
                [namespace, name] => [namespace, name, "tls.crt"],
                [namespace, name, key] => [namespace, name, key],
                _ => return Err(WRITE),
            };
            let [namespace, name, key] = parts.map(str::to_owned);
            return Ok(Self::Secret { namespace, name, key });
        }
        let (scheme, rest) = text.split_once("://").ok_or(WRITE)?;
        let (host, port) = rest.rsplit_once(':').ok_or(WRITE)?;
        let port = port.parse().map_err(|_| WRITE)?;
        if !matches!(scheme, "tls" | "nats") || host.is_empty() {
            return Err(WRITE);
        }
        Ok(Self::Server { host: host.trim_matches(['[', ']']).to_owned(), port, nats: scheme == "nats" })
    }
}

impl fmt::Display for CertificatePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Secret { namespace, name, key } => write!(f, "secret {namespace}/{name} {key}"),
            Self::Server { host, port, .. } => write!(f, "{host}:{port}"),
        }
    }
}

impl<'de> Deserialize<'de> for CertificatePlace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// The file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    #[error("cannot read `{}`, the file of --fleet", one_line(&path.display().to_string()))]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("`{}` is not a valid fleet: {problem}", one_line(&path.display().to_string()))]
    Invalid { path: PathBuf, problem: String },
}

impl Fleet {
    /// Reads a file. Paths in it are relative to the working directory, as for helm.
    ///
    /// # Errors
    /// [`FleetError`].
    pub(crate) fn read(path: &Path) -> Result<Self, FleetError> {
        let text =
            read_text(path).map_err(|source| FleetError::Unreadable { path: path.to_owned(), source })?;
        let invalid = |problem: String| FleetError::Invalid { path: path.to_owned(), problem };
        let fleet: Self =
            yaml_serde::from_str(&text).map_err(|error| invalid(one_line(&error.to_string())))?;
        fleet.verify().map_err(invalid)?;
        Ok(fleet)
    }

    /// Returns what is wrong that the types can't express.
    fn verify(&self) -> Result<(), String> {
        if self.services.is_empty() || self.regions.is_empty() {
            return Err("it needs at least one service and one region".to_owned());
        }
        let services: Vec<_> = self.services.iter().map(|service| service.name.as_str()).collect();
        let regions: Vec<_> = self.regions.iter().map(|region| region.name.as_str()).collect();
        for mut names in [services, regions] {
            names.sort_unstable();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(format!("{} occurs twice", pair[0]));
            }
        }
        for FleetRegion { name, values, set_file, gateways, monitors, .. } in &self.regions {
            let mut named = values.keys().chain(set_file.keys());
            if let Some(unknown) = named.find(|name| self.service(name).is_none()) {
                return Err(format!("region {name} has values for {unknown}, which is not a service"));
            }
            if !gateways.is_empty() && monitors.is_empty() {
                return Err(format!("region {name} names gateways, but no monitors to ask for them"));
            }
        }
        for FleetService { name, kind, workload, release, .. } in &self.services {
            if *kind == ServiceKind::Plain && workload.is_none() {
                return Err(format!("service {name} needs a workload, such as statefulset/{release}"));
            }
        }
        Ok(())
    }

    pub(crate) fn service(&self, name: &str) -> Option<&FleetService> {
        self.services.iter().find(|service| service.name == name)
    }

    pub(crate) fn region(&self, name: &str) -> Option<&FleetRegion> {
        self.regions.iter().find(|region| region.name.as_str() == name)
    }
}

impl FleetRegion {
    /// Where the exporters of a colour answer, one address per shard.
    pub(crate) fn addresses(&self, service: &FleetService, colour: Colour) -> Vec<FleetAddress> {
        let given = match colour {
            Colour::Blue => &self.exporters.blue,
            Colour::Green => &self.exporters.green,
        };
        if given.is_empty() {
            vec![service.address(&format!("{}-{colour}", service.release))]
        } else {
            given.clone()
        }
    }

    /// Where the service of the active colour answers.
    pub(crate) fn active_address(&self, service: &FleetService) -> FleetAddress {
        self.exporters.active.clone().unwrap_or_else(|| service.address(&service.release))
    }
}

impl FleetService {
    fn address(&self, name: &str) -> FleetAddress {
        FleetAddress::Forwarded {
            namespace: Some(self.namespace.clone()),
            resource: format!("svc/{name}"),
            port: self.port,
        }
    }
}

fn parsed<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|error| serde::de::Error::custom(format!("`{text}`: {error}")))
}

fn nats_urls<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NatsUrl>, D::Error> {
    // A URL that can't be parsed may hold a password, so it is not quoted.
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests;
