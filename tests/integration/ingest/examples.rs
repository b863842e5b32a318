//! The commands of `docs/ingest.md`, run as they stand there.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Way;
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::stream::Health;
use crate::kit::{process, wait};

/// Where the documentation's instance listens.
const LISTEN: &str = "127.0.0.1:9465";

/// A `curl` for machines without one, with the flags that the documentation uses.
const CURL: &str = r#"#!/usr/bin/env python3
import http.client, sys, urllib.parse
url, headers, body, flags = None, {}, None, iter(sys.argv[1:])
for flag in flags:
    if flag == '-H':
        name, _, value = next(flags).partition(':')
        headers[name] = value.strip()
    elif flag == '--data-binary':
        value = next(flags)
        body = open(value[1:], 'rb').read() if value.startswith('@') else value.encode()
    elif flag != '-i':
        url = urllib.parse.urlsplit(flag)
connection = http.client.HTTPConnection(url.netloc, timeout=20)
connection.request('POST' if body is not None else 'GET', url.path, body, headers)
answer = connection.getresponse()
print(f'HTTP/1.1 {answer.status} {answer.reason}')
print(answer.read().decode())
"#;

/// The blocks of shell commands, and after each command what the documentation says it prints.
fn blocks(text: &str) -> Vec<&str> {
    text.split("```sh\n").skip(1).map(|block| block.split_once("```").unwrap().0).collect()
}

#[tokio::test]
async fn the_documented_commands_do_what_they_are_said_to_do() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ingest.md")).unwrap();
    let blocks = blocks(&document);
    assert!(blocks.len() >= 4 && document.contains("callsight ingest --region us --token-key demo.pub"));
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let directory = temporary_directory();
    let folder = directory.path().to_owned();
    let bin = Path::new(env!("CARGO_BIN_EXE_callsight")).parent().unwrap();
    let mut path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let shell = |script: &str, path: &str| {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(&folder).env("PATH", path);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CALLSIGHT_"))
        {
            command.env_remove(name);
        }
        let output = process::run(&mut command, "", wait::PATIENCE);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{script}\n{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    if Command::new("curl").arg("--version").output().is_err() {
        let tools = folder.join("tools");
        fs::create_dir(&tools).unwrap();
        fs::write(tools.join("curl"), CURL).unwrap();
        shell("chmod +x tools/curl", &path);
        path = format!("{}:{path}", tools.display());
    }

    // The key comes first, and the instance needs it.
    let (key, rest) = blocks.split_first().unwrap();
    let made = shell(key, &path);
    assert!(made.contains("demo.pub verifies them, with --token-key demo.pub"), "{made}");
    let flag = folder.join("demo.pub").to_str().unwrap().to_owned();
    let mut way = Way::start_in(temporary_directory(), &nats.url(), &["--token-key", &flag]);
    way.ready().await;

    let script = rest.concat().replace(LISTEN, &way.target());
    let printed = tokio::task::spawn_blocking({
        let (script, path, folder) = (script.clone(), path.clone(), folder.clone());
        move || {
            let mut command = Command::new("bash");
            command.args(["-euo", "pipefail", "-c", &script]).current_dir(folder).env("PATH", path);
            process::run(&mut command, "", wait::PATIENCE)
        }
    });
    let printed = printed.await.unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success(), "{text}{}", String::from_utf8_lossy(&printed.stderr));
    // Each line that the documentation shows is printed, in that order.
    let mut left = text.as_str();
    let expected: Vec<_> = script.lines().filter_map(|line| line.strip_prefix("# ")).collect();
    assert!(expected.len() >= 7, "{expected:?}");
    for line in expected {
        let (_, after) = left.split_once(line).unwrap_or_else(|| panic!("not printed: {line}\n{text}"));
        left = after;
    }
    assert_eq!(health.messages().await, 3, "every 204 is a frame");
}

/// What the documentation says of each reason, the program knows, and the other way round.
#[tokio::test]
async fn the_documentation_names_every_reason() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ingest.md")).unwrap();
    let nats = Nats::start();
    let mut way = Way::start(&nats.url(), &[]);
    way.readiness(503).await;
    let scrape = way.metrics().await;
    let frame = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/frame.md")).unwrap();
    let series = scrape.series("callsight_ingest_frames_total");
    assert!(series.len() > 30, "{series:?}");
    for (labels, _) in series {
        let word = format!("`{}`", labels["reason"]);
        let known = labels["reason"] == "none" || document.contains(&word) || frame.contains(&word);
        assert!(known, "{word} is in neither docs/ingest.md nor docs/frame.md");
    }
    let (_, table) = document.split_once("| reason | status | meaning |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let named = table.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    for word in named.flat_map(|cell| cell.split(['`', ',', ' '])).filter(|word| word.len() > 2) {
        assert!(scrape.any("callsight_ingest_tokens_refused_total", &[("reason", word)]), "{word}");
    }
    let help = Callsight::run(&["ingest", "--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in document.split('`').filter(|text| text.starts_with("--") && !text.starts_with("---")) {
        let flag = flag.split([' ', '=']).next().unwrap();
        let elsewhere = ["--max-server-urls", "--create", "--key"].contains(&flag);
        assert!(elsewhere || help.contains(flag), "{flag}");
    }
}
