//! What a replay becomes, read by others.

use std::collections::BTreeSet;
use std::fs;

use callsight_fold::series::catalogue::{CATALOGUE, Plane};
use serde_json::Value;
use time::OffsetDateTime;

use super::{by_second, moment, replay, replayed, until_the_next_step};
use crate::kit::callsight::REGION;
use crate::kit::frames::{frame, full_frame, rtt_ms};
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::prometheus::promtool;
use crate::kit::python;
use crate::kit::stream::Health;

/// A server with a stream of two sessions, one repeat and one message that is no frame, and when
/// that began.
async fn a_stream() -> (Nats, Health, OffsetDateTime) {
    let begin = OffsetDateTime::now_utc();
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    for seq in 1..=3 {
        health.publish(&full_frame("s1", seq, &["bo", "cy"])).await;
        health.publish(&frame("s2", seq, &["bo"])).await;
    }
    health.publish_as("again", &frame("s2", 3, &["bo"])).await;
    health.publish_bytes(&format!("health.diagnostics.{REGION}.relay.relay-1"), vec![0xc1]).await;
    until_the_next_step().await;
    (nats, health, begin)
}

/// Prints, of a file of OpenMetrics, the families with the number of their samples. The parser
/// drops all but the first bucket of every point of a histogram but the first, taking them for
/// repeats, and misses them then; so it is given the file without histograms as a whole, for the
/// order of families, series and times, and each moment by itself.
const PARSE: &str = "
import collections, json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
lines = open(sys.argv[1], encoding='utf-8', newline='').read().split('\\n')
assert lines[-2:] == ['# EOF', ''], lines[-2:]
histograms = {line.split(' ')[2] for line in lines if line.startswith('# TYPE') and line.endswith(' histogram')}
family = None
whole, moments, heads = [], collections.defaultdict(list), []
for line in lines[:-2]:
    if line.startswith('#'):
        family = line.split(' ')[2]
        for page in moments.values():
            page.append(line)
        heads.append(line)
    else:
        at = line.rsplit(' ', 1)[1]
        if at not in moments:
            moments[at] = list(heads)
        moments[at].append(line)
    if family not in histograms:
        whole.append(line)
found = {}
for f in parse('\\n'.join(whole + ['# EOF', ''])):
    found[f.name] = [f.type, f.documentation, len(f.samples)]
for at, page in moments.items():
    for f in parse('\\n'.join(page + ['# EOF', ''])):
        if f.name in histograms:
            entry = found.setdefault(f.name, [f.type, f.documentation, 0])
            entry[2] += len(f.samples)
print(json.dumps(found))
";

