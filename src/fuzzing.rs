//! Access for the fuzz targets to parsers of external text that are not public.
//!
//! The targets in `tests/fuzz/targets.rs` run under libFuzzer (`fuzz/`) and `cargo test`, and so
//! outside of this crate. A cargo feature would either build the crate twice for tests or let a run
//! without it skip them silently.
//!
//! Invariant: the functions behave exactly as the program does.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};
use tokio::runtime;
use warp::http::StatusCode;
use warp::reply::{Reply as _, Response};

use crate::cli;
use crate::http_server::negotiate::{self, Encoding};
use crate::http_server::{PeerAddress, protocol};
use crate::ingest::door::Door;
use crate::ingest::refusal::error;
use crate::ingest::tokens::{ClaimNames, KeyFiles, TokenPreset, TokenRules, Tokens};
use callsight_fold::series::exposition::Format;
use callsight_frame::Frame;

/// Parses a command line (the program's name first), an environment and the file of `--config`, and
/// returns a summary of the settings.
///
/// # Errors
/// The line that the program would end with.
pub fn settings(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
    read_file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<String, String> {
    cli::check(arguments, environment, read_file)
}

/// Returns whether `/metrics` answers an `Accept` header with OpenMetrics.
#[must_use]
pub fn takes_open_metrics(accept: &str) -> bool {
    negotiate::format(Some(accept)) == Format::OpenMetrics
}

/// Returns whether `/metrics` answers an `Accept-Encoding` header with gzip.
#[must_use]
pub fn takes_gzip(accept_encoding: &str) -> bool {
    negotiate::encoding(Some(accept_encoding)) == Some(Encoding::Gzip)
}

/// The secret that signs the tokens of the corpus.
const SECRET: &[u8] = b"the secret of the fuzzer, which is no secret";

/// A public key, whose private half nobody kept.
const PUBLIC_KEY: &[u8] = b"-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

static TOKENS: LazyLock<io::Result<Arc<Tokens>>> = LazyLock::new(|| {
    let folder = tempfile::tempdir()?;
    let [secret, key] = ["secret", "key"].map(|name| folder.path().join(name));
    fs::write(&secret, SECRET)?;
    fs::write(&key, PUBLIC_KEY)?;
    let rules = TokenRules {
        claims: ClaimNames::of(TokenPreset::Callsight),
        issuers: Vec::new(),
        audiences: Vec::new(),
    };
    let tokens = Tokens::read(&KeyFiles { secrets: vec![secret], keys: vec![key] }, rules);
    tokens.map(Arc::new).map_err(io::Error::other)
});

static DOOR: LazyLock<Option<Door>> = LazyLock::new(|| {
    let tokens = TOKENS.as_ref().ok().map(Arc::clone)?;
    let proxies = vec![IpNet::from(IpAddr::from([127, 0, 0, 1]))];
    let servers = vec!["*.example".parse().ok()?];
    let plenty = NonZeroU32::new(1_000_000)?;
    Some(Door::new(Some(tokens), [plenty; 2], proxies, servers))
});

/// Verifies a token against the corpus's secret and a public key, as `ingest` does. Returns the
/// meeting, or the word of the refusal.
///
/// # Panics
/// If there is no room for two small temporary files.
#[expect(clippy::expect_used, reason = "for tests alone")]
pub fn token(text: &str) -> Result<String, &'static str> {
    let tokens = TOKENS.as_ref().expect("there is room for temporary files");
    tokens.verify(text).map(|speaker| speaker.meeting_id).map_err(|refusal| refusal.label())
}

/// Answers what comes over a connection as `ingest` does, except that nothing is published: a frame
/// that gets in is decoded once more.
///
/// # Panics
/// If a frame that got in is none, which is a defect, or as [`token`].
#[must_use]
#[expect(clippy::expect_used, reason = "for tests alone")]
pub fn answers(connection: &[u8]) -> Vec<u8> {
    let door = DOOR.as_ref().expect("there is room for temporary files");
    let answer = async |request: Request<Incoming>| -> Result<Response, Infallible> {
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            return Ok(error(StatusCode::METHOD_NOT_ALLOWED, None, "send frames with POST"));
        }
        let peer = PeerAddress(SocketAddr::from(([127, 0, 0, 1], 9)));
        Ok(match door.admit(Some(peer), &head.headers, BodyDataStream::new(body)).await {
            Ok(admitted) => {
                assert!(Frame::decode(&admitted.message).is_ok(), "what gets in is a frame");
                StatusCode::NO_CONTENT.into_response()
            }
            Err(refusal) => refusal.answer(),
        })
    };
    let talk = async {
        let (client, server) = duplex(64 * 1024);
        let mut http = protocol();
        http.half_close(true);
        let serving = http.serve_connection(TokioIo::new(server), service_fn(answer));
        let (mut reading, mut writing) = split(client);
        let mut answers = Vec::new();
        let write = async {
            // It ends early if the server has heard enough.
            let _ = writing.write_all(connection).await;
            let _ = writing.shutdown().await;
        };
        let (_, (), _) = tokio::join!(serving, write, reading.read_to_end(&mut answers));
        answers
    };
    let runtime = runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a thread can have a runtime").block_on(talk)
}
