//! The server configurations of `jetstream/`: they are valid, and three servers of them make one super-cluster.

use callsight::subject::Region;
use callsight::topology::{dead_letter_stream_config, mirror_config, placed, stream_config};

use crate::kit::supercluster::{CLUSTERS, SuperCluster};

#[tokio::test]
async fn three_servers_make_one_super_cluster() {
    let cluster = SuperCluster::start().await;
    for name in CLUSTERS {
        let state = cluster.server(name).monitor("/jsz").await;
        assert_eq!(state["meta_cluster"]["cluster_size"], 3, "{name}: {state}");
        let gateways = cluster.server(name).monitor("/gatewayz").await;
        assert_eq!(gateways["outbound_gateways"].as_object().unwrap().len(), 2, "{name}: {gateways}");
    }

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
    }
}
