//! The fold at event time: records in, steps out.
//!
//! Live, the clock runs by itself and a scrape may come at any moment. Here the records carry the
//! clock: before a record is folded, time advances to the moment at which the stream received it,
//! idle sessions are removed, and every step up to there is shown to the sinks.
//!
//! The state of sessions at the beginning of the window comes from the frames before it. Those are
//! folded as a restarted exporter folds them: for gauges, watermarks and baselines, without
//! counting. So counters are zero at the beginning of the window and grow from there as they did
//! live.
//!
//! Invariant: a step shows what a scrape at that moment would have shown, from the same fold.

use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use super::progress::Control;
use super::sample::Step;
use super::seen::{Fate, Seen};
use super::sink::{Sink, SinkError};
use super::window::Window;
use crate::stream_reader::Record;
use callsight_fold::series::aggregates::{Aggregates, RegionSeries};
use callsight_fold::series::detail::DetailStore;
use callsight_fold::{Fold, FoldSettings, REMEMBERED, SessionBudget, StreamTime};
use callsight_frame::subject::{Region, Subject};
use callsight_frame::{Decoder, Frame, Reason, Rejection};

/// The budget for detail series and for sessions: none is refused, since a replay is for what live
/// series leave out. The number leaves room for arithmetic.
const UNBOUNDED: usize = usize::MAX / 4;

/// Which frames are folded. Aggregates count these alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The meetings to fold; all if empty.
    pub meetings: Vec<String>,
    /// The sessions to fold; all if empty.
    pub sessions: Vec<String>,
}

impl Filter {
    /// Whether every frame is folded.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.meetings.is_empty() && self.sessions.is_empty()
    }

    fn wants(&self, frame: &Frame<'_>) -> bool {
        let has = |list: &[String], id: &str| list.is_empty() || list.iter().any(|wanted| wanted == id);
        has(&self.meetings, frame.meeting_id.as_str()) && has(&self.sessions, frame.session_id.as_str())
    }
}

/// The configuration of a replay.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The regions; [`Engine::take`] names them by index.
    pub regions: Vec<Region>,
    /// The window and its steps.
    pub window: Window,
    /// The frames to fold.
    pub filter: Filter,
    /// The settings of the fold. Pair detail is always on, and only servers have a budget.
    pub fold: FoldSettings,
    /// Whether the hub's mirrors are read.
    pub mirror: bool,
}

impl EngineConfig {
    /// How long before the window reading begins: every session that is live or remembered at the
    /// window's beginning sent a frame within that time.
    #[must_use]
    pub fn warm_up(&self) -> Duration {
        self.fold.idle_timeout.max(REMEMBERED)
    }

    /// The moment at which reading begins.
    #[must_use]
    pub fn since(&self) -> StreamTime {
        self.window.from - self.warm_up()
    }
}

struct RegionFold {
    region: Region,
    fold: Fold,
    own: Arc<RegionSeries>,
}

/// The series themselves at a step, before they are read.
pub struct Moment<'a> {
    pub at: StreamTime,
    pub aggregates: &'a Aggregates,
    pub detail: &'a DetailStore,
    /// Each region, with the number of its live sessions.
    pub regions: Vec<(&'a Region, usize)>,
}

/// Whether the window may still take records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// Event time has not passed the window's end.
    Open,
    /// Event time has passed the window's end.
    Over,
}

/// The folds of all regions at event time, and the sinks that see the steps.
pub struct Engine {
    config: EngineConfig,
    regions: Vec<RegionFold>,
    decoder: Decoder,
    aggregates: Aggregates,
    detail: DetailStore,
    steps: Peekable<Box<dyn Iterator<Item = StreamTime> + Send>>,
    /// Event time: that of the latest record.
    now: StreamTime,
    sinks: Vec<Box<dyn Sink>>,
    /// Whether any sink uses steps.
    looked_at: bool,
    account: Account,
    control: Control,
}

