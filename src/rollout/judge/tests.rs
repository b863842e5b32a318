use std::time::{Duration, Instant};

use super::*;

/// A page of one region with so many sessions, after so many frames a session.
fn page(version: &str, sessions: u32, frames: u32) -> String {
    let total = sessions * frames;
    format!(
        "callsight_build_info{{version=\"{version}\"}} 1\n\
         callsight_live_series{{plane=\"session\"}} {session_series}\n\
         callsight_live_series{{plane=\"pair\"}} {pair_series}\n\
         callsight_frames_folded_total{{region=\"us\"}} {total}\n\
         videocall_sessions{{region=\"us\",server_url=\"a\"}} {sessions}\n\
         videocall_peer_connections{{region=\"us\",server_url=\"a\"}} {peers}\n\
         videocall_neteq_operations_total{{region=\"us\",operation=\"normal\"}} {operations}\n\
         videocall_rtt_seconds_bucket{{region=\"us\",le=\"0.1\"}} {total}\n\
         videocall_rtt_seconds_bucket{{region=\"us\",le=\"+Inf\"}} {total}\n",
        session_series = sessions * 4,
        pair_series = sessions * 30,
        peers = sessions * 3,
        operations = total * 500,
    )
}

/// Readings ten seconds apart.
fn readings(start: Instant, pages: &[String]) -> Vec<MetricsReading> {
    let read = |(at, text): (u64, &String)| {
        let page = MetricsPage::read(text.as_bytes()).unwrap().unwrap();
        MetricsReading { at: start + Duration::from_secs(10 * at), page }
    };
    (0..).zip(pages).map(read).collect()
}

fn judged(blue: &[String], green: &[String], tolerances: &Tolerances) -> WindowJudgement {
    let start = Instant::now();
    let regions = BTreeSet::from(["us".to_owned()]);
    let names = ["blue", "green"].map(str::to_owned);
    judge(
        &WatchedWindow { names, regions, blue: readings(start, blue), green: readings(start, green) },
        tolerances,
    )
}

fn reasons(blue: &[String], green: &[String]) -> Vec<String> {
    judged(blue, green, &Tolerances::default()).reasons
}

fn pages(version: &str, sessions: u32) -> [String; 2] {
    [page(version, sessions, 10), page(version, sessions, 20)]
}

#[test]
fn equals_agree_though_counters_began_elsewhere() {
    let later = [page("1.0.0", 100, 510), page("1.0.0", 100, 520)];
    let judgement = judged(&pages("1.0.0", 100), &later, &Tolerances::default());
    assert_eq!(judgement.reasons, [""; 0]);
    assert_eq!(judgement.version, VersionVerdict::Same);
    let frames = judgement.rows.iter().find(|row| row.what == "frames folded").unwrap();
    assert_eq!((frames.blue, frames.green), (Some(100.0), Some(100.0)));
}

#[test]
fn half_of_the_calls_is_not_enough_in_any_measure() {
    let reasons = reasons(&pages("1.0.0", 100), &pages("1.0.0", 50));
    for what in [
        "sessions",
        "peer connections",
        "frames folded",
        "NetEQ operations",
        "live session series",
        "live pair series",
    ] {
        assert!(
            reasons.iter().any(|reason| reason.contains(&format!("{what}: green has"))),
            "{what}: {reasons:?}"
        );
    }
    assert!(reasons[0].contains("green has 50, less than blue's 100 by over 5"), "{reasons:?}");
}

#[test]
fn small_populations_may_differ_by_the_floor_and_large_ones_by_a_share() {
    assert_eq!(reasons(&pages("1.0.0", 3), &pages("1.0.0", 1)), [""; 0], "two sessions are none");
    assert!(!reasons(&pages("1.0.0", 3), &pages("1.0.0", 0)).is_empty());
    assert_eq!(reasons(&pages("1.0.0", 1000), &pages("1.0.0", 960)), [""; 0]);
    assert!(!reasons(&pages("1.0.0", 1000), &pages("1.0.0", 940)).is_empty());
    assert!(!reasons(&pages("1.0.0", 1000), &pages("1.0.0", 1120)).is_empty(), "more is as wrong as less");
}

