//! The steady state asks for no memory: what decoding and folding need, they keep from one frame to
//! the next.
//!
//! An allocation a frame is not much, until there are a hundred thousand of them a second and each
//! leaves a hole for the next one. What the NATS client allocates for a message comes on top, and
//! is not ours.

// Cargo compiles this for tests alone in any case; clippy lets helpers unwrap only where it is
// said.
#![cfg(test)]

#[path = "../benches/common/mod.rs"]
mod common;
#[path = "fuzz/memory.rs"]
mod memory;

use callsight_frame::{Decoder, Form, Frame};

const SESSIONS: usize = 20;

/// Frames of every session, one round after the other, in a form; half of the sessions report
/// everything that there is.
fn rounds(seqs: std::ops::RangeInclusive<u64>, parties: usize, form: Form) -> Vec<Vec<u8>> {
    let names: Vec<_> = (0..SESSIONS).map(|session| common::Names::new(session, parties)).collect();
    let frame = |(number, names): (usize, &common::Names), seq| match number % 2 {
        0 => names.frame(seq).encode(form),
        _ => names.full_frame(seq).encode(form),
    };
    seqs.flat_map(|seq| names.iter().enumerate().map(move |named| frame(named, seq))).collect()
}

#[test]
fn a_frame_of_a_session_that_goes_on_takes_no_memory() {
    for form in [Form::Compact, Form::Named] {
        let mut world = common::World::new();
        let mut decoder = Decoder::default();
        let mut fold = |messages: &[Vec<u8>]| {
            for message in messages {
                decoder.with(message, None, |frame: &Frame<'_>| world.fold(frame)).unwrap();
            }
            // Ten seconds, so that the idle sessions are looked for several times.
            world.pass(50_000);
        };
        let (first, more) = (rounds(1..=3, 10, form), rounds(4..=20, 10, form));
        fold(&first);
        let ((), usage) = memory::measure(|| more.chunks(SESSIONS).for_each(&mut fold));
        assert_eq!(usage.total, 0, "bytes asked for in {} frames, {form:?}", more.len());

        // Not even when large and small meetings take turns.
        let (small, large) = (rounds(21..=22, 2, form), rounds(21..=22, 10, form));
        fold(&large);
        let ((), usage) = memory::measure(|| fold(&large[..SESSIONS]));
        assert_eq!(usage.total, 0, "repeats, {form:?}");
        let decode = |message: &Vec<u8>| decoder.with(message, None, |frame| frame.peers.len()).unwrap();
        let (peers, usage) = memory::measure(|| small.iter().chain(&large).map(decode).sum::<usize>());
        assert_eq!((peers, usage.total), (2 * SESSIONS * (1 + 9), 0), "{form:?}");
    }
}

#[test]
fn nor_does_a_packet() {
    let names: Vec<_> = (0..SESSIONS).map(|session| common::Names::new(session, 10)).collect();
    let rounds = |seqs: std::ops::RangeInclusive<u64>| {
        seqs.flat_map(|seq| names.iter().map(move |names| names.packet(seq))).collect::<Vec<_>>()
    };
    let mut world = common::World::new();
    let mut decoder = Decoder::default();
    let mut fold = |messages: &[Vec<u8>]| {
        for message in messages {
            decoder.with(message, Some("relay-1"), |frame: &Frame<'_>| world.fold(frame)).unwrap();
        }
        world.pass(50_000);
    };
    let (first, more) = (rounds(1..=3), rounds(4..=20));
    fold(&first);
    let ((), usage) = memory::measure(|| more.chunks(SESSIONS).for_each(&mut fold));
    assert_eq!(usage.total, 0, "bytes asked for in {} packets", more.len());
}
