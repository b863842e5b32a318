//! The server configurations of `jetstream/`: they are valid, with TLS and without, and three
//! servers of them make one super-cluster.

use std::fs;
use std::path::Path;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use callsight::topology::{dead_letter_stream_config, mirror_config, placed, stream_config};
use callsight_frame::subject::Region;
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::time::timeout;

use super::bridge::{identity, read};
use crate::kit::certificates::Authority;
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::process::{self, temporary_directory};
use crate::kit::supercluster::{CLUSTERS, SuperCluster, USERS};
use crate::kit::wait;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/jetstream");

/// What `jetstream/tls/*.conf` has to be told, beside where the authority is.
const LINKS: [&str; 4] = ["TLS", "CLUSTER", "GATEWAY", "LEAF"];

/// A copy of the configurations in which some of the TLS blocks are filled in.
fn with_tls(blocks: &[&str]) -> TempDir {
    let copy = temporary_directory();
    for folder in ["", "tls", "permissions", "leaf"] {
        fs::create_dir_all(copy.path().join(folder)).unwrap();
        for entry in fs::read_dir(Path::new(FOLDER).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "conf") {
                let mut text = fs::read_to_string(&path).unwrap();
                if folder == "tls" && blocks.contains(&path.file_stem().unwrap().to_str().unwrap()) {
                    assert!(text.contains("\n#|tls: {"), "{path:?} has no block");
                    text = text.replace("\n#|", "\n");
                }
                fs::write(copy.path().join(folder).join(path.file_name().unwrap()), text).unwrap();
            }
        }
    }
    copy
}

/// A certificate for each link.
fn certificates(authority: &Authority) -> Vec<(String, String)> {
    let of = |link: &str| {
        let (certificate, key) = authority.sign_to(link);
        [("CERT", certificate), ("KEY", key), ("CA", authority.ca())]
            .map(|(what, file)| (format!("{link}_{what}"), file))
    };
    LINKS.iter().flat_map(|link| of(link)).collect()
}

/// Asks nats-server itself.
fn check(folder: &Path, config: &str, variables: &[(String, String)]) {
    let store = temporary_directory();
    let mut command = Nats::check(&folder.join(config));
    let urls = "[\"nats://127.0.0.1:7222\", \"nats://127.0.0.1:7223\", \"nats://127.0.0.1:7224\"]";
    for (name, value) in [
        ("SERVER_NAME", "us-1"),
        ("LISTEN", "0.0.0.0:4222"),
        ("MONITOR", "127.0.0.1:8222"),
        ("STORE", store.path().to_str().unwrap()),
        ("STORE_LIMIT", "300GB"),
        ("STORE_SYNC", "always"),
        ("CLUSTER_LISTEN", "0.0.0.0:6222"),
        ("CLUSTER_ROUTES", urls),
        ("GATEWAY_LISTEN", "0.0.0.0:7222"),
        ("GATEWAY_US", urls),
        ("GATEWAY_APAC", urls),
        ("GATEWAY_ARBITER", "[\"nats://127.0.0.1:7225\"]"),
        ("LEAF_LISTEN", "0.0.0.0:7422"),
        ("LEAF_PASSWORD", "secret"),
        ("LEAF_US", "[\"nats-leaf://leaf:secret@127.0.0.1:7422\"]"),
    ] {
        command.env(format!("CALLSIGHT_{name}"), value);
    }
    for user in USERS {
        command.env(format!("CALLSIGHT_{}_PASSWORD", user.to_uppercase()), "\"$2a$11$abc\"");
    }
    command.envs(variables.iter().map(|(name, value)| (format!("CALLSIGHT_{name}"), value)));
    let output = process::run(&mut command, "", wait::PATIENCE);
    assert!(output.status.success(), "{config}: {output:?}");
}

#[test]
fn every_configuration_is_valid_with_tls_and_without() {
    let authority = Authority::new();
    let tls = with_tls(&["client", "cluster", "gateway", "leaf", "leaf-remote"]);
    let configs = ["us", "apac", "arbiter", "leaf/us", "leaf/us-cluster", "leaf/apac", "leaf/apac-cluster"];
    for config in configs {
        let config = format!("{config}.conf");
        check(Path::new(FOLDER), &config, &[]);
        check(tls.path(), &config, &certificates(&authority));
    }
}

#[tokio::test]
async fn three_servers_make_one_super_cluster() {
    let cluster = SuperCluster::start().await;
    is_one(&cluster).await;

    // From the far end of the bridge, each is kept where it was placed.
    let jetstream = cluster.jetstream("apac", "operator").await;
    let [us, apac]: [Region; 2] = ["us", "apac"].map(|region| region.parse().unwrap());
    for (config, at) in [
        (placed(stream_config(&us, 1), &us), "us"),
        (placed(stream_config(&apac, 1), &apac), "apac"),
        (placed(dead_letter_stream_config(&apac, 1), &apac), "apac"),
        (placed(mirror_config(&apac, 1), &us), "us"),
    ] {
        let name = config.name.clone();
        let stream = jetstream.create_stream(config).await.unwrap();
        let kept = stream.cached_info().cluster.as_ref().unwrap();
        assert_eq!(kept.name.as_deref(), Some(at), "{name}");
        let store = cluster.server(at).store().join("jetstream/CALLSIGHT/streams").join(&name);
        assert!(store.is_dir(), "{store:?}");
    }

    // What a relay of apac publishes is read in us, through the gateway, and out of the mirror.
    let relay = cluster.jetstream("apac", "relay").await;
    for seq in 1..=100 {
        let payload = frame("ana", seq, &["ben"]).encode(callsight_frame::Form::Compact);
        let ack = relay.publish("health.diagnostics.apac.relay.r1", payload.into()).await.unwrap();
        assert_eq!(ack.await.unwrap().sequence, seq);
    }
    let global = cluster.jetstream("us", "global").await;
    let remote = global.get_stream("HEALTH_APAC").await.unwrap();
    let ordered = remote.create_consumer(OrderedConfig::default()).await.unwrap();
    let messages = ordered.messages().await.unwrap().take(100).map(|message| identity(&message.unwrap()));
    let through_gateway: Vec<_> = timeout(wait::PATIENCE, messages.collect()).await.unwrap();
    wait::eventually_async(wait::PATIENCE, "the mirror to have all", async || {
        let mirror = global.get_stream("HEALTH_APAC_MIRROR").await.unwrap();
        wait::when(mirror.cached_info().state.messages, |&messages| messages == 100)
    })
    .await;
    let operator = cluster.jetstream("us", "operator").await;
    let mirror: Vec<_> = read(&operator, "HEALTH_APAC_MIRROR").await.iter().map(identity).collect();
    assert_eq!(mirror, through_gateway);
}

#[tokio::test]
async fn the_bridge_and_the_clusters_work_over_mutual_tls() {
    let authority = Authority::new();
    let certificates = certificates(&authority);
    let variables: Vec<_> = certificates.iter().map(|(name, value)| (&**name, &**value)).collect();
    let folder = with_tls(&["cluster", "gateway"]);
    is_one(&SuperCluster::start_from(folder.path(), &variables).await).await;
}

async fn is_one(cluster: &SuperCluster) {
    for name in CLUSTERS {
        let state = cluster.server(name).monitor("/jsz").await;
        assert_eq!(state["meta_cluster"]["cluster_size"], 3, "{name}: {state}");
        let gateways = cluster.server(name).monitor("/gatewayz").await;
        assert_eq!(gateways["outbound_gateways"].as_object().unwrap().len(), 2, "{name}: {gateways}");
    }
}
