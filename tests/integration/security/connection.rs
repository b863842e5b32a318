//! Getting into a NATS that lets in only some, in every way that there is.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::kit::callsight::Callsight;
use crate::kit::certificates::Authority;
use crate::kit::nats::Nats;
use crate::kit::wait;

/// `callsight serve` gets in with these flags, and `callsight simulate` too.
async fn gets_in(nats_url: &str, flags: &[&str]) {
    let mut callsight = Callsight::serve_at(nats_url, &[flags, &["--create"]].concat());
    callsight.ready().await;
    let simulate = ["simulate", "--nats-url", nats_url, "--region", "us", "--sessions", "1", "--frames", "3"];
    let simulated = Callsight::run(&[&simulate[..], &["--interval", "10ms"], flags].concat());
    assert!(simulated.status.success(), "{simulated:?}");
}

/// `callsight serve` does not get in, and says something of the kind.
fn stays_out(nats_url: &str, flags: &[&str], why: &str) {
    let callsight = Callsight::serve_at(nats_url, flags);
    let log = wait::eventually(wait::PATIENCE, why, || {
        wait::when(callsight.process().output(), |log| log.to_lowercase().contains(why))
    });
    assert!(!log.contains("NATS connected"), "{log}");
}

/// The one line with which `callsight serve` gives up.
fn error(flags: &[&str]) -> String {
    let output = Callsight::run(&[&["serve", "--region", "us"], flags].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A server's `tls` block with a certificate of this authority.
fn tls(authority: &Authority, more: &str) -> String {
    let (certificate, key) = authority.sign_to("server");
    format!(
        "tls {{ cert_file: '{certificate}', key_file: '{key}', ca_file: '{}', {more} }}\n",
        authority.ca()
    )
}

#[tokio::test]
async fn over_tls_with_an_authority_of_ones_own() {
    let (authority, other) = (Authority::new(), Authority::new());
    let nats = Nats::start_with(&tls(&authority, "timeout: 5"), &[]);
    gets_in(&nats.url(), &["--nats-ca", &authority.ca()]).await;
    gets_in(&nats.url().replace("nats://", "tls://"), &["--nats-ca", &authority.ca()]).await;
    stays_out(&nats.url(), &["--nats-ca", &other.ca()], "or tls failed");
    stays_out(&nats.url(), &[], "or tls failed");
}

#[tokio::test]
async fn with_a_certificate_of_ones_own() {
    let authority = Authority::new();
    let nats = Nats::start_with(&tls(&authority, "verify: true, timeout: 5"), &[]);
    let (certificate, key) = authority.sign_to("client");
    let ca = authority.ca();
    gets_in(&nats.url(), &["--nats-ca", &ca, "--nats-cert", &certificate, "--nats-key", &key]).await;
    let stranger = Authority::new().sign();
    let (certificate, key) =
        (authority.file("strange.pem", &stranger.certificate), authority.file("strange.key", &stranger.key));
    let refused = ["--nats-ca", &ca, "--nats-cert", &certificate, "--nats-key", &key];
    stays_out(&nats.url(), &refused, "or tls failed");
}

#[tokio::test]
async fn with_tls_before_the_first_word() {
    let authority = Authority::new();
    let nats = Nats::start_with(&tls(&authority, "handshake_first: true, timeout: 5"), &[]);
    gets_in(&nats.url(), &["--nats-ca", &authority.ca(), "--nats-tls-first"]).await;
}

/// Whoever sits in between could strip TLS off the server's greeting.
#[tokio::test]
async fn a_server_without_tls_gets_nothing_from_who_expects_it() {
    let authority = Authority::new();
    let nats = Nats::start();
    stays_out(&nats.url(), &["--nats-ca", &authority.ca()], "or tls failed");
    stays_out(&nats.url().replace("nats://", "tls://"), &["--nats-ca", &authority.ca()], "or tls failed");
}

#[tokio::test]
async fn with_user_and_password_or_a_token() {
    let authority = Authority::new();
    let nats = Nats::start_with("authorization { user: alice, password: 'hunter 2' }", &[]);
    let password = authority.file("password", "hunter 2\n");
    gets_in(&nats.url(), &["--nats-user", "alice", "--nats-password-file", &password]).await;
    gets_in(&nats.url().replace("nats://", "nats://alice:hunter%202@"), &[]).await;

    let wrong = authority.file("wrong", "s3cr3t\n");
    let callsight = Callsight::serve(
        &nats,
        &["--nats-user", "alice", "--nats-password-file", &wrong, "--log-level", "trace"],
    );
    let log = wait::eventually(wait::PATIENCE, "the refusal", || {
        wait::when(callsight.process().output(), |log| log.contains("authorization violation"))
    });
    assert!(!log.contains("s3cr3t"), "{log}");
    // What the file holds now is what the next attempt is made with.
    authority.file("wrong", "hunter 2\n");
    wait::eventually(wait::PATIENCE, "the connection", || {
        wait::when(callsight.process().output(), |log| log.contains("NATS connected"))
    });

    let nats = Nats::start_with("authorization { token: 'a-t0ken' }", &[]);
    gets_in(&nats.url().replace("nats://", "nats://a-t0ken@"), &[]).await;
}

#[tokio::test]
async fn with_an_nkey() {
    let authority = Authority::new();
    let key = KeyPair::new_user();
    let config = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", key.public_key());
    let nats = Nats::start_with(&config, &[]);
    let seed = authority.file("seed", &key.seed().unwrap());
    gets_in(&nats.url(), &["--nats-nkey", &seed]).await;
    let stranger = authority.file("stranger", &KeyPair::new_user().seed().unwrap());
    stays_out(&nats.url(), &["--nats-nkey", &stranger], "authorization violation");
}

/// A JWT as `nsc` makes it: claims, signed by the issuer.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, claims: &Value) -> String {
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(), "name": name,
        "nats": claims,
    });
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn with_credentials() {
    let authority = Authority::new();
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let operator_jwt = jwt(&operator, &operator, "operator", &json!({"type": "operator", "version": 2}));
    let unlimited = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let account_claims = json!({"type": "account", "version": 2, "limits": unlimited});
    let account_jwt = jwt(&operator, &account, "CALLSIGHT", &account_claims);
    let user_claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
    let user_jwt = jwt(&account, &user, "exporter", &user_claims);
    // JetStream wants a system account beside the others.
    let system = KeyPair::new_account();
    let system_jwt = jwt(
        &operator,
        &system,
        "SYS",
        &json!({"type": "account", "version": 2, "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        }}),
    );
    let nats = Nats::start_with(
        &format!(
            "operator: {operator_jwt}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{ {account}: {account_jwt}, {system}: {system_jwt} }}\n",
            system = system.public_key(),
            account = account.public_key(),
        ),
        &[],
    );
    let credentials = |key: &KeyPair| {
        format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\nNKEY Seed printed below.\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            key.seed().unwrap()
        )
    };
    let file = authority.file("exporter.creds", &credentials(&user));
    gets_in(&nats.url(), &["--nats-creds", &file]).await;
    let forged = authority.file("forged.creds", &credentials(&KeyPair::new_user()));
    stays_out(&nats.url(), &["--nats-creds", &forged], "authorization violation");
}

#[test]
fn a_file_that_is_wrong_is_named_with_its_flag() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign_to("client");
    let (_, other_key) = authority.sign_to("other");
    let junk = authority.file("junk", "s3cr3t");
    for (flags, expected) in [
        (
            ["--nats-ca", &junk].as_slice(),
            format!("`{junk}` of --nats-ca holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"),
        ),
        (
            &["--nats-ca", "/nowhere"],
            "cannot read `/nowhere` of --nats-ca: No such file or directory (os error 2)".to_owned(),
        ),
        (
            &["--nats-cert", &junk, "--nats-key", &key],
            format!("`{junk}` of --nats-cert holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"),
        ),
        (
            &["--nats-cert", &certificate, "--nats-key", &junk],
            format!("`{junk}` of --nats-key holds no private key in PEM (-----BEGIN PRIVATE KEY-----)"),
        ),
        (
            &["--nats-cert", &certificate, "--nats-key", &other_key],
            format!("`{other_key}` of --nats-key holds a key that does not belong to the certificate"),
        ),
        (&["--nats-creds", &junk], format!("`{junk}` of --nats-creds holds no user JWT as nsc writes it")),
        (
            &["--nats-nkey", &junk],
            format!("`{junk}` of --nats-nkey holds no nkey seed (SU…) on a line of its own"),
        ),
    ] {
        assert_eq!(error(flags), format!("error: {expected}\n"));
    }
}