#[test]
fn an_older_version_ends_the_waiting_unless_it_is_meant() {
    let (blue, older) = (pages("1.10.0", 10), pages("1.9.2", 10));
    let judgement = judged(&blue, &older, &Tolerances::default());
    assert!(judgement.is_final && judgement.reasons[0].contains("1.9.2, which is older"), "{judgement:?}");
    let meant = Tolerances { allow_older: true, ..Tolerances::default() };
    assert_eq!(judged(&blue, &older, &meant).reasons, [""; 0]);
    let newer = judged(&older, &blue, &Tolerances::default());
    assert_eq!((newer.version, newer.reasons.len()), (VersionVerdict::Newer, 0));
}

#[test]
fn versions_compare_by_precedence_and_only_one_of_each_colour() {
    let verdict =
        |blue: &str, green: &str| judged(&pages(blue, 10), &pages(green, 10), &Tolerances::default()).version;
    assert_eq!(verdict("1.0.0-alpha.2", "1.0.0-alpha.10"), VersionVerdict::Newer);
    assert_eq!(verdict("1.0.0", "1.0.0-rc.1"), VersionVerdict::Older);
    assert_eq!(verdict("1.0.0+b7", "1.0.0"), VersionVerdict::Same);
    assert_eq!(verdict("1.0", "1.0.0"), VersionVerdict::Unclear);
    let mixed = [page("1.0.0", 10, 10), page("1.0.1", 10, 20)];
    let judgement = judged(&mixed, &pages("1.0.1", 10), &Tolerances::default());
    assert_eq!(judgement.version, VersionVerdict::Unclear);
    assert!(judgement.reasons[0].contains("blue runs 1.0.0 and 1.0.1, green 1.0.1"), "{judgement:?}");
}

#[test]
fn an_exporter_that_was_started_again_is_not_compared() {
    let restarted = [page("1.0.0", 100, 500), page("1.0.0", 100, 1)];
    let judgement = judged(&pages("1.0.0", 100), &restarted, &Tolerances::default());
    assert!(judgement.reasons.iter().all(|reason| reason.contains("an exporter restarted")), "{judgement:?}");
    assert!(!judgement.is_final && !judgement.reasons.is_empty());
}

#[test]
fn without_calls_there_is_nothing_to_compare() {
    let none = pages("1.0.0", 0);
    let judgement = judged(&none, &none, &Tolerances::default());
    assert!(judgement.reasons[0].contains("--min-sessions 0"), "{judgement:?}");
    let without = Tolerances { min_sessions: 0.0, ..Tolerances::default() };
    let judgement = judged(&none, &none, &without);
    assert_eq!(judgement.reasons, [""; 0]);
    let rtt = judgement.rows.iter().find(|row| row.what == "RTT p95").unwrap();
    assert_eq!(rtt.verdict, RowVerdict::TooFew);
}

/// The attack: a comparison with NaN is never true, so that a green without a number agreed with
/// any blue.
#[test]
fn what_is_no_number_agrees_with_nothing() {
    for value in ["NaN", "+Inf", "-Inf", "1e999"] {
        let mut green = pages("1.0.0", 100);
        for page in &mut green {
            *page = page
                .replace("} 100\n", &format!("}} {value}\n"))
                .replace("} 300\n", &format!("}} {value}\n"));
        }
        let reasons = reasons(&pages("1.0.0", 100), &green);
        for what in ["sessions: blue has 100, green ", "peer connections: blue has 300, green "] {
            assert!(reasons.iter().any(|reason| reason.contains(what)), "{value}: {what}: {reasons:?}");
        }
        assert!(!self::reasons(&green, &green).is_empty(), "{value}");
    }
    for name in ["callsight_frames_folded_total", "callsight_live_series", "videocall_rtt_seconds_bucket"] {
        let broken = |page: &String| {
            let line = |line: &str| match line.starts_with(name) {
                true => format!("{} NaN\n", line.rsplit_once(' ').unwrap().0),
                false => format!("{line}\n"),
            };
            page.lines().map(line).collect::<String>()
        };
        let green: Vec<_> = pages("1.0.0", 100).iter().map(broken).collect();
        assert!(!reasons(&pages("1.0.0", 100), &green).is_empty(), "{name}");
    }
}
