//! Tokens: the proof of who speaks.
//!
//! A frame says who sent it, and anybody can write that. So a client shows a token that its service
//! signed, a JWT, and may send the frames of the participant whom it names. Strangers choose every
//! byte of a token: its length is bounded before anything is computed, the key decides the
//! algorithm, and a token is compared with a bounded number of keys.
//!
//! Invariant: nothing of a token is believed before its signature holds.

mod claims;
mod crypto;
pub(crate) mod keys;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation, decode, encode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use tokio::task::JoinSet;

pub(crate) use claims::{ClaimNames, Speaker, TokenPreset, new_claims};
use keys::{Key, KeySources};
pub(crate) use keys::{KeyError, KeyFiles};

use super::words::words;
use crate::reload;

/// The longest token, in bytes.
pub(crate) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How far the clocks of whoever signs and of this process may differ, in seconds.
const LEEWAY: u64 = 10;

words! {
    /// Why a token is refused: the values of the label `reason`, and of `reason` in answers.
    pub(crate) TokenRefusal {
        Missing = "missing",
        TooLong = "token_too_long",
        Malformed = "token_malformed",
        WrongAlgorithm = "wrong_algorithm",
        UnknownKey = "unknown_key",
        BadSignature = "bad_signature",
        MissingClaim = "missing_claim",
        Expired = "expired",
        NotYetValid = "not_yet_valid",
        WrongIssuer = "wrong_issuer",
        WrongAudience = "wrong_audience",
        OtherMeeting = "other_meeting",
        OtherParticipant = "other_participant",
        OtherSession = "other_session",
    }
}

impl TokenRefusal {
    /// What whoever sent the token can do.
    pub(crate) const fn advice(self) -> &'static str {
        match self {
            Self::Missing => {
                "send the header `Authorization: Bearer TOKEN`, with the token of the call's service"
            }
            Self::TooLong => "the token is longer than 8 KiB; put fewer claims into it",
            Self::Malformed => "the token is no signed JWT in compact form; send it as the service issued it",
            Self::WrongAlgorithm => "sign tokens with HS256, ES256 or EdDSA",
            Self::UnknownKey => {
                "no key here has the token's `kid` and algorithm; sign with a key that is known here"
            }
            Self::BadSignature => "no key here made the signature; sign with a key that is known here",
            Self::MissingClaim => {
                "the token needs `exp`, and the meeting and the participant as text, under the claims that are set here"
            }
            Self::Expired => "the token has expired; ask the service for a new one",
            Self::NotYetValid => "the token is not valid yet; check the clock of whoever signed it",
            Self::WrongIssuer => "the token's `iss` is not one that is accepted here",
            Self::WrongAudience => "the token's `aud` is not one that is accepted here",
            Self::OtherMeeting => "the token is for another meeting than the frame's `meeting_id`",
            Self::OtherParticipant => "the token is for another participant than the frame's `peer_id`",
            Self::OtherSession => {
                "the frame's `session_id` must be the token's, or without one `{peer_id}:` and anything without a colon"
            }
        }
    }

    /// Whether the token is good and the frame is not its own: a new token would not help.
    pub(crate) const fn forbids(self) -> bool {
        matches!(self, Self::OtherMeeting | Self::OtherParticipant | Self::OtherSession)
    }
}

/// Which tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRules {
    pub(crate) claims: ClaimNames,
    /// Accepted issuers; any if there are none.
    pub(crate) issuers: Vec<String>,
    /// Accepted audiences; any if there are none.
    pub(crate) audiences: Vec<String>,
}

/// A key with what its tokens are checked for.
type Checked = (Key, Validation);

/// Verifies tokens with the keys of the files, as they are now.
pub(crate) struct Tokens {
    rules: TokenRules,
    keys: RwLock<Arc<[Checked]>>,
    /// Whether the files have changed to what can't be used.
    refused: AtomicBool,
}

