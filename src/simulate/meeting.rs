//! The meetings: they fill up, lose people, admit others, and end with the last one.
//!
//! Invariant: a meeting exists exactly while it has members, and is open exactly while it has a
//! free place.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use slab::Slab;

const OCCASIONS: [&str; 8] =
    ["standup", "retro", "all-hands", "interview", "one-on-one", "class", "support", "board"];

#[derive(Debug)]
pub(super) struct Meeting {
    pub(super) id: String,
    /// Clients in the order of joining, including crashed ones that nobody has missed yet. Those
    /// that are not connected yet have their place too.
    pub(super) members: Vec<usize>,
    size: usize,
    pool: usize,
    /// Whether it is in its pool's list of open meetings.
    open: bool,
}

/// All meetings, in pools: one per region, and one that people of all regions join.
#[derive(Debug)]
pub(super) struct Meetings {
    meetings: Slab<Meeting>,
    open: Vec<Vec<usize>>,
    average_size: usize,
    seed: u64,
    started: u64,
}

impl Meetings {
    pub(super) fn new(pools: usize, average_size: usize, seed: u64) -> Self {
        Self { meetings: Slab::new(), open: vec![Vec::new(); pools], average_size, seed, started: 0 }
    }

    pub(super) fn get(&self, meeting: usize) -> Option<&Meeting> {
        self.meetings.get(meeting)
    }

    /// Adds a client to an open meeting of the pool, or to a new one.
    pub(super) fn join(&mut self, pool: usize, client: usize, rng: &mut Xoshiro256PlusPlus) -> usize {
        let open = &self.open[pool];
        let meeting = match open.len() {
            0 => self.start(pool, rng),
            // Mostly the newest one, so that meetings reach their size.
            count => open[if rng.random_bool(0.9) { count - 1 } else { rng.random_range(0..count) }],
        };
        self.rejoin(meeting, client);
        meeting
    }

    /// Adds a client to a certain meeting; false if it has ended.
    pub(super) fn rejoin(&mut self, meeting: usize, client: usize) -> bool {
        let Some(found) = self.meetings.get_mut(meeting) else { return false };
        found.members.push(client);
        if found.open && found.members.len() >= found.size {
            found.open = false;
            self.open[found.pool].retain(|open| *open != meeting);
        }
        true
    }

    /// Moves a client that is connected now behind those that were before it.
    pub(super) fn connect(&mut self, meeting: usize, client: usize) {
        let Some(found) = self.meetings.get_mut(meeting) else { return };
        if let Some(position) = found.members.iter().position(|member| *member == client) {
            found.members[position..].rotate_left(1);
        }
    }

    pub(super) fn leave(&mut self, meeting: usize, client: usize) {
        let Some(found) = self.meetings.get_mut(meeting) else { return };
        found.members.retain(|member| *member != client);
        let pool = &mut self.open[found.pool];
        if found.members.is_empty() {
            pool.retain(|open| *open != meeting);
            self.meetings.remove(meeting);
        } else if !found.open && found.members.len() < found.size {
            found.open = true;
            pool.push(meeting);
        }
    }

    fn start(&mut self, pool: usize, rng: &mut Xoshiro256PlusPlus) -> usize {
        self.started += 1;
        let occasion = OCCASIONS[rng.random_range(0..OCCASIONS.len())];
        let average = self.average_size;
        let started = Meeting {
            id: format!("{occasion}-{:x}-{}", self.seed, self.started),
            members: Vec::new(),
            // Symmetric around the average.
            size: if average <= 2 { average } else { rng.random_range(2..=2 * average - 2) },
            pool,
            open: true,
        };
        let meeting = self.meetings.insert(started);
        self.open[pool].push(meeting);
        meeting
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn meetings_fill_up_and_end() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut meetings = Meetings::new(1, 4, 1);
        let joined: Vec<usize> = (0..400).map(|client| meetings.join(0, client, &mut rng)).collect();
        let running = meetings.meetings.len();
        assert!((80..=130).contains(&running), "about 4 in each: {running}");
        assert!(meetings.meetings.iter().all(|(_, meeting)| meeting.members.len() <= 6));
        for (client, meeting) in joined.into_iter().enumerate() {
            meetings.leave(meeting, client);
        }
        assert_eq!(meetings.meetings.len(), 0);
        assert!(meetings.open[0].is_empty());
    }
    #[test]
    fn members_are_in_the_order_of_connecting() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut meetings = Meetings::new(1, 100, 1);
        let meeting = (0..4).map(|client| meetings.join(0, client, &mut rng)).last().unwrap();
        meetings.connect(meeting, 1);
        assert_eq!(meetings.get(meeting).unwrap().members, [0, 2, 3, 1]);
    }
}
