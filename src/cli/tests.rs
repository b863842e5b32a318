use std::ffi::OsString;
use std::fs;

use clap::CommandFactory;

use super::*;
use callsight_fold::FoldSettings;

fn serve(line: &str, file: &str) -> serve::ServeConfig {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("callsight.toml");
    fs::write(&path, file).unwrap();
    let line = format!("callsight serve --config {} {line}", path.display());
    let arguments: Vec<_> = line.split_whitespace().map(OsString::from).collect();
    match config::parse(&arguments, &|_| None) {
        Ok(Parsed::Command(Cli { command: Command::Serve(args) })) => args.validate().unwrap().1,
        Ok(_) => panic!("not a serve command"),
        Err(error) => panic!("{error}"),
    }
}

/// The value to try a flag with, different from its default.
fn sample(flag: &str) -> &'static str {
    match flag {
        "nats-url" => "nats://other:4333",
        "nats-creds" => "other.creds",
        "region" => "apac",
        "deployment" => "blue",
        "shard" => "2/3",
        "home" => "apac",
        "stream" | "jetstream-domain" | "jetstream-prefix" => "us=other",
        "region-nats-url" => "us=nats://other:4333",
        "nats-fallback-url" => "nats://other:4333",
        "create" | "check-config" | "via-gateway" | "nats-tls-first" | "without-tokens" | "mirror" => "true",
        "listen" => "0.0.0.0:1",
        "ready-max-lag" | "idle-timeout" | "server-idle" | "degraded-rtt" | "degraded-join" => "7s",
        "detail" => "session",
        "degraded-concealment" | "degraded-loss" => "0.5",
        "ack-timeout" | "drain" | "step" => "7s",
        "max-window" => "7m",
        "from" | "to" => "2h ago",
        "rewind-url" | "live-url" => "https://calls.example/",
        "allow-origin" => "https://app.example",
        "token-preset" => "jitsi",
        "trusted-proxy" => "10.0.0.0/8",
        "log-format" => "json",
        "log-level" => "debug",
        _ => "3",
    }
}

#[test]
fn the_declaration_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_of_a_service_can_be_set_in_the_environment_and_in_the_file() {
    let declared = Cli::command();
    for service in ["serve", "ingest", "rewind"] {
        let command = declared.find_subcommand(service).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("callsight.toml");
        let parse = |line: &[&str], environment: &dyn Fn(&str) -> Option<OsString>| {
            let arguments: Vec<_> = ["callsight", service].iter().chain(line).map(OsString::from).collect();
            match config::parse::<Cli>(&arguments, environment) {
                Ok(Parsed::Command(cli)) => format!("{cli:?}"),
                Ok(Parsed::Show(_)) => panic!("unexpected help"),
                Err(error) => panic!("{line:?}: {error}"),
            }
        };

        let flags: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        assert!(flags.len() > 15, "{flags:?}");
        for flag in flags.into_iter().filter(|flag| *flag != "config") {
            let region: &[&str] = if flag == "region" { &[] } else { &["--region=us"] };
            let argument = format!("--{flag}={}", sample(flag));
            let by_flag = parse(&[region, &[&argument]].concat(), &|_| None);
            assert_ne!(by_flag, parse(&["--region=us"], &|_| None), "--{flag} changes nothing");

            let name = config::environment_name(flag);
            let by_environment = parse(region, &|asked| (asked == name).then(|| sample(flag).into()));
            assert_eq!(by_environment, by_flag, "{name}");

            fs::write(&path, format!("{flag} = '{}'", sample(flag))).unwrap();
            let config = format!("--config={}", path.display());
            let by_file = parse(&[region, &[&config]].concat(), &|_| None);
            assert_eq!(
                by_file,
                by_flag.replace("{ config: None", &format!("{{ config: Some({path:?})")),
                "{flag} in a file"
            );
        }
    }
}

/// Kubernetes puts `CALLSIGHT_PORT` and `CALLSIGHT_SERVICE_…` into every pod beside a service named
/// `callsight`.
#[test]
fn no_variable_is_one_that_kubernetes_sets() {
    for command in Cli::command().get_subcommands() {
        for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
            let name = config::environment_name(flag);
            assert!(!name.starts_with("CALLSIGHT_PORT") && !name.starts_with("CALLSIGHT_SERVICE_"), "{name}");
        }
    }
}

