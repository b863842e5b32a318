//! The series that stay: aggregates by region and server, and the exporter's own.
//!
//! They are registered by the `metrics` macros when a server or a region is first seen, and the
//! handles are kept: an update then neither hashes labels nor takes a lock.
//!
//! Invariant: the labels of a series are those that the catalogue declares, in the same order.

use metrics::{Counter, Gauge, Histogram, Recorder, counter, gauge, histogram, with_local_recorder};

use super::catalogue::{self as c, Metric};
pub use super::histogram::Observations;
use super::labels::vocabulary;
pub use super::recorder::{AggregateRecorder, AggregateSeries, AggregateValue, Aggregates};
use callsight_frame::{JoinFailure, Operation, Reason};

vocabulary! {
    /// What degrades a session: the values of the label `signal`.
    pub Signal {
        /// The round-trip time exceeds its threshold.
        Rtt = "rtt",
        /// A peer can't be heard, or its concealment ratio exceeds the threshold.
        Audio = "audio",
        /// A peer can't be seen, or its video froze.
        Video = "video",
        /// The session can't join its call, or not within the threshold.
        Join = "join",
        /// Of what the session sends, more is lost than the threshold.
        Uplink = "uplink",
    }

    /// What the statistics of a degraded session tell of the reason: the values of the label
    /// `evidence`.
    pub Evidence {
        /// Its path: round trips are long, most of its peers lose packets on the way to it, or it
        /// could not join because packets did not arrive.
        Path = "path",
        /// Some of its peers lose packets on the way to it, and others do not.
        Peers = "peers",
        /// Its only peer loses packets on the way to it, and nothing tells on which end of the way.
        Either = "either",
        /// What it sends is lost, and nothing else is wrong.
        Sending = "sending",
        /// Hardly anything is lost and round trips are short, which leaves a client.
        Client = "client",
        /// It reports too little to tell.
        Unknown = "unknown",
    }

    /// What limits the video that a session sends, W3C `RTCQualityLimitationReason`: the values of
    /// the label `reason` there.
    pub Limitation {
        /// The processor.
        Cpu = "cpu",
        /// The network.
        Bandwidth = "bandwidth",
        /// Something else.
        Other = "other",
    }

    /// A budget: the values of the label `limit`.
    pub Limit {
        /// Series of the detail planes, all together.
        Series = "series",
        /// Sessions with detail per meeting.
        SessionsPerMeeting = "sessions_per_meeting",
        /// Peers with detail per session.
        PeersPerSession = "peers_per_session",
        /// Servers with series of their own.
        ServerUrls = "server_urls",
        /// Releases of applications with series of their own.
        Apps = "apps",
        /// Peers of all sessions together.
        Peers = "peers",
    }

    /// Why a valid frame was refused: the values of the label `reason` there.
    pub Refusal {
        /// Its session is beyond the budget for live ones, of all regions together.
        MaxSessions = "max_sessions",
        /// Its session belongs to another participant or meeting.
        NotOwner = "not_owner",
        /// Its `seq` is too far above its session's watermark.
        SeqJump = "seq_jump",
    }

    /// Why a live session was removed: the values of the label `reason` there.
    pub(crate) Removal {
        /// Its last frame said so.
        Ended = "ended",
        /// No frame came for the idle timeout.
        Idle = "idle",
        /// It continues on another server, or in another release.
        Moved = "moved",
    }
}

