//! Users and their personal access tokens.
//!
//! Ids are not reused, so that no user inherits what was granted to another one.

use std::collections::{BTreeMap, BTreeSet};

use super::error::MetadataError;
use super::permissions::Permissions;
use super::types::{Identifier, Name, TokenHash, read_token_hash};
use crate::codec::{Malformed, Reader, Result, Writer};

/// A user's name has 3 to 50 bytes, as on Iggy's server.
const USERNAME_BYTES: std::ops::RangeInclusive<usize> = 3..=50;
/// The most tokens of a user, as on Iggy's server by default.
pub const TOKENS_MAX: usize = 100;
/// The most expired tokens that one command removes.
const EXPIRED_PER_COMMAND_MAX: usize = 256;
const HASH_BYTES_MAX: usize = 1024;
const ROOT: u32 = 0;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: Name,
    /// Argon2 hash in PHC format.
    pub password_hash: String,
    /// Rises whenever the password or the status changes.
    pub credential_version: u64,
    /// When it was created, in microseconds since the Unix epoch.
    pub created_at: u64,
    /// Whether it may log in.
    pub active: bool,
    /// What it may do.
    pub permissions: Option<Permissions>,
    /// Its tokens, by name.
    pub tokens: BTreeMap<Name, Token>,
}

/// A personal access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its hash.
    pub hash: TokenHash,
    /// When it expires, in microseconds since the Unix epoch; `u64::MAX` for never.
    pub expires_at: u64,
}

/// All users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    next: u32,
    by_id: BTreeMap<u32, User>,
    by_name: BTreeMap<Name, u32>,
    by_token: BTreeMap<TokenHash, (u32, Name)>,
    expiring: BTreeSet<(u64, TokenHash)>,
}

