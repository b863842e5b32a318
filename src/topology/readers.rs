//! A deployment and its number of shards, for which durables are declared.
//!
//! Invariant: the durables of a deployment together get every frame once.

use std::str::FromStr;

use async_nats::jetstream::consumer::pull;

use super::deployment::Deployment;
use super::shard::{Shard, durable_name};
use super::streams::durable_config;
use callsight_frame::subject::Region;

/// The exporters of a deployment: `main` is one that reads everything, `green/3` is three shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readers {
    deployment: Deployment,
    shards: Option<u32>,
}

/// The error for a text that does not name exporters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a deployment such as main, or one with its number of shards, up to {}, such as green/3",
    Shard::MOST
)]
pub struct ReadersError;

impl Readers {
    /// Returns their durables on a region's stream.
    #[must_use]
    pub fn durables(&self, region: &Region) -> Vec<pull::Config> {
        let whole = durable_config(&self.deployment);
        let Some(shards) = self.shards else { return vec![whole] };
        Shard::all(shards)
            .map(|shard| pull::Config {
                durable_name: Some(durable_name(&self.deployment, Some(shard))),
                filter_subjects: shard.subjects(region),
                ..whole.clone()
            })
            .collect()
    }
}

impl FromStr for Readers {
    type Err = ReadersError;

    fn from_str(text: &str) -> Result<Self, ReadersError> {
        let (deployment, shards) = match text.split_once('/') {
            None => (text, None),
            Some((deployment, shards)) => {
                let shards = shards.parse().ok().filter(|shards| (1..=Shard::MOST).contains(shards));
                (deployment, Some(shards.ok_or(ReadersError)?))
            }
        };
        Ok(Self { deployment: deployment.parse().map_err(|_| ReadersError)?, shards })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_a_durable_that_filters_for_its_share() {
        let region: Region = "us".parse().unwrap();
        let durables = |text: &str| text.parse::<Readers>().unwrap().durables(&region);
        let [whole] = &durables("main")[..] else { panic!("one durable") };
        assert_eq!(whole.durable_name.as_deref(), Some("callsight-main"));
        assert!(whole.filter_subjects.is_empty());

        let shards = durables("green/3");
        let names: Vec<_> = shards.iter().map(|one| one.durable_name.as_deref().unwrap()).collect();
        assert_eq!(names, ["callsight-green-1of3", "callsight-green-2of3", "callsight-green-3of3"]);
        let subjects: Vec<_> = shards.iter().flat_map(|one| &one.filter_subjects).collect();
        assert_eq!(subjects.len(), 128);
        for subject in ["health.diagnostics.us.*.*.0", "health.diagnostics.us.*.*.m0"] {
            assert!(shards[0].filter_subjects.contains(&subject.to_owned()), "{subject}");
        }
    }

    #[test]
    fn what_is_no_number_of_shards_is_refused() {
        for bad in ["", "Main", "main/", "main/0", "main/65", "main/x", "main/1/2", "/3", "main/-1"] {
            assert_eq!(bad.parse::<Readers>(), Err(ReadersError), "{bad}");
        }
    }
}
