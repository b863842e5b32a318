//! The catalogue: every metric that Callsight serves, declared once.
//!
//! A metric that is described in several places drifts apart. HELP and TYPE lines, histogram
//! buckets, the columns of the detail rows and `docs/metrics.md` all come from here, and so does
//! the check that dashboards and rules name only metrics that exist.
//!
//! Invariant: a series with a prefix of ours has a [`Metric`] here, with exactly its labels.

use callsight_frame::Operation;

/// What a metric's value does over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Goes up; queries use its rate.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A counter of time, kept in milliseconds and shown in seconds.
    Seconds,
    /// A gauge, stored as a moment and shown as the seconds since then.
    Age,
    /// Counts in cumulative buckets, with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The TYPE of the exposition.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter | Self::Seconds => "counter",
            Self::Gauge | Self::Age => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// What a metric describes, which bounds how many series it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// By region and server, release or path. Always on and bounded; dashboards and alerts use
    /// these.
    Aggregate,
    /// A row for each live session.
    Session,
    /// A row for each remote peer that a live session observes.
    Pair,
    /// About the exporter itself.
    Own,
    /// About `callsight ingest`.
    Ingest,
}

impl Plane {
    /// The planes in the order of the documentation.
    pub const ALL: [Self; 5] = [Self::Aggregate, Self::Session, Self::Pair, Self::Own, Self::Ingest];

    /// The plane as a label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Aggregate => "aggregate",
            Self::Session => "session",
            Self::Pair => "pair",
            Self::Own => "own",
            Self::Ingest => "ingest",
        }
    }
}

/// The declaration of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name in the exposition, with its base unit, and `_total` on a counter.
    pub name: &'static str,
    /// How its value behaves over time.
    pub kind: Kind,
    /// What it describes.
    pub plane: Plane,
    /// The names of its labels, in the order in which series have them.
    pub labels: &'static [&'static str],
    /// The HELP text: one sentence, with the source of the fact.
    pub help: &'static str,
}

const REGION: &[&str] = &["region"];
pub(super) const SERVER: &[&str] = &["region", "server_url", "server_type"];
const SERVER_OPERATION: &[&str] = &["region", "server_url", "server_type", "operation"];
const SERVER_SIGNAL: &[&str] = &["region", "server_url", "server_type", "signal"];
const SERVER_EVIDENCE: &[&str] = &["region", "server_url", "server_type", "evidence"];
const SERVER_REASON: &[&str] = &["region", "server_url", "server_type", "reason"];
const CLIENT: &[&str] = &["region", "app", "platform"];
const PATH: &[&str] = &["region", "candidate_type", "protocol"];
pub(super) const SESSION: &[&str] =
    &["region", "meeting_id", "session_id", "peer_id", "server_url", "server_type", "app", "platform"];
pub(super) const PAIR: &[&str] = &["region", "meeting_id", "session_id", "peer_id"];
const PAIR_OPERATION: &[&str] = &["region", "meeting_id", "session_id", "peer_id", "operation"];

/// Edges at 150, 300 and 400 ms: good, noticeable, hard to talk over.
const RTT_SECONDS: Kind =
    Kind::Histogram(&[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0]);
const BUFFER_SECONDS: Kind =
    Kind::Histogram(&[0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0]);
const RATIO: Kind = Kind::Histogram(&[0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0]);
/// The heights that encoders scale to, from a thumbnail to 4K.
const PIXELS: Kind =
    Kind::Histogram(&[90.0, 180.0, 240.0, 270.0, 360.0, 480.0, 540.0, 720.0, 1080.0, 1440.0, 2160.0]);
const JOIN_SECONDS: Kind =
    Kind::Histogram(&[0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0]);
const LATENCY_SECONDS: Kind =
    Kind::Histogram(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0]);
