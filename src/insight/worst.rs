//! The worst few of many.
//!
//! Lists of worst sessions and pairs are short, and what they are chosen from is not. So a list
//! takes candidates one by one and describes only those that get in.
//!
//! Invariant: the list holds the worst candidates offered so far, the worst first, ties in the
//! order of offering.

/// At most `room` items, ordered by severity.
pub(crate) struct WorstList<S, T> {
    room: usize,
    items: Vec<(S, T)>,
}

impl<S: Ord, T> WorstList<S, T> {
    pub(crate) const fn new(room: usize) -> Self {
        Self { room, items: Vec::new() }
    }

    /// Offers a candidate; `item` is called if it is among the worst.
    pub(crate) fn offer(&mut self, severity: S, item: impl FnOnce() -> T) {
        let place = self.items.partition_point(|(other, _)| *other >= severity);
        if place < self.room {
            self.items.truncate(self.room - 1);
            self.items.insert(place, (severity, item()));
        }
    }

    /// The items, the worst first.
    pub(crate) fn into_items(self) -> Vec<T> {
        self.items.into_iter().map(|(_, item)| item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_come_first_and_only_they_are_described() {
        let (mut worst, mut described) = (WorstList::new(3), Vec::new());
        for (severity, name) in [(1, "a"), (5, "b"), (1, "c"), (3, "d"), (0, "e"), (5, "f")] {
            worst.offer(severity, || {
                described.push(name);
                name
            });
        }
        assert_eq!(worst.into_items(), ["b", "f", "d"]);
        assert_eq!(described, ["a", "b", "c", "d", "f"]);
    }
}
