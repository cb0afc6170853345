//! Changes of users, and their encoding. Secrets are hashed before they get here:
//! nothing in a command can be used to log in.

use bytes::BufMut;

use crate::codec::{Malformed, Reader, Result, Writer};
use crate::metadata::permissions::Permissions;
use crate::metadata::types::{Identifier, Name, TokenHash, read_token_hash};

const HASH_BYTES_MAX: usize = 1024;

/// A change of users or of the client's own tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserOperation {
    /// Creates a user.
    Create {
        /// Its name.
        name: Name,
        /// Argon2 hash in PHC format.
        password_hash: String,
        /// Whether it may log in.
        active: bool,
        /// What it may do.
        permissions: Option<Permissions>,
    },
    /// Deletes a user with its tokens; its sessions end.
    Delete {
        /// Which.
        user: Identifier,
    },
    /// Changes the name or the status of a user.
    Update {
        /// Which.
        user: Identifier,
        /// Its new name; `None` keeps the former.
        name: Option<Name>,
        /// Whether it may log in; `None` keeps it as it is. When it no longer may, its
        /// sessions end.
        active: Option<bool>,
    },
    /// Replaces all grants.
    SetPermissions {
        /// Whose.
        user: Identifier,
        /// What it may do.
        permissions: Option<Permissions>,
    },
    /// Changes a password.
    ChangePassword {
        /// Whose.
        user: Identifier,
        /// The version of the credentials that the current password matched, at the
        /// node that serves the client; `None` when it was wrong.
        verified: Option<u64>,
        /// Argon2 hash of the new one in PHC format.
        password_hash: String,
    },
    /// Creates a token of the client's user.
    CreateToken {
        /// Its name.
        name: Name,
        /// Its hash.
        hash: TokenHash,
        /// How long it can be used, in microseconds; 0 and `u64::MAX` forever.
        expiry_micros: u64,
    },
    /// Deletes a token of the client's user.
    DeleteToken {
        /// Its name.
        name: Name,
    },
}

impl UserOperation {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Create {
                name,
                password_hash,
                active,
                permissions,
            } => {
                out.put_u8(1);
                out.put_text(name.as_str());
                out.put_text(password_hash);
                out.put_bool(*active);
                Permissions::write_option(permissions.as_ref(), out);
            }
            Self::Delete { user } => {
                out.put_u8(2);
                user.write(out);
            }
            Self::Update { user, name, active } => {
                out.put_u8(3);
                user.write(out);
                out.put_bool(name.is_some());
                if let Some(name) = name {
                    out.put_text(name.as_str());
                }
                out.put_bool(active.is_some());
                out.put_bool(active.unwrap_or(false));
            }
            Self::SetPermissions { user, permissions } => {
                out.put_u8(4);
                user.write(out);
                Permissions::write_option(permissions.as_ref(), out);
            }
            Self::ChangePassword {
                user,
                verified,
                password_hash,
            } => {
                out.put_u8(5);
                user.write(out);
                out.put_bool(verified.is_some());
                out.put_u64_le(verified.unwrap_or(0));
                out.put_text(password_hash);
            }
            Self::CreateToken {
                name,
                hash,
                expiry_micros,
            } => {
                out.put_u8(6);
                out.put_text(name.as_str());
                out.put_slice(hash);
                out.put_u64_le(*expiry_micros);
            }
            Self::DeleteToken { name } => {
                out.put_u8(7);
                out.put_text(name.as_str());
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(match reader.u8()? {
            1 => Self::Create {
                name: Name::read(reader)?,
                password_hash: reader.text(HASH_BYTES_MAX)?.into(),
                active: reader.bool()?,
                permissions: Permissions::read_option(reader)?,
            },
            2 => Self::Delete {
                user: Identifier::read(reader)?,
            },
            3 => Self::Update {
                user: Identifier::read(reader)?,
                name: match reader.bool()? {
                    true => Some(Name::read(reader)?),
                    false => None,
                },
                active: {
                    let given = reader.bool()?;
                    let active = reader.bool()?;
                    given.then_some(active)
                },
            },
            4 => Self::SetPermissions {
                user: Identifier::read(reader)?,
                permissions: Permissions::read_option(reader)?,
            },
            5 => Self::ChangePassword {
                user: Identifier::read(reader)?,
                verified: {
                    let matched = reader.bool()?;
                    let version = reader.u64()?;
                    matched.then_some(version)
                },
                password_hash: reader.text(HASH_BYTES_MAX)?.into(),
            },
            6 => Self::CreateToken {
                name: Name::read(reader)?,
                hash: read_token_hash(reader)?,
                expiry_micros: reader.u64()?,
            },
            7 => Self::DeleteToken {
                name: Name::read(reader)?,
            },
            _ => return Err(Malformed("unknown change of a user")),
        })
    }
}
