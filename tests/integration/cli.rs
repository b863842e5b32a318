//! The command as scripts meet it: exit codes, and which stream says what.

use std::fs;

use crate::kit::callsight::Callsight;

/// The one line on stderr of a command that refused its settings.
fn refused(arguments: &[&str]) -> String {
    let output = Callsight::run(arguments);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(output.stdout.is_empty(), "{line}");
    assert_eq!(line.find('\n'), Some(line.len() - 1), "not one line: {line:?}");
    line.trim_end().to_owned()
}

#[test]
fn bad_settings_are_one_line_and_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("callsight.toml");
    let path = path.to_str().unwrap();
    fs::write(path, "region = 'us'\n\n[serve]\nidle-timout = '5s'\n").unwrap();
    assert_eq!(
        refused(&["serve", "--config", path]),
        format!("error: {path}:4: unknown key `idle-timout`; did you mean `idle-timeout`?")
    );
    fs::write(path, "region = 'us'\n[simulate]\nlisten = '0.0.0.0:1'\n").unwrap();
    assert_eq!(
        refused(&["serve", "--config", path]),
        format!("error: {path}:3: unknown key `listen`; it belongs to `serve`")
    );
    assert_eq!(
        refused(&["serve", "--reigon", "us"]),
        "error: unknown flag `--reigon`; did you mean `--region`?"
    );
    assert_eq!(
        refused(&[]),
        "error: no command given; use `serve`, `simulate`, `replay`, `demo`, `streams`, `frame` or `rollout`"
    );
    assert!(refused(&["serve"]).starts_with("error: `--region` is required; "));
    assert!(
        refused(&["serve", "--config", "/nowhere.toml"])
            .starts_with("error: cannot read `/nowhere.toml`, the file")
    );
}

/// The attack: `--config /dev/zero` read until memory was full.
#[test]
fn a_file_that_never_ends_is_refused() {
    let zero = "/dev/zero";
    let serve = |flag| ["serve", "--region", "us", "--listen", "127.0.0.1:0", flag, zero];
    let replay = |flag| ["replay", "--from", "1h ago", "--rules", zero, flag];
    for (arguments, named) in [
        (&serve("--config")[..], "cannot read `/dev/zero`, the file that `--config` names"),
        (&serve("--web-config"), "`/dev/zero` of --web-config: cannot be read"),
        (&serve("--nats-creds"), "cannot read `/dev/zero` of --nats-creds"),
        (&serve("--nats-nkey"), "cannot read `/dev/zero` of --nats-nkey"),
        (&serve("--nats-ca"), "cannot read `/dev/zero` of --nats-ca"),
        (&[&serve("--nats-password-file")[..], &["--nats-user", "me"]].concat(), "of --nats-password-file"),
        (&replay("--quiet"), "cannot read `/dev/zero` of --rules"),
        (&["replay", "--from", "1h ago", "--remote-write", "http://127.0.0.1:1", "--resume", zero], "of --resume"),
        (&["frame", "check", zero], "cannot read /dev/zero"),
        (&["rollout", "apply", "--fleet", zero], "cannot read `/dev/zero`, the file of --fleet"),
    ] {
        let output = Callsight::run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        let line = error.lines().last().unwrap_or_default();
        assert!(!output.status.success() && line.starts_with("error: "), "{arguments:?}: {error}");
        let refused = "it is a device or a socket; name a regular file";
        assert!(line.contains(named) && line.ends_with(refused), "{arguments:?}: {line}");
    }
    let endless = "\0".repeat((256 << 20) + 1);
    let output = Callsight::run_with_input(&["frame", "check"], &endless);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.ends_with("cannot read standard input: it is longer than 256 MiB\n"), "{error}");
}

#[test]
fn help_and_version_go_to_stdout() {
    for arguments in [&["--help"][..], &["serve", "--help"], &["serve", "-h"], &["help"], &["--version"]] {
        let output = Callsight::run(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn check_config_says_what_the_settings_are() {
    let output =
        Callsight::run(&["serve", "--check-config", "--region=us,apac", "--nats-url=nats://u:secret@nats"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "config is valid: regions us, apac; listen 127.0.0.1:9464; deployment main; NATS nats://nats:4222\n"
    );
}