/// Edges at 50 ms, which the answers' 99th percentile stays below under the load of the tests.
const ACK_SECONDS: Kind =
    Kind::Histogram(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
const SKEW_SECONDS: Kind = Kind::Histogram(&[0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0]);
const SCRAPE_SECONDS: Kind =
    Kind::Histogram(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);

macro_rules! catalogue {
    ($($plane:ident { $($ident:ident = $name:literal $kind:expr, $labels:expr, $help:literal;)+ })+) => {
        $($(
            #[doc = $help]
            pub const $ident: Metric =
                Metric { name: $name, kind: $kind, plane: Plane::$plane, labels: $labels, help: $help };
        )+)+

        /// Every metric, in the order of the exposition and of the documentation.
        pub const CATALOGUE: &[&Metric] = &[$($(&$ident,)+)+];
    };
}

catalogue! {
    Aggregate {
        RTT = "videocall_rtt_seconds" RTT_SECONDS, SERVER,
            "Round-trip time from client to elected server, as the client measures it, one observation per frame.";
        AUDIO_BUFFER = "videocall_audio_buffer_seconds" BUFFER_SECONDS, SERVER,
            "Jitter buffer depth of each received audio stream, one observation per peer and frame.";
        CONCEALMENT = "videocall_audio_concealment_ratio" RATIO, SERVER,
            "Share of the samples played since the previous frame that were concealed and audible, one observation per peer and frame. Of a packet of videocall.rs, the share of NetEQ's decisions.";
        NETEQ_OPERATIONS = "videocall_neteq_operations_total" Kind::Counter, SERVER_OPERATION,
            "NetEQ decisions by operation, summed over all received audio streams.";
        SAMPLES = "videocall_audio_samples_total" Kind::Counter, SERVER,
            "Audio samples played, summed over all received audio streams.";
        CONCEALED_SAMPLES = "videocall_audio_concealed_samples_total" Kind::Counter, SERVER,
            "Audio samples concealed because the packets with them had not arrived.";
        SILENT_CONCEALED_SAMPLES = "videocall_audio_silent_concealed_samples_total" Kind::Counter, SERVER,
            "Concealed audio samples that were silent, which nobody hears.";
        PACKETS_RECEIVED = "videocall_audio_packets_received_total" Kind::Counter, SERVER,
            "Audio packets received, summed over all received audio streams.";
        PACKETS_LOST = "videocall_audio_packets_lost_total" Kind::Counter, SERVER,
            "Audio packets lost in transit, summed over all received audio streams.";
        FREEZES = "videocall_video_freezes_total" Kind::Counter, SERVER,
            "Freezes of received video, summed over all received video streams.";
        CONCEALMENT_EVENTS = "videocall_audio_concealment_events_total" Kind::Counter, SERVER,
            "Gaps of received audio that were concealed, each once however long it was.";
        INSERTED_SAMPLES = "videocall_audio_inserted_samples_total" Kind::Counter, SERVER,
            "Audio samples inserted to play slower, because packets came late.";
        REMOVED_SAMPLES = "videocall_audio_removed_samples_total" Kind::Counter, SERVER,
            "Audio samples removed to play faster, because packets had gathered.";
        PACKETS_DISCARDED = "videocall_audio_packets_discarded_total" Kind::Counter, SERVER,
            "Audio packets that arrived too late or too early to be played.";
        VIDEO_PACKETS_RECEIVED = "videocall_video_packets_received_total" Kind::Counter, SERVER,
            "Video packets received, summed over all received video streams, shared screens included.";
        VIDEO_PACKETS_LOST = "videocall_video_packets_lost_total" Kind::Counter, SERVER,
            "Video packets lost in transit, summed over all received video streams.";
        FREEZE_SECONDS = "videocall_video_freeze_seconds_total" Kind::Seconds, SERVER,
            "Time for which received video was frozen, summed over all received video streams.";
        FRAMES_DECODED = "videocall_video_frames_decoded_total" Kind::Counter, SERVER,
            "Frames decoded of received video.";
        FRAMES_DROPPED = "videocall_video_frames_dropped_total" Kind::Counter, SERVER,
            "Frames of received video dropped before they were shown.";
        NACKS = "videocall_video_nacks_total" Kind::Counter, SERVER,
            "Requests of receivers to send a video packet again.";
        PLIS = "videocall_video_plis_total" Kind::Counter, SERVER,
            "Requests of receivers for a whole picture, because they can't decode without one.";
        FRAME_HEIGHT = "videocall_video_frame_height_pixels" PIXELS, SERVER,
            "Height of received video, one observation per video and frame.";
        SEND_RTT = "videocall_send_rtt_seconds" RTT_SECONDS, SERVER,
            "Round-trip time of sent media, as the far end's reports show it, one observation per frame.";
        SEND_AUDIO_PACKETS = "videocall_send_audio_packets_total" Kind::Counter, SERVER,
            "Audio packets sent, by the senders.";
        SEND_AUDIO_PACKETS_LOST = "videocall_send_audio_packets_lost_total" Kind::Counter, SERVER,
            "Audio packets sent that the far end lacks, as its reports tell the senders.";
        SEND_VIDEO_PACKETS = "videocall_send_video_packets_total" Kind::Counter, SERVER,
            "Video packets sent, by the senders.";
        SEND_VIDEO_PACKETS_LOST = "videocall_send_video_packets_lost_total" Kind::Counter, SERVER,
            "Video packets sent that the far end lacks, as its reports tell the senders.";
        SEND_LIMITED_SECONDS = "videocall_send_limited_seconds_total" Kind::Seconds, SERVER_REASON,
            "Time for which something limited the video that sessions send, by reason: cpu, bandwidth or other.";
        SEND_NACKS = "videocall_send_nacks_total" Kind::Counter, SERVER,
            "Requests of the far end to send a video packet again.";
        SEND_PLIS = "videocall_send_plis_total" Kind::Counter, SERVER,
            "Requests of the far end for a whole picture.";
        SEND_FRAME_HEIGHT = "videocall_send_frame_height_pixels" PIXELS, SERVER,
            "Height of the largest layer of sent video, one observation per frame.";
        ICE_RESTARTS = "videocall_ice_restarts_total" Kind::Counter, SERVER,
            "ICE restarts of sessions, which look for a new path.";
        MEETINGS = "videocall_meetings" Kind::Gauge, SERVER,
            "Meetings with a live session on the server; a meeting on two servers counts on each.";
        SESSIONS = "videocall_sessions" Kind::Gauge, SERVER,
            "Live sessions.";
        PARTICIPANTS = "videocall_participants" Kind::Gauge, SERVER,
            "Participants with a live session, each counted once per meeting.";
        PEER_CONNECTIONS = "videocall_peer_connections" Kind::Gauge, SERVER,
            "Remote peers that live sessions observe, summed over the sessions.";
        SESSIONS_DEGRADED = "videocall_sessions_degraded" Kind::Gauge, SERVER_SIGNAL,
            "Live sessions whose last frame exceeded a threshold, by signal: rtt, audio, video, join or uplink.";
        SESSIONS_ONE_WAY_AUDIO = "videocall_sessions_one_way_audio" Kind::Gauge, SERVER,
            "Live sessions that cannot hear a peer whose microphone is on; they also count as degraded by audio.";
        SESSIONS_DEGRADED_ANY = "videocall_sessions_degraded_any" Kind::Gauge, SERVER,
            "Live sessions degraded by at least one signal, each counted once.";
        SESSIONS_EVIDENCE = "videocall_sessions_degraded_evidence" Kind::Gauge, SERVER_EVIDENCE,
            "Live sessions degraded by at least one signal, by what their own statistics tell of the reason: path, peers, either, sending, client or unknown.";
        SESSIONS_LIMITED = "videocall_sessions_limited" Kind::Gauge, SERVER_REASON,
            "Live sessions whose sent video was limited for more than half of the time before their last frame, by reason: cpu, bandwidth or other.";
        SESSIONS_HIDDEN = "videocall_sessions_hidden" Kind::Gauge, SERVER,
            "Live sessions whose tab was hidden in their last frame; they never count as degraded.";
        CLIENT_SESSIONS = "videocall_client_sessions" Kind::Gauge, CLIENT,
            "Live sessions by the application's release and the platform that it runs on.";
        CLIENT_SESSIONS_DEGRADED = "videocall_client_sessions_degraded" Kind::Gauge, CLIENT,
            "Live sessions degraded by at least one signal, by release and platform.";
        PATH_SESSIONS = "videocall_path_sessions" Kind::Gauge, PATH,
            "Live sessions by their path's local candidate and protocol.";
        PATH_SESSIONS_DEGRADED = "videocall_path_sessions_degraded" Kind::Gauge, PATH,
            "Live sessions degraded by at least one signal, by candidate and protocol.";
        JOINS = "videocall_joins_total" Kind::Counter, &["region", "result", "reason"],
            "Attempts to join a call, by result and, if they failed, by reason.";
        JOIN_TIME = "videocall_join_seconds" JOIN_SECONDS, REGION,
            "Time that successful attempts to join a call took, as the client measures it.";
    }
    Session {
        SESSION_RTT = "videocall_session_rtt_seconds" Kind::Gauge, SESSION,
            "Round-trip time from the session's client to its elected server, as the client measures it.";
        SESSION_AUDIO_ENABLED = "videocall_session_audio_enabled" Kind::Gauge, SESSION,
            "1 while the session's own microphone is on.";
        SESSION_VIDEO_ENABLED = "videocall_session_video_enabled" Kind::Gauge, SESSION,
            "1 while the session's own camera is on.";
        SESSION_SEND_RTT = "videocall_session_send_rtt_seconds" Kind::Gauge, SESSION,
            "Round-trip time of the media that the session sends, as the far end's reports show it.";
        SESSION_SEND_LOSS = "videocall_session_send_loss_ratio" Kind::Gauge, SESSION,
            "Share of the packets sent since the previous frame that the far end lacks, of audio or video, whichever is higher.";
        SESSION_SEND_FPS = "videocall_session_send_frames_per_second" Kind::Gauge, SESSION,
            "Frames per second of the largest layer of the session's sent video.";
        SESSION_SEND_HEIGHT = "videocall_session_send_frame_height_pixels" Kind::Gauge, SESSION,
            "Height of the largest layer of the session's sent video.";
        SESSION_SEND_BYTE_RATE = "videocall_session_send_bytes_per_second" Kind::Gauge, SESSION,
            "Bit rate of all that the session sends, in bytes per second.";
        SESSION_AVAILABLE_BYTE_RATE = "videocall_session_available_outgoing_bytes_per_second" Kind::Gauge, SESSION,
            "Estimated bandwidth for what the session sends, in bytes per second.";
        SESSION_LAST_SEEN_AGE = "videocall_session_last_seen_age_seconds" Kind::Age, SESSION,
            "Time since the stream received the session's last frame.";
    }
    Pair {
        PAIR_CAN_LISTEN = "videocall_pair_can_listen" Kind::Gauge, PAIR,
            "1 while the session can hear the peer.";
        PAIR_CAN_SEE = "videocall_pair_can_see" Kind::Gauge, PAIR,
            "1 while the session can see the peer.";
        PAIR_AUDIO_BUFFER = "videocall_pair_audio_buffer_seconds" Kind::Gauge, PAIR,
            "Jitter buffer depth of the peer's audio.";
        PAIR_AUDIO_TARGET = "videocall_pair_audio_target_seconds" Kind::Gauge, PAIR,
            "Jitter buffer depth that NetEQ aims at for the peer's audio.";
        PAIR_AUDIO_JITTER = "videocall_pair_audio_jitter_seconds" Kind::Gauge, PAIR,
            "Jitter of the packets of the peer's audio.";
        PAIR_AUDIO_AWAITING_DECODE = "videocall_pair_audio_packets_awaiting_decode" Kind::Gauge, PAIR,
            "Packets of the peer's audio waiting for the decoder.";
        PAIR_SAMPLES = "videocall_pair_audio_samples_total" Kind::Counter, PAIR,
            "Samples played of the peer's audio, since the session began.";
        PAIR_CONCEALED_SAMPLES = "videocall_pair_audio_concealed_samples_total" Kind::Counter, PAIR,
            "Samples of the peer's audio concealed because the packets with them had not arrived, since the session began.";
        PAIR_SILENT_CONCEALED_SAMPLES = "videocall_pair_audio_silent_concealed_samples_total" Kind::Counter, PAIR,
            "Concealed samples of the peer's audio that were silent, since the session began.";
        PAIR_PACKETS_RECEIVED = "videocall_pair_audio_packets_received_total" Kind::Counter, PAIR,
            "Packets of the peer's audio received, since the session began.";
        PAIR_PACKETS_LOST = "videocall_pair_audio_packets_lost_total" Kind::Counter, PAIR,
            "Packets of the peer's audio lost in transit, since the session began.";
        PAIR_NETEQ_OPERATIONS = "videocall_pair_neteq_operations_total" Kind::Counter, PAIR_OPERATION,
            "NetEQ decisions for the peer's audio by operation, since the session began.";
        PAIR_VIDEO_FPS = "videocall_pair_video_frames_per_second" Kind::Gauge, PAIR,
            "Frames per second decoded of the peer's video.";
        PAIR_VIDEO_HEIGHT = "videocall_pair_video_frame_height_pixels" Kind::Gauge, PAIR,
            "Height of the peer's video.";
        PAIR_VIDEO_BUFFERED = "videocall_pair_video_frames_buffered" Kind::Gauge, PAIR,
            "Frames of the peer's video waiting to be decoded or shown.";
        PAIR_VIDEO_BYTE_RATE = "videocall_pair_video_bytes_per_second" Kind::Gauge, PAIR,
            "Bit rate of the peer's video, in bytes per second.";
        PAIR_FREEZES = "videocall_pair_video_freezes_total" Kind::Counter, PAIR,
            "Freezes of the peer's video, since the session began.";
        PAIR_SCREEN_FPS = "videocall_pair_screen_frames_per_second" Kind::Gauge, PAIR,
            "Frames per second decoded of the peer's shared screen.";
    }
    Own {
        BUILD_INFO = "callsight_build_info" Kind::Gauge, &["version"],
            "Always 1; the label is the running version.";
        FRAMES_RECEIVED = "callsight_frames_received_total" Kind::Counter, REGION,
            "Messages received from the stream: folded, repeated, rejected, refused or redelivered.";
        FRAMES_FOLDED = "callsight_frames_folded_total" Kind::Counter, REGION,
            "Frames folded, late ones included.";
        FRAMES_REPEATED = "callsight_frames_repeated_total" Kind::Counter, REGION,
            "Frames at or under their session's watermark, which change nothing: published twice or out of order.";
        FRAMES_REFUSED = "callsight_frames_refused_total" Kind::Counter, &["region", "reason"],
            "Valid frames that change nothing: their session is beyond --max-sessions (max_sessions), it belongs to another participant or meeting (not_owner), or their seq is too far above its watermark (seq_jump).";
        FRAMES_REDELIVERED = "callsight_frames_redelivered_total" Kind::Counter, REGION,
            "Messages that JetStream delivered again after they had been received, which change nothing.";
        FRAMES_MISSED = "callsight_frames_missed_total" Kind::Counter, REGION,
            "Messages that the stream stored and the exporter never received: removed before they were read, or passed over because the durable was moved or its filter left them out; of what was removed, a shard computes its part from what waited at the last poll.";
        FRAMES_LATE = "callsight_frames_late_total" Kind::Counter, REGION,
            "Folded frames older than the idle timeout, which feed the counters but never the gauges.";
        FRAMES_REJECTED = "callsight_frames_rejected_total" Kind::Counter, &["region", "reason"],
            "Frames rejected, by reason; docs/frame.md describes each reason.";
        IMPLAUSIBLE_GROWTH = "callsight_implausible_growth_total" Kind::Counter, REGION,
            "Counters in folded frames that grew by more than a call can bring since the session's previous frame, which no aggregate contains.";
        DEAD_LETTERS = "callsight_dead_letters_total" Kind::Counter, REGION,
            "Rejected frames stored in the dead-letter stream.";
        DEAD_LETTERS_LOST = "callsight_dead_letters_lost_total" Kind::Counter, REGION,
            "Rejected frames that could not be stored in the dead-letter stream; /readyz says why.";
        FRAME_LATENCY = "callsight_frame_latency_seconds" LATENCY_SECONDS, REGION,
            "Time from the moment the stream received a frame to its fold.";
        CLOCK_SKEW = "callsight_client_clock_skew_seconds" SKEW_SECONDS, REGION,
            "Difference between the client's clock in a frame and the stream's clock, transit included; at most a day.";
        CONSUMER_PENDING = "callsight_consumer_pending_frames" Kind::Gauge, REGION,
            "Frames in the stream that the durable consumer has not delivered yet.";
        CONSUMER_ACK_PENDING = "callsight_consumer_ack_pending_frames" Kind::Gauge, REGION,
            "Frames delivered but not acknowledged yet.";
        LAST_FOLDED_AGE = "callsight_last_folded_frame_age_seconds" Kind::Gauge, REGION,
            "Age of the newest folded frame by the stream's clock; NaN until a frame has been folded.";
        STREAM_LAST_FRAME_AGE = "callsight_stream_last_frame_age_seconds" Kind::Gauge, REGION,
            "Age of the newest frame in the consumed stream by its server's clock; NaN until there is one.";
        MIRROR_LAG_FRAMES = "callsight_mirror_lag_frames" Kind::Gauge, REGION,
            "Frames of the region's stream that the consumed mirror lacks, by the region's own stream if it answers, else as last reported by the mirror's server.";
        MIRROR_LAG = "callsight_mirror_lag_seconds" Kind::Gauge, REGION,
            "Time since the consumed mirror last heard from the region's stream, which it does every second; NaN while unknown.";
        CONNECTED = "callsight_nats_connected" Kind::Gauge, REGION,
            "1 while the region's durable consumer is attached and its NATS connection is up.";
        READY = "callsight_ready" Kind::Gauge, REGION,
            "1 while /readyz reports the region as complete and current.";
        VIEW_AGE = "callsight_view_age_seconds" Kind::Gauge, REGION,
            "Age of the view of the region: everything that was stored before is folded; NaN until there is one.";
        VIEW_LOST = "callsight_view_lost" Kind::Gauge, &["region", "reason"],
            "1 for the reason for which the region is not ready, 0 for all others; /readyz has it in words.";
        LIVE_SERIES = "callsight_live_series" Kind::Gauge, &["plane"],
            "Series in the detail planes.";
        REFUSED = "callsight_refused_total" Kind::Counter, &["region", "limit"],
            "What a limit refused: rows and server names, which aggregates still count, and the further peers of each frame (limit peers), which they lack.";
        SESSIONS_REMOVED = "callsight_sessions_removed_total" Kind::Counter, &["region", "reason"],
            "Live sessions removed: ended, idle, or moved to another server.";
        SCRAPE_SECONDS_SPENT = "callsight_scrape_duration_seconds" SCRAPE_SECONDS, &[],
            "Time from the start of a scrape to its last byte handed to the connection.";
        SCRAPE_BYTES = "callsight_scrape_bytes" Kind::Gauge, &[],
            "Size of the last complete scrape before compression.";
    }
    Ingest {
        INGEST_BUILD_INFO = "callsight_ingest_build_info" Kind::Gauge, &["region", "version"],
            "Always 1; the labels are the region that it publishes to and the running version.";
        INGEST_FRAMES = "callsight_ingest_frames_total" Kind::Counter, &["region", "outcome", "reason"],
            "Requests with a frame, by what became of them (stored, duplicate, rejected, unauthorized, rate_limited, unavailable, abandoned) and by the reason in their answer, else none.";
        INGEST_ACK = "callsight_ingest_ack_seconds" ACK_SECONDS, REGION,
            "Time from the moment a frame was ready to be published to the stream's ack.";
        INGEST_TOKENS_REFUSED = "callsight_ingest_tokens_refused_total" Kind::Counter, &["region", "reason"],
            "Requests refused because of their token, by reason; docs/ingest.md describes each reason.";
        INGEST_RATE_LIMITED = "callsight_ingest_rate_limited_total" Kind::Counter, &["region", "by"],
            "Requests refused because they came too fast, by what had sent too many: participant or address.";
        INGEST_IN_FLIGHT = "callsight_ingest_requests_in_flight" Kind::Gauge, REGION,
            "Requests with a frame that are being answered.";
        INGEST_BUFFER = "callsight_ingest_buffer_ratio" Kind::Gauge, REGION,
            "Share of the buffer that is taken by frames waiting for the stream, by number or by bytes, whichever is higher; at 1 frames are refused.";
        INGEST_KEYS = "callsight_ingest_keys" Kind::Gauge, REGION,
            "Keys in force that verify tokens; 0 with --without-tokens.";
        INGEST_KEYS_REFUSED = "callsight_ingest_keys_refused" Kind::Gauge, REGION,
            "1 while a changed file of keys can't be used and the former keys stay in force.";
        INGEST_READY = "callsight_ingest_ready" Kind::Gauge, REGION,
            "1 while /readyz reports that frames can be stored.";
    }
}

/// A column of a detail plane: one series of each row.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The metric that the series belongs to.
    pub metric: &'static Metric,
    /// The operation, for a metric with a series for each.
    pub operation: Option<Operation>,
}

