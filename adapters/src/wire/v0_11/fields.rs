//! Fields that requests and replies have in common.

use iggy_binary_protocol::{WireDecode, WireIdentifier, WireName};

use crate::error_code::{ErrorCode, code};
use crate::metadata::{Identifier, Name};

/// A request that does not decode is refused with Iggy's code.
pub(super) type Result<T> = std::result::Result<T, ErrorCode>;

/// A request that fills the whole body.
pub(super) fn read<T: WireDecode>(body: &[u8]) -> Result<T> {
    match T::decode(body) {
        Ok((request, used)) if used == body.len() => Ok(request),
        _ => Err(code::INVALID_COMMAND),
    }
}

pub(super) fn name(name: &WireName) -> Result<Name> {
    Name::new(name.as_str()).map_err(|_| code::INVALID_COMMAND)
}

pub(super) fn identifier(id: &WireIdentifier) -> Result<Identifier> {
    Ok(match id {
        WireIdentifier::Numeric(id) => Identifier::Id(*id),
        WireIdentifier::String(text) => Identifier::Name(name(text)?),
    })
}

pub(super) fn wire_text(text: &str) -> WireName {
    WireName::new(text).expect("names have 1 to 255 bytes")
}
