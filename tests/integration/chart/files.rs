//! The image and the compose file, as far as they can be held to without a container engine: none
//! runs where these tests do. What they lead to is held to in full: every file that they name is
//! there, and every setting goes to the program that reads it.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::{files, read, root};
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::{self, temporary_directory};
use crate::kit::prometheus::promtool;
use crate::kit::python;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The arguments of an instruction of the Dockerfile, wherever it stands.
fn instructions<'a>(dockerfile: &'a str, name: &str) -> Vec<&'a str> {
    dockerfile.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).collect()
}

#[test]
fn hadolint_finds_nothing_in_the_dockerfile() {
    let mut command = Command::new(python::program("hadolint"));
    let output = process::run(command.current_dir(root()).arg("Dockerfile"), "", Duration::from_secs(60));
    assert!(output.status.success(), "{}", said(&output));
    // It does look: an image without a version is its first complaint.
    let output = process::run(command.arg("-"), "FROM debian\n", Duration::from_secs(60));
    assert!(said(&output).contains("DL3006"), "{}", said(&output));
}

#[test]
fn the_image_is_built_with_the_compiler_of_the_tests_and_runs_as_nobody() {
    let dockerfile = read("Dockerfile");
    let pinned = read(".github/workflows/ci.yml");
    let (_, version) = pinned.split_once("RUSTUP_TOOLCHAIN: ").unwrap();
    let version = version.lines().next().unwrap();
    let from = instructions(&dockerfile, "FROM");
    let [build, run] = from[..] else { panic!("two stages, not {from:?}") };
    assert!(build.starts_with(&format!("rust:{version}-")), "{build}");
    assert!(
        build.contains("-bookworm ") && run.contains("-debian12:"),
        "{build} and {run} are of one Debian"
    );
    let user = instructions(&dockerfile, "USER");
    let [user] = user[..] else { panic!("one user, not {user:?}") };
    assert!(user.split(':').all(|number| number.parse::<u32>().is_ok_and(|number| number > 0)), "{user}");
    let listen =
        instructions(&dockerfile, "ENV").into_iter().find_map(|env| env.strip_prefix("CALLSIGHT_LISTEN="));
    assert_eq!(instructions(&dockerfile, "EXPOSE"), [listen.unwrap().split(':').next_back().unwrap()]);
    let copied = instructions(&dockerfile, "COPY").into_iter().filter(|copy| !copy.starts_with("--from"));
    for source in copied.flat_map(|copy| copy.rsplit_once(' ').unwrap().0.split(' ')) {
        assert!(root().join(source).exists(), "{source}");
    }
}

fn compose() -> Value {
    let mut compose: yaml_serde::Value = yaml_serde::from_str(&read("compose.yaml")).unwrap();
    compose.apply_merge().unwrap();
    serde_json::to_value(compose).unwrap()
}

fn services(compose: &Value) -> impl Iterator<Item = (&str, &Value)> {
    compose["services"].as_object().unwrap().iter().map(|(name, service)| (&**name, service))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().map_or(&[][..], Vec::as_slice).iter().map(|item| item.as_str().unwrap()).collect()
}

fn environment(service: &Value) -> Vec<(&str, &str)> {
    let pairs = service["environment"].as_object().into_iter().flatten();
    pairs.map(|(name, value)| (&**name, value.as_str().unwrap())).collect()
}

#[test]
fn compose_names_only_what_there_is_and_listens_on_this_machine_alone() {
    let compose = compose();
    let mut ports = Vec::new();
    for (name, service) in services(&compose) {
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().unwrap();
            match source.strip_prefix("./") {
                Some(path) => {
                    assert!(root().join(path).exists() && volume.ends_with(":ro"), "{name}: {volume}")
                }
                None => assert!(compose["volumes"].get(source).is_some(), "{name}: {volume}"),
            }
        }
        for config in service["configs"].as_array().into_iter().flatten() {
            assert!(compose["configs"].get(config["source"].as_str().unwrap()).is_some(), "{name}: {config}");
        }
        for on in service["depends_on"].as_object().into_iter().flatten().map(|(on, _)| on) {
            assert!(compose["services"].get(on).is_some(), "{name}: {on}");
        }
        let image = service["image"].as_str().unwrap();
        let version = image.split_once(':').map(|(_, version)| version);
        assert!(
            image == "callsight" || version.is_some_and(|version| version != "latest"),
            "{name}: {image}"
        );
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
            ports.push(port.rsplit_once(':').unwrap().0.to_owned());
        }
    }
    let all = ports.len();
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), all, "{ports:?}");
}

