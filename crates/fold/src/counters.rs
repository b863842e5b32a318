//! The cumulative counters of a peer, and of what a session sends, as dense arrays, and their
//! growth.
//!
//! Clients count from their own beginning, and restart at zero. So a counter counts by its growth
//! since the last frame. A client may be wrong or lie, so a counter that grows by more than a call
//! can bring in that time does not count.
//!
//! Most clients report a part of the counters: those with a NetEQ of their own lack what browsers
//! count, and few peers share a screen. So the baselines that not every peer needs are allocated
//! when a frame first has them.
//!
//! Invariant: growth is never negative and within [`MostGrowth`]; a smaller value is a client that
//! restarted, and counts whole.

use std::time::Duration;

use metrics::Counter;

use crate::REMEMBERED;
use crate::series::aggregates::{Limitation, RegionSeries, ServerSeries};
use callsight_frame::{Frame, Operation, Peer, QualityLimitation, Sending, Video};

const OPERATIONS: usize = Operation::ALL.len();
const SAMPLES: usize = OPERATIONS;
const CONCEALED: usize = OPERATIONS + 1;
const SILENT: usize = OPERATIONS + 2;
pub(super) const RECEIVED: usize = OPERATIONS + 3;
const LOST: usize = OPERATIONS + 4;
const FREEZES: usize = OPERATIONS + 5;
const DECODED: usize = OPERATIONS + 6;
const DROPPED: usize = OPERATIONS + 7;
const COUNTERS: usize = OPERATIONS + 8;

/// The further counters of an audio stream, and then those of a video.
const AUDIO: usize = 4;
const VIDEO: usize = 5;

/// The fewest packets of which a share of lost ones means anything.
const LEAST_PACKETS: u64 = 20;

/// The growth of the counters of the peers of a frame, all together: NetEQ's operations first, then
/// the others. A shared screen counts as a video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) counts: [u64; COUNTERS],
    more: More,
    /// How many counters grew by too much, which is not in the counts.
    pub(super) jumps: u64,
}

/// The further counters of an audio stream and of a video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct More {
    audio: [u64; AUDIO],
    video: [u64; VIDEO],
}

/// The counters of a shared screen.
#[derive(Clone, Debug, Default)]
struct Screen {
    freezes: u64,
    frames_decoded: u64,
    frames_dropped: u64,
    video: [u64; VIDEO],
}

/// The growth of one peer's counters, as far as the peer is judged by it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PeerGrowth {
    /// The share of the samples played that were concealed and audible, 0 to 1. `None` if none were
    /// played, or the peer does not report concealment.
    pub(super) concealment: Option<f64>,
    pub(super) freezes: u64,
    /// The share of the packets that were lost, of the audio or of a video, whichever is higher.
    /// `None` if there were too few, or the peer does not report losses.
    pub(super) loss: Option<f64>,
}

/// The most by which counters can grow from one frame of a session to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct MostGrowth {
    samples: u64,
    packets: u64,
    pub(super) others: u64,
}

impl MostGrowth {
    /// The highest sample rate of audio.
    const SAMPLES_PER_SECOND: u64 = 192_000;
    /// The packets of a session that sends a video in several layers to many peers.
    const PACKETS_PER_SECOND: u64 = 20_000;
    /// Audio packets, decisions, frames, freezes and milliseconds are at most a thousand per
    /// second.
    const OTHERS_PER_SECOND: u64 = 1_000;

    /// What a call can bring within a time. Frames may be late, and a peer may have counted before
    /// it was first reported, so there is as much more as a session is remembered for.
    pub(super) fn within(time: Duration) -> Self {
        let seconds = (time + REMEMBERED).as_secs();
        Self {
            samples: seconds.saturating_mul(Self::SAMPLES_PER_SECOND),
            packets: seconds.saturating_mul(Self::PACKETS_PER_SECOND),
            others: seconds.saturating_mul(Self::OTHERS_PER_SECOND),
        }
    }

    const fn of_video(&self) -> [u64; VIDEO] {
        [self.packets, self.packets, self.others, self.packets, self.others]
    }
}

impl Growth {
    /// Adds the growth to a server's counters, and counts what was too much.
    pub(super) fn apply(&self, server: &ServerSeries, own: &RegionSeries) {
        let others = [
            &server.samples,
            &server.concealed_samples,
            &server.silent_concealed_samples,
            &server.packets_received,
            &server.packets_lost,
            &server.freezes,
            &server.frames_decoded,
            &server.frames_dropped,
        ];
        increment(server.neteq.iter().chain(others), &self.counts);
        let (of_audio, of_video) = server.media.split_at(AUDIO);
        increment(of_audio.iter(), &self.more.audio);
        increment(of_video.iter(), &self.more.video);
        if self.jumps > 0 {
            own.implausible_growth.increment(self.jumps);
        }
    }
}