/// What a token's header says, believed by nobody.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl Tokens {
    /// Reads the keys.
    pub(crate) fn read(files: &KeyFiles, rules: TokenRules) -> Result<Self, KeyError> {
        Ok(Self::with(KeySources::read(files)?.build()?, rules))
    }

    /// Reads the keys, and reloads them in the background.
    pub(crate) fn kept(
        files: &KeyFiles,
        rules: TokenRules,
        background: &mut JoinSet<()>,
    ) -> Result<Arc<Self>, KeyError> {
        let sources = KeySources::read(files)?;
        let tokens = Arc::new(Self::with(sources.build()?, rules));
        let kept = Arc::clone(&tokens);
        background.spawn(async move {
            let apply = |new: &KeySources| {
                let keys = kept.checked(new.build()?);
                *kept.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
                Ok(())
            };
            reload::keep(sources, &kept.refused, apply).await;
        });
        Ok(tokens)
    }

    fn with(keys: Vec<Key>, rules: TokenRules) -> Self {
        crypto::install();
        let tokens = Self { rules, keys: RwLock::new(Arc::new([])), refused: AtomicBool::new(false) };
        let keys = tokens.checked(keys);
        *tokens.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        tokens
    }

    fn checked(&self, keys: Vec<Key>) -> Arc<[Checked]> {
        let TokenRules { issuers, audiences, .. } = &self.rules;
        let check = |key: Key| {
            let mut validation = Validation::new(key.algorithm);
            validation.leeway = LEEWAY;
            validation.validate_nbf = true;
            let mut required = vec!["exp"];
            if !issuers.is_empty() {
                validation.set_issuer(issuers);
                required.push("iss");
            }
            validation.validate_aud = !audiences.is_empty();
            if validation.validate_aud {
                validation.set_audience(audiences);
                required.push("aud");
            }
            validation.set_required_spec_claims(&required);
            (key, validation)
        };
        keys.into_iter().map(check).collect()
    }

    fn keys(&self) -> Arc<[Checked]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many keys are in force.
    pub(crate) fn count(&self) -> usize {
        self.keys().len()
    }

    /// Shown by `/readyz`, which has no password, so it quotes nothing.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        self.refused.load(Ordering::Relaxed).then_some(
            "the changed files of --token-secret or --token-key are refused and the former keys stay in force; the \
             log says why",
        )
    }

    /// Verifies a token and says whom it speaks for.
    pub(crate) fn verify(&self, token: &str) -> Result<Speaker, TokenRefusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenRefusal::TooLong);
        }
        let head = head(token)?;
        let algorithm = match head.alg.as_str() {
            "HS256" => Algorithm::HS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            _ => return Err(TokenRefusal::WrongAlgorithm),
        };
        let matches = |key: &Key| {
            let named = key.id.is_none() || head.kid.is_none() || key.id == head.kid;
            key.algorithm == algorithm && named
        };
        let mut refusal = TokenRefusal::UnknownKey;
        for (key, validation) in self.keys().iter().filter(|(key, _)| matches(key)) {
            match decode::<Map<String, Value>>(token, &key.key, validation) {
                Ok(data) => return Speaker::of(&data.claims, &self.rules.claims),
                Err(error) => refusal = refusal_of(error.kind()),
            }
            if refusal != TokenRefusal::BadSignature {
                break;
            }
        }
        Err(refusal)
    }
}

/// Reads the header of a token that has three parts.
fn head(token: &str) -> Result<Head, TokenRefusal> {
    let mut parts = token.split('.');
    let (Some(head), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenRefusal::Malformed);
    };
    let head: Head = part(head).ok_or(TokenRefusal::Malformed)?;
    // What must be understood is not.
    if head.crit.is_some() { Err(TokenRefusal::Malformed) } else { Ok(head) }
}

fn part<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

fn refusal_of(error: &ErrorKind) -> TokenRefusal {
    match error {
        ErrorKind::InvalidSignature => TokenRefusal::BadSignature,
        ErrorKind::ExpiredSignature => TokenRefusal::Expired,
        ErrorKind::ImmatureSignature => TokenRefusal::NotYetValid,
        ErrorKind::InvalidIssuer => TokenRefusal::WrongIssuer,
        ErrorKind::InvalidAudience => TokenRefusal::WrongAudience,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            match claim.as_str() {
                "iss" => TokenRefusal::WrongIssuer,
                "aud" => TokenRefusal::WrongAudience,
                _ => TokenRefusal::MissingClaim,
            }
        }
        _ => TokenRefusal::Malformed,
    }
}

