//! What each kind of client reports, and that its numbers are coherent.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use callsight_frame::{Audio, MAPS, Sending, Video};
use clap::ValueEnum;
use serde_json::Value;

use super::*;

const DOC: &str = include_str!("../../../../docs/frame.md");

/// Calls of one kind of client with a trouble from the beginning, for two minutes.
fn listen_to(clients: Clients, scenario: Scenario, seed: u64) -> (SimulateConfig, Vec<Said>) {
    let config = SimulateConfig {
        sessions: 60,
        meeting_size: 6,
        interval: Duration::from_secs(1 + seed),
        clients,
        rhythm: Rhythm { quiet: Duration::from_secs(20), bad: Duration::from_secs(60) },
        ..small(seed, scenario)
    };
    let said = listen(&config, Duration::from_secs(120), |_| {});
    (config, said)
}

/// Runs of both kinds of clients in every scenario that affects them.
fn runs() -> impl Iterator<Item = (Clients, Scenario, SimulateConfig, Vec<Said>)> {
    let scenarios = Scenario::value_variants().iter().zip(1..);
    scenarios.flat_map(|(scenario, seed)| {
        [Clients::Browser, Clients::NetEq].map(|clients| {
            let (config, said) = listen_to(clients, *scenario, seed);
            (clients, *scenario, config, said)
        })
    })
}

/// The values of a frame by key, as `audio.packets_lost`; those of each peer apart, by its id.
fn values(frame: &Frame<'_>) -> BTreeMap<String, BTreeMap<String, Value>> {
    fn add(values: &mut BTreeMap<String, Value>, prefix: &str, map: &Value) {
        for (key, value) in map.as_object().unwrap() {
            let key = format!("{prefix}{key}");
            match value {
                Value::Object(_) => add(values, &format!("{key}."), value),
                Value::Array(_) => {}
                _ => _ = values.insert(key, value.clone()),
            }
        }
    }
    let json = serde_json::to_value(frame).unwrap();
    let mut all = BTreeMap::new();
    add(all.entry(String::new()).or_default(), "", &json);
    for peer in json["peers"].as_array().unwrap() {
        add(all.entry(peer["peer_id"].as_str().unwrap().to_owned()).or_default(), "", peer);
    }
    all
}

/// Fields that are cumulative, by map and key, as the specification says.
fn cumulative() -> BTreeSet<String> {
    let fields = MAPS.iter().flat_map(|(map, fields)| fields.iter().map(move |field| (map, field)));
    let counters =
        fields.filter(|(_, field)| field.meaning.starts_with("Cumulative") && field.kind == "uint");
    let neteq = MAPS.iter().find(|(map, _)| *map == "neteq").unwrap().1;
    let operations = neteq.iter().map(|field| format!("neteq.{}", field.key));
    counters.map(|(map, field)| format!("{map}.{}", field.key)).chain(operations).collect()
}

#[test]
fn cumulative_counters_never_fall_and_grow_plausibly() {
    let cumulative = cumulative();
    assert!(cumulative.len() > 40, "{cumulative:?}");
    let mut grown = BTreeSet::new();
    for (_, scenario, config, said) in runs() {
        let mut last: HashMap<(String, String, String), (Duration, u64)> = HashMap::new();
        for (due, _, bytes) in &said {
            let frame = Frame::decode(bytes).unwrap();
            for (peer, values) in values(&frame) {
                for (key, value) in values {
                    let name = key.rsplitn(3, '.').take(2).collect::<Vec<_>>();
                    let name = name.into_iter().rev().collect::<Vec<_>>().join(".");
                    if !cumulative.contains(&name) {
                        continue;
                    }
                    let now = value.as_u64().unwrap();
                    let id = (frame.session_id.to_string(), peer.clone(), key.clone());
                    let (grown_at, before) = last.entry(id).or_default();
                    assert!(*before <= now, "{scenario}: {key} of {peer:?} falls from {before} to {now}");
                    let per_second = if key.contains("_samples") { 192_000.0 } else { 1_000.0 };
                    // A hidden tab catches up.
                    let possible = (*due - *grown_at + config.interval).as_secs_f64() * per_second;
                    let growth = now - *before;
                    assert!(growth as f64 <= possible, "{scenario}: {key} grows by {growth}");
                    if growth > 0 {
                        (*grown_at, *before) = (*due, now);
                        grown.insert(name);
                    }
                }
            }
        }
    }
    // What no scenario has: telephone tones, and limits that are neither network nor processor.
    let never: Vec<_> = cumulative.difference(&grown).map(String::as_str).collect();
    let expected = ["neteq.dtmf", "neteq.undefined", "quality_limitation_durations.other"];
    let screens = |key: &&str| !key.starts_with("screen.");
    assert_eq!(never.into_iter().filter(screens).collect::<Vec<_>>(), expected, "everything else grows");
}

