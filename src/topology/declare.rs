//! What ought to be there: streams, mirrors, dead-letter streams and durables.
//!
//! Whoever runs Callsight wants to see and change these as files, in the form that NATS's own tools take. Whoever tries
//! it out wants them for any region, from the binary alone. Both must not drift apart, so there is one declaration,
//! that of [`super::stream_config`] and its like: [`Declared::builtin`] makes a whole topology of it, and the files
//! under `jetstream/` are this rendered ([`Declared::render`]), which a test holds on to.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{self, External, Source};
use serde::Serialize;
use serde_json::{Map, Value};

use super::keys::{self, Key};
use super::{
    Deployment, Readers, dead_letter_stream_config, durable_config, mirror_config, placed, stream_config,
    stream_name,
};
use callsight_frame::subject::Region;

/// The deployment that reads all regions from the hub.
const GLOBAL: &str = "global";

/// What is declared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A stream.
    Stream(String),
    /// A durable consumer and its stream.
    Consumer {
        /// The stream.
        stream: String,
        /// The durable.
        durable: String,
    },
}

impl Name {
    /// `stream` or `consumer`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stream(_) => "stream",
            Self::Consumer { .. } => "consumer",
        }
    }

    /// Where its file is, within the folder of all.
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

/// A stream or a durable as it ought to be: what its file says, and no more.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// What it is.
    pub name: Name,
    /// Its configuration in the form of the server's API, durations in nanoseconds.
    pub config: Map<String, Value>,
}

/// How regions are bound together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// Gateways: one JetStream for all, streams are placed in clusters that are called like their regions.
    Gateways,
    /// Leaf nodes: a JetStream a region, with a domain that is called like the region.
    Domains,
}

impl Declared {
    /// The topology of some regions, the first of which is the hub: a stream and a dead-letter stream each, mirrors in
    /// the hub, the durables of `deployments` on the streams and, where there are mirrors, those of the deployment
    /// `global` on all that the hub has.
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
            let mirror = place(mirror_config(region, replicas), hub);
            let mirror = match bond {
                Bond::Gateways => mirror,
                Bond::Domains => from_domain(mirror, region),
            };
            in_hub.push(mirror.name.clone());
            declared.push(Self::stream(&mirror));
        }
        for region in regions {
            let durables = deployments.iter().flat_map(|readers| readers.durables(region));
            declared.extend(durables.map(|durable| Self::durable(&stream_name(region), &durable)));
        }
        if let (false, Ok(global)) = (others.is_empty(), GLOBAL.parse::<Deployment>()) {
            for stream in in_hub {
                let durable = Self::durable(&stream, &durable_config(&global));
                if !declared.contains(&durable) {
                    declared.push(durable);
                }
            }
        }
        declared
    }

    /// What there is of [`Self::builtin`] in one region.
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
        Self { name: Name::Stream(config.name.clone()), config: said(&unlimited) }
    }

    fn durable(stream: &str, config: &pull::Config) -> Self {
        let durable = config.durable_name.clone().unwrap_or_default();
        Self { name: Name::Consumer { stream: stream.to_owned(), durable }, config: said(config) }
    }

    /// The same with another number of replicas, if it is a stream: one, in development.
    #[must_use]
    pub fn with_replicas(mut self, replicas: usize) -> Self {
        if matches!(self.name, Name::Stream(_)) {
            self.config.insert("num_replicas".to_owned(), replicas.into());
        }
        self
    }

    /// The file: JSON with a key a line, the most important first.
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

/// A mirror of a stream that is in another domain.
fn from_domain(mirror: stream::Config, region: &Region) -> stream::Config {
    let external = External { api_prefix: format!("$JS.{region}.API"), delivery_prefix: None };
    let source = mirror.mirror.map(|source| Source { external: Some(external), ..source });
    stream::Config { mirror: source, ..mirror }
}

/// What a configuration says, without what it leaves to the server.
fn said(config: &impl Serialize) -> Map<String, Value> {
    let unsaid = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
    };
    match serde_json::to_value(config) {
        Ok(Value::Object(config)) => config.into_iter().filter(|(_, value)| !unsaid(value)).collect(),
        _ => Map::new(),
    }
}

/// A duration as the server's API has it.
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
