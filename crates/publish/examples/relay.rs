//! A relay that publishes one health frame per second for a call that it forwards, and flushes at
//! the end.
//!
//! `cargo run -p callsight-publish --example relay -- nats://us-1:4222 nats://us-2:4222`
//!
//! Name all servers of the region: when one stops, the client moves to another.
//!
//! Frames wait until a stream has their subject; `callsight serve --create --region us` creates
//! one.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{ConnectOptions, ServerAddr};
use callsight_publish::frame::{Frame, MeetingId, PeerId, Seq, Server, ServerType, ServerUrl, SessionId};
use callsight_publish::{PublishError, Publisher, PublisherConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut servers =
        std::env::args().skip(1).map(|url| url.parse()).collect::<Result<Vec<ServerAddr>, _>>()?;
    if servers.is_empty() {
        servers.push("nats://127.0.0.1:4222".parse()?);
    }
    // A server that was frozen or lost its power closes no connection: only pings reveal it.
    let options = ConnectOptions::new().ping_interval(Duration::from_secs(10));
    let client = options.connect(servers).await?;
    let publisher = Publisher::start(client, PublisherConfig::new("us".parse()?, "relay", "relay-1")).await?;

    // A session id is new at each join, so that frames of two joins are never confused.
    let joined_at = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let session_id = format!("ana-{:x}", joined_at.as_nanos());
    let (mut seq, mut ended) = (Seq::FIRST, false);
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    while !ended {
        tokio::select! {
            _ = every_second.tick() => {}
            leave = tokio::signal::ctrl_c() => { leave?; ended = true; }
        }
        let sent_at_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let (meeting, session) = (MeetingId::new("standup")?, SessionId::new(&session_id)?);
        let relay = ServerUrl::new("https://relay-us-1.example.com:4433")?;
        let frame = Frame {
            ended: ended.then_some(true),
            server: Some(Server { rtt_ms: Some(38.5), ..Server::new(relay, ServerType::WebTransport) }),
            audio_enabled: Some(true),
            video_enabled: Some(false),
            tab_visible: Some(true),
            ..Frame::new(meeting, session, PeerId::new("ana")?, seq, sent_at_ms)
        };
        match publisher.publish(&frame) {
            Ok(()) => seq = Seq::new(seq.get() + 1).ok_or("sequence numbers are exhausted")?,
            // NATS has been away for long. Drop the frame: counters are cumulative, so the next one
            // has them too.
            Err(PublishError::Overflow { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }

    let stats = publisher.shutdown(Duration::from_secs(10)).await?;
    writeln!(io::stdout(), "{} frames published, {} acknowledged", stats.accepted, stats.acknowledged)?;
    Ok(())
}
