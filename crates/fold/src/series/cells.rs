//! The values of one label set, and the handles that point at them.
//!
//! A handle of the `metrics` crate is an `Arc` of something that can be set. One of these for each of a row's values would
//! be an allocation each; so all handles of a row share its cells, each under the v-table of its column.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytemuck::TransparentWrapper;
use bytemuck::TransparentWrapperAlloc;
use metrics::{Counter, CounterFn, Gauge, GaugeFn};

/// A cell that holds no value. As a float it is a NaN, which no valid frame brings.
pub(super) const ABSENT: u64 = u64::MAX;

/// One label set and its values. A cell is a float's bits for a gauge and the number itself for a counter.
///
/// The cells are in line, as many as the widest plane needs: with half a million series every pointer that an
/// update follows is a cache miss.
pub(super) struct Cells {
    pub(super) labels: Box<str>,
    pub(super) values: [AtomicU64; MAX_COLUMNS],
    /// A [`Judgement`], packed.
    pub(super) judgement: AtomicU64,
}

/// The cells, seen as the one at index `I`: what a handle points at without an allocation of its own.
#[derive(TransparentWrapper)]
#[repr(transparent)]
struct Cell<const I: usize>(Cells);

impl<const I: usize> GaugeFn for Cell<I> {
    fn increment(&self, value: f64) {
        let present = f64::from_bits(self.0.values[I].load(Relaxed));
        self.set(if present.is_nan() { value } else { present + value });
    }

    fn decrement(&self, value: f64) {
        GaugeFn::increment(self, -value);
    }

    /// Sets the value; NaN makes it absent.
    fn set(&self, value: f64) {
        self.0.values[I].store(if value.is_nan() { ABSENT } else { value.to_bits() }, Relaxed);
    }
}

impl<const I: usize> CounterFn for Cell<I> {
    fn increment(&self, value: u64) {
        let present = self.0.values[I].load(Relaxed);
        self.absolute(if present == ABSENT { value } else { present.wrapping_add(value) });
    }

    /// Sets the value as it is, also to a smaller one: the fold brings values in order, and a client whose
    /// counter began anew has to show as one. `u64::MAX` makes it absent.
    fn absolute(&self, value: u64) {
        self.0.values[I].store(value, Relaxed);
    }
}

/// The handles to each cell, by index.
macro_rules! cells {
    ($($index:literal)+) => {
        pub(super) const MAX_COLUMNS: usize = [$($index),+].len();
        pub(super) const GAUGES: [fn(Arc<Cells>) -> Gauge; MAX_COLUMNS] = [$(|cells| Gauge::from_arc(Cell::<$index>::wrap_arc(cells)),)+];
        pub(super) const COUNTERS: [fn(Arc<Cells>) -> Counter; MAX_COLUMNS] = [$(|cells| Counter::from_arc(Cell::<$index>::wrap_arc(cells)),)+];
    };
}
cells!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20);
