//! Authentication of clients.
//!
//! A password is checked against the hash in the local state. If that fails, this node
//! catches up with the log and checks the password once more, because the user may be new.
//! Argon2 is slow on purpose, so a correct password is remembered: as a keyed hash, with a
//! key that exists only in this process, and only as long as the user's credentials do not
//! change. When a node fails and all its clients log in to other nodes concurrently, only
//! the first login of each user is slow.
//!
//! Guessing is throttled: few slow checks run concurrently, a network has one of them at a
//! time, and those of networks without failed logins go first. After several failed logins of
//! a network, the next with the same name waits for a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adapters::metadata::{Proof, TokenHash};
use adapters::wire::Credentials as Claim;
use adapters::wire::v0_11::{Eviction, RequestHeader};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::OwnedMutexGuard;

use super::failed_logins::FailedLogins;
use super::handlers::hash_of;
use super::hashing::{Place, Places};
use crate::cluster::{Failure, Metadata};
use crate::password::{hash_password, verify_password};

/// The most passwords that are remembered; with more, all are forgotten.
const REMEMBERED_MAX: usize = 10_000;
/// A login that waits this long for others of its network is answered with a transient
/// error.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a token before base64, the same as on Iggy's server.
const TOKEN_BYTES: usize = 50;
/// The hash of a password that no user has, with the parameters of all others.
const UNUSED_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A user whose credentials are correct.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verified {
    pub(super) user_id: u32,
    pub(super) proof: Proof,
}

type Digest = [u8; 32];

/// Checks passwords and tokens.
pub(crate) struct Credentials {
    key: [u8; 32],
    remembered: Mutex<HashMap<(u32, u64), Digest>>,
    /// Limits concurrent slow checks.
    places: Arc<Places>,
    failed_logins: FailedLogins,
    /// Slow checks of passwords so far.
    #[cfg(test)]
    checks: std::sync::atomic::AtomicUsize,
}

/// The credentials of a user in the local state.
struct Known {
    user_id: u32,
    version: u64,
    active: bool,
    hash: String,
}

