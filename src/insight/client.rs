//! Releases and platforms, and whether one of them has what the others do not.
//!
//! After a release, its users suffer wherever they are. A place shows only that some of its
//! sessions are degraded; by release, the same sessions stand out.
//!
//! Invariant: a release or platform stands out only against enough sessions of others.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::counters::ratio;

/// A release of an application on a platform, as series name them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientKey {
    pub(crate) app: String,
    pub(crate) platform: String,
}

/// The sessions of a release on a platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientCounts {
    pub(crate) sessions: u64,
    pub(crate) degraded: u64,
}

impl ClientCounts {
    pub(crate) const fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.degraded += other.degraded;
    }
}

/// The sessions of each release on each platform.
pub(crate) type Clients = BTreeMap<ClientKey, ClientCounts>;

/// Writes a list of objects.
pub(crate) fn serialize<S: Serializer>(clients: &Clients, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Client<'a> {
        app: &'a str,
        platform: &'a str,
        sessions: u64,
        sessions_degraded: u64,
    }
    serializer.collect_seq(clients.iter().map(|(key, counts)| Client {
        app: &key.app,
        platform: &key.platform,
        sessions: counts.sessions,
        sessions_degraded: counts.degraded,
    }))
}

/// A release or a platform that is worse than the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outlier {
    pub(crate) name: String,
    pub(crate) own: ClientCounts,
    pub(crate) others: ClientCounts,
}

/// The fewest sessions that speak for a release, or for the others.
const ENOUGH: u64 = 5;

/// The share from which on a release is bad, as for places.
const BAD: f64 = 0.1;

/// How many times the share of the others that is.
const TIMES: f64 = 3.0;

/// Finds the release, else the platform, that has most of the degraded sessions although the others
/// are mostly fine.
pub(crate) fn outlier(clients: &Clients) -> Option<Outlier> {
    let by = |name: fn(&ClientKey) -> &str| {
        let mut all = ClientCounts::default();
        let mut groups: BTreeMap<&str, ClientCounts> = BTreeMap::new();
        for (key, counts) in clients {
            all.add(*counts);
            groups.entry(name(key)).or_default().add(*counts);
        }
        let known = groups.into_iter().filter(|(name, _)| !matches!(*name, "none" | "other"));
        let (name, own) = known.max_by_key(|(_, counts)| counts.degraded)?;
        let others = ClientCounts {
            sessions: all.sessions - own.sessions,
            degraded: all.degraded.saturating_sub(own.degraded),
        };
        let (bad, rest) = (share(own)?, share(others)?);
        let enough = own.degraded >= ENOUGH && others.sessions >= ENOUGH;
        let most = own.degraded * 3 >= all.degraded * 2;
        (enough && most && bad >= BAD && bad >= TIMES * rest).then(|| Outlier {
            name: name.to_owned(),
            own,
            others,
        })
    };
    by(|key| &key.app).or_else(|| by(|key| &key.platform))
}

fn share(counts: ClientCounts) -> Option<f64> {
    ratio(counts.degraded, counts.sessions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(counts: &[(&str, &str, u64, u64)]) -> Clients {
        let entry = |&(app, platform, sessions, degraded): &(&str, &str, u64, u64)| {
            let key = ClientKey { app: app.to_owned(), platform: platform.to_owned() };
            (key, ClientCounts { sessions, degraded })
        };
        counts.iter().map(entry).collect()
    }

    #[test]
    fn a_release_that_is_worse_than_the_others_stands_out() {
        let name = |counts: &[_]| outlier(&clients(counts)).map(|outlier| outlier.name);
        let release = [
            ("web-2", "chrome", 40, 14),
            ("web-2", "firefox", 10, 4),
            ("web-1", "chrome", 100, 2),
            ("none", "none", 50, 1),
        ];
        assert_eq!(name(&release).as_deref(), Some("web-2"));
        let found = outlier(&clients(&release)).unwrap();
        assert_eq!(found.own, ClientCounts { sessions: 50, degraded: 18 });
        assert_eq!(found.others, ClientCounts { sessions: 150, degraded: 3 });
        let platform = [
            ("web-2", "safari", 20, 8),
            ("web-2", "chrome", 60, 1),
            ("web-1", "safari", 20, 7),
            ("web-1", "chrome", 60, 1),
        ];
        assert_eq!(name(&platform).as_deref(), Some("safari"));
        for (why, counts) in [
            ("all are bad", &[("web-2", "chrome", 50, 20), ("web-1", "firefox", 50, 15)][..]),
            ("there are no others", &[("web-2", "chrome", 50, 20)]),
            ("hardly any others", &[("web-2", "chrome", 50, 20), ("web-1", "firefox", 4, 0)]),
            ("too few are degraded", &[("web-2", "chrome", 8, 4), ("web-1", "firefox", 50, 0)]),
            ("a small share", &[("web-2", "chrome", 100, 9), ("web-1", "firefox", 50, 0)]),
            ("no release is named", &[("none", "none", 50, 20), ("web-1", "firefox", 50, 1)]),
            ("nobody", &[]),
        ] {
            assert_eq!(name(counts), None, "{why}");
        }
    }
}