fn increment<'a>(counters: impl Iterator<Item = &'a Counter>, grown: &[u64]) {
    for (counter, grown) in counters.zip(grown) {
        if *grown > 0 {
            counter.increment(*grown);
        }
    }
}

/// The cumulative values of a peer in the last frame that was folded.
#[derive(Clone, Debug)]
pub(super) struct Baseline {
    pub(super) counts: [u64; COUNTERS],
    more: Option<Box<More>>,
    screen: Option<Box<Screen>>,
}

impl Baseline {
    /// The baseline of a new peer: everything it has counted is growth.
    pub(super) const ZERO: Self = Self { counts: [0; COUNTERS], more: None, screen: None };

    /// Moves to a peer's values and returns their growth, which is also added to `total`. A value
    /// below the last one is a client that restarted, so all of it is growth; an absent value keeps
    /// the last one; what grew by more than `most` did not grow.
    pub(super) fn advance(&mut self, peer: &Peer<'_>, most: &MostGrowth, total: &mut Growth) -> PeerGrowth {
        let mut grown = PeerGrowth::default();
        let Growth { counts: sums, jumps, .. } = total;
        if let Some(neteq) = peer.audio.as_ref().and_then(|audio| audio.neteq.as_ref()) {
            let places = self.counts.iter_mut().zip(&mut *sums);
            for ((last, sum), value) in places.zip(&neteq.counts()) {
                grow(last, *value, most.others, sum, jumps);
            }
        }
        // Each other counter by itself, with an index that the compiler knows: as arrays they would
        // be copied first.
        let mut count = |index: usize, value: Option<u64>, most: u64| {
            grow(&mut self.counts[index], value, most, &mut sums[index], jumps)
        };
        if let Some(audio) = &peer.audio {
            let samples = count(SAMPLES, audio.total_samples, most.samples);
            let concealed = count(CONCEALED, audio.concealed_samples, most.samples);
            let silent = count(SILENT, audio.silent_concealed_samples, most.samples);
            if audio.concealed_samples.is_some() && samples > 0 {
                grown.concealment = Some(ratio(concealed.saturating_sub(silent), samples).min(1.0));
            }
            let received = count(RECEIVED, audio.packets_received, most.others);
            let lost = count(LOST, audio.packets_lost, most.others);
            if audio.packets_lost.is_some() {
                grown.loss = share_lost(lost, received);
            }
        }
        if let Some(video) = &peer.video {
            grown.freezes = count(FREEZES, video.freeze_count, most.others);
            count(DECODED, video.frames_decoded, most.others);
            count(DROPPED, video.frames_dropped, most.others);
        }
        if has_more(peer) {
            self.grow_more(peer, most, total, &mut grown);
        }
        grown
    }

    // Not inlined: frames without these fields must not pay for them.
    #[inline(never)]
    fn grow_more(&mut self, peer: &Peer<'_>, most: &MostGrowth, total: &mut Growth, grown: &mut PeerGrowth) {
        let Growth { counts: sums, more: More { audio: audio_sums, video: video_sums }, jumps } = total;
        let last = self.more.get_or_insert_default();
        if let Some(audio) = &peer.audio {
            let values = [
                audio.concealment_events,
                audio.inserted_samples,
                audio.removed_samples,
                audio.packets_discarded,
            ];
            let limits = [most.others, most.samples, most.samples, most.others];
            grow_all(&mut last.audio, &values, &limits, audio_sums, jumps);
        }
        if let Some(video) = &peer.video {
            let more = grow_all(&mut last.video, &more_of(video), &most.of_video(), video_sums, jumps);
            grown.lose(video, more);
        }
        if let Some(screen) = &peer.screen {
            let last = self.screen.get_or_insert_default();
            let mut count = |last: &mut u64, value: Option<u64>, index: usize| {
                grow(last, value, most.others, &mut sums[index], jumps)
            };
            grown.freezes += count(&mut last.freezes, screen.freeze_count, FREEZES);
            count(&mut last.frames_decoded, screen.frames_decoded, DECODED);
            count(&mut last.frames_dropped, screen.frames_dropped, DROPPED);
            let more = grow_all(&mut last.video, &more_of(screen), &most.of_video(), video_sums, jumps);
            grown.lose(screen, more);
        }
    }
}

impl PeerGrowth {
    /// Takes the losses of a video, whose further counters have grown.
    fn lose(&mut self, video: &Video, [received, lost, ..]: [u64; VIDEO]) {
        let loss = video.packets_lost.and_then(|_| share_lost(lost, received));
        if loss > self.loss {
            self.loss = loss;
        }
    }
}

/// Moves a counter to its value and returns its growth, which is also added to a sum. Growth by
/// more than `most` is a jump instead.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call for each counter takes longer than counting it")]
fn grow(last: &mut u64, value: Option<u64>, most: u64, sum: &mut u64, jumps: &mut u64) -> u64 {
    let Some(value) = value else { return 0 };
    let more = value.checked_sub(*last).unwrap_or(value);
    *last = value;
    if more > most {
        *jumps += 1;
        return 0;
    }
    // A frame has at most 256 peers, and each value is at most 2^53.
    *sum += more;
    more
}

