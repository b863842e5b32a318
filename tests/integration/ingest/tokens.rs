//! Tokens: who gets in, who does not, and how keys change.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use callsight_frame::{Frame, MeetingId, PeerId, Seq, SessionId};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

use super::client::{SECRET, claims, now, token, told};
use super::{Way, frame_of};
use crate::kit::callsight::Callsight;
use crate::kit::jwt::{hs256, unsigned};
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

/// A key pair on the curve P-256 or of Ed25519.
enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Pair {
    fn ec() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random);
        Self::Ec(pair.unwrap())
    }

    fn ed() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    fn public(&self) -> &[u8] {
        match self {
            Self::Ec(pair) => pair.public_key().as_ref(),
            Self::Ed(pair) => pair.public_key().as_ref(),
        }
    }

    /// The public key as a member of a JWKS.
    fn jwk(&self, id: &str) -> Value {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ec(_) => {
                let point = &self.public()[1..];
                json!({"kty": "EC", "crv": "P-256", "kid": id, "x": part(&point[..32]), "y": part(&point[32..])})
            }
            Self::Ed(_) => json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": part(self.public())}),
        }
    }

    fn sign(&self, id: Option<&str>, claims: &Value) -> String {
        let mut header = json!({"alg": if matches!(self, Self::Ec(_)) { "ES256" } else { "EdDSA" }});
        if let Some(id) = id {
            header["kid"] = id.into();
        }
        let message = unsigned(&header, claims);
        let signature = match self {
            Self::Ec(pair) => pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Signed by a service that has RSA keys, whose public one is in the JWKS too.
fn rs256(claims: &Value) -> (String, Value) {
    let pair = RsaKeyPair::from_pkcs8(include_bytes!("rsa.pkcs8")).unwrap();
    let message = unsigned(&json!({"alg": "RS256", "kid": "rsa"}), claims);
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    let public = ring::signature::RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({"kty": "RSA", "kid": "rsa", "alg": "RS256", "n": part(&public.n), "e": part(&public.e)});
    (format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)), jwk)
}

#[tokio::test]
async fn no_hostile_token_gets_in() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let directory = temporary_directory();
    let (ec, ed, stranger) = (Pair::ec(), Pair::ed(), Pair::ec());
    let ana = claims("ana", &json!({}));
    let (rsa_token, rsa_jwk) = rs256(&ana);
    let path = directory.path().join("keys.json");
    fs::write(&path, jwks(&[ec.jwk("ec"), ed.jwk("ed"), rsa_jwk])).unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let [path, secret] = [path, secret].map(|path| path.to_str().unwrap().to_owned());
    let flags =
        ["--token-key", &path, "--token-secret", &secret, "--token-issuer=us", "--rate-participant=100"];
    let mut way = Way::start_in(directory, &nats.url(), &flags);
    way.ready().await;
    let with = |more: Value| claims("ana", &more);
    let good = with(json!({"iss": "us"}));
    let none = |algorithm: &str| format!("{}.", unsigned(&json!({ "alg": algorithm }), &good));
    // An HMAC whose secret is the bytes of a public key, in each way in which they are written.
    let point = hs256(ec.public(), &good);
    let written = hs256(ec.jwk("ec").to_string().as_bytes(), &good);
    let cut = |token: String| token[..token.len() - 2].to_owned();
    let attacks = [
        (rsa_token, "wrong_algorithm"),
        (none("none"), "wrong_algorithm"),
        (none("nOnE"), "wrong_algorithm"),
        (none("HS512"), "wrong_algorithm"),
        (none("HS256"), "bad_signature"),
        (point, "bad_signature"),
        (written, "bad_signature"),
        (hs256(b"another secret of thirty-two bytes", &good), "bad_signature"),
        (stranger.sign(Some("ec"), &good), "bad_signature"),
        (stranger.sign(None, &good), "bad_signature"),
        (ec.sign(Some("ed"), &good), "unknown_key"),
        (ed.sign(Some("gone"), &good), "unknown_key"),
        (ec.sign(Some("ec"), &with(json!({"iss": "us", "exp": now() - 60}))), "expired"),
        (ec.sign(Some("ec"), &with(json!({"iss": "us", "nbf": now() + 60}))), "not_yet_valid"),
        (ec.sign(Some("ec"), &with(json!({"iss": "us", "exp": null}))), "missing_claim"),
        (ec.sign(Some("ec"), &with(json!({"iss": "us", "peer_id": 7}))), "missing_claim"),
        (ec.sign(Some("ec"), &with(json!({"iss": "them"}))), "wrong_issuer"),
        (ec.sign(Some("ec"), &ana), "wrong_issuer"),
        (cut(ec.sign(None, &good)), "bad_signature"),
        (format!("{}.x", token("ana")), "token_malformed"),
        ("a".repeat(8 * 1024 + 1), "token_too_long"),
        (ec.sign(None, &with(json!({"iss": "us", "meeting_id": "retro"}))), "other_meeting"),
        (ec.sign(None, &with(json!({"iss": "us", "peer_id": "bo"}))), "other_participant"),
        (ec.sign(None, &with(json!({"iss": "us", "session_id": "ana:2"}))), "other_session"),
    ];
    for (token, reason) in &attacks {
        let answer = way.post(token, &frame_of("ana:1", 1, &[])).await;
        let expected = if reason.starts_with("other") { 403 } else { 401 };
        assert_eq!((answer.status, told(&answer).1.as_deref()), (expected, Some(*reason)), "{token}");
    }
    assert_eq!(health.messages().await, 0, "nothing got in");
    let scrape = way.metrics().await;
    for (_, reason) in &attacks {
        let expected = attacks.iter().filter(|(_, other)| other == reason).count() as f64;
        let counted = scrape.value("callsight_ingest_tokens_refused_total", &[("reason", reason)]);
        assert_eq!(counted, Some(expected), "{reason}");
    }

    let signed = [
        hs256(SECRET.as_bytes(), &good),
        ec.sign(Some("ec"), &good),
        ec.sign(None, &good),
        ed.sign(Some("ed"), &good),
    ];
    for (seq, token) in (1..).zip(signed) {
        assert_eq!(way.post(&token, &frame_of("ana:1", seq, &[])).await.status, 204, "{token}");
    }
    assert_eq!(health.messages().await, 4);
    let log = way.process.output();
    assert!(!log.contains(SECRET) && !log.contains("eyJ"), "{log}");
}