#[test]
fn serve_has_the_documented_defaults() {
    let config = serve("--region us", "");
    assert_eq!(
        config.to_string(),
        "regions us; listen 127.0.0.1:9464; deployment main; NATS nats://127.0.0.1:4222"
    );
    assert_eq!(config.exporter.fold, FoldSettings::default());
    assert_eq!(config.exporter.create, None);
    assert_eq!(config.exporter.reader.durable(), "callsight-main");
    assert_eq!(config.exporter.max_series, 125_000);
}

#[test]
fn serve_reads_a_whole_file() {
    let config = serve(
        "--create-replicas 3 --pair-max-sessions 0",
        "nats-url = ['nats://a', 'nats://b:1']\nregion = ['us', 'apac', 'us']\n[serve]\ncreate = true\nmax-series = 500_000",
    );
    assert_eq!(config.sources.to_string(), "us, apac");
    assert_eq!(config.nats.to_string(), "nats://a:4222, nats://b:1");
    assert_eq!(config.exporter.create, Some(3));
    assert_eq!(config.exporter.fold.pair_max_sessions, usize::MAX);
    assert_eq!(config.exporter.max_series, 500_000);
}

#[test]
fn each_region_is_read_from_where_it_is_nearest() {
    let streams = |line: &str, file: &str| serve(line, file).sources.to_string();
    assert_eq!(streams("--region us,apac", ""), "us, apac");
    assert_eq!(streams("--region apac --home apac", ""), "apac");
    assert_eq!(streams("--region us,apac --home us", ""), "us, apac (HEALTH_APAC_MIRROR)");
    assert_eq!(streams("--region us,apac --home us --via-gateway", ""), "us, apac (HEALTH_APAC)");
    let file = "region = ['us', 'apac', 'eu']\nhome = 'us'\nnats-fallback-url = 'nats://far'\n[serve]\n\
        stream = 'apac=COPY'\njetstream-domain = ['eu=eu-1']\nregion-nats-url = ['eu=nats://eu', 'eu=nats://eu:1']";
    let config = serve("--nats-url nats://near", file);
    assert_eq!(
        config.sources.to_string(),
        "us, apac (COPY), eu (HEALTH_EU_MIRROR in domain eu-1 over \
         nats://eu:4222, nats://eu:1, else nats://near:4222, nats://far:4222)"
    );
    assert_eq!(config.nats.to_string(), "nats://near:4222, else nats://far:4222");
    for (line, problem) in [
        ("--via-gateway", "`--via-gateway` needs `--home` too"),
        ("--stream apac=X", "`--stream` is for region apac, which `--region` does not name"),
        ("--stream us=X,us=Y", "`--stream` is given twice for region us"),
        (
            "--jetstream-domain us=x --jetstream-prefix us=y",
            "`--jetstream-prefix` cannot be used with `--jetstream-domain` for region us",
        ),
        (
            "--region-nats-url us=nats://bob:hunter2@x",
            "`--region-nats-url` must not name another user than `--nats-url`",
        ),
        (
            "--stream HEALTH_X",
            "invalid value `HEALTH_X` for `--stream`: write the region first, such as apac=…",
        ),
    ] {
        assert_eq!(refused(line), problem, "{line}");
    }
}

#[test]
fn a_shard_reads_through_a_durable_of_its_own() {
    let config = serve("--region us --deployment blue --shard 2/3 --shards-before 1", "");
    assert_eq!(
        config.to_string(),
        "regions us; listen 127.0.0.1:9464; deployment blue; shard 2/3; NATS nats://127.0.0.1:4222"
    );
    assert_eq!(config.exporter.reader.durable(), "callsight-blue-2of3");
    assert_eq!(config.exporter.reader.shards_before, Some(1));
    let unchanged = serve("--region us --shard 2/3 --shards-before 3", "").exporter.reader;
    assert_eq!(unchanged.shards_before, None, "there is nobody to take over from");
    assert_eq!(
        refused("--shard 0/3"),
        "invalid value `0/3` for `--shard`: write the shard and their number, from 1/1 to 64/64, \
         such as 1/3, 2/3 and 3/3 for three shards"
    );
}