impl Credentials {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        // A key that can be guessed would reveal the remembered passwords.
        let random = getrandom::fill(&mut key).is_ok();
        assert!(random, "the operating system has no randomness");
        // The other half of the processors stays available.
        let places = std::thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2));
        Self {
            key,
            remembered: Mutex::default(),
            places: Places::new(places),
            failed_logins: FailedLogins::default(),
            #[cfg(test)]
            checks: std::sync::atomic::AtomicUsize::default(),
        }
    }

    /// The user of a login, or why it is refused.
    pub(super) async fn verify(
        &self,
        metadata: &Metadata,
        claim: &Claim,
        from: IpAddr,
    ) -> Result<Result<Verified, Eviction>, Failure> {
        match claim {
            Claim::Token(token) => self.verify_token(metadata, token, from).await,
            Claim::Password { username, password } => {
                self.verify_password(metadata, username, password, from)
                    .await
            }
        }
    }

    async fn verify_password(
        &self,
        metadata: &Metadata,
        username: &str,
        password: &SecretString,
        from: IpAddr,
    ) -> Result<Result<Verified, Eviction>, Failure> {
        if let Some(known) = known(metadata, username)
            && self.remembers(&known, password)
        {
            return Ok(Ok(verified(&known)));
        }
        let _turn = self.turn(from, username).await?;
        let version = known(metadata, username).map(|known| known.version);
        let mut right = self.check(metadata, username, password, from).await;
        if right.is_none() {
            metadata.barrier().await?;
            let now = known(metadata, username).map(|known| known.version);
            // If nothing has changed, the check would only fail again.
            if now != version {
                right = self.check(metadata, username, password, from).await;
            }
        }
        match right {
            Some(known) => Ok(Ok(verified(&known))),
            None => {
                self.login_failed(from).await;
                Ok(Err(Eviction::InvalidCredentials))
            }
        }
    }

    /// The user, when the password is right and the user may log in.
    async fn check(
        &self,
        metadata: &Metadata,
        username: &str,
        password: &SecretString,
        from: IpAddr,
    ) -> Option<Known> {
        // Another login may have had the same password checked meanwhile, here and below.
        let remembered = || {
            let found = known(metadata, username)?;
            self.remembers(&found, password).then_some(found)
        };
        if let Some(known) = remembered() {
            return Some(known);
        }
        let _place = self.place(from).await;
        if let Some(known) = remembered() {
            return Some(known);
        }
        let Some(known) = known(metadata, username) else {
            // As slow as for a user that exists, so that the time does not reveal which do.
            self.is_hashed(password.clone(), UNUSED_HASH.to_owned())
                .await;
            return None;
        };
        // Also the right password of an inactive user, which is never remembered: neither the
        // time nor the number of failed logins reveals that it is right.
        let right = self.is_hashed(password.clone(), known.hash.clone()).await;
        (right && known.active).then(|| {
            self.remember(&known, password);
            known
        })
    }

    /// A place to hash a password for a client from this address.
    async fn place(&self, from: IpAddr) -> (OwnedMutexGuard<()>, Place) {
        let alone = self.failed_logins.hashing(from).await;
        let guesses = self.failed_logins.has_failed(from, Instant::now());
        (alone, self.places.enter(guesses).await)
    }

    /// Waits, for a bounded time, until no other login of this network with this name is being
    /// checked.
    pub(super) async fn turn(
        &self,
        from: IpAddr,
        name: &str,
    ) -> Result<OwnedMutexGuard<()>, Failure> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(b"turn");
        hasher.update(name.as_bytes());
        let [name, ..] = *hasher.finalize().as_bytes();
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.failed_logins.turn(from, name));
        turn.await.map_err(|_| Failure::NotAccepted)
    }

    /// A token is as long as a key: guessing it is infeasible, and looking it up is fast.
    async fn verify_token(
        &self,
        metadata: &Metadata,
        token: &SecretString,
        from: IpAddr,
    ) -> Result<Result<Verified, Eviction>, Failure> {
        let hash = hash_of(token.expose_secret());
        if let Some(Ok(verified)) = token_verdict(metadata, &hash) {
            return Ok(Ok(verified));
        }
        metadata.barrier().await?;
        match token_verdict(metadata, &hash) {
            Some(verdict) => Ok(verdict),
            None => {
                let _turn = self.turn(from, "").await?;
                self.login_failed(from).await;
                Ok(Err(Eviction::InvalidToken))
            }
        }
    }

    /// Whether the password is the one that was hashed; slow.
    pub(super) async fn matches(&self, password: SecretString, hash: String, from: IpAddr) -> bool {
        let _place = self.place(from).await;
        self.is_hashed(password, hash).await
    }

    async fn is_hashed(&self, password: SecretString, hash: String) -> bool {
        #[cfg(test)]
        self.checks
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tokio::task::spawn_blocking(move || verify_password(password.expose_secret(), &hash))
            .await
            .unwrap_or(false)
    }

    /// The hash of a new password; slow.
    pub(super) async fn hash(&self, password: SecretString, from: IpAddr) -> Option<String> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).ok()?;
        let _place = self.place(from).await;
        let hashed = tokio::task::spawn_blocking(move || {
            hash_password(password.expose_secret(), &salt).ok()
        });
        hashed.await.ok()?
    }

    /// The secret of the token that a request creates: the same whenever the request is
    /// repeated to this process, and different for every other request.
    pub(super) fn token(&self, header: &RequestHeader) -> SecretString {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(b"token");
        hasher.update(&header.client.to_le_bytes());
        hasher.update(&header.session.to_le_bytes());
        hasher.update(&header.request.to_le_bytes());
        hasher.update(&header.checksum.to_le_bytes());
        let mut bytes = [0; TOKEN_BYTES];
        hasher.finalize_xof().fill(&mut bytes);
        STANDARD.encode(bytes).into()
    }

    /// Counts a failed login, and waits if there were too many. The caller keeps its turn.
    pub(super) async fn login_failed(&self, from: IpAddr) {
        let pause = self.failed_logins.count(from, Instant::now());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    fn digest(&self, known: &Known, password: &SecretString) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&known.user_id.to_le_bytes());
        hasher.update(&known.version.to_le_bytes());
        hasher.update(password.expose_secret().as_bytes());
        *hasher.finalize().as_bytes()
    }

    fn remembers(&self, known: &Known, password: &SecretString) -> bool {
        if !known.active {
            return false;
        }
        let digest = self.digest(known, password);
        let remembered = lock(&self.remembered);
        let found = remembered.get(&(known.user_id, known.version));
        // The comparison of `blake3::Hash` takes constant time.
        found.is_some_and(|found| blake3::Hash::from(*found) == blake3::Hash::from(digest))
    }

    fn remember(&self, known: &Known, password: &SecretString) {
        let digest = self.digest(known, password);
        let mut remembered = lock(&self.remembered);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert((known.user_id, known.version), digest);
    }
}

fn known(metadata: &Metadata, username: &str) -> Option<Known> {
    let state = metadata.reader.read();
    let user = state.user(username)?;
    Some(Known {
        user_id: user.id,
        version: user.credential_version,
        active: user.active,
        hash: user.password_hash.clone(),
    })
}

fn verified(known: &Known) -> Verified {
    Verified {
        user_id: known.user_id,
        proof: Proof::Password(known.version),
    }
}

/// `None` when the token does not exist or has expired.
fn token_verdict(metadata: &Metadata, hash: &TokenHash) -> Option<Result<Verified, Eviction>> {
    let state = metadata.reader.read();
    let (user, token) = state.users().by_token(hash)?;
    if token.expires_at <= now_micros() {
        return None;
    }
    Some(match user.active {
        true => Ok(Verified {
            user_id: user.id,
            proof: Proof::Token(*hash),
        }),
        false => Err(Eviction::UserInactive),
    })
}

fn now_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
