//! Fixed amounts of work whose instructions callgrind counts.
//!
//! Times depend on the machine and on other work on it, so no test can assert one. The number of
//! instructions hardly depends on either, so it can be compared with a recorded number. `./dev
//! instructions` runs each work under callgrind, which counts only inside the function `counted_…`.

mod common;

use std::env;
use std::hint::black_box;
use std::io::{self, Write};

use callsight_frame::{Decoder, Form, Frame};

/// Frames that are decoded or folded.
const FRAMES: u64 = 2_000;

/// Sessions, in meetings of ten.
const SESSIONS: usize = 50;

fn main() -> io::Result<()> {
    let names: Vec<_> = (0..SESSIONS).map(|session| common::Names::new(session, 10)).collect();
    // `cargo bench` adds a flag.
    let work = env::args().skip(1).find(|argument| !argument.starts_with("--"));
    match work.as_deref() {
        Some("decode_compact") => counted_decode_compact(&names[0].frame(1000).encode(Form::Compact)),
        Some("decode_named") => counted_decode_named(&names[0].frame(1000).encode(Form::Named)),
        Some("decode_full") => counted_decode_full(&names[0].full_frame(1000).encode(Form::Compact)),
        Some("decode_packet") => counted_decode_packet(&names[0].packet(1000)),
        Some("fold") => {
            let (mut world, mut frames) = joined(&names, common::Names::frame);
            counted_fold(&mut world, &mut frames);
        }
        Some("fold_full") => {
            let (mut world, mut frames) = joined(&names, common::Names::full_frame);
            counted_fold_full(&mut world, &mut frames);
        }
        Some("join_and_leave") => {
            let lives: Vec<_> = names
                .iter()
                .map(|names| (names.frame(1), Frame { ended: Some(true), ..names.frame(2) }))
                .collect();
            let mut world = common::World::new();
            counted_join_and_leave(&mut world, &lives);
        }
        Some("render") => {
            let (world, _) = joined(&names, common::Names::frame);
            let mut page = Vec::with_capacity(1 << 24);
            counted_render(&world, &mut page)?;
            writeln!(io::stdout(), "{} bytes", page.len())?;
        }
        _ => writeln!(io::stdout(), "./dev instructions runs this")?,
    }
    Ok(())
}

/// A world with every session, and each session's frame.
fn joined<'a>(
    names: &'a [common::Names],
    frame: fn(&'a common::Names, u64) -> Frame<'a>,
) -> (common::World, Vec<Frame<'a>>) {
    let mut world = common::World::new();
    let frames: Vec<_> = names.iter().map(|names| frame(names, 1)).collect();
    frames.iter().for_each(|frame| world.fold(frame));
    (world, frames)
}

#[inline(never)]
fn counted_decode_compact(message: &[u8]) {
    decode(message);
}

#[inline(never)]
fn counted_decode_named(message: &[u8]) {
    decode(message);
}

#[inline(never)]
fn counted_decode_full(message: &[u8]) {
    decode(message);
}

#[inline(never)]
fn counted_decode_packet(message: &[u8]) {
    decode(message);
}

fn decode(message: &[u8]) {
    let mut decoder = Decoder::default();
    for _ in 0..FRAMES {
        black_box(decoder.with(black_box(message), Some("relay-1"), |frame| frame.peers.len()).ok());
    }
}

#[inline(never)]
fn counted_fold(world: &mut common::World, frames: &mut [Frame<'_>]) {
    fold(world, frames, common::advance);
}

#[inline(never)]
fn counted_fold_full(world: &mut common::World, frames: &mut [Frame<'_>]) {
    fold(world, frames, common::advance_full);
}

fn fold(world: &mut common::World, frames: &mut [Frame<'_>], advance: fn(&mut Frame<'_>, u64)) {
    for seq in 2..2 + FRAMES / frames.len() as u64 {
        for frame in &mut *frames {
            advance(frame, seq);
            world.fold(frame);
        }
        world.pass(u32::try_from(frames.len()).unwrap_or_default());
    }
}

#[inline(never)]
fn counted_join_and_leave(world: &mut common::World, lives: &[(Frame<'_>, Frame<'_>)]) {
    for (first, last) in lives {
        world.fold(first);
        world.fold(last);
    }
}

#[inline(never)]
fn counted_render(world: &common::World, page: &mut Vec<u8>) -> io::Result<()> {
    world.page(page)
}