fn check_audio(audio: &Audio, browser: bool) {
    assert!(audio.silent_concealed_samples <= audio.concealed_samples, "{audio:?}");
    assert!(audio.concealed_samples <= audio.total_samples, "{audio:?}");
    let [events, concealed] = [audio.concealment_events, audio.concealed_samples].map(Option::unwrap);
    assert!(events * 480 <= concealed && (events == 0) == (concealed == 0), "{audio:?}");
    if browser {
        // A packet of 20 ms is lost, late, or played.
        let packets = audio.packets_received.unwrap() + audio.packets_lost.unwrap();
        assert!(packets <= audio.total_samples.unwrap() / 960 + 20, "{audio:?}");
    } else {
        let operations: u64 = audio.neteq.as_ref().unwrap().counts().iter().flatten().sum();
        assert_eq!(audio.total_samples, Some(operations * 480));
    }
}

fn check_video(video: &Video) {
    if let (Some(freezes), Some(frozen_ms)) = (video.freeze_count, video.freezes_ms) {
        assert!((freezes * 200..=freezes * 700).contains(&frozen_ms), "{video:?}");
    }
    if video.fps > Some(0.0) {
        // Of a camera of 720p at 30 fps, or of a screen.
        assert!((1.0..2_500.0).contains(&video.bitrate_kbps.unwrap()), "{video:?}");
    } else {
        assert!(video.bitrate_kbps.unwrap_or(0.0) == 0.0, "{video:?}");
    }
}

fn check_sending(sending: &Sending, available_kbps: Option<f64>) {
    assert!(sending.audio_packets_lost <= sending.audio_packets_sent, "{sending:?}");
    assert!(sending.video_packets_lost <= sending.video_packets_sent, "{sending:?}");
    if let (Some(sent), Some(available)) = (sending.bitrate_kbps, available_kbps) {
        assert!(sent <= available + 0.1, "{sent} of {available}");
    }
    assert_eq!(sending.fps.is_some(), sending.frame_height.is_some());
}

#[test]
fn the_numbers_of_a_frame_are_coherent() {
    for (clients, _, config, said) in runs() {
        let browser = clients == Clients::Browser;
        let mut limited: HashMap<String, (Duration, u64)> = HashMap::new();
        for (due, _, bytes) in &said {
            let frame = Frame::decode(bytes).unwrap();
            for peer in &frame.peers {
                check_audio(peer.audio.as_ref().unwrap(), browser);
                peer.video.iter().chain(&peer.screen).for_each(check_video);
                assert!(peer.can_listen || (peer.audio_enabled && peer.audio_wanted.is_none()));
                assert!(peer.can_see || (peer.video_enabled && peer.video_wanted.is_none()));
            }
            let Some(sending) = &frame.send else { continue };
            check_sending(sending, frame.path.as_ref().unwrap().available_outgoing_kbps);
            if let Some(limits) = &sending.limited {
                let now = limits.cpu_ms.unwrap() + limits.bandwidth_ms.unwrap();
                let first = (due.saturating_sub(config.interval), 0);
                let last = limited.entry(frame.session_id.to_string()).or_insert(first);
                let (passed, before) = ((*due - last.0).as_millis() as u64, last.1);
                // A hidden tab's statistics stand still.
                if frame.tab_visible == Some(true) || now > before {
                    *last = (*due, now);
                }
                assert!(now - before <= passed, "limited for {} in {passed} ms", now - before);
            }
        }
    }
}

/// The rows of the first table after a chapter's heading: each field, and its value in words.
fn mapping(chapter: &str, heading: &str) -> Vec<(String, &'static str)> {
    let chapter = &DOC[DOC.find(chapter).unwrap()..];
    let lines = chapter[chapter.find(heading).unwrap()..].lines();
    let rows = lines.skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with("| `"));
    rows.flat_map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let value = cells[cells.len() - 2];
        cells[1].split(", ").map(move |field| (field.trim_matches('`').to_owned(), value)).collect::<Vec<_>>()
    })
    .collect()
}

