//! Bytes of resident memory for each thing that the fold keeps.
//!
//! The memory that an exporter needs follows from the cost of a series, of a session without
//! series, and of a session that has ended and is remembered. Each case runs in a process of its
//! own, because an allocator seldom returns what another case has freed. `./dev bench --bench
//! memory -- [CASE]`

mod common;

use std::env;
use std::io::{self, Write};
use std::process::Command;
use std::time::Duration;

use callsight_fold::DetailLevel;
use callsight_frame::{Audio, Frame, MeetingId, Peer, PeerId, Seq, Server, ServerType, ServerUrl, SessionId};
use common::{Failure, World, resident};

/// Series that the detail planes may have.
const MAX_SERIES: usize = 125_000;

/// Participants of a meeting.
const MEETING: usize = 4;

/// Something that the fold keeps, and how to make many of them.
struct Case {
    name: &'static str,
    what: &'static str,
    run: fn(&mut World) -> usize,
}

const CASES: &[Case] = &[
    Case { name: "series", what: "live series, meetings of 4, pair detail", run: series },
    Case { name: "session", what: "live session without series, 3 peers", run: refused_sessions },
    Case { name: "joined", what: "live session without series, no peers", run: joined_sessions },
    Case { name: "ended", what: "session that has ended and is remembered", run: ended_sessions },
    Case { name: "idle", what: "session that fell idle and is remembered, 3 peers", run: idle_sessions },
    Case { name: "peers", what: "session whose 256 peers are others in every frame", run: changing_peers },
    Case {
        name: "revived",
        what: "session that ends and comes back, 20 times in 2 s",
        run: revived_sessions,
    },
    Case { name: "flood", what: "session that ends at once, of 1,000,000", run: flood },
];

fn main() -> Result<(), Failure> {
    // `cargo bench` adds a flag.
    let case = env::args().skip(1).find(|argument| !argument.starts_with("--"));
    if case.as_deref() == Some(CHURN) {
        return churn();
    }
    if let Some(case) = case.and_then(|name| CASES.iter().find(|case| case.name == name)) {
        return measure(case);
    }
    for name in CASES.iter().map(|case| case.name).chain([CHURN]) {
        let status = Command::new(env::current_exe()?).arg(name).status()?;
        if !status.success() {
            return Err(format!("{name} failed").into());
        }
    }
    Ok(())
}

const CHURN: &str = "churn";

/// Four hours in which 50 sessions join and 50 leave per second, 720,000 in all, each for a minute.
/// Half of them announce that they leave, the others fall silent. Memory must stay where it was
/// after the first minutes.
fn churn() -> Result<(), Failure> {
    const JOINS: usize = 50;
    const LIFE: usize = 60;
    const INTERVAL: usize = 10;
    let mut world = World::with(DetailLevel::Pair, MAX_SERIES);
    let before = resident();
    for second in 0..4 * 3600 {
        for age in (0..=LIFE).step_by(INTERVAL).filter(|age| *age <= second) {
            for session in (second - age) * JOINS..(second - age + 1) * JOINS {
                let (seq, last) = ((age / INTERVAL + 1) as u64, age == LIFE);
                if !last || session.is_multiple_of(2) {
                    say(&mut world, session, seq, last, &others(session));
                }
            }
        }
        world.wait(Duration::from_secs(1));
        if [299, 599, 1199, 3599, 7199, 14_399].contains(&second) {
            writeln!(
                io::stdout(),
                "{:>7} KiB after {} min of 50 joins and 50 leaves a second ({} sessions live, {} met)",
                (resident() - before) >> 10,
                (second + 1) / 60,
                world.fold.live_sessions(),
                (second + 1) * JOINS
            )?;
        }
    }
    Ok(())
}

fn measure(case: &Case) -> Result<(), Failure> {
    let detail = if case.name == "series" { DetailLevel::Pair } else { DetailLevel::Off };
    let mut world = World::with(detail, MAX_SERIES);
    let before = resident();
    let count = (case.run)(&mut world);
    let bytes = resident().saturating_sub(before);
    let each = bytes / count;
    writeln!(io::stdout(), "{each:>7} bytes a {} ({count} in {} MiB)", case.what, bytes >> 20)?;
    Ok(())
}