/// A valid token is good for its own participant's sessions, whatever a frame says.
#[tokio::test]
async fn nobody_writes_into_the_session_of_another() {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    let mut way = Way::start(&nats.url(), &["--rate-participant=100"]);
    way.ready().await;
    for seq in 1..=3 {
        assert_eq!(way.post(&token("ana"), &frame_of("ana:1", seq, &["bo"])).await.status, 204);
    }
    let bo = token("bo");
    let attack =
        |session: &'static str, peer: &'static str, meeting: &'static str, seq: u64, ended: bool| Frame {
            meeting_id: MeetingId::new(meeting).unwrap(),
            peer_id: PeerId::new(peer).unwrap(),
            session_id: SessionId::new(session).unwrap(),
            seq: Seq::new(seq).unwrap(),
            ended: Some(ended),
            ..frame_of("ana:1", 9, &[])
        };
    for (frame, reason) in [
        // As ana: to write, to end, to move the watermark.
        (attack("ana:1", "ana", "standup", 4, false), "other_participant"),
        (attack("ana:1", "ana", "standup", 5, true), "other_participant"),
        (attack("ana:1", "ana", "standup", 9_000_000, false), "other_participant"),
        // As himself in her session.
        (attack("ana:1", "bo", "standup", 4, false), "other_session"),
        (attack("ana:1", "bo", "standup", 5, true), "other_session"),
        (attack("ana:1", "bo", "standup", 9_000_000, true), "other_session"),
        (attack("bo", "bo", "standup", 1, false), "other_session"),
        (attack("bo:ana:1", "bo", "standup", 1, false), "other_session"),
        // From another meeting.
        (attack("bo:1", "bo", "retro", 1, false), "other_meeting"),
    ] {
        let answer = way.post(&bo, &frame).await;
        assert_eq!((answer.status, told(&answer).1.as_deref()), (403, Some(reason)), "{frame:?}");
    }
    // Neither does a claim that names her session help him, unless his service signs it.
    let claims = claims("bo", &json!({"session_id": "ana:1"}));
    let forged = hs256(b"not the secret, but as long as one", &claims);
    assert_eq!(way.post(&forged, &attack("ana:1", "bo", "standup", 4, true)).await.status, 401);

    assert_eq!(way.post(&bo, &frame_of("bo:1", 1, &["ana"])).await.status, 204);
    assert_eq!(way.post(&token("ana"), &frame_of("ana:1", 4, &["bo"])).await.status, 204);
    callsight
        .metrics_when(PATIENCE, "both sessions", |scrape| {
            let ana =
                scrape.value("videocall_session_rtt_seconds", &[("session_id", "ana:1"), ("peer_id", "ana")]);
            let sessions = scrape.sum("videocall_sessions", &[]);
            wait::when((ana, sessions), |seen| *seen == (Some(0.044), 2.0)).map(drop)
        })
        .await;
    let scrape = callsight.metrics().await;
    assert_eq!(scrape.sum("callsight_frames_folded_total", &[]), 5.0);
    assert_eq!(scrape.sum("callsight_frames_refused_total", &[]), 0.0, "no attack reached the stream");
}