/// The aggregate series of one server in one region.
#[expect(missing_docs, reason = "each is a metric, which the catalogue describes")]
pub struct ServerSeries {
    pub rtt: Histogram,
    pub(crate) audio_buffer: Histogram,
    pub(crate) concealment: Histogram,
    /// NetEQ decisions, in the order of [`Operation::ALL`].
    pub neteq: [Counter; Operation::ALL.len()],
    pub samples: Counter,
    pub concealed_samples: Counter,
    pub silent_concealed_samples: Counter,
    pub packets_received: Counter,
    pub packets_lost: Counter,
    pub freezes: Counter,
    pub(crate) frames_decoded: Counter,
    pub(crate) frames_dropped: Counter,
    /// The counters that a part of the clients reports: of audio concealment events, inserted,
    /// removed and discarded, then of video packets received and lost, the time frozen, and
    /// requests for packets and pictures.
    pub(crate) media: [Counter; 9],
    pub(crate) frame_height: Histogram,
    pub(crate) send_rtt: Histogram,
    pub(crate) send_frame_height: Histogram,
    /// Audio packets sent and lost, then those of video.
    pub send_packets: [Counter; 4],
    /// In milliseconds, in the order of [`Limitation::ALL`].
    pub(crate) send_limited: [Counter; Limitation::ALL.len()],
    /// Requests of the far end for packets and for pictures.
    pub(crate) send_requests: [Counter; 2],
    pub(crate) ice_restarts: Counter,
    pub meetings: Gauge,
    pub sessions: Gauge,
    pub participants: Gauge,
    pub(crate) peer_connections: Gauge,
    /// Degraded sessions, in the order of [`Signal::ALL`].
    pub degraded: [Gauge; Signal::ALL.len()],
    /// In the order of [`Evidence::ALL`].
    pub evidence: [Gauge; Evidence::ALL.len()],
    /// In the order of [`Limitation::ALL`].
    pub limited: [Gauge; Limitation::ALL.len()],
    pub(crate) one_way_audio: Gauge,
    pub degraded_any: Gauge,
    pub hidden: Gauge,
}

impl ServerSeries {
    /// Registers the series of a server.
    #[must_use]
    pub fn register(
        recorder: &dyn Recorder,
        region: &str,
        server_url: &str,
        server_type: &'static str,
    ) -> Self {
        let labels = vec![
            metrics::Label::new("region", region.to_owned()),
            metrics::Label::new("server_url", server_url.to_owned()),
            metrics::Label::new("server_type", server_type),
        ];
        let with = |name, value| {
            let mut labels = labels.clone();
            labels.push(metrics::Label::from_static_parts(name, value));
            labels
        };
        with_local_recorder(recorder, || Self {
            rtt: histogram!(c::RTT.name, labels.clone()),
            audio_buffer: histogram!(c::AUDIO_BUFFER.name, labels.clone()),
            concealment: histogram!(c::CONCEALMENT.name, labels.clone()),
            neteq: std::array::from_fn(|index| {
                counter!(c::NETEQ_OPERATIONS.name, with("operation", Operation::ALL[index].label()))
            }),
            samples: counter!(c::SAMPLES.name, labels.clone()),
            concealed_samples: counter!(c::CONCEALED_SAMPLES.name, labels.clone()),
            silent_concealed_samples: counter!(c::SILENT_CONCEALED_SAMPLES.name, labels.clone()),
            packets_received: counter!(c::PACKETS_RECEIVED.name, labels.clone()),
            packets_lost: counter!(c::PACKETS_LOST.name, labels.clone()),
            freezes: counter!(c::FREEZES.name, labels.clone()),
            frames_decoded: counter!(c::FRAMES_DECODED.name, labels.clone()),
            frames_dropped: counter!(c::FRAMES_DROPPED.name, labels.clone()),
            media: [
                &c::CONCEALMENT_EVENTS,
                &c::INSERTED_SAMPLES,
                &c::REMOVED_SAMPLES,
                &c::PACKETS_DISCARDED,
                &c::VIDEO_PACKETS_RECEIVED,
                &c::VIDEO_PACKETS_LOST,
                &c::FREEZE_SECONDS,
                &c::NACKS,
                &c::PLIS,
            ]
            .map(|metric| counter!(metric.name, labels.clone())),
            frame_height: histogram!(c::FRAME_HEIGHT.name, labels.clone()),
            send_rtt: histogram!(c::SEND_RTT.name, labels.clone()),
            send_frame_height: histogram!(c::SEND_FRAME_HEIGHT.name, labels.clone()),
            send_packets: [
                &c::SEND_AUDIO_PACKETS,
                &c::SEND_AUDIO_PACKETS_LOST,
                &c::SEND_VIDEO_PACKETS,
                &c::SEND_VIDEO_PACKETS_LOST,
            ]
            .map(|metric| counter!(metric.name, labels.clone())),
            send_limited: Limitation::ALL
                .map(|by| counter!(c::SEND_LIMITED_SECONDS.name, with("reason", by.label()))),
            send_requests: [&c::SEND_NACKS, &c::SEND_PLIS]
                .map(|metric| counter!(metric.name, labels.clone())),
            ice_restarts: counter!(c::ICE_RESTARTS.name, labels.clone()),
            meetings: gauge!(c::MEETINGS.name, labels.clone()),
            sessions: gauge!(c::SESSIONS.name, labels.clone()),
            participants: gauge!(c::PARTICIPANTS.name, labels.clone()),
            peer_connections: gauge!(c::PEER_CONNECTIONS.name, labels.clone()),
            degraded: Signal::ALL
                .map(|signal| gauge!(c::SESSIONS_DEGRADED.name, with("signal", signal.label()))),
            evidence: Evidence::ALL
                .map(|evidence| gauge!(c::SESSIONS_EVIDENCE.name, with("evidence", evidence.label()))),
            limited: Limitation::ALL.map(|by| gauge!(c::SESSIONS_LIMITED.name, with("reason", by.label()))),
            one_way_audio: gauge!(c::SESSIONS_ONE_WAY_AUDIO.name, labels.clone()),
            degraded_any: gauge!(c::SESSIONS_DEGRADED_ANY.name, labels.clone()),
            hidden: gauge!(c::SESSIONS_HIDDEN.name, labels.clone()),
        })
    }
}

