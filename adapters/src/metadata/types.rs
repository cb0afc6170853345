//! Names, identifiers and keys.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::codec::{Malformed, Reader, Result, Writer};
use crate::printable::Printable;

/// A name has at most this many bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// A checked name of a stream, a topic or a user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// The text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a name has 1 to {NAME_BYTES_MAX} bytes")]
pub struct NameError;

impl Name {
    /// A name of 1 to 255 bytes.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn new(text: &str) -> std::result::Result<Self, NameError> {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(NameError);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Self::new(reader.text(NAME_BYTES_MAX)?).map_err(|_| Malformed("an empty name"))
    }
}

/// With control characters escaped: a client chooses the name, and a log or a terminal
/// shows it.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printable(&self.0).fmt(f)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// How a client names a stream or a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identifier {
    /// By number.
    Id(u32),
    /// By name.
    Name(Name),
}

impl Identifier {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            1 => Ok(Self::Id(reader.u32()?)),
            2 => Ok(Self::Name(Name::read(reader)?)),
            _ => Err(Malformed("unknown kind of identifier")),
        }
    }

    pub(crate) fn write(&self, out: &mut impl Writer) {
        match self {
            Self::Id(id) => {
                out.put_u8(1);
                out.put_u32_le(*id);
            }
            Self::Name(name) => {
                out.put_u8(2);
                out.put_text(name.as_str());
            }
        }
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A consumer group, by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey {
    /// The stream's id.
    pub stream_id: u32,
    /// The topic's id.
    pub topic_id: u32,
    /// The group's id.
    pub group_id: u32,
}

/// BLAKE3 of a personal access token.
pub type TokenHash = [u8; 32];

pub(crate) fn read_token_hash(reader: &mut Reader<'_>) -> Result<TokenHash> {
    let bytes = reader.take(32)?;
    bytes.try_into().map_err(|_| Malformed("a short hash"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Iggy's server accepts them too, so they are stored and returned unchanged.
    #[test]
    fn control_characters_of_a_name_are_kept_and_not_displayed() {
        let text = "a\u{1b}[2J\nb\u{7f}\u{9b}ü \"";
        let name = Name::new(text).unwrap();
        assert_eq!(name.as_str(), text);
        let shown = "a\\u{1b}[2J\\nb\\u{7f}\\u{9b}ü \"";
        assert_eq!(name.to_string(), shown);
        assert_eq!(Identifier::Name(name).to_string(), shown);
    }
}
