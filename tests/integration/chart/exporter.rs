//! The settings that a pod gets, in the hands of the exporter or ingest that will get them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

use async_nats::jetstream::consumer::pull;
use serde_json::{Map, Value, json};

use super::{INGEST, documents, object, read, render, values_of};
use crate::ingest::client::{SECRET, token};
use crate::ingest::{Way, frame_of};
use crate::kit::callsight::Callsight;
use crate::kit::process::temporary_directory;
use crate::security::permissions::{User, nats_with_permissions};

/// Where files are in the container.
const MOUNTS: &str = "/etc/callsight";

const NATS_FILES: &str = "/etc/callsight/nats";

/// A container of what was rendered, with the files that its volumes put there.
pub(super) struct Container<'a> {
    pub(super) spec: &'a Value,
    /// Path in the container, and the content where it is not a secret's.
    pub(super) files: Vec<(String, Option<String>)>,
}

impl<'a> Container<'a> {
    /// The only container of a Deployment, StatefulSet, Job or Pod.
    pub(super) fn of(found: &'a [Value], kind: &str, name: &str) -> Self {
        let object = object(found, kind, name);
        let pod = if kind == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
        let spec = &pod["containers"][0];
        let mut files = Vec::new();
        for mount in list(&spec["volumeMounts"]) {
            let volume = list(&pod["volumes"]).iter().find(|volume| volume["name"] == mount["name"]);
            let volume = volume.unwrap_or_else(|| panic!("no volume for {mount}"));
            let at = |file: &str| format!("{}/{file}", text(&mount["mountPath"]));
            if let Some(map) = volume.get("configMap") {
                for (file, content) in
                    self::object(found, "ConfigMap", text(&map["name"]))["data"].as_object().unwrap()
                {
                    files.push((at(file), Some(text(content).to_owned())));
                }
            }
            for source in list(&volume["projected"]["sources"]) {
                for item in list(&source["secret"]["items"]) {
                    files.push((at(text(&item["path"])), None));
                }
            }
            if volume.get("secret").is_some() {
                files.push((at("web-config.yml"), None));
            }
        }
        Self { spec, files }
    }

    /// Its arguments as Kubernetes hands them over, with the files under `folder` instead, in which
    /// they are written. Secrets hold `secret`.
    pub(super) fn arguments(&self, folder: &Path, secret: &str) -> Vec<String> {
        let here = |text: &str| text.replace(MOUNTS, folder.to_str().unwrap());
        for (path, content) in &self.files {
            let path = here(path);
            fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
            fs::write(path, content.as_ref().map_or_else(|| secret.to_owned(), |content| here(content)))
                .unwrap();
        }
        list(&self.spec["args"]).iter().map(|arg| here(text(arg)).replace("$(SHARD)", "2")).collect()
    }

    /// Its command with `--check-config`.
    fn check(&self) -> Output {
        let folder = temporary_directory();
        let mut args = self.arguments(folder.path(), "secret");
        args.push("--check-config".to_owned());
        Callsight::run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// What the exporter of a colour, or the ingest, says of its settings.
#[track_caller]
fn checked(args: &[&str], kind: &str, name: &str) -> String {
    let found = documents(&render(args));
    let container = Container::of(&found, kind, &format!("callsight-{name}"));
    let output = container.check();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));

    // The image's own environment wins over the file.
    let port = format!("CALLSIGHT_LISTEN=0.0.0.0:{}\n", container.spec["ports"][0]["containerPort"]);
    assert!(read("Dockerfile").contains(&port), "{args:?}: {port}");

    // A file that is named and not mounted would be found out by a pod that does not start.
    let mounted: BTreeSet<_> = container.files.iter().map(|(path, _)| path.clone()).collect();
    let config = container.files.iter().find_map(|(_, content)| content.as_ref()).unwrap();
    for named in config.split('"').filter(|part| part.starts_with(MOUNTS)) {
        assert!(mounted.contains(named), "{args:?}: {named} is not among {mounted:?}");
    }
    said
}

#[test]
fn the_exporter_takes_what_the_chart_gives_it() {
    let said = checked(&[], "Deployment", "blue");
    assert_eq!(
        said,
        "config is valid: regions us; listen 0.0.0.0:9464; deployment blue; NATS nats://nats:4222\n"
    );
    for region in super::REGIONS {
        let said = checked(&["--values", &values_of(region)], "Deployment", "blue");
        assert!(
            said.contains(&format!("regions {region};")) && said.contains("NATS tls://nats.nats.svc"),
            "{said}"
        );
    }
    let green = "colours.green.enabled=true,colours.green.settings.idle-timeout=45s,regions={us,apac}";
    let said = checked(&["--set", green], "Deployment", "green");
    assert!(said.contains("regions us, apac;") && said.contains("deployment green;"), "{said}");
}

