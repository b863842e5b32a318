//! Basic auth against bcrypt hashes.
//!
//! A hash that is slow to guess is slow to check: a scrape every few seconds must not cost 100 ms
//! of a core each, and a thousand guesses must not starve the fold. So a correct password is
//! remembered as a keyed digest; any other is checked on a blocking thread, one at a time. For an
//! unknown user another user's hash is checked, so that both take equally long.
//!
//! Invariant: no password is stored, and at most one hash is checked at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bcrypt::HashParts;
use headers::Authorization;
use headers::authorization::Basic;
use ring::hmac;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a request waits for its password to be checked.
const WITHIN: Duration = Duration::from_secs(5);

/// The highest accepted cost of a hash, which takes a second or two to check.
const MAX_COST: u32 = 15;

/// The length of a hash: `$2y$10$`, then salt and digest in bcrypt's base64.
const HASH_LENGTH: usize = 60;

/// The users and their hashes.
#[derive(Default)]
pub(super) struct Users {
    pub(super) hashes: HashMap<String, Arc<str>>,
    /// The hash checked for unknown users: the costliest one.
    decoy: Option<Arc<str>>,
}

impl Users {
    /// Reads users and hashes. The error is the name of the first user whose hash is not valid.
    pub(super) fn new(users: &[(String, String)]) -> Result<Self, String> {
        let mut hashes = HashMap::new();
        let mut costliest = (0, None);
        for (user, hash) in users {
            let cost = hash.parse::<HashParts>().map_err(|_| user.clone())?.get_cost();
            let digits = |byte: u8| byte.is_ascii_alphanumeric() || b"./".contains(&byte);
            if cost > MAX_COST || hash.len() != HASH_LENGTH || !hash.bytes().skip(7).all(digits) {
                return Err(user.clone());
            }
            let hash: Arc<str> = hash.as_str().into();
            if cost > costliest.0 {
                costliest = (cost, Some(Arc::clone(&hash)));
            }
            hashes.insert(user.clone(), hash);
        }
        Ok(Self { hashes, decoy: costliest.1 })
    }
}

/// The result of checking a request's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PasswordVerdict {
    /// The password is correct, or none is needed.
    Welcome,
    /// The password is wrong or missing.
    Refused,
    /// Too many other passwords are being checked.
    Busy,
}

/// Checks passwords, and remembers the correct ones.
pub(super) struct Verifier {
    key: hmac::Key,
    /// The digest of each user's last correct password. One for each: bcrypt ignores what follows
    /// the 72nd byte, so a user with a long password has any number of correct ones.
    known: Mutex<HashMap<String, [u8; 32]>>,
    turn: Arc<Semaphore>,
}