/// Folds a frame of a session that observes these peers.
fn say(world: &mut World, session: usize, seq: u64, ended: bool, peers: &[String]) {
    let session_id = format!("0b6e5f1c-9d1f-4a51-8a39-{session:012}");
    let (meeting_id, peer_id) = (format!("meeting-{:08}", session / MEETING), peer_name(session));
    let frame = || -> Option<Frame<'_>> {
        let (meeting, session) = (MeetingId::new(&meeting_id).ok()?, SessionId::new(&session_id).ok()?);
        let url = ServerUrl::new("https://relay-1.example:4433").ok()?;
        Some(Frame {
            ended: Some(ended),
            server: Some(Server { rtt_ms: Some(42.0), ..Server::new(url, ServerType::WebTransport) }),
            audio_enabled: Some(true),
            video_enabled: Some(true),
            tab_visible: Some(true),
            peers: peers.iter().filter_map(|peer_id| peer(peer_id, seq)).collect(),
            ..Frame::new(meeting, session, PeerId::new(&peer_id).ok()?, Seq::new(seq)?, 1_764_000_000_000)
        })
    };
    if let Some(frame) = frame() {
        world.fold(&frame);
    }
}

fn others(session: usize) -> Vec<String> {
    let first = session / MEETING * MEETING;
    (first..first + MEETING).filter(|other| *other != session).map(peer_name).collect()
}

fn peer_name(session: usize) -> String {
    format!("user-{session:011}")
}

fn peer(peer_id: &str, seq: u64) -> Option<Peer<'_>> {
    let mut peer = Peer {
        can_listen: true,
        can_see: true,
        audio_enabled: true,
        video_enabled: true,
        audio: Some(Audio {
            buffer_ms: Some(60.0),
            target_ms: Some(80.0),
            packets_awaiting_decode: Some(2.0),
            jitter_ms: Some(3.0),
            ..Audio::default()
        }),
        ..Peer::new(PeerId::new(peer_id).ok()?)
    };
    common::count_on(&mut peer, seq);
    Some(peer)
}

fn series(world: &mut World) -> usize {
    for session in 0..1_600 {
        say(world, session, 1, false, &others(session));
    }
    world.live_series()
}

fn refused_sessions(world: &mut World) -> usize {
    for session in 0..100_000 {
        say(world, session, 1, false, &others(session));
    }
    world.fold.live_sessions()
}

fn joined_sessions(world: &mut World) -> usize {
    for session in 0..100_000 {
        say(world, session, 1, false, &[]);
    }
    world.fold.live_sessions()
}

/// Few sessions are live at a time, so that what remains are those that are remembered.
fn ended_sessions(world: &mut World) -> usize {
    let count = 100_000;
    for session in 0..count {
        say(world, session, 1, false, &others(session));
        say(world, session, 2, true, &[]);
    }
    count
}

fn idle_sessions(world: &mut World) -> usize {
    let count = 100_000;
    for session in 0..count {
        say(world, session, 1, false, &others(session));
        if session % 1_000 == 999 {
            world.wait(Duration::from_secs(1));
        }
    }
    count
}

fn changing_peers(world: &mut World) -> usize {
    let count = 100;
    for session in 0..count {
        for seq in 1..=20 {
            let peers: Vec<_> = (0..256).map(|peer| format!("p-{session}-{seq}-{peer}")).collect();
            say(world, session, seq, false, &peers);
        }
    }
    count
}

fn revived_sessions(world: &mut World) -> usize {
    let count = 10_000;
    for round in 0..20 {
        for session in 0..count {
            say(world, session, 2 * round + 1, false, &[]);
            say(world, session, 2 * round + 2, true, &[]);
        }
        world.wait(Duration::from_millis(100));
    }
    count
}

fn flood(world: &mut World) -> usize {
    let count = 1_000_000;
    for session in 0..count {
        say(world, session, 1, true, &[]);
        if session % 20_000 == 19_999 {
            world.wait(Duration::from_secs(1));
        }
    }
    count
}