/// The aggregate series of live sessions that have something in common.
#[expect(missing_docs, reason = "each is a metric, which the catalogue describes")]
pub struct GroupSeries {
    pub sessions: Gauge,
    pub degraded: Gauge,
}

impl GroupSeries {
    /// Registers the series of a group, whose sessions and degraded sessions two metrics count.
    #[must_use]
    pub fn register(
        recorder: &dyn Recorder,
        [sessions, degraded]: [&'static Metric; 2],
        values: [&str; 3],
    ) -> Self {
        let labels = sessions.labels.iter().zip(values);
        let labels: Vec<_> =
            labels.map(|(name, value)| metrics::Label::new(*name, value.to_owned())).collect();
        with_local_recorder(recorder, || Self {
            sessions: gauge!(sessions.name, labels.clone()),
            degraded: gauge!(degraded.name, labels),
        })
    }
}

/// The exporter's own series of the stream that a region is read from.
pub struct StreamSeries {
    /// Age of the newest frame; NaN until there is one.
    pub last_frame_age: Gauge,
    /// `None` unless the stream is a mirror.
    pub mirror: Option<MirrorSeries>,
}

/// The series of how far a mirror is behind its origin.
pub struct MirrorSeries {
    /// Frames that the mirror lacks.
    pub lag_frames: Gauge,
    /// Time since it last heard from its origin, in seconds; NaN while unknown.
    pub lag: Gauge,
}

impl StreamSeries {
    /// Registers the series of a region's stream, or of a mirror of it.
    #[must_use]
    pub fn register(recorder: &dyn Recorder, region: &str, mirror: bool) -> Self {
        with_local_recorder(recorder, || {
            let unknown = |name: &'static str| {
                let gauge = gauge!(name, "region" => region.to_owned());
                gauge.set(f64::NAN);
                gauge
            };
            Self {
                last_frame_age: unknown(c::STREAM_LAST_FRAME_AGE.name),
                mirror: mirror.then(|| MirrorSeries {
                    lag_frames: unknown(c::MIRROR_LAG_FRAMES.name),
                    lag: unknown(c::MIRROR_LAG.name),
                }),
            }
        })
    }
}

/// The exporter's own series of one region.
#[expect(missing_docs, reason = "each is a metric, which the catalogue describes")]
pub struct RegionSeries {
    pub received: Counter,
    pub folded: Counter,
    pub(crate) repeated: Counter,
    pub redelivered: Counter,
    pub missed: Counter,
    pub(crate) late: Counter,
    pub(crate) implausible_growth: Counter,
    pub dead_letters: Counter,
    pub dead_letters_lost: Counter,
    pub(crate) latency: Histogram,
    pub(crate) clock_skew: Histogram,
    pub pending: Gauge,
    pub ack_pending: Gauge,
    /// Whether the consumer is attached.
    pub connected: Gauge,
    /// Age of the newest folded frame; NaN until there is one.
    pub last_folded_age: Gauge,
    pub(crate) join_time: Histogram,
    joined: Counter,
    /// In the order of [`JoinFailure::ALL`].
    join_failed: Vec<Counter>,
    rejected: Vec<Counter>,
    frames_refused: [Counter; Refusal::ALL.len()],
    refused: [Counter; Limit::ALL.len()],
    removed: [Counter; Removal::ALL.len()],
}

