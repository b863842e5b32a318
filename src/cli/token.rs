//! `callsight token`: keys and tokens for trying out, and what is in a token.
//!
//! Invariant: a key that exists is never overwritten, and nobody else may read a new one.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::CliError;
use super::ingest::TokenArgs;
use crate::config::{DAY, SECOND, duration_between, named, read_bounded, read_file};
use crate::ingest::tokens::keys::{ED25519_PREFIX, P256_PREFIX, trimmed};
use crate::ingest::tokens::{SigningKey, Tokens, content, key_files, new_claims};
use crate::tls::private_key;

/// Make keys and tokens for `ingest`, and show what is in a token
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TokenCommandArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum TokenCommand {
    /// Make a key that signs tokens.
    ///
    /// Writes `NAME.key`, which nobody else may read, and for a key pair `NAME.pub`, which verifies
    /// tokens with `--token-key`. A secret does both: give `NAME.key` to `--token-secret`.
    Key(KeyArgs),
    /// Print a token for a participant of a meeting
    Sign(SignArgs),
    /// Print what is in a token, and whether `ingest` with these keys accepts it.
    ///
    /// Reads the token from standard input.
    Show(Box<ShowArgs>),
}

#[derive(Clone, Debug, clap::Args)]
struct KeyArgs {
    /// Path of the files to write, without their extension
    name: PathBuf,

    /// Algorithm that the key is for
    #[arg(long, value_name = "NAME", default_value = "es256", value_parser = named(&KINDS))]
    algorithm: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Hs256,
    Es256,
    EdDsa,
}

/// The kinds of keys on the command line, with their help.
const KINDS: [(&str, &str, Kind); 3] = [
    ("hs256", "A secret, which signs and verifies", Kind::Hs256),
    ("es256", "A key pair on the curve P-256", Kind::Es256),
    ("eddsa", "An Ed25519 key pair", Kind::EdDsa),
];

#[derive(Clone, Debug, clap::Args)]
struct SignArgs {
    /// File with the key to sign with, as `token key` writes it
    #[arg(long, value_name = "FILE", required = true)]
    key: PathBuf,

    /// Meeting that the token is for
    #[arg(long, value_name = "ID", required = true)]
    meeting_id: String,

    /// Participant that the token is for
    #[arg(long, value_name = "ID", required = true)]
    peer_id: String,

    /// Only session that the token is for.
    ///
    /// Without it, the token is for sessions whose id is `{peer_id}:` and anything without a colon.
    #[arg(long, value_name = "ID")]
    session_id: Option<String>,

    /// Time for which the token is valid, from 1s to 30days
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1h",
        value_parser = duration_between(SECOND..=Duration::from_secs(DAY.as_secs() * 30))
    )]
    valid_for: Duration,

    /// Id of the key (`kid`), for a service that has several
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
}

#[derive(Clone, Debug, clap::Args)]
struct ShowArgs {
    #[command(flatten)]
    tokens: TokenArgs,
}

/// Runs the command.
pub(super) fn run(args: TokenCommandArgs, input: impl Read, mut output: impl Write) -> Result<(), CliError> {
    let text = match args.command {
        TokenCommand::Key(args) => key(&args)?,
        TokenCommand::Sign(args) => sign(&args)?,
        TokenCommand::Show(args) => show(&args.tokens, input)?,
    };
    output.write_all(text.as_bytes()).map_err(|error| CliError::caused("cannot write the output", error))
}

/// Makes a key, writes its files, and says which.
fn key(args: &KeyArgs) -> Result<String, CliError> {
    let random = SystemRandom::new();
    let failed = |_| CliError::failed("the system gives no random numbers");
    let broken = |_| CliError::failed("the new key is not valid");
    let (private, public) = match args.algorithm {
        Kind::Hs256 => (format!("{}\n", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())), None),
        Kind::Es256 => {
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(failed)?;
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).map_err(broken)?;
            let public = [&P256_PREFIX, pair.public_key().as_ref()].concat();
            (pem("PRIVATE KEY", pkcs8.as_ref()), Some(pem("PUBLIC KEY", &public)))
        }
        Kind::EdDsa => {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).map_err(failed)?;
            let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(broken)?;
            let public = [&ED25519_PREFIX, pair.public_key().as_ref()].concat();
            (pem("PRIVATE KEY", pkcs8.as_ref()), Some(pem("PUBLIC KEY", &public)))
        }
    };
    let file = |extension: &str| {
        let mut name = args.name.clone().into_os_string();
        name.push(extension);
        PathBuf::from(name)
    };
    let (signs, verifies) = (file(".key"), file(".pub"));
    write_new(&signs, &private, 0o600)?;
    let Some(public) = public else {
        let shown = signs.display();
        return Ok(format!("{shown} signs tokens and verifies them, with --token-secret {shown}\n"));
    };
    write_new(&verifies, &public, 0o644)?;
    let (signs, verifies) = (signs.display(), verifies.display());
    Ok(format!("{signs} signs tokens\n{verifies} verifies them, with --token-key {verifies}\n"))
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CliError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| CliError::caused(format!("cannot write {}", path.display()), error))
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn sign(args: &SignArgs) -> Result<String, CliError> {
    let cannot = |error: io::Error| CliError::caused(format!("cannot read {}", args.key.display()), error);
    let file = read_file(&args.key).map_err(cannot)?;
    let key = signing_key(&file).ok_or_else(|| {
        CliError::failed(format!("{} holds no key that can sign tokens", args.key.display()))
    })?;
    let claims = new_claims(&args.meeting_id, &args.peer_id, args.session_id.as_deref(), args.valid_for);
    let token = key.sign(&claims, args.key_id.as_deref());
    let token = token.ok_or_else(|| CliError::failed(format!("{} cannot sign", args.key.display())))?;
    Ok(format!("{token}\n"))
}

