//! Declarations of streams, mirrors, dead-letter streams and durables.
//!
//! Operators want to see and change them as files, in the form that NATS's own tools take. A trial
//! needs them for any region, from the binary alone. So [`Declared::builtin`] generates a topology
//! from the functions of `streams`, and the files under `jetstream/` are what it renders
//! ([`Declared::render`]).
//!
//! Invariant: files and program declare the same; a test compares them.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{self, External, Source};
use serde::Serialize;
use serde_json::{Map, Value};

use super::change::is_empty;
use super::keys::{self, Key};
use super::readers::Readers;
use super::streams::{
    dead_letter_stream_config, durable_config, mirror_config, placed, stream_config, stream_name,
};
use callsight_frame::subject::Region;

/// The deployment that reads all regions from the hub.
const GLOBAL: &str = "global";

/// The identity of a declaration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Stream(String),
    Consumer {
        /// Name of its stream.
        stream: String,
        /// Name of the durable.
        durable: String,
    },
}

impl Name {
    /// Returns `stream` or `consumer`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stream(_) => "stream",
            Self::Consumer { .. } => "consumer",
        }
    }

    /// Returns the path of its file within the folder of declarations.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Stream(name) => format!("streams/{name}.json"),
            Self::Consumer { stream, durable } => format!("consumers/{stream}/{durable}.json"),
        }
    }

    pub(super) fn keys(&self) -> &'static [Key] {
        match self {
            Self::Stream(_) => keys::STREAM,
            Self::Consumer { .. } => keys::CONSUMER,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(name) => f.write_str(name),
            Self::Consumer { stream, durable } => write!(f, "{stream}/{durable}"),
        }
    }
}

/// A declared stream or durable, with the keys of its file only.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    pub name: Name,
    /// Configuration in the form of the server's API, durations in nanoseconds.
    pub config: Map<String, Value>,
}

/// The kind of bridge between regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// Gateways: one JetStream for all; streams are placed in clusters that have the names of their
    /// regions.
    Gateways,
    /// Leaf nodes: one JetStream per region, with a domain of the region's name.
    Domains,
}

impl Declared {
    /// Generates the topology of regions, the first of which is the hub: a stream and a dead-letter
    /// stream each, mirrors in the hub, the durables of `deployments` on the streams and, with
    /// several regions, those of the deployment `global` on the hub's stream and mirrors.
    #[must_use]
    pub fn builtin(
        regions: &[Region],
        deployments: &[Readers],
        replicas: usize,
        bond: Bond,
    ) -> Vec<Declared> {
        let Some((hub, others)) = regions.split_first() else { return Vec::new() };
        let place = |config: stream::Config, region: &Region| match bond {
            Bond::Gateways => placed(config, region),
            Bond::Domains => config,
        };
        let mut declared = Vec::new();
        for region in regions {
            declared.push(Self::stream(&place(stream_config(region, replicas), region)));
            declared.push(Self::stream(&place(dead_letter_stream_config(region, replicas), region)));
        }
        let mut in_hub = vec![stream_name(hub)];
        for region in others {
            let mirror = mirror_config(region, replicas);
            let mirror = match bond {
                Bond::Gateways => placed(mirror, hub),
                Bond::Domains => from_domain(mirror, region),
            };
            in_hub.push(mirror.name.clone());
            declared.push(Self::stream(&mirror));
        }
        for region in regions {
            let durables = deployments.iter().flat_map(|readers| readers.durables(region));
            declared.extend(durables.map(|durable| Self::durable(&stream_name(region), &durable)));
        }
        if let (false, Ok(global)) = (others.is_empty(), GLOBAL.parse()) {
            for stream in in_hub {
                let durable = Self::durable(&stream, &durable_config(&global));
                if !declared.contains(&durable) {
                    declared.push(durable);
                }
            }
        }
        declared
    }