#[test]
fn every_way_to_connect_is_one_that_the_exporter_takes() {
    for (set, file) in [
        ("nats.creds.secret=a", "user.creds"),
        ("nats.nkey.secret=a", "user.nk"),
        ("nats.user=exporter,nats.password.secret=a", "password"),
        ("nats.tls.ca.secret=a", "ca.crt"),
        ("nats.tls.clientCertificate.secret=a", "client.key"),
        ("nats.tls.first=true,nats.tls.ca.secret=a", "ca.crt"),
        ("nats.inboxPrefix=_INBOX.blue,nats.creds.secret=a", "user.creds"),
        ("nats.fallbackUrls={nats://b:4222},nats.creds.secret=a", "user.creds"),
    ] {
        checked(&["--set", set], "Deployment", "blue");
        let found = documents(&render(&["--set", set]));
        let container = Container::of(&found, "Deployment", "callsight-blue");
        let path = format!("{NATS_FILES}/{file}");
        assert!(container.files.iter().any(|(found, _)| *found == path), "{set}: {:?}", container.files);
    }
    checked(&["--set", "webConfig.secret=web,webConfig.scheme=HTTPS"], "Deployment", "blue");
}

#[test]
fn the_ingest_takes_what_the_chart_gives_it() {
    let said = checked(&["--set", INGEST], "Deployment", "ingest");
    assert_eq!(
        said,
        "config is valid: subject health.diagnostics.us.ingest.HOST; listen 0.0.0.0:9464; tokens with meeting_id \
         and peer_id; NATS nats://nats:4222\n"
            .replace("HOST", said.split_once(".ingest.").unwrap().1.split(';').next().unwrap())
    );
    for region in super::REGIONS {
        let args = ["--values", &values_of(region), "--set", "ingest.enabled=true"];
        let said = checked(&args, "Deployment", "ingest");
        assert!(said.contains(&format!("health.diagnostics.{region}.ingest.")), "{said}");
    }
    let open = "ingest.enabled=true,ingest.withoutTokens=true,regions={us,apac},ingest.region=apac";
    let said = checked(&["--set", open], "Deployment", "ingest");
    assert!(said.contains(".apac.ingest.") && said.contains("; without tokens;"), "{said}");
    checked(&["--set", &format!("{INGEST},ingest.webConfig.secret=web")], "Deployment", "ingest");
}

/// A value for every setting that the schema knows, so that none has a type that the exporter or
/// ingest does not take.
#[test]
fn every_setting_reaches_the_program() {
    let schema: Value = serde_json::from_str(&read("helm/callsight/values.schema.json")).unwrap();
    let sample = |name: &str, kind: &Value| match (kind["$ref"].as_str(), kind["type"].as_str()) {
        _ if name == "jetstream-prefix" => json!(["apac=JS.apac"]),
        _ if name == "region-nats-url" => json!(["apac=tls://apac:4222"]),
        _ if name == "allow-origin" => json!(["https://app.example", "*"]),
        _ if name == "rewind-url" => json!("https://rewind.example/"),
        _ if name == "trusted-proxy" => json!(["10.0.0.0/8", "2001:db8::1"]),
        (Some("#/definitions/texts"), _) => json!(["a.example", "b.example"]),
        (_, Some("string")) => json!("context.user.id"),
        (Some("#/definitions/byRegion"), _) => json!(["us=US"]),
        (Some("#/definitions/region"), _) => json!("us"),
        (Some("#/definitions/duration"), _) => json!("30s"),
        (_, Some("boolean")) => json!(true),
        (_, Some("number")) => json!(0.25),
        // Large enough for Helm to have it as 2.5e+06.
        (_, Some("integer")) => kind.get("maximum").cloned().unwrap_or(json!(2_500_000)),
        _ => list(&kind["enum"]).last().unwrap_or_else(|| panic!("no value for {name}: {kind}")).clone(),
    };
    let all = |key: &str, definition: &str| {
        let settings = schema["definitions"][definition]["properties"].as_object().unwrap();
        let settings: Map<_, _> =
            settings.iter().map(|(name, kind)| (name.clone(), sample(name, kind))).collect();
        format!("{key}={}", Value::Object(settings))
    };
    let args = ["--set", INGEST, "--set-json", &all("ingest.settings", "ingestSettings")];
    let said = checked(&args, "Deployment", "ingest");
    assert!(
        said.starts_with("config is valid: ") && said.contains("with context.user.id and context.user.id;"),
        "{said}"
    );
    let args = ["--set", "regions={us,apac}", "--set-json", &all("settings", "settings")];
    let said = checked(&args, "Deployment", "blue");
    assert!(said.starts_with("config is valid: "), "{said}");
    let found = documents(&render(&args));
    let config = text(&object(&found, "ConfigMap", "callsight-blue")["data"]["callsight.toml"]);
    assert!(config.contains("max-series = 2500000\n"), "{config}");
    assert!(config.contains("degraded-concealment = 0.25\n"), "{config}");
}

