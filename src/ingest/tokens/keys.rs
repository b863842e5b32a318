//! The keys that verify tokens, from files.
//!
//! Services have keys in several shapes: a shared secret, a public key in PEM, a JWKS with several
//! of either. What counts is what a key is for, so each is read into one shape with one algorithm.
//!
//! Invariant: a key has exactly one algorithm, which its file decides; no error quotes a file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, OctetKeyPairParameters, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::config::{one_line, read_file};
use crate::reload;

/// The most keys at a time: a token without `kid` is tried with all of its algorithm.
pub(super) const MOST_KEYS: usize = 16;

/// The shortest secret, in bytes (RFC 7518, 3.2). Whoever has a token can guess a shorter one at
/// leisure.
const SHORTEST_SECRET: usize = 32;

/// What precedes the point in the DER of a public key on the curve P-256.
pub(crate) const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The same of an Ed25519 key.
pub(crate) const ED25519_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Files with keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyFiles {
    /// Of `--token-secret`.
    pub(crate) secrets: Vec<PathBuf>,
    /// Of `--token-key`.
    pub(crate) keys: Vec<PathBuf>,
}

/// A key with the one algorithm that it is for.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) id: Option<String>,
    pub(super) key: DecodingKey,
}

/// The files can't be used. Never quotes one.
#[derive(Debug, thiserror::Error)]
#[error("`{}` of {flag}: {problem}", one_line(&path.display().to_string()))]
pub(crate) struct KeyError {
    flag: &'static str,
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error(
        "the secret has {0} bytes; use at least {SHORTEST_SECRET} random ones, as `callsight token key` makes"
    )]
    ShortSecret(usize),
    #[error("holds a private key; give the public one (-----BEGIN PUBLIC KEY-----)")]
    Private,
    #[error("holds no public key in PEM (-----BEGIN PUBLIC KEY-----) and no JWKS")]
    NoKey,
    #[error("is damaged: its PEM sections are incomplete")]
    DamagedPem,
    #[error("holds a public key that is neither of the curve P-256 (ES256) nor Ed25519 (EdDSA)")]
    OtherKey,
    #[error("is no JWKS: line {line}, column {column} is not valid")]
    NoJwks { line: usize, column: usize },
    #[error("key {} of the JWKS {problem}", place + 1)]
    Jwk { place: usize, problem: &'static str },
    #[error("holds no key for HS256, ES256 or EdDSA")]
    NothingUsable,
    #[error("is one key too many: there may be {MOST_KEYS} in all")]
    TooMany,
}

/// The content of the files, to compare with the next reading.
#[derive(PartialEq)]
pub(super) struct KeySources {
    files: KeyFiles,
    secrets: Vec<Vec<u8>>,
    keys: Vec<Vec<u8>>,
}

impl KeySources {
    pub(super) fn read(files: &KeyFiles) -> Result<Self, KeyError> {
        let read = |paths: &[PathBuf], flag| {
            let contents = paths
                .iter()
                .map(|path| read_file(path).map_err(|error| wrong(flag, path, Problem::Unreadable(error))));
            contents.collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            secrets: read(&files.secrets, SECRET_FLAG)?,
            keys: read(&files.keys, KEY_FLAG)?,
            files: files.clone(),
        })
    }

    /// Reads the keys out of the files; at least one of each file.
    pub(super) fn build(&self) -> Result<Vec<Key>, KeyError> {
        let mut all = Vec::new();
        let secrets = self.files.secrets.iter().zip(&self.secrets).map(|file| (SECRET_FLAG, file));
        let keys = self.files.keys.iter().zip(&self.keys).map(|file| (KEY_FLAG, file));
        for (flag, (path, content)) in secrets.chain(keys) {
            let read = match flag {
                SECRET_FLAG => secret(content).map(|key| vec![key]),
                _ => public(content),
            };
            all.extend(read.map_err(|problem| wrong(flag, path, problem))?);
            if all.len() > MOST_KEYS {
                return Err(wrong(flag, path, Problem::TooMany));
            }
        }
        Ok(all)
    }
}

