//! The values for the official chart of NATS, which can't be fetched where these tests run.
//!
//! So its way from values to `nats.conf` is followed here, as far as our values go: each section
//! under `config` has a few keys of its own, over which its `merge` is laid; `<< text >>` stands
//! for text without quotes; a key that ends in `$include` becomes an include; secrets with
//! certificates are mounted in folders known in advance. What comes out is put before a real
//! nats-server, with certificates and the permissions of `jetstream/`. Whether the chart knows a
//! key that it passes over, such as one of `podTemplate`, only an installation can tell.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::read;
use crate::kit::certificates::Authority;
use crate::kit::nats::Nats;
use crate::kit::process::{self, temporary_directory};

const PLACES: [&str; 3] = ["us", "apac", "arbiter"];

fn values(place: &str) -> Value {
    yaml_serde::from_str(&read(&format!("helm/nats/values-{place}.yaml"))).unwrap()
}

/// Lays `over` over `under`, as Helm's `mergeOverwrite` does: maps are merged, everything else is
/// replaced.
fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

/// The section of the configuration that `section` of the values asks for, over what the chart puts
/// there itself.
fn merged(mut own: Value, section: &Value) -> Value {
    if let Some(over) = section.get("merge") {
        merge(&mut own, over);
    }
    own
}

/// A `tls` block, with the files where the chart mounts them: under `folder` here.
fn tls(values: &Value, protocol: &str, folder: &str) -> Value {
    let section = &values["config"][protocol]["tls"];
    assert_eq!(section["enabled"], true, "{protocol}");
    assert!(section["secretName"].is_string(), "{protocol}");
    let mut own = json!({
        "cert_file": format!("{folder}/{protocol}/tls.crt"),
        "key_file": format!("{folder}/{protocol}/tls.key"),
    });
    if values["tlsCA"]["enabled"] == true && values["tlsCA"]["secretName"].is_string() {
        own["ca_file"] = json!(format!("{folder}/ca.pem"));
    }
    merged(own, section)
}

/// `nats.conf` as the chart would write it for the first pod of the release `nats`.
fn configuration(place: &str, folder: &str) -> String {
    let values = values(place);
    let config = &values["config"];
    let prefix = config["serverNamePrefix"].as_str().unwrap();
    let mut conf = json!({
        "server_name": format!("{prefix}nats-0"),
        "port": 4222,
        "http_port": 8222,
        "lame_duck_grace_period": "10s",
        "lame_duck_duration": "30s",
        "pid_file": "/var/run/nats/nats.pid",
    });
    if config["nats"]["tls"]["enabled"] == true {
        conf["tls"] = tls(&values, "nats", folder);
    }
    let replicas = config["cluster"]["replicas"].as_u64().unwrap();
    let routes: Vec<_> = (0..replicas).map(|pod| format!("nats://nats-{pod}.nats-headless:6222")).collect();
    let mut cluster = json!({"name": "nats", "port": 6222, "no_advertise": true, "routes": routes});
    if config["cluster"]["tls"]["enabled"] == true {
        cluster["tls"] = tls(&values, "cluster", folder);
    }
    conf["cluster"] = merged(cluster, &config["cluster"]);
    conf["gateway"] = merged(json!({"name": "nats", "port": config["gateway"]["port"]}), &config["gateway"]);
    conf["gateway"]["tls"] = tls(&values, "gateway", folder);
    let store = json!({"store_dir": format!("{folder}/store"), "max_memory_store": 0});
    conf["jetstream"] = merged(store, &config["jetstream"]);
    unquoted(&merged(conf, config))
}

