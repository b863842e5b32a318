//! Shards: several exporters divide a region that outgrows one, by meeting or by server.
//!
//! Each subject ends with a partition: of the meeting, which the publisher gave, or of the server,
//! which the stream appended. A shard filters for its share of both kinds through a durable of its
//! own. The number of shards is part of the durable's name, so that layouts with different numbers
//! of shards never share a durable.
//!
//! Invariant: the shards of a layout get every frame exactly once.

use std::fmt;
use std::str::FromStr;

use super::deployment::Deployment;
use callsight_frame::subject::{MeetingPartition, PARTITIONS, Partition, Region};

/// One of the exporters that share a region: `2/3` is the second of three, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    number: u32,
    of: u32,
}

/// The error for a text that is not a shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write the shard and their number, from 1/1 to {PARTITIONS}/{PARTITIONS}, such as 1/3, 2/3 and 3/3 for three shards"
)]
pub struct ShardError;

impl Shard {
    /// Maximum number of shards: each needs a partition.
    pub const MOST: u32 = PARTITIONS;

    /// Returns all shards of a layout, at most [`Self::MOST`].
    pub fn all(of: u32) -> impl Iterator<Item = Self> {
        let of = of.min(Self::MOST);
        (1..=of).map(move |number| Self { number, of })
    }

    /// Returns the number of shards in its layout.
    #[must_use]
    pub const fn of(self) -> u32 {
        self.of
    }

    /// Returns the partitions of its share, of servers and of meetings.
    pub fn partitions(self) -> impl Iterator<Item = Partition> {
        let servers = (0..PARTITIONS).map(Partition::Server);
        servers.chain(MeetingPartition::all().map(Partition::Meeting)).filter(move |one| self.has(*one))
    }

    /// Returns whether a partition belongs to its share.
    #[must_use]
    pub const fn has(self, partition: Partition) -> bool {
        partition.number() % self.of == self.number - 1
    }

    /// Returns whether it has a partition in common with a shard of any layout.
    #[must_use]
    pub fn shares_with(self, other: Self) -> bool {
        self.partitions().any(|partition| other.has(partition))
    }

    /// Returns the subjects of its share in a region's stream.
    #[must_use]
    pub fn subjects(self, region: &Region) -> Vec<String> {
        self.partitions().map(|partition| format!("{}.{partition}", servers(region))).collect()
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let (number, of) = text.split_once('/').ok_or(ShardError)?;
        let [number, of] = [number, of].map(|digits| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| plain).ok_or(ShardError)
        });
        let (number, of) = (number?, of?);
        if (1..=of).contains(&number) && of <= PARTITIONS { Ok(Self { number, of }) } else { Err(ShardError) }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// Returns the subjects that all servers of a region publish to where they give no partition.
pub(crate) fn servers(region: &Region) -> String {
    format!("health.diagnostics.{region}.*.*")
}

/// Returns the subjects that all servers of a region publish to where they give the meeting's
/// partition. No wildcard: under any other last token, a frame would be stored that no shard reads.
pub(super) fn meetings(region: &Region) -> impl Iterator<Item = String> {
    let servers = servers(region);
    MeetingPartition::all().map(move |partition| format!("{servers}.{partition}"))
}

/// Returns the name of the durable consumer of a deployment or of one of its shards:
/// `callsight-main`, `callsight-main-2of3`.
#[must_use]
pub fn durable_name(deployment: &Deployment, shard: Option<Shard>) -> String {
    let whole = deployment.durable();
    match shard {
        None => whole,
        Some(Shard { number, of }) => format!("{whole}-{number}of{of}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_is_of_one_shard() {
        for of in [1, 2, 3, 7, 64] {
            let shares: Vec<Vec<_>> = Shard::all(of).map(|shard| shard.partitions().collect()).collect();
            let all = (0..PARTITIONS).map(Partition::Server);
            for partition in all.chain(MeetingPartition::all().map(Partition::Meeting)) {
                let readers = shares.iter().filter(|share| share.contains(&partition)).count();
                assert_eq!(readers, 1, "{partition} of {of}");
            }
            assert!(shares.iter().all(|share| share.len() >= 2), "{of}");
        }
    }

    #[test]
    fn a_shard_is_written_as_it_is_read() {
        for text in ["1/1", "1/3", "3/3", "64/64"] {
            assert_eq!(text.parse::<Shard>().unwrap().to_string(), text);
        }
        for bad in ["", "1", "/", "0/3", "4/3", "1/65", "1/0", "+1/3", "1/3/3", "a/b", "-1/3"] {
            assert_eq!(bad.parse::<Shard>(), Err(ShardError), "{bad}");
        }
    }

    #[test]
    fn a_durable_is_of_one_shard_of_one_layout() {
        let main: Deployment = "main".parse().unwrap();
        assert_eq!(durable_name(&main, None), "callsight-main");
        assert_eq!(durable_name(&main, "2/3".parse().ok()), "callsight-main-2of3");
        assert!("main-2of3".parse::<Deployment>().is_err(), "it would share the durable of a shard of main");
        for fine in ["main-2", "2of3", "one-of", "main-xof3"] {
            assert!(fine.parse::<Deployment>().is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_share_is_of_the_region() {
        let subjects = "64/64".parse::<Shard>().unwrap().subjects(&"eu-west".parse().unwrap());
        assert_eq!(subjects, ["health.diagnostics.eu-west.*.*.63", "health.diagnostics.eu-west.*.*.m63"]);
        let (half, third): (Shard, Shard) = ("1/2".parse().unwrap(), "3/3".parse().unwrap());
        assert!(half.shares_with(third));
        assert!(!half.shares_with("2/4".parse().unwrap()));
    }
}