impl Verifier {
    pub(super) fn new() -> Self {
        let key: [u8; 32] = rand::random();
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            known: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Checks a request's credentials.
    pub(super) async fn judge(
        &self,
        users: &Users,
        credentials: Option<Authorization<Basic>>,
    ) -> PasswordVerdict {
        let Some(decoy) = &users.decoy else { return PasswordVerdict::Welcome };
        let Some(credentials) = credentials else { return PasswordVerdict::Refused };
        let hash = users.hashes.get(credentials.username());
        let exists = hash.is_some();
        let hash = Arc::clone(hash.unwrap_or(decoy));
        let tag = self.tag(&hash, &credentials);
        if self.knows(&credentials, &tag) {
            return PasswordVerdict::Welcome;
        }
        let Ok(Ok(turn)) = timeout(WITHIN, Arc::clone(&self.turn).acquire_owned()).await else {
            return PasswordVerdict::Busy;
        };
        // Another request with the same password may have been checked meanwhile.
        if self.knows(&credentials, &tag) {
            return PasswordVerdict::Welcome;
        }
        let user = credentials.username().to_owned();
        let checked = tokio::task::spawn_blocking(move || {
            // A connection that closes meanwhile drops the answer; the turn is kept until the check
            // ends.
            let _turn = turn;
            bcrypt::verify(credentials.password(), &hash)
        });
        let right = matches!(checked.await, Ok(Ok(true))) && exists;
        if !right {
            return PasswordVerdict::Refused;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // A reload may have removed users.
        known.retain(|user, _| users.hashes.contains_key(user));
        known.insert(user, tag);
        PasswordVerdict::Welcome
    }

    fn knows(&self, credentials: &Authorization<Basic>, tag: &[u8; 32]) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(credentials.username()) == Some(tag)
    }

    /// Returns the digest of a user, a hash and a password. With the hash in it, a changed password
    /// is not remembered.
    fn tag(&self, hash: &str, credentials: &Authorization<Basic>) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [credentials.username(), hash, credentials.password()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use headers::{HeaderMap, HeaderMapExt};
    use hyper::header::AUTHORIZATION;

    use super::*;

    fn users() -> Users {
        let hash = |password: &str, cost| bcrypt::hash(password, cost).unwrap();
        let users = [("alice", hash("hunter2", 9)), ("bob", hash("s3:cr3t", 4))];
        Users::new(&users.map(|(user, hash)| (user.to_owned(), hash))).unwrap()
    }

    fn login(text: &str) -> Option<Authorization<Basic>> {
        let (user, password) = text.split_once(':')?;
        Some(Authorization::basic(user, password))
    }

    /// The credentials in a header's value.
    fn received(value: &str) -> Option<Authorization<Basic>> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers.typed_get()
    }

    #[tokio::test]
    async fn right_passwords_get_in_and_nothing_else_does() {
        let (users, verifier) = (users(), Verifier::new());
        for (text, verdict) in [
            ("alice:hunter2", PasswordVerdict::Welcome),
            ("alice:hunter2", PasswordVerdict::Welcome),
            ("bob:s3:cr3t", PasswordVerdict::Welcome),
            ("alice:hunter3", PasswordVerdict::Refused),
            ("alice:", PasswordVerdict::Refused),
            ("bob:hunter2", PasswordVerdict::Refused),
            ("eve:hunter2", PasswordVerdict::Refused),
            ("alice", PasswordVerdict::Refused),
        ] {
            assert_eq!(verifier.judge(&users, login(text)).await, verdict, "{text}");
        }
        for raw in ["Basic", "Bearer x", "Basic !!!", "Basic YWxpY2U=", ""] {
            assert_eq!(verifier.judge(&users, received(raw)).await, PasswordVerdict::Refused, "{raw}");
        }
        let given = received("bAsIc YWxpY2U6aHVudGVyMg==");
        assert_eq!(verifier.judge(&users, given).await, PasswordVerdict::Welcome);
        assert_eq!(verifier.judge(&users, None).await, PasswordVerdict::Refused);
        assert_eq!(verifier.judge(&Users::default(), None).await, PasswordVerdict::Welcome);
    }

    #[tokio::test]
    async fn a_changed_password_is_not_remembered() {
        let verifier = Verifier::new();
        assert_eq!(verifier.judge(&users(), login("alice:hunter2")).await, PasswordVerdict::Welcome);
        let changed = [("alice".to_owned(), bcrypt::hash("other", 4).unwrap())];
        let changed = Users::new(&changed).unwrap();
        assert_eq!(verifier.judge(&changed, login("alice:hunter2")).await, PasswordVerdict::Refused);
    }

    #[tokio::test]
    async fn what_is_remembered_costs_nothing_and_strangers_cost_as_much_as_the_others() {
        let (users, verifier) = (users(), Verifier::new());
        let spent = async |text: &str| {
            let began = Instant::now();
            verifier.judge(&users, login(text)).await;
            began.elapsed()
        };
        let first = spent("alice:hunter2").await;
        assert!(spent("alice:hunter2").await < first / 4);
        assert!(spent("eve:hunter2").await > first / 4);
    }

    #[test]
    fn what_is_no_hash_is_told_by_its_user() {
        let damaged = "$2y$10$rTC9qXQGtTjSWTS9lBYLtOCh5b2NlbTZ0tsPkKhdLAgvKqyBaLN!!";
        for hash in ["", "hunter2", damaged, "$2y$31$rTC9qXQGtTjSWTS9lBYLtOCh5b2NlbTZ0tsPkKhdLAgvKqyBaLNdW"] {
            assert_eq!(Users::new(&[("alice".to_owned(), hash.to_owned())]).err().unwrap(), "alice");
        }
    }

    #[tokio::test]
    async fn nobody_makes_the_exporter_forget_the_password_of_another() {
        let long = "x".repeat(72);
        let users = [("alice", long.as_str()), ("bob", "s3:cr3t")];
        let users =
            Users::new(&users.map(|(user, password)| (user.to_owned(), bcrypt::hash(password, 4).unwrap())));
        let (users, verifier) = (users.unwrap(), Verifier::new());
        assert_eq!(verifier.judge(&users, login("bob:s3:cr3t")).await, PasswordVerdict::Welcome);
        for number in 0..300 {
            // What follows the 72nd byte does not count, so each of them is correct.
            let correct = login(&format!("alice:{long}{number}"));
            assert_eq!(verifier.judge(&users, correct).await, PasswordVerdict::Welcome);
            for wrong in [format!("bob:{number}"), format!("eve{number}:{long}")] {
                assert_eq!(verifier.judge(&users, login(&wrong)).await, PasswordVerdict::Refused);
            }
        }
        assert_eq!(verifier.known.lock().unwrap().len(), 2);
        // Nothing can be checked now, and bob needs no check.
        let turn = verifier.turn.acquire().await.unwrap();
        assert_eq!(verifier.judge(&users, login("bob:s3:cr3t")).await, PasswordVerdict::Welcome);
        drop(turn);

        let others = Users::new(&[("carol".to_owned(), bcrypt::hash("secret", 4).unwrap())]).unwrap();
        assert_eq!(verifier.judge(&others, login("carol:secret")).await, PasswordVerdict::Welcome);
        assert!(verifier.known.lock().unwrap().keys().eq(["carol"]), "removed users are forgotten");
    }
}
