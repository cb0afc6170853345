//! Who a client is.
//!
//! A password is checked against the hash in the local state; where that fails,
//! the state is brought up to date and it is checked once more, since the user may
//! be new. Argon2 is slow on purpose, so a password that was right is remembered:
//! as a keyed hash, with a key that exists in this process alone, and only as long
//! as the user's credentials stay. When a node fails and all its clients log in
//! elsewhere at once, one of them pays for all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use adapters::metadata::verify_password;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex as AsyncMutex;

use crate::cluster::{Failure, Metadata};

/// Passwords remembered; beyond it the memory begins anew.
const REMEMBERED_MAX: usize = 10_000;

/// A user that has shown its credentials.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verified {
    pub(super) user_id: u32,
    pub(super) credential_version: u64,
}

type Digest = [u8; 32];

/// Checks passwords.
pub(crate) struct Credentials {
    key: [u8; 32],
    remembered: Mutex<HashMap<(u32, u64), Digest>>,
    /// One slow check of a user's password at a time.
    checking: Mutex<HashMap<u32, Arc<AsyncMutex<()>>>>,
}

impl Credentials {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        // Without randomness nothing is remembered under a guessable key.
        let random = getrandom::fill(&mut key).is_ok();
        assert!(random, "the operating system has no randomness");
        Self {
            key,
            remembered: Mutex::default(),
            checking: Mutex::default(),
        }
    }

    /// The user with this name and password, or `None`.
    pub(super) async fn verify(
        &self,
        metadata: &Metadata,
        username: &str,
        password: &SecretString,
    ) -> Result<Option<Verified>, Failure> {
        if let Some(verified) = self.check(metadata, username, password).await {
            return Ok(Some(verified));
        }
        metadata.barrier().await?;
        Ok(self.check(metadata, username, password).await)
    }

    async fn check(
        &self,
        metadata: &Metadata,
        username: &str,
        password: &SecretString,
    ) -> Option<Verified> {
        let (verified, hash) = {
            let state = metadata.reader.read();
            let user = state.user(username)?;
            let verified = Verified {
                user_id: user.id,
                credential_version: user.credential_version,
            };
            (verified, user.password_hash.clone())
        };
        let digest = self.digest(verified, password);
        if self.remembers(verified, &digest) {
            return Some(verified);
        }
        let turn = {
            let mut checking = self.checking.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(checking.entry(verified.user_id).or_default())
        };
        let _turn = turn.lock().await;
        if self.remembers(verified, &digest) {
            return Some(verified);
        }
        let password = password.clone();
        let right =
            tokio::task::spawn_blocking(move || verify_password(password.expose_secret(), &hash))
                .await
                .unwrap_or(false);
        right.then(|| {
            self.remember(verified, digest);
            verified
        })
    }

    fn digest(&self, user: Verified, password: &SecretString) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&user.user_id.to_le_bytes());
        hasher.update(&user.credential_version.to_le_bytes());
        hasher.update(password.expose_secret().as_bytes());
        *hasher.finalize().as_bytes()
    }

    fn remembers(&self, user: Verified, digest: &Digest) -> bool {
        let remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = remembered.get(&(user.user_id, user.credential_version));
        // Blake3's own comparison takes the same time for any difference.
        known.is_some_and(|known| blake3::Hash::from(*known) == blake3::Hash::from(*digest))
    }

    fn remember(&self, user: Verified, digest: Digest) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert((user.user_id, user.credential_version), digest);
    }
}