/// What `callsight serve --region us` with these flags says is wrong.
fn refused(line: &str) -> String {
    let line = format!("callsight serve --region us {line}");
    let arguments: Vec<_> = line.split_whitespace().map(OsString::from).collect();
    match config::parse(&arguments, &|_| None) {
        Ok(Parsed::Command(Cli { command: Command::Serve(args) })) => {
            args.validate().unwrap_err().to_string()
        }
        Ok(_) => panic!("not a serve command"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn one_connection_has_one_identity_and_whole_pairs() {
    for (line, problem) in [
        (
            "--nats-creds a --nats-nkey b",
            "`--nats-nkey` cannot be used with `--nats-creds`; connect as one user",
        ),
        (
            "--nats-url nats://alice:hunter2@a --nats-user bob --nats-password-file b",
            "`--nats-user` cannot be used with `--nats-url` with a user; connect as one user",
        ),
        (
            "--nats-url nats://alice:hunter2@a,nats://bob:hunter2@a",
            "the servers of `--nats-url` must not name different users",
        ),
        ("--nats-user alice", "`--nats-user` needs `--nats-password-file` too"),
        ("--nats-password-file a", "`--nats-password-file` needs `--nats-user` too"),
        ("--nats-cert a", "`--nats-cert` needs `--nats-key` too"),
        ("--nats-key a", "`--nats-key` needs `--nats-cert` too"),
        (
            "--nats-inbox-prefix _INBOX.>",
            "invalid value `_INBOX.>` for `--nats-inbox-prefix`: \
             write a subject without wildcards, such as _INBOX.exporter",
        ),
    ] {
        assert_eq!(refused(line), problem, "{line}");
    }
}

#[test]
fn every_role_has_an_inbox_of_its_own() {
    assert_eq!(serve("--region us", "").nats.inbox_prefix, "_INBOX.exporter");
    assert_eq!(serve("--region us", "nats-inbox-prefix = '_INBOX.blue'").nats.inbox_prefix, "_INBOX.blue");
}

#[test]
fn a_failure_and_its_causes_are_one_line() {
    let cause = io::Error::other("connection\nrefused");
    let error = CliError::caused("cannot reach NATS", cause);
    assert_eq!(error.line(), "cannot reach NATS: connection\\nrefused");
    assert_eq!(error.exit_code(), 1);
    assert_eq!(CliError::failed("stopped").line(), "stopped");
}

/// `docs/configuration.md` holds the reference between two marks. `UPDATE_DOCS=1` rewrites it.
#[test]
fn the_documentation_is_that_of_the_declaration() {
    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    const BEGIN: &str =
        "<!-- generated from the declaration of the flags: UPDATE_DOCS=1 cargo test documentation -->\n";
    const END: &str = "\n<!-- end of generated -->\n";

    let text = fs::read_to_string(PATH).unwrap();
    let (intro, rest) = text.split_once(BEGIN).expect("the mark where the reference begins");
    let (written, outro) = rest.split_once(END).expect("the mark where it ends");
    let reference = config::reference(Cli::command());
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(PATH, [intro, BEGIN, &reference, END, outro].concat()).unwrap();
    } else {
        assert!(
            written == reference,
            "docs/configuration.md is out of date: UPDATE_DOCS=1 cargo test documentation"
        );
    }
}

/// What `demo` with these flags prints about its settings, or why it refuses them.
fn demo(line: &str) -> Result<String, String> {
    let arguments: Vec<_> = format!("callsight demo {line}").split_whitespace().map(OsString::from).collect();
    match config::parse(&arguments, &|_| None).map_err(|error| error.to_string())? {
        Parsed::Command(Cli { command: Command::Demo(args) }) => {
            args.validate().map(|(_, config)| config.to_string()).map_err(|error| error.to_string())
        }
        _ => panic!("not a demo"),
    }
}

#[test]
fn a_demo_of_a_call_simulates_nothing() {
    assert_eq!(demo("--call --duration 5m").unwrap(), "a call in the browser; region us");
    for flag in ["--sessions 5", "--scenario uplink", "--regions us,apac", "--region apac", "--servers 3"] {
        let refused = demo(&format!("--call {flag}")).unwrap_err();
        let name = flag.split(' ').next().unwrap();
        assert!(refused.contains("`--call`") && refused.contains(name), "{refused}");
    }
}

#[test]
fn a_demo_has_an_odd_number_of_servers_in_each_region() {
    assert!(demo("").unwrap().starts_with("regions us, apac; "));
    assert!(demo("--servers 1").unwrap().starts_with("regions us, apac; "));
    assert!(demo("--regions us,apac").unwrap().starts_with("regions us, apac, bridged; "));
    for servers in [3, 5] {
        let told = demo(&format!("--regions us,apac --servers {servers}")).unwrap();
        assert!(told.starts_with(&format!("regions us, apac, bridged, {servers} servers each; ")), "{told}");
        assert_eq!(demo(&format!("--servers {servers}")).unwrap(), told);
    }
    for (servers, why) in [("2", "an even number"), ("4", "an even number"), ("0", ""), ("7", ""), ("x", "")]
    {
        let refused = demo(&format!("--servers {servers}")).unwrap_err();
        assert!(refused.contains("write 1, 3 or 5") && refused.contains(why), "{refused}");
    }
}

#[test]
fn a_scenario_needs_a_region_and_clients_that_it_affects() {
    let shown = |line: &str| {
        let arguments: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        check(&arguments, &|_| None, &|_| Err(io::Error::other("no file")))
    };
    for command in ["simulate --region", "demo --region"] {
        let line = |region: &str| format!("callsight {command} {region} --scenario apac-rtt-spike");
        let error = shown(&line("us")).unwrap_err();
        assert_eq!(error, "`--scenario apac-rtt-spike` affects region apac; add that region");
        shown(&line("us,apac-2")).unwrap();
        for (scenario, client, problem) in [
            ("uplink", "neteq", true),
            ("processor", "neteq", true),
            ("processor", "videocall", true),
            ("join", "videocall", true),
            ("join", "neteq", false),
            ("network", "neteq", false),
            ("network", "videocall", false),
        ] {
            let line =
                |client: &str| format!("callsight {command} us --scenario {scenario} --client {client}");
            let error = format!(
                "`--scenario {scenario}` does not show in what `--client {client}` reports; choose \
                 `--client browser` or `--client mix`"
            );
            assert_eq!(shown(&line(client)).err(), problem.then_some(error));
            shown(&line("browser")).unwrap();
        }
    }
}

#[test]
fn a_replay_says_what_contradicts_itself() {
    let now = OffsetDateTime::from_unix_timestamp(1_764_000_000).unwrap();
    let validate = |line: &str| {
        let line = format!("callsight replay {line}");
        let arguments: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        match config::parse(&arguments, &|_| None) {
            Ok(Parsed::Command(Cli { command: Command::Replay(args) })) => {
                args.validate(now).map(|(_, config)| config.to_string()).map_err(|error| error.to_string())
            }
            Ok(_) => panic!("not a replay command"),
            Err(error) => Err(error.to_string()),
        }
    };
    let (from, to) = ("--from=2025-11-24T15:01:00Z", "--to=2025-11-24T15:10:00Z");
    let shown = validate(&format!("{from} {to} --openmetrics=-")).unwrap();
    assert!(shown.contains("2025-11-24T15:01:00Z to 2025-11-24T15:10:00Z; step 15s"), "{shown}");
    for (more, problem) in [
        ("", "choose an output: "),
        ("--openmetrics=- --frames=-", "only one of"),
        ("--frames=a --no-replay-label --replay-id=a", "contradict each other"),
        ("--frames=a --replay-id=a/b", "1 to 64 of"),
        ("--frames=a --resume=b", "`--resume` needs `--remote-write` too"),
        ("--heal", "`--heal` needs `--prometheus` too"),
        ("--frames=a --prometheus=http://p", "`--prometheus` needs `--heal` too"),
        ("--heal --prometheus=http://p --frames=a", "fills gaps and nothing else"),
        ("--heal --prometheus=http://p --meeting=m", "fills gaps with all calls"),
        ("--remote-write=prometheus:9090", "write http://host:port/path"),
        ("--openmetrics=a --step=1h", "no whole multiple of `--step` 1h"),
        ("--frames=a --meeting=a/b", "a/b"),
    ] {
        let error = validate(&format!("{from} {to} {more}")).unwrap_err();
        assert!(error.contains(problem), "{more}: {error}");
    }
    let backwards = validate("--from=2025-11-24T15:10:00Z --to=2025-11-24T15:00:00Z --frames=a").unwrap_err();
    assert!(backwards.contains("ends before it begins"), "{backwards}");
}