/// The header and the claims of a token, whoever signed it: for people who look into one.
pub(crate) fn content(token: &str) -> Result<(Value, Value), TokenRefusal> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenRefusal::TooLong);
    }
    let mut parts = token.split('.');
    let (Some(head), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenRefusal::Malformed);
    };
    part(head).zip(part(claims)).ok_or(TokenRefusal::Malformed)
}

/// A key that signs tokens.
pub(crate) enum SigningKey {
    /// A shared secret.
    Hs256(Vec<u8>),
    /// PKCS #8 of a key on the curve P-256.
    Es256(Vec<u8>),
    /// PKCS #8 of an Ed25519 key.
    EdDsa(Vec<u8>),
}

impl SigningKey {
    /// Signs claims; `id` becomes the header's `kid`. `None` if the key is not valid.
    pub(crate) fn sign(&self, claims: &Map<String, Value>, id: Option<&str>) -> Option<String> {
        crypto::install();
        let (algorithm, key) = match self {
            Self::Hs256(secret) => (Algorithm::HS256, EncodingKey::from_secret(secret).ok()?),
            Self::Es256(pkcs8) => (Algorithm::ES256, EncodingKey::from_ec_der(pkcs8)),
            Self::EdDsa(pkcs8) => (Algorithm::EdDSA, EncodingKey::from_ed_der(pkcs8)),
        };
        let header = Header { kid: id.map(str::to_owned), ..Header::new(algorithm) };
        encode(&header, claims, &key).ok()
    }
}