#[test]
fn every_command_in_compose_is_one_that_callsight_takes() {
    let compose = compose();
    let mut commands = 0;
    for (name, service) in services(&compose).filter(|(_, service)| service["image"] == "callsight") {
        let args: Vec<_> = texts(&service["command"]).into_iter().chain(["--check-config"]).collect();
        // As flags: the test's own environment does not reach the command.
        let flags: Vec<_> = environment(service)
            .into_iter()
            .map(|(variable, value)| {
                let flag = variable.trim_start_matches("CALLSIGHT_").to_lowercase().replace('_', "-");
                format!("--{flag}={value}")
            })
            .collect();
        let flags = flags.iter().map(String::as_str);
        let output = Callsight::run(&args.iter().copied().chain(flags).collect::<Vec<_>>());
        assert!(
            output.status.success() && said(&output).starts_with("config is valid: "),
            "{name}: {}",
            said(&output)
        );
        commands += 1;
    }
    assert_eq!(commands, 6);
}

#[test]
fn the_servers_in_compose_have_all_that_their_files_ask_for() {
    let compose = compose();
    let mut servers = 0;
    for (name, service) in services(&compose).filter(|(name, _)| name.starts_with("nats-")) {
        let file = texts(&service["command"])[1].replace("/etc/callsight", "jetstream");
        let store = temporary_directory();
        let mut command = Nats::check(&root().join(file));
        command.current_dir(root()).envs(environment(service)).env("CALLSIGHT_STORE", store.path());
        let output = process::run(&mut command, "", Duration::from_secs(30));
        assert!(output.status.success(), "{name}: {}", said(&output));
        let cluster = name.trim_start_matches("nats-").to_uppercase();
        let variables = environment(service);
        let gateway =
            variables.iter().find(|(variable, _)| *variable == format!("CALLSIGHT_GATEWAY_{cluster}"));
        assert_eq!(gateway.unwrap().1, format!("[nats://{name}:7222]"));
        servers += 1;
    }
    assert_eq!(servers, 3);
}

#[test]
fn prometheus_in_compose_has_the_rules_and_finds_exporters_and_ingest() {
    let compose = compose();
    let content = compose["configs"]["prometheus"]["content"].as_str().unwrap();
    let directory = temporary_directory();
    let path = directory.path().join("compose.yml");
    fs::write(&path, content).unwrap();
    std::os::unix::fs::symlink(root().join("helm/callsight/files/rules"), directory.path().join("rules"))
        .unwrap();
    let output = promtool(&["check", "config", path.to_str().unwrap()], "");
    let said = said(&output);
    assert!(output.status.success() && said.contains("rules found"), "{said}");

    let config: Value = yaml_serde::from_str(content).unwrap();
    let jobs = config["scrape_configs"].as_array().unwrap();
    for target in jobs.iter().flat_map(|job| texts(&job["static_configs"][0]["targets"])) {
        let service = target.split(':').next().unwrap();
        assert!(compose["services"].get(service).is_some(), "{target}");
    }
}

#[test]
fn grafana_in_compose_has_what_its_provisioning_asks_for() {
    let compose = compose();
    let grafana = &compose["services"]["grafana"];
    let given = environment(grafana);
    let mut asked = 0;
    for kind in ["dashboards", "datasources"] {
        for path in files(&format!("grafana/provisioning/{kind}"), "yaml") {
            let text = fs::read_to_string(&path).unwrap();
            let provisioned: Value = yaml_serde::from_str(&text).unwrap();
            assert_eq!(provisioned["apiVersion"], 1, "{path:?}");
            for name in text.split('$').skip(1).filter(|rest| rest.starts_with("CALLSIGHT_")) {
                let end = name.find(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric());
                let name = &name[..end.unwrap_or(name.len())];
                assert!(given.iter().any(|(variable, _)| *variable == name), "{path:?} asks for {name}");
                asked += 1;
            }
        }
    }
    assert!(asked >= 2, "dashboards and their source");
    let (_, dashboards) = given.iter().find(|(variable, _)| *variable == "CALLSIGHT_DASHBOARDS").unwrap();
    let mount = format!("./grafana/dashboards:{dashboards}:ro");
    assert!(texts(&grafana["volumes"]).contains(&&*mount), "{mount}");
}
