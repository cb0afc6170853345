//! The payload of a command entry: many client commands and the leader's time.
//!
//! ```text
//! version u8 | timestamp_micros u64 | count u32 | { length u32 | bytes } * count
//! ```
//! Integers are little-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 8 + 4;
const LENGTH_BYTES: usize = 4;

/// A decoded batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Microseconds since the Unix epoch when the leader formed it.
    pub timestamp_micros: u64,
    count: usize,
    /// What follows the header.
    commands: Bytes,
}

/// Why a payload is not a batch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Written by a newer program.
    #[error("batch format {found} is not understood (this program knows {VERSION}); upgrade it")]
    Version {
        /// The version found.
        found: u8,
    },
    /// Shorter or longer than its lengths say.
    #[error("batch does not decode: {0}")]
    Malformed(&'static str),
}

impl Batch {
    /// Decodes a payload.
    ///
    /// # Errors
    /// When it is of another version, or its lengths do not add up.
    pub fn decode(mut payload: Bytes) -> Result<Self, BatchError> {
        let short = |_| BatchError::Malformed("header is cut short");
        let version = payload.try_get_u8().map_err(short)?;
        if version != VERSION {
            return Err(BatchError::Version { found: version });
        }
        let timestamp_micros = payload.try_get_u64_le().map_err(short)?;
        let count = payload.try_get_u32_le().map_err(short)? as usize;
        if count > payload.len() / LENGTH_BYTES {
            return Err(BatchError::Malformed("more commands than bytes"));
        }
        let mut rest = &payload[..];
        for _ in 0..count {
            split_command(&mut rest).ok_or(BatchError::Malformed("command is cut short"))?;
        }
        if !rest.is_empty() {
            return Err(BatchError::Malformed("bytes after the last command"));
        }
        Ok(Self {
            timestamp_micros,
            count,
            commands: payload,
        })
    }

    /// How many commands it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The commands, in order.
    pub fn commands(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.commands[..];
        std::iter::from_fn(move || split_command(&mut rest))
    }
}

/// The next command of what is left; `None` when it is not whole.
fn split_command<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest_after) = rest.split_first_chunk::<LENGTH_BYTES>()?;
    let (command, rest_after) = rest_after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = rest_after;
    Some(command)
}

/// Gathers commands into one payload.
#[derive(Debug)]
pub struct BatchBuilder {
    buffer: BytesMut,
    count: u32,
}

impl BatchBuilder {
    /// Bytes of a batch of so many commands of so many bytes in all.
    #[must_use]
    pub fn bytes(commands: usize, command_bytes: usize) -> usize {
        HEADER_BYTES + commands * LENGTH_BYTES + command_bytes
    }

    /// An empty batch with room for so many commands of so many bytes in all.
    #[must_use]
    pub fn with_capacity(commands: usize, command_bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(Self::bytes(commands, command_bytes));
        buffer.put_bytes(0, HEADER_BYTES);
        Self { buffer, count: 0 }
    }

    /// Appends a command.
    ///
    /// # Panics
    /// When the command is 4 GiB or larger; callers bound commands far below.
    pub fn push(&mut self, command: &[u8]) {
        let length = u32::try_from(command.len()).expect("commands are bounded");
        self.buffer.put_u32_le(length);
        self.buffer.put_slice(command);
        self.count += 1;
    }

    /// The payload.
    #[must_use]
    pub fn finish(mut self, timestamp_micros: u64) -> Bytes {
        let mut header = [0; HEADER_BYTES];
        header[0] = VERSION;
        header[1..9].copy_from_slice(&timestamp_micros.to_le_bytes());
        header[9..13].copy_from_slice(&self.count.to_le_bytes());
        self.buffer[..HEADER_BYTES].copy_from_slice(&header);
        self.buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Bytes {
        let mut builder = BatchBuilder::with_capacity(3, 8);
        builder.push(b"one");
        builder.push(b"");
        builder.push(b"three");
        builder.finish(42)
    }

    #[test]
    fn commands_come_back_in_order_with_the_leaders_time() {
        let batch = Batch::decode(payload()).unwrap();
        assert_eq!(batch.timestamp_micros, 42);
        assert_eq!(batch.len(), 3);
        assert!(batch.commands().eq([&b"one"[..], b"", b"three"]));
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let whole = payload();
        for length in 0..whole.len() {
            assert!(Batch::decode(whole.slice(..length)).is_err(), "{length}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(Batch::decode(longer.into()).is_err());
    }

    #[test]
    fn a_count_beyond_the_bytes_allocates_nothing() {
        let mut bytes = payload().to_vec();
        bytes[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            Batch::decode(bytes.into()),
            Err(BatchError::Malformed("more commands than bytes"))
        );
    }

    #[test]
    fn another_version_is_refused_by_number() {
        let mut bytes = payload().to_vec();
        bytes[0] = 9;
        assert_eq!(
            Batch::decode(bytes.into()),
            Err(BatchError::Version { found: 9 })
        );
    }
}
