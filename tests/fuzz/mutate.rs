//! Inputs that are nearly right: what gets past the first check and into the second.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;

/// Beginnings of MessagePack values that claim more than any message has, and numbers that no
/// measure is.
const CLAIMS: &[&[u8]] = &[
    b"\xdd\xff\xff\xff\xff",                 // an array of four billion
    b"\xdf\xff\xff\xff\xff",                 // a map
    b"\xdb\xff\xff\xff\xff",                 // text
    b"\xc6\xff\xff\xff\xff",                 // bytes
    b"\xc9\xff\xff\xff\xff\x01",             // an extension
    b"\xdd\x00\x00\x01\x00",                 // an array of as many peers as a frame may have
    b"\xdc\xff\xff",                         // an array of 65,535
    b"\xde\xff\xff",                         // a map
    b"\xda\xff\xff",                         // text
    b"\xc1",                                 // the unused byte
    b"\xc0",                                 // nil
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", // NaN
    b"\xcb\xff\xf0\x00\x00\x00\x00\x00\x00", // minus infinity
    b"\xcb\x80\x00\x00\x00\x00\x00\x00\x00", // minus zero
    b"\xcb\x43\x50\x00\x00\x00\x00\x00\x00", // 2^54
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", // the largest count
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", // the least integer
    b"\xca\x7f\xc0\x00\x00",                 // NaN in 32 bits
];

/// Pieces of the texts that the other targets read.
const WORDS: &[&str] = &[
    ",",
    ";",
    "=",
    "q=",
    "q=0",
    "q=1e-9",
    "q=NaN",
    "*",
    "gzip",
    "\"",
    " ",
    ".",
    "\n",
    "\r",
    "\u{1b}[2J",
    "\u{2028}",
    "\u{fffd}",
    "text/plain",
    "application/openmetrics-text",
    "application/msgpack",
    "application/json",
    "\r\n\r\n",
    "\r\nContent-Length: 99999999999999999999\r\n",
    "\r\nTransfer-Encoding: chunked\r\n",
    "\r\nContent-Encoding: gzip\r\n",
    "\r\nAuthorization: Bearer ",
    "\r\nX-Forwarded-For: ::ffff:1.2.3.4, unknown\r\n",
    "POST /v1/frames HTTP/1.1\r\n",
    "eyJhbGciOiJub25lIn0.",
    "version=1.0.0",
    "health.diagnostics.",
    "us",
    ">",
    "+1",
    "4294967296",
    "--",
    "--region",
    "-h",
    "serve",
    "simulate",
    "frame",
    "CALLSIGHT_REGION=",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "'''",
    "\"\"\"",
    "\\u0000",
    "0x",
    "1e999",
    "-0",
    "18446744073709551616",
    "true",
    "region = ",
    "s",
    "99999999999y",
    "nats://a:b@c",
    "https://",
    "[::1]",
    "%00",
    "xn--",
    "\u{fdfa}",
    "@",
    "1979-05-27T07:32:00Z",
    "#",
];

/// Some entry of the corpus, with one to eight things done to it.
pub(crate) fn mutated(corpus: &[Vec<u8>], random: &mut Xoshiro256PlusPlus, longest: usize) -> Vec<u8> {
    let mut input = corpus.choose(random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(1..=8) {
        mutate(&mut input, corpus, random);
    }
    input.truncate(longest);
    input
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Xoshiro256PlusPlus) {
    let at = random.random_range(0..=input.len());
    let end = (at + random.random_range(0..=16)).min(input.len());
    match random.random_range(0..12) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.random();
            }
        }
        2 => {
            let bytes: [u8; 8] = random.random();
            let count = random.random_range(1..=8);
            input.splice(at..at, bytes.into_iter().take(count));
        }
        3 => drop(input.drain(at..end)),
        4 => {
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
        5 => input.truncate(at),
        6 | 7 => {
            // In place of what was there, or before it.
            let claim = CLAIMS.choose(random).copied().unwrap_or_default();
            let end = if random.random() { (at + claim.len()).min(input.len()) } else { at };
            input.splice(at..end, claim.iter().copied());
        }
        8 | 9 => {
            let word = WORDS.choose(random).copied().unwrap_or_default();
            let end = if random.random() { end } else { at };
            input.splice(at..end, word.bytes());
        }
        10 => {
            // The beginning of this one, the end of another.
            let other = corpus.choose(random).cloned().unwrap_or_default();
            let from = random.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            // Deep, or long.
            let byte = *[0x91, 0x81, 0xa1, b'[', b'{', b'a', b',', b'.'].choose(random).unwrap_or(&0);
            let count = random.random_range(1..=2_000);
            input.splice(at..at, std::iter::repeat_n(byte, count));
        }
    }
}