impl Engine {
    /// Makes an engine at the beginning of its window.
    #[must_use]
    pub fn new(config: EngineConfig, sinks: Vec<Box<dyn Sink>>, control: Control) -> Self {
        let aggregates = Aggregates::new();
        let detail = DetailStore::new(UNBOUNDED);
        let budget = SessionBudget::new(UNBOUNDED);
        let regions = config
            .regions
            .iter()
            .map(|region| {
                let recorder = Arc::clone(aggregates.recorder());
                let own = Arc::new(RegionSeries::register(&*recorder, region.as_str()));
                let shared = (recorder, detail.clone(), budget.clone());
                let fold = Fold::new(region, config.fold, shared, Arc::clone(&own));
                RegionFold { region: region.clone(), fold, own }
            })
            .collect();
        let steps: Box<dyn Iterator<Item = StreamTime> + Send> = Box::new(config.window.steps());
        let looked_at = sinks.iter().any(|sink| sink.looks_at_steps());
        Self {
            now: config.since(),
            config,
            regions,
            decoder: Decoder::default(),
            aggregates,
            detail,
            steps: steps.peekable(),
            sinks,
            looked_at,
            account: Account::default(),
            control,
        }
    }

    #[must_use]
    pub const fn now(&self) -> StreamTime {
        self.now
    }

    /// Takes the next record of a region. Records of all regions must come in the order of their
    /// time.
    ///
    /// # Errors
    /// Those of the sinks, and [`SinkError::Stopped`].
    pub fn take(&mut self, index: usize, record: &Record) -> Result<WindowState, SinkError> {
        // The clock of a stream's server may be set back; time is not.
        let now = self.now.max(record.at);
        self.look_until(now, false)?;
        self.now = now;
        let Window { from, to, .. } = self.config.window;
        if now > to {
            return Ok(WindowState::Over);
        }
        let within = now >= from;
        let Some(RegionFold { region, .. }) = self.regions.get(index) else {
            return Ok(WindowState::Open);
        };
        let account = &mut self.account;
        if within {
            account.messages += 1;
            account.span = Some((account.span.map_or(record.at, |(first, _)| first), now));
        } else {
            account.warm_up += 1;
        }
        let server_id = server_id(region, record);
        let mut decoder = std::mem::take(&mut self.decoder);
        let read = server_id.and_then(|server_id| {
            decoder.with(&record.payload, Some(server_id), |frame| self.fold(index, record, frame, within))
        });
        self.decoder = decoder;
        match read {
            Ok(folded) => folded?,
            // A rejected frame has no meeting to filter by.
            Err(_) if !within || !self.config.filter.is_open() => {}
            Err(rejection) => {
                if let Some(RegionFold { own, .. }) = self.regions.get(index) {
                    own.received.increment(1);
                    own.rejected(rejection.reason).increment(1);
                }
                self.hand_on(index, record, Fate::Rejected(&rejection))?;
            }
        }
        Ok(WindowState::Open)
    }

    /// Folds the frame of a record, unless the filter excludes it.
    fn fold(
        &mut self,
        index: usize,
        record: &Record,
        frame: &Frame<'_>,
        within: bool,
    ) -> Result<(), SinkError> {
        if !self.config.filter.wants(frame) {
            self.account.passed_over += u64::from(within);
            return Ok(());
        }
        let Some(RegionFold { fold, own, .. }) = self.regions.get_mut(index) else { return Ok(()) };
        // As the timer does live: idle sessions are removed before the next frame.
        fold.tick(self.now);
        if !within {
            fold.warm(frame, record.at, self.now);
            return Ok(());
        }
        own.received.increment(1);
        let outcome = fold.frame(frame, record.at, self.now);
        self.hand_on(index, record, Fate::Taken(frame, outcome))
    }

    /// Counts what became of a message, and hands it to the sinks.
    fn hand_on(&mut self, index: usize, record: &Record, fate: Fate<'_>) -> Result<(), SinkError> {
        self.account.count(&fate);
        let Some(RegionFold { region, .. }) = self.regions.get(index) else { return Ok(()) };
        let seen = Seen { region, record, fate };
        for sink in &mut self.sinks {
            sink.frame(&seen)?;
        }
        Ok(())
    }

    /// Shows the remaining steps and finishes the sinks. Returns the account and the sinks'
    /// messages.
    ///
    /// # Errors
    /// Those of the sinks, and [`SinkError::Stopped`].
    pub fn finish(mut self) -> Result<(Account, Vec<String>), SinkError> {
        self.look_until(self.config.window.to, true)?;
        let mut said = Vec::new();
        if !self.account.is_empty() {
            for sink in self.sinks {
                said.extend(sink.finish(&self.account)?);
            }
        }
        Ok((self.account, said))
    }

