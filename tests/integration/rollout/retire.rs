//! `callsight rollout retire`: the old colour's durables are deleted after the switch, never
//! before.

use futures_util::TryStreamExt;

use super::stage::{calls, exporter, has_sessions, run};
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;

/// Retires blue, while this exporter is the active one.
async fn retire(nats: &Nats, active: &Callsight) -> (Option<i32>, String) {
    retire_within("15s", &nats.url(), &active.url()).await
}

async fn retire_within(timeout: &str, nats: &str, active: &str) -> (Option<i32>, String) {
    let where_to = ["--active", active, "--nats-url", nats];
    let what = ["rollout", "retire", "--deployment", "blue", "--region", "us", "--timeout", timeout];
    let output = run(what.iter().chain(&where_to).map(|arg| (*arg).to_owned()).collect()).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

async fn durables(nats: &Nats) -> Vec<String> {
    let stream = nats.jetstream().await.get_stream("HEALTH_US").await.unwrap();
    let mut names: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
    names.retain(|name| name.starts_with("callsight-"));
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_durable_goes_once_its_exporter_is_gone_and_another_is_active() {
    let nats = Nats::start();
    let mut blue = exporter(&nats.url(), "blue", &[]);
    blue.ready().await;
    let mut green = exporter(&nats.url(), "green", &[]);
    green.ready().await;
    let _calls = calls(&nats, 8);
    has_sessions(&green, 1.0).await;
    let both = ["callsight-blue", "callsight-green"];

    let (code, text) = retire(&nats, &blue).await;
    assert_eq!((code, durables(&nats).await), (Some(1), both.map(str::to_owned).to_vec()));
    assert!(text.contains("blue is still active: promote the other colour first"), "{text}");

    let (code, text) = retire(&nats, &green).await;
    assert_eq!((code, durables(&nats).await), (Some(1), both.map(str::to_owned).to_vec()));
    assert!(text.contains("callsight-blue of stream HEALTH_US is still read"), "{text}");

    blue.kill9();
    let (code, text) = retire(&nats, &green).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("deleted callsight-blue of stream HEALTH_US"), "{text}");
    assert_eq!(durables(&nats).await, ["callsight-green"]);

    let (code, text) = retire(&nats, &green).await;
    assert!(code == Some(0) && text.contains("no durable of deployment blue is left"), "{text}");
}

#[tokio::test]
async fn nothing_goes_while_the_successor_does_not_answer_or_is_not_ready() {
    let nats = Nats::start();
    let mut blue = exporter(&nats.url(), "blue", &[]);
    blue.ready().await;
    blue.terminate();
    let (code, text) = retire(&nats, &blue).await;
    assert!(
        code == Some(1) && text.contains("nothing is deleted while the active exporter can't be asked"),
        "{text}"
    );

    // Its NATS server does not exist.
    let green = exporter("nats://127.0.0.1:1", "green", &[]);
    green.listening().await;
    let (code, text) = retire(&nats, &green).await;
    assert!(code == Some(1) && text.contains("green is active but not ready"), "{text}");
    assert_eq!(durables(&nats).await, ["callsight-blue"]);
}

#[tokio::test]
async fn shards_go_with_their_deployment_and_no_other_does() {
    let nats = Nats::start();
    let mut green = exporter(&nats.url(), "green", &[]);
    green.ready().await;
    let jetstream = nats.jetstream().await;
    for name in ["blue-1of2", "blue-2of2", "blue-0", "blue-canary", "blue-canary-1of2", "blues"] {
        let mut config =
            callsight::topology::consumer_config(&"blue".parse().unwrap(), time::OffsetDateTime::now_utc());
        config.durable_name = Some(format!("callsight-{name}"));
        jetstream.create_consumer_on_stream(config, "HEALTH_US").await.unwrap();
    }
    let (code, text) = retire(&nats, &green).await;
    assert_eq!(code, Some(0), "{text}");
    let others = ["blue-0", "blue-canary", "blue-canary-1of2", "blues", "green"];
    assert_eq!(durables(&nats).await, others.map(|name| format!("callsight-{name}")));
}

/// The attack: whatever its timeout, it waited 10 s for what accepts connections and says nothing.
#[tokio::test]
async fn the_timeout_holds_for_what_never_answers() {
    let nats = Nats::start();
    let mut green = exporter(&nats.url(), "green", &[]);
    green.ready().await;
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = silent.local_addr().unwrap();
    let (code, text) = retire_within("2s", &nats.url(), &format!("http://{silent}")).await;
    let said = "error: the active exporter did not answer within the 2s of --timeout";
    assert!(code == Some(1) && text.contains(said), "{text}");
    let (code, text) = retire_within("2s", &format!("nats://{silent}"), &green.url()).await;
    assert!(
        code == Some(1) && text.contains("error: NATS did not answer within the 2s of --timeout"),
        "{text}"
    );
}
