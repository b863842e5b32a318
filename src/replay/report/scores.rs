//! Who had it worst: a score of every session or pair, and timelines of those that may end up on
//! top.
//!
//! Who was worst is only clear at the end, and a timeline of each takes much memory. So the number
//! of timelines is bounded. A newcomer to a full board gets one when it becomes degraded, from the
//! half that was best so far. Scores are small; still, of those that are gone only the worst are
//! kept by name, and the others are counted.
//!
//! Invariant: memory is bounded by the live rows, the bounds of the board and the points of a
//! chart.

use std::cmp::Reverse;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use super::signals::{By, PerSignal, narrow};
use crate::insight::worst::WorstList;
use callsight_fold::series::judgement::Judgement;
use callsight_frame::{CandidateType, Protocol};

/// A session or pair at one step, or at a point of its timeline: the worst of the point's steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Round-trip time in seconds, NaN if unknown.
    pub(crate) rtt: f32,
    /// Share of the audio that was concealed, NaN if unknown.
    pub(crate) concealed: f32,
    /// Share of the packets that were lost on the way here, NaN if unknown.
    pub(crate) lost: f32,
    /// What degraded it, by [`By`].
    pub(crate) by: PerSignal<bool>,
    /// The peer's microphone was on, and nothing was heard that was asked for.
    pub(crate) deaf: bool,
    /// The peer's camera was on, and nothing was seen that was asked for.
    pub(crate) blind: bool,
    pub(crate) there: bool,
}

impl Point {
    const NONE: Self = Self {
        rtt: f32::NAN,
        concealed: f32::NAN,
        lost: f32::NAN,
        by: [false; By::ALL.len()],
        deaf: false,
        blind: false,
        there: false,
    };

    pub(super) fn of_session(rtt: f64, judgement: &Judgement) -> Self {
        let concealed = judgement.concealment.unwrap_or(f32::NAN);
        let lost = judgement.loss_percent.map_or(f32::NAN, |percent| f32::from(percent) / 100.0);
        Self { rtt: narrow(rtt), concealed, lost, by: By::all_of(judgement), there: true, ..Self::NONE }
    }

    pub(super) fn of_pair(can_listen: bool, can_see: bool, judgement: &Judgement) -> Self {
        let deaf = judgement.microphone && !judgement.audio_unwanted && !can_listen;
        let blind = judgement.camera && !judgement.video_unwanted && !can_see;
        Self { deaf, blind, ..Self::of_session(f64::NAN, judgement) }
    }

    /// Takes the worse of each value.
    fn merge(&mut self, other: &Self) {
        self.rtt = self.rtt.max(other.rtt);
        self.concealed = self.concealed.max(other.concealed);
        self.lost = self.lost.max(other.lost);
        for (was, is) in self.by.iter_mut().zip(other.by) {
            *was |= is;
        }
        self.deaf |= other.deaf;
        self.blind |= other.blind;
        self.there |= other.there;
    }
}

/// What a session or a pair had, over the window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Score {
    /// Region, meeting and participant; of a pair the remote one.
    pub(crate) names: [Box<str>; 3],
    pub(crate) server: Box<str>,
    /// Release and platform, and the candidate and protocol of the path, of a session that tells
    /// them.
    pub(crate) client: Box<str>,
    pub(crate) path: (Option<CandidateType>, Option<Protocol>),
    /// Frames of the window that were folded in time.
    pub(crate) frames: u64,
    /// The longest round trip, in seconds; 0 if none is known.
    pub(crate) most_rtt: f32,
    /// The largest share of concealed audio.
    pub(crate) most_concealed: f32,
    /// The largest share of packets that were lost on the way here.
    pub(crate) most_lost: f32,
    /// Steps at which it was live.
    pub(crate) steps: u32,
    /// Steps at which it was degraded, by [`By`].
    pub(crate) bad: PerSignal<u32>,
    /// Steps at which a microphone that was on was not heard.
    pub(crate) deaf: u32,
    /// The first step at which it was degraded, and the last.
    pub(crate) span: Option<(usize, usize)>,
    /// The point at which the timeline begins, and its points.
    pub(crate) timeline: Option<(usize, Vec<Point>)>,
    last_step: usize,
}

impl Score {
    pub(super) fn on(&mut self, server: &str) {
        if *self.server != *server {
            self.server = server.into();
        }
    }

