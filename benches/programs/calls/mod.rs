//! Long calls, published as a relay publishes them.

// Each benchmark is a crate of its own and uses a part of this.
#![allow(dead_code, clippy::allow_attributes, reason = "used in part by each benchmark")]

use std::time::{Duration, Instant};

use callsight_frame::Frame;
use callsight_publish::{Publisher, PublisherConfig};
use callsight_testkit::nats::Nats;

use crate::common::Names;
use crate::rig::{DEADLINE, Failure, connect};

/// How often per second frames are published, at a steady rate.
const TICKS_PER_SECOND: usize = 100;

/// Sessions in meetings of one size, and their relay.
pub(crate) struct Calls {
    publisher: Publisher,
    parties: usize,
    names: Vec<Names>,
    seq: u64,
    /// The session and number of each frame, and when it was published.
    pub(crate) said: Vec<(usize, u64, Instant)>,
}

impl Calls {
    pub(crate) async fn start(nats: &Nats, relay: &str, parties: usize) -> Result<Self, Failure> {
        let config = PublisherConfig::new("us".parse()?, "relay", relay);
        let publisher = Publisher::start(connect(&nats.url()).await?, config).await?;
        Ok(Self { publisher, parties, names: Vec::new(), seq: 0, said: Vec::new() })
    }

    /// Publishes a frame of another session.
    pub(crate) async fn say(&mut self, frame: &Frame<'_>) -> Result<(), Failure> {
        self.publisher.room().await?;
        Ok(self.publisher.publish(frame)?)
    }

    /// Replaces the sessions by these, each of which publishes a frame.
    pub(crate) async fn join(&mut self, first: usize, sessions: usize) -> Result<(), Failure> {
        self.names = (first..first + sessions).map(|session| Names::new(session, self.parties)).collect();
        for turn in 0..sessions {
            self.turn(turn).await?;
        }
        self.flush().await
    }

    /// Publishes at a rate per second for some seconds, by the sessions in turn.
    pub(crate) async fn go_on(&mut self, rate: usize, seconds: usize) -> Result<(), Failure> {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(TICKS_PER_SECOND)?);
        for round in 0..seconds * TICKS_PER_SECOND {
            tick.tick().await;
            for turn in round * rate / TICKS_PER_SECOND..(round + 1) * rate / TICKS_PER_SECOND {
                self.turn(turn).await?;
            }
        }
        self.flush().await
    }

    async fn turn(&mut self, turn: usize) -> Result<(), Failure> {
        self.publisher.room().await?;
        let session = turn % self.names.len();
        self.seq += u64::from(session == 0);
        let mut frame = self.names[session].frame(self.seq);
        // The round trip identifies the frame that a page shows.
        if let Some(server) = &mut frame.server {
            server.rtt_ms = Some(self.seq as f64);
        }
        self.said.push((session, self.seq, Instant::now()));
        Ok(self.publisher.publish(&frame)?)
    }

    async fn flush(&self) -> Result<(), Failure> {
        self.publisher.flush(DEADLINE).await?;
        Ok(())
    }
}