fn join(region: &str, result: &'static str, reason: &'static str) -> Counter {
    counter!(c::JOINS.name, "region" => region.to_owned(), "result" => result, "reason" => reason)
}

impl RegionSeries {
    /// Registers the series of a region. Counters begin at zero, so that `rate` sees their first
    /// increase.
    #[must_use]
    pub fn register(recorder: &dyn Recorder, region: &str) -> Self {
        let region = region.to_owned();
        with_local_recorder(recorder, || {
            Self {
            received: counter!(c::FRAMES_RECEIVED.name, "region" => region.clone()),
            folded: counter!(c::FRAMES_FOLDED.name, "region" => region.clone()),
            repeated: counter!(c::FRAMES_REPEATED.name, "region" => region.clone()),
            redelivered: counter!(c::FRAMES_REDELIVERED.name, "region" => region.clone()),
            missed: counter!(c::FRAMES_MISSED.name, "region" => region.clone()),
            late: counter!(c::FRAMES_LATE.name, "region" => region.clone()),
            implausible_growth: counter!(c::IMPLAUSIBLE_GROWTH.name, "region" => region.clone()),
            dead_letters: counter!(c::DEAD_LETTERS.name, "region" => region.clone()),
            dead_letters_lost: counter!(c::DEAD_LETTERS_LOST.name, "region" => region.clone()),
            latency: histogram!(c::FRAME_LATENCY.name, "region" => region.clone()),
            clock_skew: histogram!(c::CLOCK_SKEW.name, "region" => region.clone()),
            pending: gauge!(c::CONSUMER_PENDING.name, "region" => region.clone()),
            ack_pending: gauge!(c::CONSUMER_ACK_PENDING.name, "region" => region.clone()),
            connected: gauge!(c::CONNECTED.name, "region" => region.clone()),
            last_folded_age: gauge!(c::LAST_FOLDED_AGE.name, "region" => region.clone()),
            join_time: histogram!(c::JOIN_TIME.name, "region" => region.clone()),
            joined: join(&region, "joined", "none"),
            join_failed: JoinFailure::ALL
                .iter()
                .map(|reason| join(&region, "failed", reason.label()))
                .collect(),
            rejected: Reason::ALL
                .iter()
                .map(|reason| {
                    counter!(c::FRAMES_REJECTED.name, "region" => region.clone(), "reason" => reason.label())
                })
                .collect(),
            frames_refused: Refusal::ALL.map(|refusal| {
                counter!(c::FRAMES_REFUSED.name, "region" => region.clone(), "reason" => refusal.label())
            }),
            refused: Limit::ALL
                .map(|limit| counter!(c::REFUSED.name, "region" => region.clone(), "limit" => limit.label())),
            removed: Removal::ALL.map(|cause| {
                counter!(c::SESSIONS_REMOVED.name, "region" => region.clone(), "reason" => cause.label())
            }),
        }
        })
    }

    /// The counter of attempts to join that failed for a reason, or of those that did not.
    pub(crate) fn joins(&self, failure: Option<JoinFailure>) -> &Counter {
        failure.map_or(&self.joined, |reason| &self.join_failed[reason as usize])
    }

    /// The counter of frames rejected for a reason.
    pub fn rejected(&self, reason: Reason) -> &Counter {
        &self.rejected[reason as usize]
    }

    /// The counter of frames refused for a reason.
    pub fn frames_refused(&self, refusal: Refusal) -> &Counter {
        &self.frames_refused[refusal as usize]
    }

    /// The counter of rows, names and peers that a budget refused.
    pub fn refused(&self, limit: Limit) -> &Counter {
        &self.refused[limit as usize]
    }

    /// The counter of sessions removed for a cause.
    pub(crate) fn removed(&self, cause: Removal) -> &Counter {
        &self.removed[cause as usize]
    }
}