impl Users {
    /// All users, by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &User> {
        self.by_id.values()
    }

    /// A user by id.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&User> {
        self.by_id.get(&id)
    }

    /// The user with this id or name.
    #[must_use]
    pub fn find(&self, user: &Identifier) -> Option<&User> {
        match user {
            Identifier::Id(id) => self.get(*id),
            Identifier::Name(name) => self.by_name(name.as_str()),
        }
    }

    /// A user by name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&User> {
        self.get(*self.by_name.get(name)?)
    }

    /// The user of a token, and the token.
    #[must_use]
    pub fn by_token(&self, hash: &TokenHash) -> Option<(&User, &Token)> {
        let (id, name) = self.by_token.get(hash)?;
        let user = self.get(*id)?;
        Some((user, user.tokens.get(name)?))
    }

    /// When the next token expires, in microseconds since the Unix epoch.
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// Creates the root user unless there are users.
    pub(super) fn bootstrap(&mut self, name: Name, password_hash: String, now: u64) {
        if self.by_id.is_empty() {
            self.insert(User {
                id: ROOT,
                name,
                password_hash,
                credential_version: 1,
                created_at: now,
                active: true,
                permissions: Some(Permissions::all()),
                tokens: BTreeMap::new(),
            });
            self.next = 1;
        }
    }

    /// `false` when its id, its name or a token of it is in use.
    fn insert(&mut self, user: User) -> bool {
        let mut unique = self.by_name.insert(user.name.clone(), user.id).is_none();
        for (name, token) in &user.tokens {
            let owner = (user.id, name.clone());
            unique &= self.by_token.insert(token.hash, owner).is_none();
            self.expiring_insert(token);
        }
        unique & self.by_id.insert(user.id, user).is_none()
    }

    fn expiring_insert(&mut self, token: &Token) {
        if token.expires_at != u64::MAX {
            self.expiring.insert((token.expires_at, token.hash));
        }
    }

    fn user_mut(&mut self, user: &Identifier) -> std::result::Result<&mut User, MetadataError> {
        let id = self.find(user).map(|user| user.id);
        id.and_then(|id| self.by_id.get_mut(&id))
            .ok_or(MetadataError::ResourceNotFound)
    }

    pub(super) fn create(
        &mut self,
        name: Name,
        password_hash: String,
        active: bool,
        permissions: Option<Permissions>,
        now: u64,
    ) -> std::result::Result<User, MetadataError> {
        self.check_name(&name, None)?;
        let id = self.next;
        // A cluster never has 2^32 users.
        self.next = id.checked_add(1).ok_or(MetadataError::InvalidCommand)?;
        let user = User {
            id,
            name,
            password_hash,
            credential_version: 1,
            created_at: now,
            active,
            permissions,
            tokens: BTreeMap::new(),
        };
        self.insert(user.clone());
        Ok(user)
    }

    fn check_name(&self, name: &Name, of: Option<u32>) -> std::result::Result<(), MetadataError> {
        if !USERNAME_BYTES.contains(&name.as_str().len()) {
            return Err(MetadataError::InvalidUsername);
        }
        match self.by_name.get(name) {
            Some(other) if Some(*other) != of => Err(MetadataError::UserAlreadyExists),
            _ => Ok(()),
        }
    }

    pub(super) fn delete(&mut self, user: &Identifier) -> std::result::Result<u32, MetadataError> {
        let id = self.user_mut(user)?.id;
        if id == ROOT {
            return Err(MetadataError::CannotDeleteUser);
        }
        if let Some(user) = self.by_id.remove(&id) {
            self.by_name.remove(&user.name);
            for token in user.tokens.values() {
                self.forget_token(token);
            }
        }
        Ok(id)
    }

    /// Returns the user's id when its sessions end.
    pub(super) fn update(
        &mut self,
        user: &Identifier,
        name: Option<Name>,
        active: Option<bool>,
    ) -> std::result::Result<Option<u32>, MetadataError> {
        let id = self.user_mut(user)?.id;
        if let Some(name) = &name {
            self.check_name(name, Some(id))?;
        }
        // No other user could activate it again.
        if id == ROOT && active == Some(false) {
            return Err(MetadataError::InvalidUserStatus);
        }
        if let Some(name) = name
            && let Some(user) = self.by_id.get_mut(&id)
        {
            let former = std::mem::replace(&mut user.name, name.clone());
            self.by_name.remove(&former);
            self.by_name.insert(name, id);
        }
        let user = self.user_mut(&Identifier::Id(id))?;
        let changed = active.filter(|active| *active != user.active);
        if let Some(active) = changed {
            user.active = active;
            user.credential_version += 1;
        }
        Ok((changed == Some(false)).then_some(id))
    }

    pub(super) fn set_permissions(
        &mut self,
        user: &Identifier,
        permissions: Option<Permissions>,
    ) -> std::result::Result<(), MetadataError> {
        let user = self.user_mut(user)?;
        if user.id == ROOT {
            return Err(MetadataError::CannotChangePermissions);
        }
        user.permissions = permissions;
        Ok(())
    }

    pub(super) fn change_password(
        &mut self,
        user: &Identifier,
        verified: Option<u64>,
        password_hash: String,
    ) -> std::result::Result<(), MetadataError> {
        let user = self.user_mut(user)?;
        if verified != Some(user.credential_version) {
            return Err(MetadataError::InvalidCredentials);
        }
        user.password_hash = password_hash;
        user.credential_version += 1;
        Ok(())
    }

    pub(super) fn create_token(
        &mut self,
        owner: u32,
        name: Name,
        hash: TokenHash,
        expiry_micros: u64,
        now: u64,
    ) -> std::result::Result<(), MetadataError> {
        let user = self.user_mut(&Identifier::Id(owner))?;
        if user.tokens.len() >= TOKENS_MAX {
            return Err(MetadataError::TokensLimitReached);
        }
        if user.tokens.contains_key(&name) {
            return Err(MetadataError::TokenAlreadyExists);
        }
        let expires_at = match expiry_micros {
            0 => u64::MAX,
            expiry => now.saturating_add(expiry),
        };
        let token = Token { hash, expires_at };
        user.tokens.insert(name.clone(), token);
        self.by_token.insert(hash, (owner, name));
        self.expiring_insert(&token);
        Ok(())
    }

    pub(super) fn delete_token(
        &mut self,
        owner: u32,
        name: &Name,
    ) -> std::result::Result<(), MetadataError> {
        let user = self.user_mut(&Identifier::Id(owner))?;
        let token = user.tokens.remove(name);
        let token = token.ok_or(MetadataError::ResourceNotFound)?;
        self.forget_token(&token);
        Ok(())
    }

    fn forget_token(&mut self, token: &Token) {
        self.by_token.remove(&token.hash);
        self.expiring.remove(&(token.expires_at, token.hash));
    }

    /// Removes expired tokens, a bounded number per command.
    pub(super) fn expire_tokens(&mut self, now: u64) {
        for _ in 0..EXPIRED_PER_COMMAND_MAX {
            match self.expiring.first().copied() {
                Some((at, hash)) if at <= now => {
                    if let Some((owner, name)) = self.by_token.get(&hash).cloned() {
                        let _ = self.delete_token(owner, &name);
                    }
                }
                _ => return,
            }
        }
    }

    /// Removes grants of a stream that is gone: its id may be reused.
    pub(super) fn forget_stream(&mut self, stream_id: u32) {
        for permissions in self.permissions_mut() {
            permissions.streams.remove(&stream_id);
        }
    }

    /// Removes grants of a topic that is gone.
    pub(super) fn forget_topic(&mut self, stream_id: u32, topic_id: u32) {
        for permissions in self.permissions_mut() {
            if let Some(stream) = permissions.streams.get_mut(&stream_id) {
                stream.topics.remove(&topic_id);
            }
        }
    }

    fn permissions_mut(&mut self) -> impl Iterator<Item = &mut Permissions> {
        let users = self.by_id.values_mut();
        users.filter_map(|user| user.permissions.as_mut())
    }

    pub(super) fn write(&self, out: &mut impl Writer) {
        out.put_u32_le(self.next);
        out.put_u32_le(self.by_id.len() as u32);
        for user in self.by_id.values() {
            out.put_u32_le(user.id);
            out.put_text(user.name.as_str());
            out.put_text(&user.password_hash);
            out.put_u64_le(user.credential_version);
            out.put_u64_le(user.created_at);
            out.put_bool(user.active);
            Permissions::write_option(user.permissions.as_ref(), out);
            out.put_u32_le(user.tokens.len() as u32);
            for (name, token) in &user.tokens {
                out.put_text(name.as_str());
                out.put_slice(&token.hash);
                out.put_u64_le(token.expires_at);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut users = Self {
            next: reader.u32()?,
            ..Self::default()
        };
        for _ in 0..reader.count(30)? {
            let user = read_user(reader)?;
            if user.id >= users.next || !users.insert(user) {
                return Err(Malformed("users contradict each other"));
            }
        }
        Ok(users)
    }
}

fn read_user(reader: &mut Reader<'_>) -> Result<User> {
    Ok(User {
        id: reader.u32()?,
        name: Name::read(reader)?,
        password_hash: reader.text(HASH_BYTES_MAX)?.into(),
        credential_version: reader.u64()?,
        created_at: reader.u64()?,
        active: reader.bool()?,
        permissions: Permissions::read_option(reader)?,
        tokens: {
            let count = reader.count(41)?;
            (0..count)
                .map(|_| {
                    let name = Name::read(reader)?;
                    let token = Token {
                        hash: read_token_hash(reader)?,
                        expires_at: reader.u64()?,
                    };
                    Ok((name, token))
                })
                .collect::<Result<_>>()?
        },
    })
}
