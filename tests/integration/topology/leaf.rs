//! The variant with leaf nodes and JetStream domains: two regions that share no quorum, and a
//! mirror all the same.

use std::path::Path;

use async_nats::jetstream;
use callsight::topology::{Reconciler, read_files};
use callsight_frame::subject::Region;

use super::bridge::{Load, identity, read};
use crate::kit::port;
use crate::kit::supercluster::{ClusterServer, SETTLED_WITHIN};
use crate::kit::wait;

fn launch(region: &'static str, variables: &[(&str, &str)]) -> ClusterServer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("jetstream/leaf");
    ClusterServer::launch(region, folder.join(format!("{region}.conf")), variables)
}

#[tokio::test]
async fn regions_that_share_nothing_still_have_a_mirror() {
    let leaf = port::free();
    let (listen, remote) =
        (format!("127.0.0.1:{leaf}"), format!("[\"nats-leaf://leaf:secret@127.0.0.1:{leaf}\"]"));
    let mut us = launch("us", &[("LEAF_LISTEN", &listen), ("LEAF_PASSWORD", "secret")]);
    let mut apac = launch("apac", &[("LEAF_US", &remote)]);
    for (server, region) in [(&mut us, "us"), (&mut apac, "apac")] {
        server.wait_until_up().unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("jetstream/leaf").join(region);
        let declared = read_files(&folder).unwrap();
        let declared: Vec<_> = declared.into_iter().map(|one| one.with_replicas(1)).collect();
        let reconciler = Reconciler::new(server.client("operator").await, SETTLED_WITHIN);
        for step in reconciler.plan(&declared, false).await.unwrap() {
            reconciler.apply(&step).await.unwrap();
        }
        let again = reconciler.plan(&declared, false).await.unwrap();
        assert!(again.iter().all(|step| step.changes.is_empty()), "{again:?}");
    }

    let region: Region = "apac".parse().unwrap();
    let load = Load::start_at(&apac, &region).await;
    load.goes_on().await;
    // The hub goes, and the region doesn't even notice: it needs nobody to create something.
    us.kill9();
    let operator = jetstream::new(apac.client("operator").await);
    load.goes_on().await;
    let stream = jetstream::stream::Config { name: "MEANWHILE".to_owned(), ..Default::default() };
    operator.create_stream(stream).await.unwrap();
    us.restart();
    load.goes_on().await;
    let (sent, _) = load.settle().await;

    let hub = jetstream::new(us.client("operator").await);
    wait::eventually_async(SETTLED_WITHIN, "the mirror to have all", async || {
        let mirror = hub.get_stream("HEALTH_APAC_MIRROR").await.map_err(|error| error.to_string())?;
        let last = mirror.cached_info().state.last_sequence;
        wait::when(last, |&last| last == sent).map_err(|last| format!("{last} of {sent}"))
    })
    .await;
    let stream = read(&operator, "HEALTH_APAC").await;
    let mirror = read(&hub, "HEALTH_APAC_MIRROR").await;
    let [stream, mirror] = [stream, mirror].map(|list| list.iter().map(identity).collect::<Vec<_>>());
    assert!(stream == mirror, "the mirror differs from its stream");
}
