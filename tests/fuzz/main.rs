//! The fuzz targets on any toolchain, for as long as a test may take: every entry of the corpus,
//! then mutations of them that are the same in every run. `fuzz/README.md` tells how to let
//! libFuzzer look for days instead.

// Cargo compiles this for tests alone in any case; clippy lets helpers unwrap only where it is
// said.
#![cfg(test)]

mod memory;
mod mutate;
mod targets;

use std::env;
use std::fs;
use std::panic;
use std::path::Path;

use callsight_frame::{Decoder, Frame, MAX_FRAME_BYTES, Rejection};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use crate::memory::measure;
use crate::mutate::mutated;

/// The most that a message of any content may take while it is decoded. A frame with as many peers
/// as there can be takes less than half of it.
const MAX_DECODE_BYTES: usize = 1 << 20;

/// The same for everything that a target does with an input.
const MAX_TARGET_BYTES: usize = 16 << 20;

/// The corpus of a target, in an order that does not depend on the machine.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut entries: Vec<_> = files
        .map(|file| {
            let path = file.expect("a file of the corpus").path();
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            (name, fs::read(&path).expect("a file that can be read"))
        })
        .collect();
    entries.sort();
    assert!(!entries.is_empty(), "{} is empty", folder.display());
    entries
}

/// Gives the target every entry of its corpus, then so many mutations of them, or as many as
/// `./dev fuzz TARGET --inputs N` asks for.
fn run(target: &str, rounds: usize, check: impl Fn(&[u8]) + panic::RefUnwindSafe) {
    if env::var("CALLSIGHT_FUZZ_TARGET").is_ok_and(|only| only != target) {
        return;
    }
    let named = corpus(target);
    for (name, input) in &named {
        give(target, name, input, &check);
    }
    let corpus: Vec<_> = named.into_iter().map(|(_, input)| input).collect();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let asked = env::var("CALLSIGHT_FUZZ_INPUTS").ok();
    let rounds = asked.map_or(rounds, |inputs| inputs.parse().expect("a number of inputs"));
    for round in 0..rounds {
        // Now and then one that is too long.
        let longest = if round % 64 == 0 { MAX_FRAME_BYTES + 1 } else { MAX_FRAME_BYTES };
        let input = mutated(&corpus, &mut random, longest);
        give(target, &format!("mutation {round}"), &input, &check);
    }
}

/// An input that fails is kept, so that it can be looked at and become an entry of the corpus.
fn give(target: &str, name: &str, input: &[u8], check: &(impl Fn(&[u8]) + panic::RefUnwindSafe)) {
    let (outcome, usage) = measure(|| panic::catch_unwind(|| check(input)));
    if outcome.is_ok() && usage.peak <= MAX_TARGET_BYTES {
        return;
    }
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
    fs::write(&kept, input).expect("a place for the input");
    panic!("{target}: {name} of {} bytes, kept as {}: {usage:?}", input.len(), kept.display());
}

fn decode(input: &[u8]) -> Result<(), Rejection> {
    let (result, usage) = measure(|| Decoder::default().with(input, None, |_| ()));
    assert!(usage.peak <= MAX_DECODE_BYTES, "to decode {} bytes took {usage:?}", input.len());
    result
}

#[test]
fn any_message_is_a_valid_frame_or_refused_and_takes_little_memory() {
    run("frame", 200_000, |input| {
        let _ = decode(input);
        targets::frame(input);
    });
}

#[test]
fn any_packet_is_a_valid_frame_or_refused_and_takes_little_memory() {
    run("packet", 100_000, |input| {
        let _ = decode(input);
        targets::packet(input);
    });
}

#[test]
fn any_settings_are_understood_or_refused_in_one_line() {
    run("config", 4_000, targets::config);
}

#[test]
fn any_subject_is_read_or_refused() {
    run("subject", 50_000, targets::subject);
}

#[test]
fn any_headers_are_answered() {
    run("negotiate", 30_000, targets::negotiate);
}

#[test]
fn any_token_is_good_as_it_was_signed_or_refused() {
    run("token", 100_000, targets::token);
}

#[test]
fn any_request_is_answered() {
    run("request", 60_000, targets::request);
}

/// A frame of the longest kind that says of each place in turn that four billion values follow.
#[test]
fn a_claim_of_four_billion_is_refused_at_once() {
    let (_, example) = corpus("frame").into_iter().find(|(name, _)| name == "named").expect("the example");
    for claim in [
        &b"\xdd\xff\xff\xff\xff"[..],
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
    ] {
        for place in 0..example.len() {
            let mut message = [&example[..place], claim, &example[place..]].concat();
            // Something to chew on, up to the limit.
            message.resize(MAX_FRAME_BYTES, 0xc0);
            let (result, usage) = measure(|| Frame::decode(&message).map(drop));
            assert!(result.is_err(), "{claim:x?} at {place}");
            assert!(usage.total < 64 * 1024, "{claim:x?} at {place}: {usage:?}");
        }
    }
}