/// Tells a secret from the two kinds of key pairs.
fn signing_key(file: &[u8]) -> Option<SigningKey> {
    if !file.starts_with(b"-----BEGIN") {
        return Some(SigningKey::Hs256(trimmed(file).to_vec()));
    }
    let key = private_key(file).ok()?;
    let der = key.secret_der().to_vec();
    let random = SystemRandom::new();
    if EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random).is_ok() {
        return Some(SigningKey::Es256(der));
    }
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok().map(|_| SigningKey::EdDsa(der))
}

fn show(args: &TokenArgs, input: impl Read) -> Result<String, CliError> {
    let read = read_bounded(input, 1).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
    let token = read.map_err(|error| CliError::caused("cannot read standard input", error))?;
    let token = token.trim();
    let (header, claims) = content(token).map_err(|refusal| CliError::failed(refusal.advice()))?;
    let mut text = format!("{:#}\n", json!({ "header": header, "claims": claims }));
    for (claim, meaning) in [("iat", "issued"), ("nbf", "valid from"), ("exp", "valid until")] {
        let moment = claims.get(claim).and_then(Value::as_i64);
        let moment = moment.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        if let Some(moment) = moment.and_then(|moment| moment.format(&Rfc3339).ok()) {
            text.push_str(&format!("{meaning} {moment}\n"));
        }
    }
    let files = key_files(args.token_secret.clone(), args.token_key.clone());
    let Some(files) = files else {
        text.push_str("not verified: give --token-secret or --token-key\n");
        return Ok(text);
    };
    let tokens = Tokens::read(&files, args.rules()).map_err(CliError::other)?;
    match tokens.verify(token) {
        Err(refusal) => text.push_str(&format!("refused: {}: {}\n", refusal.label(), refusal.advice())),
        Ok(speaker) => {
            let session = speaker.session_id.unwrap_or_else(|| format!("{}:{{random}}", speaker.peer_id));
            let (meeting, peer) = (speaker.meeting_id, speaker.peer_id);
            text.push_str(&format!("good for meeting {meeting}, participant {peer}, session {session}\n"));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        token: TokenCommandArgs,
    }

    fn token(arguments: &[&str], input: &str) -> Result<String, CliError> {
        let command = Command::try_parse_from(["token"].iter().chain(arguments)).unwrap();
        let mut output = Vec::new();
        run(command.token, input.as_bytes(), &mut output).map(|()| String::from_utf8(output).unwrap())
    }

    #[test]
    fn what_a_new_key_signs_is_good_for_whom_it_names() {
        let directory = tempfile::tempdir().unwrap();
        for (algorithm, flag, extension) in [
            ("hs256", "--token-secret", "key"),
            ("es256", "--token-key", "pub"),
            ("eddsa", "--token-key", "pub"),
        ] {
            let name = directory.path().join(algorithm);
            let name = name.to_str().unwrap();
            let said = token(&["key", name, "--algorithm", algorithm], "").unwrap();
            let key = format!("{name}.key");
            assert!(said.starts_with(&format!("{key} signs tokens")), "{said}");
            assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
            let again = token(&["key", name, "--algorithm", algorithm], "").unwrap_err();
            assert_eq!(again.to_string(), format!("cannot write {key}"));

            let sign = ["sign", "--key", &key, "--meeting-id=m", "--peer-id=ana", "--key-id=k"];
            let made = token(&sign, "").unwrap();
            let public = format!("{name}.{extension}");
            let shown = token(&["show", flag, &public], &made).unwrap();
            assert!(shown.contains("\"peer_id\": \"ana\"") && shown.contains("\"kid\": \"k\""), "{shown}");
            assert!(shown.contains("valid until 20"), "{shown}");
            assert!(
                shown.ends_with("good for meeting m, participant ana, session ana:{random}\n"),
                "{shown}"
            );
            let blind = token(&["show"], &made).unwrap();
            assert!(blind.ends_with("not verified: give --token-secret or --token-key\n"), "{blind}");
            let other = token(&["show", flag, &public, "--token-audience=x"], &made).unwrap();
            assert!(
                other.ends_with(
                    "refused: wrong_audience: the token's `aud` is not one that is accepted here\n"
                )
            );
        }
    }

    #[test]
    fn what_is_no_token_and_no_key_is_said() {
        let error = token(&["show"], "a.b").unwrap_err().to_string();
        assert!(error.starts_with("the token is no signed JWT"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").unwrap();
        let path = file.path().to_str().unwrap();
        let error = token(&["sign", "--key", path, "--meeting-id=m", "--peer-id=p"], "").unwrap_err();
        assert_eq!(error.to_string(), format!("{path} holds no key that can sign tokens"));
    }
}