/// The columns of a detail plane, metric by metric; none for the other planes.
#[must_use]
pub fn columns(plane: Plane) -> Vec<Column> {
    let detail = matches!(plane, Plane::Session | Plane::Pair);
    let metrics = CATALOGUE.iter().filter(|metric| detail && metric.plane == plane);
    metrics
        .flat_map(|metric| {
            let operations: &[Operation] =
                if metric.labels.contains(&"operation") { Operation::ALL } else { &[] };
            let single = operations.is_empty().then_some(Column { metric, operation: None });
            let each = operations.iter().map(|operation| Column { metric, operation: Some(*operation) });
            single.into_iter().chain(each)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_rules() {
        let mut seen = HashSet::new();
        for metric in CATALOGUE {
            let prefix = match metric.plane {
                Plane::Own => "callsight_",
                Plane::Ingest => "callsight_ingest_",
                _ => "videocall_",
            };
            assert!(metric.name.starts_with(prefix), "{}", metric.name);
            let counts = metric.kind.name() == "counter";
            assert_eq!(metric.name.ends_with("_total"), counts, "{}", metric.name);
            assert!(seen.insert(metric.name), "{} is declared twice", metric.name);
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{}", metric.name);
        }
    }

    #[test]
    fn labels_are_few_and_closed() {
        const ALLOWED: &[&str] = &[
            "region",
            "server_url",
            "server_type",
            "meeting_id",
            "session_id",
            "peer_id",
            "operation",
            "signal",
            "reason",
            "limit",
            "plane",
            "version",
            "app",
            "platform",
            "candidate_type",
            "protocol",
            "evidence",
            "result",
            "outcome",
            "by",
        ];
        for metric in CATALOGUE {
            for label in metric.labels {
                assert!(ALLOWED.contains(label), "{} has the label {label}", metric.name);
            }
        }
    }

    #[test]
    fn buckets_ascend() {
        for metric in CATALOGUE {
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{}", metric.name);
            }
        }
    }
}