    /// Shows the sinks all steps before a moment, or up to and including it.
    fn look_until(&mut self, moment: StreamTime, inclusive: bool) -> Result<(), SinkError> {
        while let Some(at) = self.steps.next_if(|at| *at < moment || (inclusive && *at == moment)) {
            // Hours without a frame are many steps.
            self.control.check()?;
            for region in &mut self.regions {
                region.fold.tick(at);
            }
            self.account.steps += 1;
            let live = self.regions.iter().map(|region| region.fold.live_sessions()).sum();
            self.account.most_sessions = self.account.most_sessions.max(live);
            let moment = Moment {
                at,
                aggregates: &self.aggregates,
                detail: &self.detail,
                regions: self
                    .regions
                    .iter()
                    .map(|region| (&region.region, region.fold.live_sessions()))
                    .collect(),
            };
            for sink in &mut self.sinks {
                sink.look(&moment)?;
            }
            if !self.looked_at {
                continue;
            }
            let step = Step::read(at, &self.aggregates, &self.detail);
            self.account.samples += step.samples() as u64;
            for sink in &mut self.sinks {
                sink.step(&step)?;
            }
        }
        Ok(())
    }
}

/// The server that published a record, whose subject must be of the region.
fn server_id<'a>(region: &Region, record: &'a Record) -> Result<&'a str, Rejection> {
    let Subject { region: named, server_id, .. } = Subject::parse(&record.subject)?;
    if named != region.as_str() {
        let detail = format!("region {named} in the stream of region {region}");
        return Err(Rejection::new(Reason::BadSubject, detail));
    }
    Ok(server_id)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::sample::Table;
    use super::*;
    use crate::replay::account::Account;
    use callsight_fold::series::catalogue::{PACKETS_RECEIVED, SAMPLES, SESSIONS};
    use callsight_frame::{Form, MeetingId, PeerId, Seq, Server, ServerType, ServerUrl, SessionId};
    use protobuf::{Message, MessageField};
    use videocall_types::protos::health_packet::{HealthPacket, NetEqStats, PeerStats};

    /// Stops the replay at its third step, as a signal does.
    struct Stopping(Control, u32);

    impl Sink for Stopping {
        fn step(&mut self, _: &Step) -> Result<(), SinkError> {
            self.1 += 1;
            if self.1 == 3 {
                self.0.stop();
            }
            Ok(())
        }

        fn finish(self: Box<Self>, _: &Account) -> Result<Vec<String>, SinkError> {
            Ok(Vec::new())
        }
    }

    /// For each step, its second and the servers that have series.
    type Seen = Arc<Mutex<Vec<(u64, Vec<String>)>>>;

    struct Servers(Seen);

    impl Sink for Servers {
        fn step(&mut self, step: &Step) -> Result<(), SinkError> {
            let urls = |metric| {
                let rows = step.tables[Table::index_of(metric).unwrap()].iter();
                let url =
                    |labels: callsight_fold::series::labels::Labels<'_>| labels.values::<2>()[1].to_string();
                rows.map(|(labels, _)| url(labels)).collect::<Vec<_>>()
            };
            assert_eq!(urls(&SESSIONS), urls(&SAMPLES));
            let second = u64::try_from(step.at.unix_nanos() / 1_000_000_000).unwrap();
            self.0.lock().unwrap().push((second, urls(&SESSIONS)));
            Ok(())
        }

        fn finish(self: Box<Self>, _: &Account) -> Result<Vec<String>, SinkError> {
            Ok(Vec::new())
        }
    }

    /// The attack: a window of many steps without a frame, in which no signal was heard.
    #[test]
    fn a_stop_is_heard_between_steps_without_a_frame() {
        let at = |seconds: i128| StreamTime::from_unix_nanos(seconds * 1_000_000_000);
        let region: Region = "us".parse().unwrap();
        let config = EngineConfig {
            regions: vec![region],
            window: Window::aligned(at(0), at(4_000_000_000), Duration::from_secs(1)),
            filter: Filter::default(),
            fold: FoldSettings::default(),
            mirror: false,
        };
        let control = Control::default();
        let mut engine = Engine::new(config, vec![Box::new(Stopping(control.clone(), 0))], control);
        let (at, payload) = (at(3_999_999_999), b"x".as_slice().into());
        let record = Record { sequence: 1, at, subject: "x".into(), headers: None, payload };
        assert!(matches!(engine.take(0, &record), Err(SinkError::Stopped)));
        assert_eq!(engine.account.steps, 3);
    }

    fn second(second: u64) -> StreamTime {
        StreamTime::default() + Duration::from_secs(second)
    }

    #[test]
    fn servers_that_nobody_uses_go_by_event_time() {
        let seen = Seen::default();
        let window = Window::aligned(second(10_000), second(13_000), Duration::from_secs(10));
        let config = EngineConfig {
            regions: vec!["us".parse().unwrap()],
            window,
            filter: Filter::default(),
            fold: FoldSettings::default(),
            mirror: false,
        };
        let mut engine = Engine::new(config, vec![Box::new(Servers(Arc::clone(&seen)))], Control::default());
        let urls = ["https://a.example", "https://b.example"];
        for (at, session, url) in [(10_005, "s1", urls[0]), (12_500, "s2", urls[1])] {
            let frame = Frame {
                server: Some(Server::new(ServerUrl::new(url).unwrap(), ServerType::WebRtc)),
                ..Frame::new(
                    MeetingId::new("m").unwrap(),
                    SessionId::new(session).unwrap(),
                    PeerId::new("p").unwrap(),
                    Seq::FIRST,
                    0,
                )
            };
            let record = Record {
                sequence: 1,
                at: second(at),
                subject: "health.diagnostics.us.relay.r".into(),
                headers: None,
                payload: frame.encode(Form::Compact).into(),
            };
            engine.take(0, &record).unwrap();
        }
        engine.finish().unwrap();
        let FoldSettings { idle_timeout, server_idle, .. } = FoldSettings::default();
        let gone = 10_005 + (idle_timeout + server_idle).as_secs();
        for (at, servers) in seen.lock().unwrap().iter() {
            let expected: &[&str] = match *at {
                at if (10_005..gone).contains(&at) => &urls[..1],
                at if at >= 12_500 => &urls[1..],
                _ => &[],
            };
            assert_eq!(servers, expected, "{at}");
        }
        assert_eq!(seen.lock().unwrap().len(), 301);
    }

    /// For each step, its second, and the audio packets that each server has counted.
    #[derive(Clone, Default)]
    struct Packets(Arc<Mutex<Vec<(u64, String, f64)>>>);

    impl Sink for Packets {
        fn step(&mut self, step: &Step) -> Result<(), SinkError> {
            let second = u64::try_from(step.at.unix_nanos() / 1_000_000_000).unwrap();
            for (labels, values) in step.tables[Table::index_of(&PACKETS_RECEIVED).unwrap()].iter() {
                let url = labels.values::<2>()[1].to_string();
                self.0.lock().unwrap().push((second, url, values[0]));
            }
            Ok(())
        }

        fn finish(self: Box<Self>, _: &Account) -> Result<Vec<String>, SinkError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn packets_count_from_the_windows_beginning_and_name_their_relay() {
        let counted = Packets::default();
        let config = EngineConfig {
            regions: vec!["us".parse().unwrap()],
            window: Window::aligned(second(10_000), second(10_020), Duration::from_secs(10)),
            filter: Filter::default(),
            fold: FoldSettings::default(),
            mirror: false,
        };
        let mut engine = Engine::new(config, vec![Box::new(counted.clone())], Control::default());
        let stats = PeerStats {
            neteq_stats: MessageField::some(NetEqStats { packets_per_sec: 50.0, ..NetEqStats::default() }),
            ..PeerStats::default()
        };
        for at in [9_990, 9_995, 10_000, 10_005, 10_005, 10_012] {
            let packet = HealthPacket {
                session_id: "7".into(),
                meeting_id: "standup".into(),
                reporting_user_id: b"ana@example.com".to_vec(),
                timestamp_ms: at * 1000,
                active_server_rtt_ms: 48.5,
                peer_stats: [("bo".to_owned(), stats.clone())].into(),
                ..HealthPacket::default()
            };
            let record = Record {
                sequence: 1,
                at: second(at),
                subject: "health.diagnostics.us.websocket.Relay-1".into(),
                headers: None,
                payload: packet.write_to_bytes().unwrap().into(),
            };
            engine.take(0, &record).unwrap();
        }
        let (account, _) = engine.finish().unwrap();
        assert_eq!((account.warm_up, account.folded, account.repeated, account.rejected()), (2, 3, 1, 0));
        let expected = [(10_000, 250.0), (10_010, 500.0), (10_020, 850.0)];
        let expected = expected.map(|(at, packets)| (at, "relay://relay-1".to_owned(), packets));
        assert_eq!(*counted.0.lock().unwrap(), expected);
    }
}
