//! The identity towards NATS: secrets in files, reloaded at each connection.
//!
//! Secret stores renew a secret by replacing its file, and the process must not have to restart for
//! that. So files are read whenever the server asks for authentication.
//!
//! Invariant: a file that can't be read, perhaps half replaced, leaves the last good secret in use,
//! and no error quotes a secret.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use async_nats::{Auth, AuthError};
use nkeys::{KeyPair, KeyPairType};

use super::error::NatsError;
use crate::config::{self, Login, NatsIdentity};

enum Secret {
    Login(Login),
    Nkey(KeyPair),
    Jwt(String, KeyPair),
}

pub(super) struct Identity {
    source: NatsIdentity,
    last: Mutex<Secret>,
}

impl Identity {
    /// Reads the secret of `source`; `None` for an anonymous one.
    ///
    /// # Errors
    /// The file can't be read, or its content does not fit its flag.
    pub(super) fn new(source: &NatsIdentity) -> Result<Option<Self>, NatsError> {
        let secret = read(source)?;
        Ok(secret.map(|secret| Self { source: source.clone(), last: Mutex::new(secret) }))
    }

    /// Answers the server's challenge. Blocks on files, so it must not run on the runtime's
    /// workers.
    pub(super) fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read(&self.source) {
            Ok(Some(secret)) => *last = secret,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "cannot reload the secret; using the last good one"),
        }
        let sign = |key: &KeyPair| key.sign(nonce).map_err(|_| AuthError::new("cannot sign with the nkey"));
        let mut auth = Auth::new();
        match &*last {
            Secret::Login(Login::Token(token)) => auth.token = Some(token.clone()),
            Secret::Login(Login::User { user, password }) => {
                (auth.username, auth.password) = (Some(user.clone()), Some(password.clone()));
            }
            Secret::Nkey(key) => (auth.nkey, auth.signature) = (Some(key.public_key()), Some(sign(key)?)),
            Secret::Jwt(jwt, key) => (auth.jwt, auth.signature) = (Some(jwt.clone()), Some(sign(key)?)),
        }
        Ok(auth)
    }
}

fn read(source: &NatsIdentity) -> Result<Option<Secret>, NatsError> {
    Ok(Some(match source {
        NatsIdentity::Anonymous => return Ok(None),
        NatsIdentity::Login(login) => Secret::Login(login.clone()),
        NatsIdentity::Credentials(file) => {
            let flag = "--nats-creds";
            let text = read_text(flag, file)?;
            let jwt = section(&text, "NATS USER JWT");
            let jwt =
                jwt.ok_or_else(|| NatsError::unusable(flag, file, "holds no user JWT as nsc writes it"))?;
            Secret::Jwt(jwt.to_owned(), user_key(&text, flag, file)?)
        }
        NatsIdentity::Nkey(file) => {
            let flag = "--nats-nkey";
            Secret::Nkey(user_key(&read_text(flag, file)?, flag, file)?)
        }
        NatsIdentity::Password { user, file } => {
            let flag = "--nats-password-file";
            let text = read_text(flag, file)?;
            // Only the first line counts, since editors end files with a line break.
            let password = text.lines().next().filter(|line| !line.is_empty());
            let password = password
                .ok_or_else(|| NatsError::unusable(flag, file, "holds no password in its first line"))?;
            Secret::Login(Login::User { user: user.clone(), password: password.to_owned() })
        }
    }))
}

fn read_text(flag: &'static str, file: &Path) -> Result<String, NatsError> {
    config::read_text(file).map_err(|source| NatsError::unreadable(flag, file, source))
}

/// Returns the line after `-----BEGIN {title}-----`.
fn section<'a>(text: &'a str, title: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {title}--");
    let mut lines = text.lines().skip_while(|line| !line.contains(&begin)).skip(1);
    lines.next().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('-'))
}

/// Reads the key from the first line that looks like a seed, with or without armour around it.
fn user_key(text: &str, flag: &'static str, file: &Path) -> Result<KeyPair, NatsError> {
    let seed = text.lines().map(str::trim).find(|line| line.starts_with('S') && line.len() > 50);
    let none = || NatsError::unusable(flag, file, "holds no nkey seed (SU…) on a line of its own");
    let seed = seed.ok_or_else(none)?;
    // The library's error may quote the seed.
    let key = KeyPair::from_seed(seed)
        .map_err(|_| NatsError::unusable(flag, file, "holds a damaged nkey seed: its checksum is wrong"))?;
    match key.key_pair_type() {
        KeyPairType::User => Ok(key),
        _ => Err(NatsError::unusable(flag, file, "holds a seed that is not a user's (SU…)")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn in_file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        fs::write(&file, text).unwrap();
        (directory, file)
    }

    fn error(source: &NatsIdentity) -> String {
        Identity::new(source).err().unwrap().to_string()
    }

    #[test]
    fn a_renewed_secret_is_taken_up_and_a_broken_one_is_not() {
        let (_directory, file) = in_file("first\n");
        let source = NatsIdentity::Password { user: "relay".to_owned(), file: file.clone() };
        let identity = Identity::new(&source).unwrap().unwrap();
        let password = || identity.answer(b"").unwrap().password;
        assert_eq!(password().as_deref(), Some("first"));
        fs::write(&file, "second").unwrap();
        assert_eq!(password().as_deref(), Some("second"));
        fs::write(&file, "").unwrap();
        assert_eq!(password().as_deref(), Some("second"));
    }

    #[test]
    fn an_nkey_signs_what_the_server_asks() {
        let key = KeyPair::new_user();
        for text in [
            key.seed().unwrap(),
            format!(
                "-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
                key.seed().unwrap()
            ),
        ] {
            let (_directory, file) = in_file(&text);
            let auth = Identity::new(&NatsIdentity::Nkey(file)).unwrap().unwrap().answer(b"nonce").unwrap();
            assert_eq!(auth.nkey, Some(key.public_key()));
            key.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_names_flag_and_file_and_no_secret() {
        let seed = KeyPair::new_user().seed().unwrap();
        // In its middle: of the last character, some bits mean nothing.
        let other = if &seed[20..21] == "A" { "B" } else { "A" };
        let damaged = [&seed[..20], other, &seed[21..]].concat();
        let account = KeyPair::new_account().seed().unwrap();
        for (text, problem) in [
            ("", "holds no nkey seed (SU…) on a line of its own"),
            (&*damaged, "holds a damaged nkey seed: its checksum is wrong"),
            (&*account, "holds a seed that is not a user's (SU…)"),
        ] {
            let (_directory, file) = in_file(text);
            let shown = file.display().to_string();
            assert_eq!(error(&NatsIdentity::Nkey(file)), format!("`{shown}` of --nats-nkey {problem}"));
        }
        let (_directory, file) = in_file(&seed);
        assert!(error(&NatsIdentity::Credentials(file)).ends_with("holds no user JWT as nsc writes it"));
        let missing = error(&NatsIdentity::Nkey("/nowhere/seed".into()));
        assert_eq!(missing, "cannot read `/nowhere/seed` of --nats-nkey");
    }
}