/// What the schema lets through and the exporter does not is named when the pod starts; the schema
/// catches most.
#[test]
fn text_can_not_break_out_of_the_file() {
    let odd = r#"nats.user=a"b\\c=<&>,nats.password.secret=s"#;
    let said = checked(&["--set", odd], "Deployment", "blue");
    assert!(said.starts_with("config is valid: "), "{said}");
}

/// What `callsight streams` is told to declare by the job of an installation.
fn declared(args: &[&str]) -> String {
    let found = documents(&render(args));
    let said = String::from_utf8(Container::of(&found, "Job", "callsight-streams").check().stdout).unwrap();
    let verified = Container::of(&found, "Pod", "callsight-streams-verify").check();
    assert_eq!(
        String::from_utf8(verified.stdout).unwrap(),
        said,
        "apply and verify go by the same declaration"
    );
    said
}

#[test]
fn the_job_declares_what_the_enabled_colours_need_where_they_are() {
    // A stream and its dead letters, and a durable.
    assert_eq!(
        declared(&[]),
        "config is valid: region us of us: 2 streams, 1 consumers; NATS nats://nats:4222\n"
    );
    let sharded = "colours.green.enabled=true,colours.green.shards=3";
    assert!(declared(&["--set", sharded]).contains(": 2 streams, 4 consumers;"));
    // The hub has the mirror too, and the durables of the exporter of all regions.
    let [hub, other] = ["us", "apac"].map(|region| declared(&["--values", &values_of(region)]));
    assert!(hub.contains("region us of us, apac: 3 streams, 3 consumers;"), "{hub}");
    assert!(other.contains("region apac of us, apac: 2 streams, 1 consumers;"), "{other}");
}

/// The job makes what exporter and ingest need, all with the permissions of their users and the
/// secrets from their files.
#[tokio::test]
async fn the_job_and_then_exporter_and_ingest_run_with_what_the_chart_gives_them() {
    let nats = nats_with_permissions();
    let set = "nats.user=exporter,nats.password.secret=a,streams.user=operator,streams.password.secret=b,\
               colours.green.enabled=true,settings.log-format=text";
    let found = documents(&render(&["--set", set, "--set", INGEST]));
    let url = format!("--nats-url={}", nats.url());

    for (kind, name) in [("Job", "callsight-streams"), ("Pod", "callsight-streams-verify")] {
        let folder = temporary_directory();
        let mut args = Container::of(&found, kind, name).arguments(folder.path(), "operator-secret");
        args.retain(|arg| !arg.starts_with("--nats-url="));
        args.push(url.clone());
        let output = Callsight::run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
    }

    for colour in ["blue", "green"] {
        let folder = temporary_directory();
        let args = Container::of(&found, "Deployment", &format!("callsight-{colour}"))
            .arguments(folder.path(), "exporter-secret");
        // All but where NATS is, and where there is room to listen.
        let args: Vec<_> = args.iter().skip(1).map(String::as_str).collect();
        let mut callsight = Callsight::serve(&nats, &args);
        callsight.ready().await;
        let durable = format!("callsight-{colour}");
        let consumer = User::connect(&nats, "operator").await.jetstream();
        consumer.get_consumer_from_stream::<pull::Config, _, _>(&durable, "HEALTH_US").await.unwrap();
    }

    let folder = temporary_directory();
    let args =
        Container::of(&found, "Deployment", "callsight-ingest").arguments(folder.path(), "ingest-secret");
    let file = |name: &str| folder.path().join("tokens").join(name);
    fs::write(file("secret-0"), SECRET).unwrap();
    let other = json!({"kty": "oct", "alg": "HS256", "k": "YW5vdGhlciBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcw"});
    fs::write(file("key-0"), json!({"keys": [other]}).to_string()).unwrap();
    let args: Vec<_> = args.iter().skip(1).map(String::as_str).collect();
    let mut way = Way::start_in(temporary_directory(), &nats.url(), &args);
    way.ready().await;
    assert_eq!(way.post(&token("ana"), &frame_of("ana:1", 1, &[])).await.status, 204);
}
