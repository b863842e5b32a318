//! The fold at event time: messages in, moments out.
//!
//! Live, the clock runs by itself and a scrape looks at the series whenever it likes. Here the messages carry the
//! clock: before a message is folded, time has come to the moment at which the stream received it, idle sessions
//! have gone, and every step up to there has been looked at. So a step shows what a scrape at that moment would
//! have shown, from the very fold that serves, however fast the past goes by.
//!
//! What a session is at the beginning of the window comes from the frames before it. Those are folded as a
//! restarted exporter folds them: for gauges, watermarks and the values that growth is taken against, counting
//! nothing. So counters begin at zero at the beginning of the window, and grow from there as they did live.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::sample::Step;
use super::sink::{Fate, Seen, Sink, SinkError};
use super::window::Window;
use crate::stream_reader::Record;
use callsight_fold::series::aggregates::{Aggregates, RegionSeries};
use callsight_fold::series::detail::DetailStore;
use callsight_fold::{Fold, FoldSettings, Outcome, REMEMBERED, StreamTime};
use callsight_frame::subject::{Region, Subject};
use callsight_frame::{Frame, Reason, Rejection};

/// The most series of the detail planes: as many as there were. A replay is for the detail that live series leave
/// out, so nothing is refused; the number only has to leave room for counting.
const UNBOUNDED: usize = usize::MAX / 4;

/// Which frames of the streams are folded. Aggregates are of these alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of these meetings; of any if there are none.
    pub meetings: Vec<String>,
    /// Of these sessions; of any if there are none.
    pub sessions: Vec<String>,
}

impl Filter {
    /// Whether everything is wanted.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.meetings.is_empty() && self.sessions.is_empty()
    }

    fn wants(&self, frame: &Frame<'_>) -> bool {
        let has = |list: &[String], id: &str| list.is_empty() || list.iter().any(|wanted| wanted == id);
        has(&self.meetings, frame.meeting_id.as_str()) && has(&self.sessions, frame.session_id.as_str())
    }
}

/// What is replayed, and how.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The regions, whose records are given by their place here.
    pub regions: Vec<Region>,
    /// The window and its steps.
    pub window: Window,
    /// Which frames.
    pub filter: Filter,
    /// How frames are folded. Pair detail is always on, and nothing is refused but servers.
    pub fold: FoldSettings,
}

impl EngineConfig {
    /// How long before the window reading has to begin: a session that is live or remembered at its beginning has
    /// sent a frame since then.
    #[must_use]
    pub fn warm_up(&self) -> Duration {
        self.fold.idle_timeout.max(REMEMBERED)
    }

    /// The moment from which on frames are read.
    #[must_use]
    pub fn since(&self) -> StreamTime {
        self.window.from - self.warm_up()
    }
}

/// What a replay has gone through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Messages from before the window.
    pub warm_up: u64,
    /// Messages within the window, whatever became of them.
    pub messages: u64,
    /// Frames folded, the late ones among them.
    pub folded: u64,
    /// Folded frames that were older than the idle timeout.
    pub late: u64,
    /// Frames at or under their session's watermark.
    pub repeated: u64,
    /// Frames refused, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Valid frames of other meetings and sessions than those that were asked for.
    pub passed_over: u64,
    /// Moments that were looked at.
    pub steps: u64,
    /// Samples at all of them.
    pub samples: u64,
    /// Most sessions that were live at a step.
    pub most_sessions: usize,
    /// When the first and the last message within the window were received.
    pub span: Option<(StreamTime, StreamTime)>,
}

impl Account {
    /// Frames refused, for any reason.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Whether nothing of what was asked for was there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.folded + self.repeated + self.rejected() == 0 && self.most_sessions == 0
    }
}

/// A region's fold.
struct RegionFold {
    region: Region,
    fold: Fold,
    own: Arc<RegionSeries>,
}

/// Whether more records are of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    /// They are.
    On,
    /// The window is over.
    Over,
}

/// The fold of all regions at event time, and the sinks that see it.
pub struct Engine {
    config: EngineConfig,
    regions: Vec<RegionFold>,
    aggregates: Aggregates,
    detail: DetailStore,
    steps: Box<dyn Iterator<Item = StreamTime> + Send>,
    next_step: Option<StreamTime>,
    /// Event time: that of the latest record.
    now: StreamTime,
    sinks: Vec<Box<dyn Sink>>,
    /// Whether any of them looks at steps.
    looked_at: bool,
    account: Account,
}