/// Moves several counters, as [`grow`] does each.
fn grow_all<const N: usize>(
    last: &mut [u64; N],
    values: &[Option<u64>; N],
    most: &[u64; N],
    sums: &mut [u64; N],
    jumps: &mut u64,
) -> [u64; N] {
    // By index, which the compiler knows to be within all of them.
    std::array::from_fn(|index| grow(&mut last[index], values[index], most[index], &mut sums[index], jumps))
}

/// A part of a whole.
#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// The share of packets that were lost; `None` of too few.
fn share_lost(lost: u64, received: u64) -> Option<f64> {
    let all = lost + received;
    (all >= LEAST_PACKETS).then(|| ratio(lost, all))
}

/// Whether a peer has one of the further counters. Every one is looked at, which takes less than
/// to stop at the first.
fn has_more(peer: &Peer<'_>) -> bool {
    let audio = peer.audio.as_ref().is_some_and(|audio| {
        audio.concealment_events.is_some()
            | audio.inserted_samples.is_some()
            | audio.removed_samples.is_some()
            | audio.packets_discarded.is_some()
    });
    let video = peer.video.as_ref().is_some_and(|video| {
        video.packets_received.is_some()
            | video.packets_lost.is_some()
            | video.freezes_ms.is_some()
            | video.nack_count.is_some()
            | video.pli_count.is_some()
    });
    audio | video | peer.screen.is_some()
}

const fn more_of(video: &Video) -> [Option<u64>; VIDEO] {
    [video.packets_received, video.packets_lost, video.freezes_ms, video.nack_count, video.pli_count]
}

const LIMITED: usize = 4;
const SENDING: usize = LIMITED + Limitation::ALL.len() + 3;

/// The cumulative values of what a session sends, and of its path, in its last frame.
#[derive(Clone, Debug, Default)]
pub(super) struct SendBaseline([u64; SENDING]);

/// The growth of those values since the frame before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct SendGrowth {
    counts: [u64; SENDING],
    jumps: u64,
    /// The share of the packets that the far end lacks, of audio or video, whichever is higher.
    pub(super) loss: Option<f64>,
    /// What limited the video that is sent for more than half of the time.
    pub(super) limited: Option<Limitation>,
}

impl SendBaseline {
    /// Moves to a frame's values and returns their growth, by the rules of [`Baseline::advance`].
    /// `passed` is the time since the frame before.
    pub(super) fn advance(&mut self, frame: &Frame<'_>, most: &MostGrowth, passed: Duration) -> SendGrowth {
        let nothing = Sending::default();
        let send = frame.send.as_ref().unwrap_or(&nothing);
        let limited = send.limited.as_ref();
        let limited = |time: fn(&QualityLimitation) -> Option<u64>| limited.and_then(time);
        let values = [
            send.audio_packets_sent,
            send.audio_packets_lost,
            send.video_packets_sent,
            send.video_packets_lost,
            limited(|limited| limited.cpu_ms),
            limited(|limited| limited.bandwidth_ms),
            limited(|limited| limited.other_ms),
            send.nack_count,
            send.pli_count,
            frame.path.as_ref().and_then(|path| path.ice_restarts),
        ];
        let MostGrowth { packets, others, .. } = *most;
        let limits = [packets, packets, packets, packets, others, others, others, packets, packets, others];
        let (mut sums, mut jumps) = ([0; SENDING], 0);
        let counts = grow_all(&mut self.0, &values, &limits, &mut sums, &mut jumps);
        let lost = |reported: Option<u64>, sent: usize| {
            reported?;
            let (lost, sent) = (counts[sent + 1], counts[sent]);
            (sent >= LEAST_PACKETS).then(|| ratio(lost, sent).min(1.0))
        };
        let (audio, video) = (lost(send.audio_packets_lost, 0), lost(send.video_packets_lost, 2));
        let half = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX) / 2;
        let most_limited = Limitation::ALL.into_iter().max_by_key(|by| counts[LIMITED + *by as usize]);
        let limited = most_limited.filter(|by| counts[LIMITED + *by as usize] > half);
        SendGrowth { counts, jumps, loss: if video > audio { video } else { audio }, limited }
    }
}

impl SendGrowth {
    /// Adds the growth to a server's counters, and counts what was too much.
    pub(super) fn apply(&self, server: &ServerSeries, own: &RegionSeries) {
        let packets = server.send_packets.iter();
        let all = packets.chain(&server.send_limited).chain(&server.send_requests);
        increment(all.chain([&server.ice_restarts]), &self.counts);
        if self.jumps > 0 {
            own.implausible_growth.increment(self.jumps);
        }
    }
}