/// Settings of the files, for a start that must have at least one.
pub(crate) fn key_files(secrets: Vec<PathBuf>, keys: Vec<PathBuf>) -> Option<KeyFiles> {
    let files = KeyFiles { secrets, keys };
    (files != KeyFiles::default()).then_some(files)
}

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    const SECRET: &[u8] = b"a secret of thirty-two bytes or more";

    /// Keys of every algorithm, the later ones with an id, and what signs for each.
    fn pairs() -> (Vec<Key>, Vec<(SigningKey, Option<&'static str>)>) {
        let random = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ec_public =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ed_public = Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap();
        let keys = [
            Key {
                algorithm: Algorithm::HS256,
                id: None,
                key: jsonwebtoken::DecodingKey::from_secret(SECRET).unwrap(),
            },
            Key {
                id: Some("ec".to_owned()),
                ..keys::spki(&[&keys::P256_PREFIX, ec_public.public_key().as_ref()].concat()).unwrap()
            },
            Key {
                id: Some("ed".to_owned()),
                ..keys::spki(&[&keys::ED25519_PREFIX, ed_public.public_key().as_ref()].concat()).unwrap()
            },
        ];
        let signers = [
            (SigningKey::Hs256(SECRET.to_vec()), None),
            (SigningKey::Es256(ec.as_ref().to_vec()), Some("ec")),
            (SigningKey::EdDsa(ed.as_ref().to_vec()), Some("ed")),
        ];
        (keys.into(), signers.into())
    }

    fn rules() -> TokenRules {
        TokenRules {
            claims: ClaimNames::of(TokenPreset::Callsight),
            issuers: Vec::new(),
            audiences: Vec::new(),
        }
    }

    fn claims(extra: &Value) -> Map<String, Value> {
        let mut claims =
            json!({"meeting_id": "m", "peer_id": "ana", "exp": jsonwebtoken::get_current_timestamp() + 60});
        for (name, value) in extra.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object().unwrap().clone()
    }

    #[test]
    fn every_algorithm_verifies_what_its_own_key_signed() {
        let (keys, signers) = pairs();
        let all = Tokens::with(keys.clone(), rules());
        for (place, (signer, id)) in signers.iter().enumerate() {
            for id in [*id, None] {
                let token = signer.sign(&claims(&json!({})), id).unwrap();
                assert_eq!(all.verify(&token).unwrap().peer_id, "ana");
                // The same token with any part changed, and for those who lack its key.
                for part in 0..3 {
                    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
                    let changed = if parts[part].starts_with('A') { "B" } else { "A" };
                    parts[part].replace_range(..1, changed);
                    assert!(all.verify(&parts.join(".")).is_err(), "part {part} of {place}");
                }
                let mut others = keys.clone();
                others.remove(place);
                assert_eq!(Tokens::with(others, rules()).verify(&token), Err(TokenRefusal::UnknownKey));
            }
        }
        let token = signers[1].0.sign(&claims(&json!({})), Some("ed")).unwrap();
        assert_eq!(all.verify(&token), Err(TokenRefusal::UnknownKey), "the id of another key");
    }

    #[test]
    fn the_key_decides_the_algorithm() {
        let (keys, _) = pairs();
        let public = keys[1].key.try_get_as_bytes().unwrap().to_vec();
        let all = Tokens::with(keys.clone(), rules());
        // A public key is no secret, so its bytes must not verify as one.
        let forged = SigningKey::Hs256(public).sign(&claims(&json!({})), None).unwrap();
        assert_eq!(all.verify(&forged), Err(TokenRefusal::BadSignature));
        assert_eq!(
            Tokens::with(vec![keys[1].clone()], rules()).verify(&forged),
            Err(TokenRefusal::UnknownKey)
        );
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims(&json!({}))).unwrap());
        for algorithm in ["none", "None", "RS256", "HS512", "ES384", "PS256", ""] {
            let head = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "typ": "JWT"}).to_string());
            for signature in ["", "AA"] {
                let token = format!("{head}.{body}.{signature}");
                assert_eq!(all.verify(&token), Err(TokenRefusal::WrongAlgorithm), "{algorithm}");
            }
        }
    }

    #[test]
    fn times_issuer_and_audience_are_checked() {
        let (keys, signers) = pairs();
        let now = jsonwebtoken::get_current_timestamp();
        let strict = TokenRules { issuers: vec!["us".into()], audiences: vec!["calls".into()], ..rules() };
        for (extra, rules, expected) in [
            (json!({}), rules(), Ok(())),
            (json!({"aud": "anything", "iss": "anybody"}), rules(), Ok(())),
            (json!({"exp": now - 60}), rules(), Err(TokenRefusal::Expired)),
            (json!({"exp": null}), rules(), Err(TokenRefusal::MissingClaim)),
            (json!({"exp": "tomorrow"}), rules(), Err(TokenRefusal::MissingClaim)),
            (json!({"nbf": now + 60}), rules(), Err(TokenRefusal::NotYetValid)),
            (json!({"nbf": now - 60}), rules(), Ok(())),
            (json!({"iss": "us", "aud": ["x", "calls"]}), strict.clone(), Ok(())),
            (json!({"iss": "them", "aud": "calls"}), strict.clone(), Err(TokenRefusal::WrongIssuer)),
            (json!({"aud": "calls"}), strict.clone(), Err(TokenRefusal::WrongIssuer)),
            (json!({"iss": "us", "aud": "other"}), strict.clone(), Err(TokenRefusal::WrongAudience)),
            (json!({"iss": "us"}), strict, Err(TokenRefusal::WrongAudience)),
            (json!({"peer_id": null}), rules(), Err(TokenRefusal::MissingClaim)),
        ] {
            let token = signers[0].0.sign(&claims(&extra), None).unwrap();
            let verified = Tokens::with(keys.clone(), rules).verify(&token).map(drop);
            assert_eq!(verified, expected, "{extra}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_before_any_computation() {
        let tokens = Tokens::with(pairs().0, rules());
        assert_eq!(tokens.verify(&"x".repeat(MAX_TOKEN_BYTES + 1)), Err(TokenRefusal::TooLong));
        let critical = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","crit":["x"]}"#);
        for text in ["", "a", "a.b", "a.b.c", "a.b.c.d", "..", &format!("{critical}..")] {
            assert_eq!(tokens.verify(text), Err(TokenRefusal::Malformed), "{text}");
        }
    }
}
