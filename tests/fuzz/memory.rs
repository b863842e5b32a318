//! How much memory an action takes, counted by the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Bytes that one thread asked for: tests run side by side.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Held at the time.
    held: usize,
    /// The most that was held at a time.
    pub(crate) peak: usize,
    /// All that was asked for, whether it was given back or not.
    pub(crate) total: usize,
}

thread_local! {
    static USAGE: Cell<Usage> = const { Cell::new(Usage { held: 0, peak: 0, total: 0 }) };
}

/// What this thread asks for while it does this.
pub(crate) fn measure<T>(action: impl FnOnce() -> T) -> (T, Usage) {
    USAGE.set(Usage::default());
    let result = action();
    (result, USAGE.get())
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn taken(bytes: usize) {
    // A thread that ends still frees, when its locals are gone.
    let _ = USAGE.try_with(|usage| {
        let Usage { held, peak, total } = usage.get();
        let held = held.saturating_add(bytes);
        usage.set(Usage { held, peak: peak.max(held), total: total.saturating_add(bytes) });
    });
}

fn given_back(bytes: usize) {
    let _ = USAGE.try_with(|usage| {
        let before = usage.get();
        // What was taken before the measurement began may be given back within it.
        usage.set(Usage { held: before.held.saturating_sub(bytes), ..before });
    });
}

#[expect(
    unsafe_code,
    reason = "an allocator is unsafe to write; this one hands everything on to the system's"
)]
// SAFETY: every call goes to the system's allocator unchanged, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both at once: to move is to hold the old one and the new one for a while.
        taken(size);
        given_back(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        given_back(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}