/// Fields that some clients' frames have, as `audio.packets_lost`, and by platform.
fn reported(clients: Clients) -> BTreeMap<String, BTreeSet<String>> {
    let mut reported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for seed in 1..=3 {
        for (_, _, bytes) in listen_to(clients, Scenario::Uplink, seed).1 {
            let frame = Frame::decode(&bytes).unwrap();
            let platform = frame.client.as_ref().unwrap().platform.unwrap().label();
            let keys = values(&frame).into_values().flat_map(BTreeMap::into_keys);
            reported.entry(platform.to_owned()).or_default().extend(keys);
        }
    }
    reported
}

/// Whether there is this field, or the map that it is.
fn has(reported: &BTreeSet<String>, field: &str) -> bool {
    let prefix = format!("{}.", field.trim_end_matches(".*"));
    reported.iter().any(|key| key == field || key.starts_with(&prefix))
}

#[test]
fn a_browser_reports_what_the_mapping_from_get_stats_gives() {
    let by_platform = reported(Clients::Browser);
    let lacks = |platform: &str| match platform {
        "firefox" => &["path.available_outgoing_kbps", "send.quality_limitation_durations"][..],
        _ => &[],
    };
    for (map, heading) in [
        ("audio", "### Audio"),
        ("video", "### Video"),
        ("screen", "### Video"),
        ("send", "### Send"),
        ("", "### Session"),
    ] {
        for (field, value) in mapping("## From `getStats()`", heading) {
            let field = if map.is_empty() { field } else { format!("{map}.{field}") };
            for (platform, reported) in &by_platform {
                // No attempt to join fails here, and few share their screen.
                if field == "join.reason" || (map == "screen" && platform != "chrome") {
                    continue;
                }
                let expected = !value.starts_with("Absent") && !lacks(platform).contains(&field.as_str());
                assert_eq!(has(reported, &field), expected, "{field} of {platform}");
            }
        }
    }
}

#[test]
fn an_old_firefox_lacks_what_the_specification_says() {
    let frames = listen_to(Clients::Browser, Scenario::PacketLoss, 1).1;
    let lacking: Vec<&str> = DOC
        .lines()
        .filter_map(|line| line.strip_suffix(" | 142 | yes | The field is absent. |"))
        .filter_map(|line| line.split('`').nth(1)?.strip_prefix("inbound-rtp."))
        .collect();
    assert_eq!(lacking, ["freezeCount", "jitterBufferTargetDelay", "totalFreezesDuration"]);
    let mut sessions: HashMap<String, BTreeSet<String>> = HashMap::new();
    for (_, _, bytes) in &frames {
        let frame = Frame::decode(bytes).unwrap();
        if frame.client.as_ref().unwrap().platform == Some(callsight_frame::Platform::Firefox) {
            let keys = values(&frame).into_values().flat_map(BTreeMap::into_keys);
            sessions.entry(frame.session_id.to_string()).or_default().extend(keys);
        }
    }
    let fields = ["video.freeze_count", "audio.target_ms", "video.total_freezes_duration_ms"];
    let known = |keys: &BTreeSet<String>| fields.map(|field| has(keys, field));
    let with_video = sessions.values().filter(|keys| has(keys, "video.fps"));
    let kinds: BTreeSet<_> = with_video.map(known).collect();
    assert_eq!(kinds, BTreeSet::from([[false; 3], [true; 3]]), "old ones and new ones");
}

#[test]
fn a_jitter_buffer_of_ones_own_reports_its_table_and_nothing_of_a_browser() {
    let reported: BTreeSet<String> = reported(Clients::NetEq).into_values().flatten().collect();
    let table = mapping("## From a jitter buffer of one's own", "");
    for (field, _) in &table {
        assert!(has(&reported, field), "{field}");
    }
    let media = ["audio.", "video.", "screen.", "send.", "path."];
    for key in reported.iter().filter(|key| media.iter().any(|map| key.starts_with(map))) {
        let neteq = key.starts_with("audio.neteq.");
        assert!(neteq || table.iter().any(|(field, _)| field == key), "{key} is not in the table");
    }
}