#[tokio::test]
async fn openmetrics_is_read_by_others() {
    let (nats, _health, begin) = a_stream().await;
    let folder = temporary_directory();
    let file = folder.path().join("incident.om");
    let path = file.to_str().unwrap();
    // Two replays are compared, so both end at the same moment.
    let window = ["--from", &moment(begin), "--to", &moment(OffsetDateTime::now_utc()), "--step=1s"];
    replayed(&nats.url(), &[&window[..], &["--openmetrics", path, "--replay-id=it"]].concat());

    let output = python::run(&["-", path], PARSE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Map<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    for metric in CATALOGUE.iter().filter(|metric| !matches!(metric.plane, Plane::Own | Plane::Ingest)) {
        let family = metric.name.strip_suffix("_total").unwrap_or(metric.name);
        let [kind, help, samples] = found[family].as_array().unwrap().as_slice() else {
            panic!("{family}: {}", found[family])
        };
        assert_eq!((kind.as_str(), help.as_str()), (Some(metric.kind.name()), Some(metric.help)), "{family}");
        assert!(samples.as_u64() > Some(0), "{family}");
    }
    let text = fs::read_to_string(&file).unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    assert!(samples.clone().all(|line| line.contains(r#"replay="it""#)));
    let parsed: u64 = found.values().map(|family| family[2].as_u64().unwrap()).sum();
    assert_eq!(parsed, samples.clone().count() as u64);

    let blocks = folder.path().join("blocks");
    let made = promtool(&["tsdb", "create-blocks-from", "openmetrics", path, blocks.to_str().unwrap()], "");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = folder.path().join("made");
    replayed(&nats.url(), &[&window[..], &["--tsdb", made.to_str().unwrap(), "--replay-id=it"]].concat());
    let listed = promtool(&["tsdb", "list", made.to_str().unwrap()], "");
    let listed = String::from_utf8(listed.stdout).unwrap();
    // A line of headings, and one for each block.
    let numbers: u64 = listed.lines().skip(1).map(|line| column(line, 5)).sum();
    assert_eq!(numbers, parsed, "{listed}");
    // Nothing else is left beside the file.
    let entries: BTreeSet<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(entries, ["blocks", "incident.om", "made"].map(Into::into).into());
}

/// A number in a table that promtool prints: of samples, when it is the sixth.
fn column(line: &str, index: usize) -> u64 {
    // Times and durations are one word each.
    line.split_whitespace()
        .nth(index - 1)
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("{line}"))
}

#[tokio::test]
async fn frames_are_what_the_clients_said() {
    let (nats, _health, begin) = a_stream().await;
    let text = replayed(&nats.url(), &["--from", &moment(begin), "--frames=-"]);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, [vec!["folded"; 6], vec!["repeated", "rejected"]].concat());
    for (place, line) in lines.iter().enumerate() {
        assert_eq!(line["sequence"], place + 1);
        assert_eq!(line["region"], REGION);
        assert!(line["subject"].as_str().unwrap().starts_with("health.diagnostics.us.relay.relay-1"));
    }
    let third = &lines[4]["frame"];
    assert_eq!((&third["session_id"], &third["seq"]), (&"s1".into(), &3.into()));
    assert_eq!(third["server"]["rtt_ms"], rtt_ms(3));
    assert_eq!(third["peers"][1]["audio"]["neteq"]["expand"], 6);
    assert_eq!((&lines[7]["reason"], &lines[7]["payload_base64"]), (&"malformed".into(), &"wQ==".into()));
}

#[tokio::test]
async fn a_filter_leaves_the_others_out_of_the_aggregates_too() {
    let (nats, _health, begin) = a_stream().await;
    let from = moment(begin);
    let text = replayed(&nats.url(), &["--from", &from, "--step=1s", "--session=s2", "--openmetrics=-"]);
    let steps = by_second(&text);
    let last = steps.values().last().unwrap();
    assert_eq!(last.sum("videocall_sessions", &[]), 1.0);
    assert_eq!(last.sum("videocall_peer_connections", &[]), 1.0);
    assert!(last.any("videocall_session_rtt_seconds", &[("session_id", "s2")]));
    assert!(!last.any("videocall_session_rtt_seconds", &[("session_id", "s1")]));

    let nobody = replay(&nats.url(), &["--from", &from, "--step=1s", "--meeting=nobody", "--openmetrics=-"]);
    assert_eq!(nobody.status.code(), Some(3), "{}", String::from_utf8_lossy(&nobody.stderr));
    assert_eq!(nobody.stdout, b"");
    let said = String::from_utf8(nobody.stderr).unwrap();
    assert!(
        said.contains("none of what was asked for") && said.contains("HEALTH_US holds frames from"),
        "{said}"
    );
}

#[tokio::test]
async fn a_full_disk_is_said() {
    let (nats, _health, begin) = a_stream().await;
    let full = replay(&nats.url(), &["--from", &moment(begin), "--frames=/dev/full"]);
    let said = String::from_utf8_lossy(&full.stderr).into_owned();
    assert_eq!(full.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write `/dev/full`: the disk is full"), "{said}");
}

/// The attack: a window from 1970 has billions of steps, nearly all without a frame.
#[tokio::test]
async fn time_without_frames_is_not_replayed_and_changes_nothing_else() {
    let (nats, _health, begin) = a_stream().await;
    let end = moment(OffsetDateTime::now_utc());
    let of = |from: &str| {
        let args = ["--from", from, "--to", &end, "--step=1s", "--no-replay-label", "--openmetrics=-"];
        by_second(&replayed(&nats.url(), &args))
    };
    let near = of(&moment(begin - time::Duration::minutes(5)));
    let far = of("1970-01-01T00:00:00Z");
    assert!(near.len() >= 300 && far.len() >= 3600, "{} and {} steps", near.len(), far.len());
    for (second, page) in &near {
        assert_eq!(format!("{:?}", far.get(second)), format!("{:?}", Some(page)), "{second}");
    }
    let silent = far.values().next().unwrap();
    assert_eq!(silent.sum("callsight_frames_received_total", &[]), 0.0);
    assert!(!silent.any("videocall_session_rtt_seconds", &[]));
}