#[tokio::test]
async fn keys_rotate_while_it_runs_and_a_broken_file_changes_nothing() {
    let nats = Nats::start();
    let _health = Health::create(&nats).await;
    let directory = temporary_directory();
    let path = directory.path().join("keys.json");
    let (old, new) = (Pair::ec(), Pair::ed());
    fs::write(&path, jwks(&[old.jwk("old")])).unwrap();
    let flag = path.to_str().unwrap().to_owned();
    let mut way = Way::start_in(directory, &nats.url(), &["--token-key", &flag, "--rate-participant=1000"]);
    way.ready().await;
    let ana = claims("ana", &json!({}));
    let tokens = [old.sign(Some("old"), &ana), new.sign(Some("new"), &ana)];
    let statuses = async |way: &Way| {
        let mut statuses = Vec::new();
        for token in &tokens {
            statuses.push(way.post(token, &frame_of("ana:1", 1, &[])).await.status);
        }
        statuses
    };
    let accepts = async |way: &Way, expected: [u16; 2]| {
        wait::eventually_async(PATIENCE, &format!("answers {expected:?}"), async || {
            wait::when(statuses(way).await, |seen| *seen == expected)
        })
        .await;
    };
    accepts(&way, [204, 401]).await;
    fs::write(&path, jwks(&[old.jwk("old"), new.jwk("new")])).unwrap();
    accepts(&way, [204, 204]).await;
    fs::write(&path, jwks(&[new.jwk("new")])).unwrap();
    accepts(&way, [401, 204]).await;

    let warning = "the former keys stay in force";
    for broken in
        ["", "{", "{\"keys\": []}", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
    {
        fs::write(&path, broken).unwrap();
        wait::eventually_async(PATIENCE, "the warning", async || {
            let answer = way.get("/readyz").await;
            wait::when(answer.text().to_owned(), |text| text.contains(warning)).map(drop)
        })
        .await;
        assert_eq!(statuses(&way).await, [401, 204], "{broken}");
        let scrape = way.metrics().await;
        assert_eq!(scrape.value("callsight_ingest_keys_refused", &[]), Some(1.0));
        assert_eq!(scrape.value("callsight_ingest_keys", &[]), Some(1.0));
        // Whole again, so that the next one is a change.
        fs::write(&path, jwks(&[new.jwk("new")])).unwrap();
        wait::eventually_async(PATIENCE, "the warning to end", async || {
            let answer = way.get("/readyz").await;
            wait::when(answer.text().to_owned(), |text| !text.contains(warning)).map(drop)
        })
        .await;
    }
    assert!(way.process.output().contains("token keys refused; the former one stays in force"));
}

#[tokio::test]
async fn tokens_of_livekit_and_jitsi_are_taken_as_they_are() {
    let nats = Nats::start();
    let _health = Health::create(&nats).await;
    let livekit = json!({"iss": "API1", "sub": "ana", "nbf": now() - 5, "exp": now() + 600, "name": "Ana",
        "video": {"room": "standup", "roomJoin": true, "canPublish": true}});
    let jitsi = json!({"iss": "app", "aud": "jitsi", "sub": "meet.example", "room": "standup",
        "exp": now() + 600, "context": {"user": {"id": "ana", "name": "Ana"}}});
    for (preset, more, claims) in [
        ("livekit", vec!["--token-issuer=API1"], livekit),
        ("jitsi", vec!["--token-issuer=app", "--token-audience=jitsi"], jitsi),
    ] {
        let flags = [vec!["--token-preset", preset], more].concat();
        let mut way = Way::start(&nats.url(), &flags);
        way.ready().await;
        let token = hs256(SECRET.as_bytes(), &claims);
        assert_eq!(way.post(&token, &frame_of("ana:1", 1, &[])).await.status, 204, "{preset}");
        let answer = way.post(&token, &frame_of("bo:1", 1, &[])).await;
        assert_eq!(told(&answer).1.as_deref(), Some("other_participant"), "{preset}");
    }
}

#[test]
fn it_starts_with_good_keys_or_says_what_is_wrong() {
    let directory = temporary_directory();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (short, private) = (
        file("short", "hunter2"),
        file("private", "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----"),
    );
    let line = |more: &[&str]| {
        let args = [&["ingest", "--region", "us", "--listen", "127.0.0.1:0"][..], more].concat();
        let output = Callsight::run(&args);
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(!line.contains("hunter2"), "{line}");
        (output.status.code(), line.lines().last().unwrap().to_owned())
    };
    for (flags, code, complaint) in [
        (
            vec![],
            2,
            "no key that verifies tokens: give `--token-secret` or `--token-key`, or accept".to_owned(),
        ),
        (
            vec!["--without-tokens", "--token-secret", &short],
            2,
            "`--without-tokens` cannot be used with".to_owned(),
        ),
        (vec!["--token-secret", &short], 1, format!("`{short}` of --token-secret: the secret has 7 bytes")),
        (vec!["--token-key", &private], 1, format!("`{private}` of --token-key: holds a private key")),
        (vec!["--token-key", "/nowhere"], 1, "`/nowhere` of --token-key: cannot be read".to_owned()),
        (
            vec!["--without-tokens", "--server-id", "a.b"],
            2,
            "invalid value `a.b` for `--server-id`".to_owned(),
        ),
        (vec!["--without-tokens", "--trusted-proxy", "10"], 2, "write an address or a network".to_owned()),
        (vec!["--without-tokens", "--allow-origin", "example"], 2, "write an origin such as".to_owned()),
    ] {
        let (status, line) = line(&flags);
        assert_eq!(status, Some(code), "{flags:?}: {line}");
        assert!(line.starts_with("error: ") && line.contains(&complaint), "{flags:?}: {line}");
    }
}