impl reload::Sources for KeySources {
    type Error = KeyError;

    const NAME: &'static str = "token keys";

    fn read_again(&self) -> Result<Self, KeyError> {
        Self::read(&self.files)
    }
}

const SECRET_FLAG: &str = "--token-secret";
const KEY_FLAG: &str = "--token-key";

fn wrong(flag: &'static str, path: &Path, problem: Problem) -> KeyError {
    KeyError { flag, path: path.to_owned(), problem }
}

/// The secret of a file, without the end of its line.
pub(crate) fn trimmed(content: &[u8]) -> &[u8] {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    content.strip_suffix(b"\r").unwrap_or(content)
}

fn secret(content: &[u8]) -> Result<Key, Problem> {
    let secret = trimmed(content);
    hmac_key(secret, None).ok_or(Problem::ShortSecret(secret.len()))
}

fn hmac_key(secret: &[u8], id: Option<String>) -> Option<Key> {
    let long_enough = secret.len() >= SHORTEST_SECRET;
    let key = long_enough.then(|| DecodingKey::from_secret(secret).ok()).flatten()?;
    Some(Key { algorithm: Algorithm::HS256, id, key })
}

/// The public keys of a PEM file, or the keys of a JWKS.
fn public(content: &[u8]) -> Result<Vec<Key>, Problem> {
    if content.trim_ascii_start().starts_with(b"{") {
        return jwks(content);
    }
    let sections: Result<Vec<_>, _> = SubjectPublicKeyInfoDer::pem_slice_iter(content).collect();
    let sections = sections.map_err(|_| Problem::DamagedPem)?;
    if sections.is_empty() {
        let private = content.windows(11).any(|text| text == b"PRIVATE KEY");
        return Err(if private { Problem::Private } else { Problem::NoKey });
    }
    sections.iter().map(|der| spki(der.as_ref()).ok_or(Problem::OtherKey)).collect()
}

/// The key of a DER, whose shape is fixed for the two kinds of keys that there are.
pub(super) fn spki(der: &[u8]) -> Option<Key> {
    if let Some(point) = der.strip_prefix(&P256_PREFIX) {
        let uncompressed = point.len() == 65 && point[0] == 4;
        let key = uncompressed.then(|| DecodingKey::from_ec_der(point))?;
        return Some(Key { algorithm: Algorithm::ES256, id: None, key });
    }
    let point = der.strip_prefix(&ED25519_PREFIX).filter(|point| point.len() == 32)?;
    Some(Key { algorithm: Algorithm::EdDSA, id: None, key: DecodingKey::from_ed_der(point) })
}

fn jwks(content: &[u8]) -> Result<Vec<Key>, Problem> {
    // The library's errors quote values, which may be secrets.
    let set: JwkSet = serde_json::from_slice(content)
        .map_err(|error| Problem::NoJwks { line: error.line(), column: error.column() })?;
    let mut keys = Vec::new();
    for (place, jwk) in set.keys.iter().enumerate() {
        // A set may hold keys of the service's other tokens, such as RSA.
        keys.extend(jwk_key(jwk).map_err(|problem| Problem::Jwk { place, problem })?);
    }
    if keys.is_empty() { Err(Problem::NothingUsable) } else { Ok(keys) }
}

