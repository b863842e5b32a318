//! `callsight streams` against a real super-cluster, with the permissions of its operator and no
//! more.

use std::fs;
use std::path::Path;
use std::process::Output;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::Config;
use callsight::topology::{Bond, Declared, Name, Reconciler, consumer_config, ensure_streams};
use callsight_frame::subject::MeetingPartition;
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::region::RegionServers;
use crate::kit::supercluster::SuperCluster;
use crate::kit::wait;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/jetstream");

fn streams(url: &str, args: &[&str]) -> Output {
    Callsight::run(&[&["streams"], &args[..1], &["--nats-url", url], &args[1..]].concat())
}

/// Its exit code, and what it printed.
fn seen(output: &Output) -> (i32, String) {
    let text = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    (output.status.code().unwrap(), text.concat())
}

#[track_caller]
fn says(output: &Output, code: i32, words: &[&str]) {
    let (exit, text) = seen(output);
    assert_eq!(exit, code, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

/// A copy of the declarations, to be changed.
fn copy() -> TempDir {
    let copy = temporary_directory();
    let mut folders = vec!["streams".to_owned(), "consumers".to_owned()];
    while let Some(folder) = folders.pop() {
        fs::create_dir_all(copy.path().join(&folder)).unwrap();
        for entry in fs::read_dir(Path::new(FOLDER).join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let inside = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                folders.push(inside);
            } else {
                fs::copy(entry.path(), copy.path().join(inside)).unwrap();
            }
        }
    }
    copy
}

/// Changes keys of one of the files.
fn edit(folder: &TempDir, file: &str, keys: Value) {
    let path = folder.path().join(file);
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
}

#[tokio::test]
async fn what_is_declared_is_made_kept_and_never_taken_away() {
    let cluster = SuperCluster::start().await;
    let (us, apac) = (cluster.url("us", "operator"), cluster.url("apac", "operator"));
    let development = ["--dir", FOLDER, "--replicas", "1"];
    let with = |task: &'static str, more: &[&'static str]| [&[task], &development[..], more].concat();

    // A plan changes nothing, twice.
    for _ in 0..2 {
        let words =
            ["+ stream   HEALTH_APAC_MIRROR", "in us, mirror of HEALTH_APAC, 1 replica", "9 to create"];
        says(&streams(&us, &with("plan", &[])), 0, &words);
    }
    says(&streams(&us, &with("verify", &[])), 1, &["+ consumer HEALTH_US/callsight-main", "9 of 9 differ"]);
    // Made from the far end, seen from the near one, and with the program's own declarations.
    says(&streams(&apac, &with("apply", &[])), 0, &["9 created, 0 changed, 0 refused, 0 unchanged"]);
    says(&streams(&us, &with("apply", &[])), 0, &["0 created, 0 changed, 0 refused, 9 unchanged"]);
    says(&streams(&us, &["verify", "--region", "us,apac", "--replicas", "1"]), 0, &["9 unchanged"]);
    let verified = streams(&apac, &with("verify", &["--json"]));
    let json: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&json["ok"], &json["same"], verified.status.code()), (&json!(true), &json!(9), Some(0)));

    // Somebody turns a knob by hand; it is seen and put right, and what no file speaks of is left.
    let operator = cluster.jetstream("us", "operator").await;
    let config = async || operator.get_stream("HEALTH_APAC").await.unwrap().cached_info().config.clone();
    let made = config().await;
    let subjects = made.subjects[..1].to_vec();
    let turned = Config { max_bytes: 8 << 30, max_message_size: 100_000, subjects, ..made.clone() };
    operator.update_stream(turned).await.unwrap();
    let words = [
        "~ stream   HEALTH_APAC",
        "max_bytes: 8 GiB → 4 GiB",
        "subjects: + \"health.diagnostics.apac.*.*.m0\" … \"health.diagnostics.apac.*.*.m63\" (64)",
        "1 of 9 differ",
    ];
    says(&streams(&us, &with("verify", &[])), 1, &words);
    says(&streams(&us, &with("apply", &[])), 0, &["0 created, 1 changed, 0 refused, 8 unchanged"]);
    assert_eq!(config().await, Config { max_message_size: 100_000, ..made });

    // Nothing is deleted, whatever is said.
    let relay = cluster.jetstream("us", "relay").await;
    for number in 0..100 {
        let payload = vec![number; 1000];
        let ack = relay.publish("health.diagnostics.us.relay.r1", payload.into()).await.unwrap();
        ack.await.unwrap();
    }
    // An exporter may set its durable back, which the server refuses where the policy is `new`.
    let durable = "CONSUMER.RESET.HEALTH_US.callsight-main".to_owned();
    let reset: Value = operator.request(durable, &json!({"seq": 50})).await.unwrap();
    assert_eq!(reset["num_pending"], 51, "{reset}");
    let folder = copy();
    let dir = folder.path().to_str().unwrap();
    let changed =
        |task: &str, more: &[&str]| streams(&us, &[&[task, "--dir", dir, "--replicas", "1"], more].concat());
    edit(&folder, "streams/HEALTH_US.json", json!({"max_bytes": 50_000}));
    edit(&folder, "streams/HEALTH_APAC.json", json!({"storage": "memory"}));
    edit(
        &folder,
        "streams/HEALTH_APAC_DLQ.json",
        json!({"placement": {"cluster": "us"}, "max_age": 3_600_000_000_000_u64}),
    );
    edit(&folder, "consumers/HEALTH_US/callsight-main.json", json!({"max_ack_pending": 1000}));
    edit(&folder, "consumers/HEALTH_APAC/callsight-main.json", json!({"ack_policy": "explicit"}));
    let refused = [
        "max_bytes: 4 GiB → 50000 bytes",
        "bytes would be deleted; allow it with --allow-destructive",
        "storage: \"file\" → \"memory\"",
        "can't change the storage",
        "this would relocate the stream and its data from apac to us",
        "max_ack_pending: 32768 → 1000",
        "nats consumer rm HEALTH_APAC callsight-main",
    ];
    says(&changed("plan", &[]), 1, &[&refused[..], &["1 to change, 4 refused", "would refuse 4"]].concat());
    let messages =
        async |stream: &str| operator.get_stream(stream).await.unwrap().cached_info().state.messages;
    says(&changed("apply", &[]), 1, &[&refused[..], &["1 changed, 4 refused"]].concat());
    assert_eq!(messages("HEALTH_US").await, 100);

    // With a yes, what can be done is done; the rest is not.
    says(
        &changed("apply", &["--allow-destructive"]),
        1,
        &["2 changed, 2 refused", "can't change the storage"],
    );
    let left = messages("HEALTH_US").await;
    assert!((1..100).contains(&left), "{left}");
    wait::eventually_async(wait::PATIENCE, "the stream to move", async || {
        let info = operator.get_stream("HEALTH_APAC_DLQ").await.map_err(|error| error.to_string())?;
        let info = info.cached_info().clone();
        let moved = info.cluster.as_ref().and_then(|cluster| cluster.name.clone());
        wait::when(moved, |at| at.as_deref() == Some("us")).map_err(|at| format!("{at:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_durable_without_its_stream_is_not_made() {
    let nats = Nats::start();
    let reconciler = Reconciler::new(nats.jetstream().await.client(), wait::PATIENCE);
    let mut declared =
        Declared::builtin(&["us".parse().unwrap()], &["main".parse().unwrap()], 1, Bond::Gateways);
    // Its stream is gone by the time the durable has its turn.
    declared.retain(|one| matches!(one.name, Name::Consumer { .. }));
    let steps = reconciler.plan(&declared, false).await.unwrap();
    assert_eq!(steps[0].name.to_string(), "HEALTH_US/callsight-main");
    let error = reconciler.apply(&steps[0]).await.unwrap_err().to_string();
    assert!(error.contains("stream HEALTH_US does not exist"), "{error}");
    assert!(error.contains("run `callsight streams apply`"), "{error}");
}

/// A stream takes the last tokens that shards read and no other, which the server says to the
/// publisher.
#[tokio::test]
async fn a_frame_is_stored_under_a_partition_or_its_publisher_is_told() {
    let nats = Nats::start();
    let jetstream = nats.jetstream().await;
    ensure_streams(&jetstream, &"us".parse().unwrap(), 1).await.unwrap();
    let stream = jetstream.get_stream("HEALTH_US").await.unwrap();
    let published = async |last: &str| {
        let subject = format!("health.diagnostics.us.relay.standup{last}");
        let ack = jetstream.publish(subject, "frame".into()).await.unwrap().await;
        let sequence = ack.map_err(|error| error.kind())?.sequence;
        Ok::<_, PublishErrorKind>(stream.get_raw_message(sequence).await.unwrap().subject.to_string())
    };
    // The server's own hash is that of meetings.
    let partition = MeetingPartition::of("standup");
    let appended = format!("health.diagnostics.us.relay.standup.{}", partition.number());
    assert_eq!(published("").await, Ok(appended));
    for partition in MeetingPartition::all() {
        let expected = format!("health.diagnostics.us.relay.standup.{partition}");
        assert_eq!(published(&format!(".{partition}")).await, Ok(expected));
    }
    for odd in [".m64", ".m01", ".mx", ".m", ".M1", ".7", ".x", ".m1.m1"] {
        assert_eq!(published(odd).await, Err(PublishErrorKind::StreamNotFound), "{odd}");
    }
}

#[tokio::test]
async fn what_serve_creates_is_what_is_declared() {
    let nats = Nats::start();
    let jetstream = nats.jetstream().await;
    ensure_streams(&jetstream, &"us".parse().unwrap(), 1).await.unwrap();
    let durable = consumer_config(&"main".parse().unwrap(), OffsetDateTime::now_utc());
    jetstream.create_consumer_on_stream(durable, "HEALTH_US").await.unwrap();

    // Where there are no clusters, streams are in none.
    let json = streams(&nats.url(), &["verify", "--region", "us", "--replicas", "1", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let steps = json["steps"].as_array().unwrap();
    let differences = steps.iter().flat_map(|step| step["changes"].as_array().unwrap());
    let keys: Vec<_> = differences.map(|change| change["key"].as_str().unwrap()).collect();
    assert_eq!((keys, &json["same"]), (vec!["placement", "placement"], &json!(1)), "{json}");
}

#[test]
fn settings_that_mean_nothing_are_refused_before_anybody_is_asked() {
    let nobody = "nats://127.0.0.1:9";
    let folder = temporary_directory();
    let dir = folder.path().to_str().unwrap();
    says(&streams(nobody, &["plan", "--dir", dir]), 2, &["cannot read", "streams"]);
    fs::create_dir(folder.path().join("streams")).unwrap();
    fs::write(folder.path().join("streams/A.json"), r#"{"name": "A", "max_agee": 1}"#).unwrap();
    says(&streams(nobody, &["apply", "--dir", dir]), 2, &["A.json", "`max_agee`", "did you mean `max_age`?"]);
    says(&streams(nobody, &["verify", "--hub", "eu"]), 2, &["`--hub eu` is not one of `--region us, apac`"]);
    says(
        &streams(nobody, &["verify", "--wait", "1s"]),
        1,
        &["no connection to NATS within 1s", "--nats-url"],
    );
}

#[tokio::test]
async fn an_error_says_what_is_missing() {
    let without_jetstream = Nats::start_with("accounts: {A: {users: [{user: a, password: a}]}}", &[]);
    let url = format!("nats://a:a@127.0.0.1:{}", without_jetstream.port());
    let unable = ["JetStream cannot answer about HEALTH_US", "JetStream is enabled"];
    says(&streams(&url, &["verify", "--wait", "1s"]), 1, &unable);

    let nobody = "{permissions: {publish: {deny: [\"$JS.API.>\"]}}, user: a, password: a}";
    let not_allowed = Nats::start_with(&format!("authorization: {{users: [{nobody}]}}"), &[]);
    let url = format!("nats://a:a@127.0.0.1:{}", not_allowed.port());
    let silent =
        ["connected to NATS, but JetStream does not answer", "within 1s", "may publish to $JS.API.>"];
    says(&streams(&url, &["verify", "--wait", "1s"]), 1, &silent);

    // One server of two is no majority. Once it has noticed, it does not answer, or says so.
    let mut two = RegionServers::start(2, "1s").await;
    two.named("us-2").kill9();
    let left = two.named("us-1").url();
    wait::eventually(wait::PATIENCE, "the server to have no leader", || {
        let said = seen(&streams(&left, &["verify", "--wait", "1s"])).1;
        wait::when(said, |said| {
            said.contains("check that") && said.contains("a majority of its servers is up")
        })
    });
}

/// Prints of `streams size`, without the advice.
fn sizes(args: &[&str]) -> String {
    let output = Callsight::run(&[&["streams", "size"], args].concat());
    let (exit, text) = seen(&output);
    assert_eq!(exit, 0, "{text}");
    text.split("\n\n").next().unwrap().to_owned() + "\n"
}

#[test]
fn the_documents_have_the_sizes_that_the_command_computes() {
    let table = sizes(&["--sessions", "1000,10000,100000", "--parties", "4,10"]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/topology.md");
    let text = fs::read_to_string(path).unwrap();
    let begin = text.find("| sessions | parties |").unwrap();
    let end = begin + text[begin..].find("\n\n").unwrap() + 1;
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, [&text[..begin], &table, &text[end..]].concat()).unwrap();
    } else {
        assert_eq!(text[begin..end], table, "run UPDATE_DOCS=1 cargo test the_documents_have_the_sizes");
    }
}

#[tokio::test]
async fn a_stream_that_is_too_small_for_its_traffic_is_warned_of() {
    let nats = Nats::start();
    let simulated =
        ["--create", "--sessions", "100", "--meeting-size", "4", "--frames", "20000", "--seed", "1"];
    let pace = ["--rate", "10000", "--nats-url", &nats.url()];
    let output = Callsight::run(&[&["simulate"], &simulated[..], &pace].concat());
    assert!(output.status.success(), "{output:?}");
    let jetstream = nats.jetstream().await;
    let mut stream = jetstream.get_stream("HEALTH_US").await.unwrap();
    let state = stream.info().await.unwrap().state.clone();
    assert_eq!(state.messages, 20_000);

    // The frames of the command are as large as those of a stream, with the same interval.
    let output = Callsight::run(&["streams", "size", "--interval", "10ms", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let computed = json["sizes"][0]["bytes_per_frame"].as_f64().unwrap();
    let stored = state.bytes as f64 / state.messages as f64;
    assert!((computed / stored - 1.0).abs() < 0.01, "computed {computed}, stored {stored}");

    let folder = copy();
    for name in ["APAC", "APAC_DLQ", "APAC_MIRROR", "US_DLQ"] {
        fs::remove_file(folder.path().join(format!("streams/HEALTH_{name}.json"))).unwrap();
    }
    fs::remove_dir_all(folder.path().join("consumers")).unwrap();
    fs::create_dir(folder.path().join("consumers")).unwrap();
    let dir = folder.path().to_str().unwrap();
    let single = json!({"num_replicas": 1, "placement": {}});
    edit(&folder, "streams/HEALTH_US.json", single);
    let verify = |more: &[&str]| streams(&nats.url(), &[&["verify", "--dir", dir], more].concat());
    // Thousands of frames per second are too many for three days in 4 GiB.
    let words =
        ["= stream   HEALTH_US", "warning: max_bytes of 4 GiB holds", "max_age of 3days", "set max_bytes to"];
    says(&verify(&[]), 0, &words);
    let json: Value = serde_json::from_slice(&verify(&["--json"]).stdout).unwrap();
    let shortage = &json["steps"][0]["shortage"];
    assert!(shortage["holds_seconds"].as_u64() < shortage["max_age_seconds"].as_u64(), "{json}");

    // What it says to set is enough.
    let needed = shortage["needed_max_bytes"].as_u64().unwrap();
    edit(&folder, "streams/HEALTH_US.json", json!({"max_bytes": 2 * needed}));
    let (_, text) = seen(&verify(&[]));
    assert!(text.contains("max_bytes: 4 GiB → ") && !text.contains("warning"), "{text}");
}
