//! Signatures of tokens, by `ring`, for `jsonwebtoken`.
//!
//! The library's own backends are either a large C library or bring RSA, whose crate has an open
//! advisory and which no token needs here. TLS uses `ring` already, so it signs and verifies tokens
//! too.
//!
//! Invariant: HS256, ES256 and EdDSA exist, each with keys of its own family; nothing else does.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, Result};
use jsonwebtoken::signature::{Error as SignatureError, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    UnparsedPublicKey,
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes these the signatures of `jsonwebtoken`, before its first use.
pub(super) fn install() {
    // It fails only if they are already.
    let _ = PROVIDER.install_default();
}

enum Secret {
    Hs256(hmac::Key),
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

struct RingSigner(Secret);

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, SignatureError> {
        Ok(match &self.0 {
            Secret::Hs256(key) => hmac::sign(key, message).as_ref().to_vec(),
            Secret::Es256(key) => {
                let signed = key.sign(&SystemRandom::new(), message);
                signed.map_err(|_| SignatureError::new())?.as_ref().to_vec()
            }
            Secret::EdDsa(key) => key.sign(message).as_ref().to_vec(),
        })
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        match self.0 {
            Secret::Hs256(_) => Algorithm::HS256,
            Secret::Es256(_) => Algorithm::ES256,
            Secret::EdDsa(_) => Algorithm::EdDSA,
        }
    }
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    let bytes = key.as_bytes();
    let secret = match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => Secret::Hs256(hmac::Key::new(hmac::HMAC_SHA256, bytes)),
        (Algorithm::ES256, AlgorithmFamily::Ec) => Secret::Es256(
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes, &SystemRandom::new())
                .map_err(|_| Error::from(ErrorKind::InvalidEcdsaKey))?,
        ),
        (Algorithm::EdDSA, AlgorithmFamily::Ed) => Secret::EdDsa(
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes)
                .map_err(|_| Error::from(ErrorKind::InvalidEddsaKey))?,
        ),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(RingSigner(secret)))
}

enum Public {
    Hs256(hmac::Key),
    Es256(UnparsedPublicKey<Vec<u8>>),
    EdDsa(UnparsedPublicKey<Vec<u8>>),
}

struct RingVerifier(Public);

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), SignatureError> {
        match &self.0 {
            Public::Hs256(key) => hmac::verify(key, message, signature),
            Public::Es256(key) | Public::EdDsa(key) => key.verify(message, signature),
        }
        .map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        match self.0 {
            Public::Hs256(_) => Algorithm::HS256,
            Public::Es256(_) => Algorithm::ES256,
            Public::EdDsa(_) => Algorithm::EdDSA,
        }
    }
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let bytes = key.try_get_as_bytes()?;
    let public = match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => Public::Hs256(hmac::Key::new(hmac::HMAC_SHA256, bytes)),
        (Algorithm::ES256, AlgorithmFamily::Ec) => {
            Public::Es256(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes.to_vec()))
        }
        (Algorithm::EdDSA, AlgorithmFamily::Ed) => {
            Public::EdDsa(UnparsedPublicKey::new(&ED25519, bytes.to_vec()))
        }
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(RingVerifier(public)))
}