/// JSON as nats-server reads it, but for what the chart writes without quotes.
fn unquoted(conf: &Value) -> String {
    let mut text = String::new();
    for line in serde_json::to_string_pretty(conf).unwrap().lines() {
        let line = line.replace("\"<< ", "").replace(" >>\"", "");
        let line = match line.trim().split_once("$include\": \"") {
            Some((_, file)) => format!("include {};", file.split('"').next().unwrap()),
            None => line,
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// Certificates where the configuration says that they are, and the permissions that it includes.
fn put_files(authority: &Authority, place: &str, folder: &Path) {
    fs::write(folder.join("ca.pem"), &authority.pem).unwrap();
    for protocol in ["nats", "cluster", "gateway"] {
        let signed = authority.sign();
        fs::create_dir(folder.join(protocol)).unwrap();
        fs::write(folder.join(protocol).join("tls.crt"), signed.certificate).unwrap();
        fs::write(folder.join(protocol).join("tls.key"), signed.key).unwrap();
    }
    fs::write(folder.join("permissions.conf"), read(&format!("jetstream/permissions/{place}.conf"))).unwrap();
}

/// The variables that the container gets from secrets.
fn environment(values: &Value) -> &Map<String, Value> {
    values["container"]["env"].as_object().unwrap()
}

#[test]
fn nats_server_takes_the_configuration_of_every_place() {
    let authority = Authority::new();
    for place in PLACES {
        let directory = temporary_directory();
        let folder = directory.path();
        put_files(&authority, place, folder);
        let path = folder.join("nats.conf");
        let conf = configuration(place, folder.to_str().unwrap());
        fs::write(&path, &conf).unwrap();
        let mut command = Nats::check(&path);
        // Only what the values name: a variable that they forget stops the server.
        for name in environment(&values(place)).keys() {
            command.env(name, "\"$2a$11$secret\"");
        }
        let output = process::run(&mut command, "", Duration::from_secs(30));
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("is valid"), "{place}: {said}\n{conf}");
    }
}

#[test]
fn the_places_form_one_super_cluster() {
    let mut lists = Vec::new();
    for place in PLACES {
        let values = values(place);
        let config = &values["config"];
        assert_eq!(
            config["cluster"]["merge"]["name"], place,
            "JetStream demands that cluster and gateway have one name"
        );
        assert_eq!(config["gateway"]["merge"]["name"], place);
        assert_eq!(config["serverNamePrefix"], format!("{place}-"));
        assert_eq!(config["gateway"]["tls"]["merge"]["verify"], true);
        assert_eq!(config["gateway"]["merge"]["reject_unknown_cluster"], true);
        assert_eq!(config["jetstream"]["merge"]["sync_interval"], "always");
        let own = config["gateway"]["merge"]["advertise"].as_str().unwrap();
        let list = config["gateway"]["merge"]["gateways"].clone();
        let entry = list.as_array().unwrap().iter().find(|gateway| gateway["name"] == place).unwrap();
        assert_eq!(entry["urls"], json!([format!("tls://{own}")]));
        lists.push(list);
    }
    assert!(lists.iter().all(|list| *list == lists[0]), "every server has the same list of gateways");
    let names: Vec<_> =
        lists[0].as_array().unwrap().iter().map(|gateway| gateway["name"].as_str().unwrap()).collect();
    assert_eq!(names, PLACES);
}

/// The settings that have nothing to do with Kubernetes are those of `jetstream/`.
#[test]
fn the_servers_are_set_up_as_everywhere_else() {
    let server = read("jetstream/server.conf");
    let gateway = read("jetstream/gateway.conf");
    for place in PLACES {
        let values = values(place);
        let bare = |value: &Value| match value {
            Value::String(text) => text.trim_start_matches("<< ").trim_end_matches(" >>").to_owned(),
            other => other.to_string(),
        };
        let general = &values["config"]["merge"];
        for key in ["max_payload", "ping_interval", "ping_max"] {
            let line = format!("{key}: {}", bare(&general[key]));
            assert!(server.contains(&line), "{place}: {line} is not in jetstream/server.conf");
        }
        for key in ["reject_unknown_cluster", "connect_retries"] {
            let line = format!("{key}: {}", bare(&values["config"]["gateway"]["merge"][key]));
            assert!(gateway.contains(&line), "{place}: {line} is not in jetstream/gateway.conf");
        }
    }
}

#[test]
fn servers_run_without_rights() {
    for place in PLACES {
        let values = values(place);
        let pod = &values["podTemplate"]["merge"]["spec"]["securityContext"];
        assert_eq!(
            (&pod["runAsNonRoot"], &pod["seccompProfile"]["type"]),
            (&json!(true), &json!("RuntimeDefault"))
        );
        let container = &values["container"]["merge"]["securityContext"];
        assert_eq!(container["readOnlyRootFilesystem"], true);
        assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
    }
}
