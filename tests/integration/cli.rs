//! The command as scripts meet it: exit codes, and which stream says what.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::kit::callsight::{Callsight, command};
use crate::kit::process::Process;
use crate::kit::python;
use crate::kit::wait::PATIENCE;

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
        format!("error: {path}:3: unknown key `listen`; it belongs to `serve`, `ingest` or `rewind`")
    );
    assert_eq!(
        refused(&["serve", "--reigon", "us"]),
        "error: unknown flag `--reigon`; did you mean `--region`?"
    );
    assert_eq!(
        refused(&[]),
        "error: no command given; use `serve`, `ingest`, `simulate`, `replay`, `rewind`, `demo`, `streams`, `frame`, `token` or `rollout`"
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
        (
            &["replay", "--from", "1h ago", "--remote-write", "http://127.0.0.1:1", "--resume", zero],
            "of --resume",
        ),
        (&["frame", "check", zero], "cannot read /dev/zero"),
        (&["rollout", "deploy", "--fleet", zero], "cannot read `/dev/zero`, the file of --fleet"),
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

fn hang_up(process: &Process) {
    kill_process(Pid::from_raw(process.id().try_into().unwrap()).unwrap(), Signal::HUP).unwrap();
}

/// An exporter that listens for signals, and the program that starts it.
fn serving(mut starter: Command) -> Process {
    let serve = ["serve", "--region", "us", "--listen", "127.0.0.1:0", "--nats-url", "nats://127.0.0.1:1"];
    let mut process = Process::spawn("callsight", starter.args(serve));
    process.wait_until_logged("serving").unwrap();
    process
}

/// Whether a process ignores SIGHUP.
fn ignores_hang_up(process: &Process) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1
}

/// The attack: under nohup, whose purpose is to survive it, SIGHUP stopped the exporter.
#[test]
fn sighup_stays_ignored_under_nohup() {
    let mut nohup = Command::new("nohup");
    nohup.arg(command().get_program());
    let mut process = serving(nohup);
    assert!(ignores_hang_up(&process));
    hang_up(&process);
    assert!(process.terminate(PATIENCE).success());
    let log = process.output();
    assert!(log.contains("SIGTERM") && !log.contains("SIGHUP"), "{log}");
}

#[test]
fn sighup_does_not_stop_a_service() {
    // Whoever runs the tests may ignore it, which is inherited.
    let mut not_ignoring = Command::new("env");
    not_ignoring.arg("--default-signal=HUP").arg(command().get_program());
    let mut process = serving(not_ignoring);
    assert!(!ignores_hang_up(&process));
    hang_up(&process);
    process.wait_until_logged("SIGHUP has no effect: files that change are reloaded").unwrap();
    assert!(process.terminate(PATIENCE).success());
}

/// Runs a program on a terminal, waits for a word, closes the terminal, and prints how it ended.
const TERMINAL: &str = "
import os, pty, signal, sys
child, terminal = pty.fork()
if child == 0:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.execv(sys.argv[2], sys.argv[2:])
seen = b''
while sys.argv[1].encode() not in seen:
    seen += os.read(terminal, 4096)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
";

#[test]
fn a_closed_terminal_stops_what_ran_on_it() {
    let program = command();
    let serve = ["serve", "--region", "us", "--listen", "127.0.0.1:0", "--nats-url", "nats://127.0.0.1:1"];
    let arguments =
        [&["-c", TERMINAL, "serving", program.get_program().to_str().unwrap()][..], &serve].concat();
    let output = python::run(&arguments, "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{output:?}");
}