/// The key of a JWK; `None` if it is for something else.
fn jwk_key(jwk: &Jwk) -> Result<Option<Key>, &'static str> {
    let common = &jwk.common;
    if common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return Ok(None);
    }
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) => (Algorithm::HS256, KeyAlgorithm::HS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
            curve: EllipticCurve::Ed25519, ..
        }) => (Algorithm::EdDSA, KeyAlgorithm::EdDSA),
        _ => return Ok(None),
    };
    if common.key_algorithm.as_ref().is_some_and(|given| *given != name) {
        return Ok(None);
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|_| "is not valid base64url")?;
    let bytes = key.try_get_as_bytes().map_err(|_| "is not valid base64url")?;
    let id = common.key_id.clone();
    match algorithm {
        Algorithm::HS256 => {
            let key = hmac_key(bytes, id).ok_or("is a secret of less than 32 bytes")?;
            return Ok(Some(key));
        }
        Algorithm::ES256 if bytes.len() != 65 => return Err("has no point of 2 × 32 bytes"),
        Algorithm::EdDSA if bytes.len() != 32 => return Err("has no point of 32 bytes"),
        _ => {}
    }
    Ok(Some(Key { algorithm, id, key }))
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, {:?})", self.algorithm, self.id)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn built(flag: &str, content: &str) -> Result<Vec<Key>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, content).unwrap();
        let mut files = KeyFiles::default();
        if flag == SECRET_FLAG {
            files.secrets.push(path)
        } else {
            files.keys.push(path)
        }
        KeySources::read(&files).and_then(|sources| sources.build()).map_err(|error| {
            let error = error.to_string();
            assert!(!error.contains("s3cr3t"), "{error}");
            error.split_once("`: ").or(error.split_once(&format!("{flag}: "))).unwrap().1.to_owned()
        })
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_without_quoting_it() {
        let private = "-----BEGIN PRIVATE KEY-----\ns3cr3t\n-----END PRIVATE KEY-----\n";
        for (flag, content, problem) in [
            (SECRET_FLAG, "s3cr3t\n", "the secret has 6 bytes; use at least 32 random ones"),
            (KEY_FLAG, "s3cr3t", "holds no public key in PEM"),
            (KEY_FLAG, private, "holds a private key; give the public one"),
            (KEY_FLAG, "-----BEGIN PUBLIC KEY-----\ns3cr3t", "is damaged"),
            (
                KEY_FLAG,
                "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n",
                "holds a public key that is neither",
            ),
            (KEY_FLAG, "{\"keys\": \"s3cr3t\"}", "is no JWKS: line 1, column"),
            (KEY_FLAG, "{\"keys\": []}", "holds no key for HS256"),
            (
                KEY_FLAG,
                "{\"keys\": [{\"kty\": \"RSA\", \"n\": \"AQ\", \"e\": \"AQAB\"}]}",
                "holds no key for",
            ),
            (
                KEY_FLAG,
                "{\"keys\": [{\"kty\": \"oct\", \"k\": \"czNjcjN0\"}]}",
                "key 1 of the JWKS is a secret of",
            ),
            (
                KEY_FLAG,
                "{\"keys\": [{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"AQ\"}]}",
                "key 1 of the JWKS has no point of 32 bytes",
            ),
        ] {
            let error = built(flag, content).unwrap_err();
            assert!(error.starts_with(problem), "{content}: {error}");
        }
    }

    #[test]
    fn a_set_may_hold_keys_for_something_else_and_not_too_many() {
        let secret = |id: usize| {
            let secret = URL_SAFE_NO_PAD.encode([7; 32]);
            format!(r#"{{"kty": "oct", "k": "{secret}", "kid": "{id}", "alg": "HS256"}}"#)
        };
        let rsa = r#"{"kty": "RSA", "n": "AQ", "e": "AQAB", "kid": "rsa"}"#;
        let keys = built(KEY_FLAG, &format!("{{\"keys\": [{rsa}, {}]}}", secret(1))).unwrap();
        assert_eq!(keys.iter().map(|key| key.id.as_deref()).collect::<Vec<_>>(), [Some("1")]);
        let many: Vec<_> = (0..=MOST_KEYS).map(secret).collect();
        let error = built(KEY_FLAG, &format!("{{\"keys\": [{}]}}", many.join(","))).unwrap_err();
        assert_eq!(error, "is one key too many: there may be 16 in all");
    }
}
