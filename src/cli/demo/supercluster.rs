//! The servers of `jetstream/`, all on one machine: names, addresses, environment.
//!
//! The demo and the tests start the files that ship, with one server per region or as many as in
//! production. All that differs between two servers is in their environment, and this computes it.
//! `crates/testkit` compiles this file too.
//!
//! Invariant: it starts nothing and asks for nothing but free addresses.

use std::net::SocketAddr;
use std::path::Path;

/// Clusters of the files: the first is the hub, the last has no streams.
pub const CLUSTERS: [&str; 3] = ["us", "apac", "arbiter"];

/// Users of `permissions`.
pub const USERS: [&str; 7] = ["relay", "ingest", "exporter", "global", "replay", "operator", "system"];

/// Text of the gateway's section in a server's file, and only there.
const GATEWAY: &str = r#"include "gateway.conf" }"#;

/// One server, before it is started.
#[derive(Clone, Debug)]
pub struct PlannedServer {
    pub cluster: &'static str,
    /// The cluster and a number: `us-1`.
    pub name: String,
    pub clients: SocketAddr,
    pub monitor: SocketAddr,
    pub routes: SocketAddr,
    pub gateway: SocketAddr,
}

impl PlannedServer {
    /// Plans a server on free addresses.
    ///
    /// # Errors
    /// There is no free address.
    pub fn new<E>(
        cluster: &'static str,
        number: usize,
        mut free: impl FnMut() -> Result<SocketAddr, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            cluster,
            name: format!("{cluster}-{number}"),
            clients: free()?,
            monitor: free()?,
            routes: free()?,
            gateway: free()?,
        })
    }

    /// The variables of this server, one of `all`. The others find the gateway of each under the
    /// address that `seen` returns.
    pub fn environment(
        &self,
        all: &[Self],
        store: &Path,
        password: impl Fn(&str) -> String,
        seen: impl Fn(&Self) -> SocketAddr,
    ) -> Vec<(String, String)> {
        let list = |cluster: &str, address: &dyn Fn(&Self) -> SocketAddr| {
            let members = all.iter().filter(|server| server.cluster == cluster);
            let urls: Vec<_> = members.map(|server| format!("\"nats://{}\"", address(server))).collect();
            format!("[{}]", urls.join(", "))
        };
        let mut values = vec![
            ("SERVER_NAME".to_owned(), self.name.clone()),
            ("LISTEN".to_owned(), self.clients.to_string()),
            ("MONITOR".to_owned(), self.monitor.to_string()),
            ("STORE".to_owned(), store.display().to_string()),
            // At least the limits of all streams together, although next to nothing is stored.
            ("STORE_LIMIT".to_owned(), "64GB".to_owned()),
            ("STORE_SYNC".to_owned(), "1s".to_owned()),
            ("CLUSTER_LISTEN".to_owned(), self.routes.to_string()),
            ("CLUSTER_ROUTES".to_owned(), list(self.cluster, &|server| server.routes)),
            ("GATEWAY_LISTEN".to_owned(), self.gateway.to_string()),
            ("GATEWAY_ADVERTISE".to_owned(), format!("\"{}\"", seen(self))),
        ];
        values.extend(CLUSTERS.map(|name| (format!("GATEWAY_{}", name.to_uppercase()), list(name, &seen))));
        values.extend(USERS.map(|user| (format!("{}_PASSWORD", user.to_uppercase()), password(user))));
        values.into_iter().map(|(name, value)| (format!("CALLSIGHT_{name}"), value)).collect()
    }
}

/// Plans so many servers per region, and the arbiter.
///
/// # Errors
/// There is no free address.
pub(super) fn plan<E>(
    per_region: usize,
    mut free: impl FnMut() -> Result<SocketAddr, E>,
) -> Result<Vec<PlannedServer>, E> {
    let [hub, other, arbiter] = CLUSTERS;
    let regions = [hub, other].into_iter().flat_map(|region| (1..=per_region).map(move |n| (region, n)));
    regions.chain([(arbiter, 1)]).map(|(cluster, n)| PlannedServer::new(cluster, n, &mut free)).collect()
}

/// Replicas of each stream: three, as in production, or as many as a region has servers.
pub fn replicas(per_region: usize) -> usize {
    per_region.min(3)
}

/// Lets the text of a server's file state `CALLSIGHT_GATEWAY_ADVERTISE`: other servers then find
/// its gateway under that address alone.
pub fn advertise(text: &str) -> String {
    text.replace(GATEWAY, &format!("advertise: $CALLSIGHT_GATEWAY_ADVERTISE, {GATEWAY}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::net::Ipv4Addr;

    #[test]
    fn each_server_knows_its_own_region_by_routes_and_all_by_gateways() {
        let mut port = 0;
        let servers = plan(3, || {
            port += 1;
            Ok::<_, Infallible>(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        });
        let Ok(servers) = servers;
        let names: Vec<_> = servers.iter().map(|server| server.name.as_str()).collect();
        assert_eq!(names, ["us-1", "us-2", "us-3", "apac-1", "apac-2", "apac-3", "arbiter-1"]);
        let link =
            |server: &PlannedServer| SocketAddr::from((Ipv4Addr::LOCALHOST, server.gateway.port() + 100));
        let environment = servers[4].environment(&servers, Path::new("/store"), |user| user.to_owned(), link);
        let value = |name: &str| {
            let mut found = environment.iter().filter(|(key, _)| key == &format!("CALLSIGHT_{name}"));
            let value = found.next().unwrap_or_else(|| panic!("no {name}")).1.as_str();
            assert!(found.next().is_none(), "{name} is there twice");
            value
        };
        assert_eq!(value("SERVER_NAME"), "apac-2");
        let of = |servers: &[PlannedServer], port: fn(&PlannedServer) -> u16| {
            let urls: Vec<_> =
                servers.iter().map(|server| format!("\"nats://127.0.0.1:{}\"", port(server))).collect();
            format!("[{}]", urls.join(", "))
        };
        assert_eq!(value("CLUSTER_ROUTES"), of(&servers[3..6], |server| server.routes.port()));
        assert_eq!(value("GATEWAY_US"), of(&servers[..3], |server| server.gateway.port() + 100));
        assert_eq!(value("GATEWAY_ARBITER"), of(&servers[6..], |server| server.gateway.port() + 100));
        assert_eq!(value("GATEWAY_ADVERTISE"), format!("\"{}\"", link(&servers[4])));
        assert_eq!([1, 3, 5].map(replicas), [1, 3, 3]);
    }
}
