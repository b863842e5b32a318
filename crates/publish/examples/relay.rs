//! A relay that publishes one health frame per second for a call that it forwards, and flushes at
//! the end.
//!
//! `cargo run -p callsight-publish --example relay -- nats://127.0.0.1:4222`
//!
//! Frames wait until a stream has their subject; `callsight serve --create --region us` creates
//! one.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use callsight_publish::frame::{Frame, MeetingId, PeerId, Seq, Server, ServerType, ServerUrl, SessionId};
use callsight_publish::{PublishError, Publisher, PublisherConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "nats://127.0.0.1:4222".into());
    let client = async_nats::connect(url).await?;
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