    pub(super) fn of(&mut self, app: &str, platform: &str, judgement: &Judgement) {
        let known = [app, platform].into_iter().filter(|word| *word != "none");
        let client = known.collect::<Vec<_>>().join(" on ");
        if *self.client != *client {
            self.client = client.into();
        }
        self.path = (judgement.candidate_type, judgement.protocol);
    }

    /// Steps at which it was degraded by anything.
    pub(crate) const fn bad_steps(&self) -> u32 {
        self.bad[By::Any as usize]
    }

    /// Orders by severity: degraded at more steps, then unheard, then a longer round trip, then
    /// more audio concealed.
    const fn severity(&self) -> (u32, u32, u32, u32) {
        // Neither is negative, so their bits are in the order of their values.
        (self.bad_steps(), self.deaf, self.most_rtt.to_bits(), self.most_concealed.to_bits())
    }
}

/// Sessions, or pairs, by name.
#[derive(Default)]
pub(crate) struct Scoreboard {
    scores: HashMap<Box<str>, Score>,
    stride: usize,
    timelines: usize,
    most_timelines: usize,
    most_gone: usize,
    /// The numbers of those dropped: all, and those that were ever degraded.
    forgotten: (usize, usize),
    /// Whether there was not room for every timeline.
    crowded: bool,
}

impl Scoreboard {
    pub(super) fn new(stride: usize, most_timelines: usize, most_gone: usize) -> Self {
        Self { stride, most_timelines, most_gone, ..Self::default() }
    }

    /// The number of those seen.
    pub(crate) fn seen(&self) -> usize {
        self.scores.len() + self.forgotten.0
    }

    /// The number of those degraded at some step.
    pub(crate) fn degraded(&self) -> usize {
        self.scores.values().filter(|score| score.bad_steps() > 0).count() + self.forgotten.1
    }

    /// Whether there was not room for a timeline of each.
    pub(crate) const fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// The worst of those that were degraded at all.
    pub(crate) fn top(&self, count: usize) -> Vec<(&str, &Score)> {
        let mut worst = WorstList::new(count);
        for (name, score) in &self.scores {
            if score.bad_steps() > 0 {
                worst.offer((score.severity(), Reverse(name)), || (name.as_ref(), score));
            }
        }
        worst.into_items()
    }

    pub(super) fn enter(&mut self, name: &str, names: impl FnOnce() -> [Box<str>; 3]) -> &mut Score {
        match self.scores.entry_ref(name) {
            EntryRef::Occupied(entry) => entry.into_mut(),
            EntryRef::Vacant(entry) => {
                entry.insert_with_key(name.into(), Score { names: names(), ..Score::default() })
            }
        }
    }

    pub(super) fn see(&mut self, name: &str, step: usize, sight: Point) {
        let bad = sight.by[By::Any as usize];
        let full = self.timelines >= self.most_timelines;
        if full && bad && self.scores.get(name).is_some_and(|score| score.timeline.is_none()) {
            self.make_room();
        }
        let room = self.timelines < self.most_timelines;
        let Some(score) = self.scores.get_mut(name) else { return };
        score.last_step = step;
        score.steps += 1;
        for (count, is) in score.bad.iter_mut().zip(sight.by) {
            *count += u32::from(is);
        }
        score.deaf += u32::from(sight.deaf);
        if bad {
            score.span = Some((score.span.map_or(step, |(first, _)| first), step));
        }
        score.most_rtt = score.most_rtt.max(sight.rtt);
        score.most_concealed = score.most_concealed.max(sight.concealed);
        score.most_lost = score.most_lost.max(sight.lost);
        let at = step / self.stride;
        let is_new = score.timeline.is_none();
        if is_new && !room {
            self.crowded = true;
            return;
        }
        self.timelines += usize::from(is_new);
        let (begin, points) = score.timeline.get_or_insert((at, Vec::new()));
        let place = at.saturating_sub(*begin);
        if points.len() <= place {
            points.resize(place + 1, Point::NONE);
        }
        points[place].merge(&sight);
    }