    /// Filters [`Self::builtin`] for what is stored in one region.
    #[must_use]
    pub fn within(declared: &[Declared], region: &Region, hub: &Region) -> Vec<Declared> {
        let own = stream_name(region);
        let here = |stream: &str| {
            let mirror = stream.ends_with("_MIRROR");
            if mirror { region == hub } else { stream == own || stream == format!("{own}_DLQ") }
        };
        let inside = |declared: &&Declared| match &declared.name {
            Name::Stream(stream) | Name::Consumer { stream, .. } => here(stream),
        };
        declared.iter().filter(inside).cloned().collect()
    }

    fn stream(config: &stream::Config) -> Self {
        let unlimited = stream::Config { max_messages: -1, max_consumers: -1, ..config.clone() };
        Self { name: Name::Stream(config.name.clone()), config: declared_keys(&unlimited) }
    }

    fn durable(stream: &str, config: &pull::Config) -> Self {
        let durable = config.durable_name.clone().unwrap_or_default();
        Self { name: Name::Consumer { stream: stream.to_owned(), durable }, config: declared_keys(config) }
    }

    /// Sets the number of replicas if it is a stream.
    #[must_use]
    pub fn with_replicas(mut self, replicas: usize) -> Self {
        if matches!(self.name, Name::Stream(_)) {
            self.config.insert("num_replicas".to_owned(), replicas.into());
        }
        self
    }

    /// Renders the file: JSON with one key per line, the most important first.
    #[must_use]
    pub fn render(&self) -> String {
        let keys = self.name.keys();
        let mut entries: Vec<_> = self.config.iter().collect();
        entries.sort_by_key(|(name, _)| keys::rank(keys, name));
        let lines: Vec<_> = entries
            .iter()
            .map(|(name, value)| format!("  {}: {value}", Value::from(name.as_str())))
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}

/// Makes a mirror read its stream from another domain.
fn from_domain(mirror: stream::Config, region: &Region) -> stream::Config {
    let external = External { api_prefix: format!("$JS.{region}.API"), delivery_prefix: None };
    let source = mirror.mirror.map(|source| Source { external: Some(external), ..source });
    stream::Config { mirror: source, ..mirror }
}

/// Converts a configuration to JSON without the values that it leaves to the server.
fn declared_keys(config: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(config)) => config.into_iter().filter(|(_, value)| !is_empty(value)).collect(),
        _ => Map::new(),
    }
}

/// Converts a duration of the server's API.
pub(super) fn nanoseconds(value: i64) -> Duration {
    Duration::from_nanos(value.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::topology::files;

    fn regions() -> [Region; 2] {
        ["us", "apac"].map(|region| region.parse().unwrap())
    }

    fn builtin(bond: Bond) -> Vec<Declared> {
        Declared::builtin(&regions(), &["main".parse().unwrap()], 3, bond)
    }

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("jetstream").join(name)
    }

    #[test]
    fn the_files_say_what_the_program_makes() {
        let [us, apac] = regions();
        let leaf = builtin(Bond::Domains);
        for (name, declared) in [
            ("", builtin(Bond::Gateways)),
            ("leaf/us", Declared::within(&leaf, &us, &us)),
            ("leaf/apac", Declared::within(&leaf, &apac, &us)),
        ] {
            let folder = folder(name);
            if std::env::var_os("UPDATE_DOCS").is_some() {
                for one in &declared {
                    let path = folder.join(one.name.path());
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, one.render()).unwrap();
                }
            }
            let mut read = files::read(&folder).unwrap();
            let mut declared = declared;
            for list in [&mut read, &mut declared] {
                list.sort_by(|a, b| a.name.cmp(&b.name));
            }
            assert_eq!(
                read, declared,
                "jetstream/{name} and the program differ; run UPDATE_DOCS=1 cargo test the_files_say"
            );
        }
    }

    #[test]
    fn a_single_region_has_no_mirrors_and_nothing_global() {
        let [us, _] = regions();
        let declared = Declared::builtin(&[us], &["main".parse().unwrap()], 1, Bond::Gateways);
        let names: Vec<_> = declared.iter().map(|one| one.name.to_string()).collect();
        assert_eq!(names, ["HEALTH_US", "HEALTH_US_DLQ", "HEALTH_US/callsight-main"]);
    }
}