impl Engine {
    /// An engine that has seen nothing yet.
    #[must_use]
    pub fn new(config: EngineConfig, sinks: Vec<Box<dyn Sink>>) -> Self {
        let aggregates = Aggregates::new();
        let detail = DetailStore::new(UNBOUNDED);
        let regions = config
            .regions
            .iter()
            .map(|region| {
                let recorder = aggregates.shared_recorder();
                let own = Arc::new(RegionSeries::register(&*recorder, region.as_str()));
                let fold = Fold::new(region, config.fold, recorder, detail.clone(), Arc::clone(&own));
                RegionFold { region: region.clone(), fold, own }
            })
            .collect();
        let mut steps: Box<dyn Iterator<Item = StreamTime> + Send> = Box::new(config.window.steps());
        let next_step = steps.next();
        let looked_at = sinks.iter().any(|sink| sink.looks_at_steps());
        Self {
            now: config.since(),
            config,
            regions,
            aggregates,
            detail,
            steps,
            next_step,
            sinks,
            looked_at,
            account: Account::default(),
        }
    }

    /// Event time.
    #[must_use]
    pub const fn now(&self) -> StreamTime {
        self.now
    }

    /// Takes the next record of a region. Records of all regions come in the order of their time.
    ///
    /// # Errors
    /// Those of the sinks.
    pub fn take(&mut self, region: usize, record: &Record) -> Result<Goes, SinkError> {
        // The clock of a stream's server may be set back; time is not.
        let now = self.now.max(record.at);
        self.look_until(now, false)?;
        self.now = now;
        let Window { from, to, .. } = self.config.window;
        if now > to {
            return Ok(Goes::Over);
        }
        let within = now >= from;
        let Some(RegionFold { region, fold, own }) = self.regions.get_mut(region) else {
            return Ok(Goes::On);
        };
        let account = &mut self.account;
        if within {
            account.messages += 1;
            account.span = Some((account.span.map_or(record.at, |(first, _)| first), now));
        } else {
            account.warm_up += 1;
        }
        let read = read(region, record);
        let fate = match &read {
            Ok(frame) if !self.config.filter.wants(frame) => {
                account.passed_over += u64::from(within);
                return Ok(Goes::On);
            }
            Ok(frame) => {
                // As the timer does live: whoever fell idle has gone when the next frame comes.
                fold.tick(now);
                if !within {
                    fold.warm(frame, record.at, now);
                    return Ok(Goes::On);
                }
                own.received.increment(1);
                let outcome = fold.frame(frame, record.at, now);
                match outcome {
                    Outcome::Repeated => account.repeated += 1,
                    Outcome::Late => {
                        account.folded += 1;
                        account.late += 1;
                    }
                    Outcome::Folded => account.folded += 1,
                }
                Fate::Taken(frame, outcome)
            }
            // Whose it was, nobody knows.
            Err(_) if !within || !self.config.filter.is_open() => return Ok(Goes::On),
            Err(rejection) => {
                own.received.increment(1);
                own.rejected(rejection.reason).increment(1);
                *account.rejected.entry(rejection.reason.label()).or_default() += 1;
                Fate::Rejected(rejection)
            }
        };
        let seen = Seen { region, record, fate };
        for sink in &mut self.sinks {
            sink.frame(&seen)?;
        }
        Ok(Goes::On)
    }

    /// Looks at the steps that are left, has the sinks finish, and tells what was gone through and what the
    /// sinks have to say.
    ///
    /// # Errors
    /// Those of the sinks.
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

    /// Looks at all steps before a moment, or up to it.
    fn look_until(&mut self, moment: StreamTime, inclusive: bool) -> Result<(), SinkError> {
        while let Some(at) = self.next_step.filter(|at| *at < moment || (inclusive && *at == moment)) {
            self.next_step = self.steps.next();
            for region in &mut self.regions {
                region.fold.tick(at);
            }
            self.account.steps += 1;
            let live = self.regions.iter().map(|region| region.fold.live_sessions()).sum();
            self.account.most_sessions = self.account.most_sessions.max(live);
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

fn read<'a>(region: &Region, record: &'a Record) -> Result<Frame<'a>, Rejection> {
    let named = Subject::parse(&record.subject)?.region;
    if named != region.as_str() {
        let detail = format!("region {named} in the stream of region {region}");
        return Err(Rejection::new(Reason::BadSubject, detail));
    }
    Frame::decode(&record.payload)
}