    /// Drops the timelines of the half that was best so far.
    fn make_room(&mut self) {
        let mut with: Vec<_> = self.scores.values_mut().filter(|score| score.timeline.is_some()).collect();
        with.sort_unstable_by_key(|score| score.severity());
        let half = with.len().div_ceil(2);
        for score in with.into_iter().take(half) {
            score.timeline = None;
        }
        self.timelines -= half;
        self.crowded = true;
    }

    /// Ends a step: of those that are gone, drops the best if there are too many.
    pub(super) fn settle(&mut self, step: usize) {
        if self.scores.len() <= self.most_gone {
            return;
        }
        let gone = |score: &Score| score.last_step < step;
        let mut names: Vec<_> = self.scores.iter().filter(|(_, score)| gone(score)).collect();
        if names.len() <= self.most_gone {
            return;
        }
        names.sort_unstable_by_key(|(_, score)| score.severity());
        let names: Vec<Box<str>> =
            names[..self.most_gone / 2].iter().map(|(name, _)| (*name).clone()).collect();
        for name in names {
            let Some(score) = self.scores.remove(&name) else { continue };
            self.forgotten.0 += 1;
            self.forgotten.1 += usize::from(score.bad_steps() > 0);
            self.timelines -= usize::from(score.timeline.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(worst: &mut Scoreboard, name: &str, step: usize, rtt: f64, bad: bool) {
        worst.enter(name, || ["us", "m", "p"].map(Into::into));
        worst.see(name, step, Point::of_session(rtt, &Judgement { rtt: bad, ..Judgement::NONE }));
    }

    #[test]
    fn the_worst_were_degraded_longest_and_then_furthest() {
        let mut worst = Scoreboard::new(1, 10, 10);
        for step in 0..3 {
            see(&mut worst, "long", step, 0.4, true);
            see(&mut worst, "short", step, 0.9, step == 1);
            see(&mut worst, "far", step, 0.5, true);
            see(&mut worst, "well", step, 0.1, false);
        }
        let names: Vec<_> = worst.top(9).into_iter().map(|(name, _)| name).collect();
        assert_eq!((names, worst.seen(), worst.degraded()), (vec!["far", "long", "short"], 4, 3));
        let short = worst.top(9)[2].1;
        assert_eq!((short.span, short.steps, short.bad), (Some((1, 1)), 3, [1, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn a_timeline_has_gaps_and_the_worst_of_its_steps() {
        let mut worst = Scoreboard::new(2, 10, 10);
        for (step, rtt) in [(2, 0.1), (3, 0.3), (6, 0.2)] {
            see(&mut worst, "s", step, rtt, step == 3);
        }
        let (begin, points) = worst.top(1)[0].1.timeline.clone().unwrap();
        let rtt: Vec<_> = points.iter().map(|point| point.rtt).collect();
        assert_eq!((begin, points.len(), rtt[0], rtt[2]), (1, 3, 0.3, 0.2));
        assert!(points[0].by[0] && !points[1].there && points[2].there && !points[2].by[0]);
    }

    #[test]
    fn who_comes_to_a_full_room_gets_a_timeline_when_it_goes_badly() {
        let mut worst = Scoreboard::new(1, 4, 100);
        for name in ["a", "b", "c", "d", "e"] {
            see(&mut worst, name, 0, 0.1, name == "a");
        }
        assert!(worst.is_crowded() && worst.scores["e"].timeline.is_none());
        see(&mut worst, "e", 1, 0.5, true);
        assert_eq!(worst.scores["e"].timeline.as_ref().unwrap().0, 1);
        assert!(worst.scores["a"].timeline.is_some(), "the worst stays");
        let kept = worst.scores.values().filter(|score| score.timeline.is_some()).count();
        assert_eq!((kept, worst.timelines), (3, 3));
    }

    #[test]
    fn of_those_that_have_gone_the_best_are_only_counted() {
        let mut worst = Scoreboard::new(1, 100, 10);
        for number in 0..12_u32 {
            let bad = number.is_multiple_of(2);
            see(&mut worst, &format!("s{number:02}"), 0, f64::from(number) / 10.0, bad);
        }
        see(&mut worst, "live", 1, 0.1, false);
        worst.settle(1);
        assert_eq!((worst.scores.len(), worst.seen(), worst.degraded()), (8, 13, 6));
        assert!(worst.scores.contains_key("live") && worst.scores.contains_key("s10"));
        assert!(!worst.scores.contains_key("s01"));
    }
}
