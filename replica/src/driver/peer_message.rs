//! Messages between replicas: those of their cores, and those that transfer snapshots.
//!
//! The receiver of a snapshot requests the first byte that it lacks, so a transfer
//! continues where it stopped, also after a restart of either side. Pieces are verified by
//! the snapshot's own checksums when they are stored.
//!
//! ```text
//! consensus: 0u8 | the core's message
//! request:   1u8 | index u64 | offset u64
//! chunk:     2u8 | index u64 | offset u64 | total u64 | crc32c u32 | bytes
//! gone:      3u8 | index u64
//! ```

use bytes::{Buf, BufMut, Bytes};
use consensus::{Index, Parts, PartsWriter};

/// Fields of a message: those before a piece are the longest.
const FIELDS_BYTES_MAX: usize = 1 + 8 + 8 + 8 + 4;

/// A message between replicas.
pub(super) enum PeerMessage {
    Consensus(Parts),
    Request {
        index: Index,
        offset: u64,
    },
    Chunk {
        index: Index,
        offset: u64,
        total: u64,
        bytes: Bytes,
    },
    Gone(Index),
}

impl PeerMessage {
    pub(super) fn encode(self) -> Parts {
        let mut out = PartsWriter::with_capacity(FIELDS_BYTES_MAX);
        let fields = out.fields();
        match self {
            Self::Consensus(message) => return message.behind(Bytes::from_static(&[0])),
            Self::Request { index, offset } => {
                fields.put_u8(1);
                fields.put_u64_le(index.0);
                fields.put_u64_le(offset);
            }
            Self::Chunk {
                index,
                offset,
                total,
                bytes,
            } => {
                fields.put_u8(2);
                fields.put_u64_le(index.0);
                fields.put_u64_le(offset);
                fields.put_u64_le(total);
                fields.put_u32_le(crc32c::crc32c(&bytes));
                out.payload(&bytes);
            }
            Self::Gone(index) => {
                fields.put_u8(3);
                fields.put_u64_le(index.0);
            }
        }
        out.finish()
    }

    /// The message, or `None` when the bytes are not one.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Self> {
        match bytes.try_get_u8().ok()? {
            0 => Some(Self::Consensus(bytes.into())),
            1 => {
                let index = Index(bytes.try_get_u64_le().ok()?);
                let offset = bytes.try_get_u64_le().ok()?;
                bytes.is_empty().then_some(Self::Request { index, offset })
            }
            2 => {
                let index = Index(bytes.try_get_u64_le().ok()?);
                let offset = bytes.try_get_u64_le().ok()?;
                let total = bytes.try_get_u64_le().ok()?;
                let checksum = bytes.try_get_u32_le().ok()?;
                let end = offset.checked_add(bytes.len() as u64)?;
                (end <= total && checksum == crc32c::crc32c(&bytes)).then_some(Self::Chunk {
                    index,
                    offset,
                    total,
                    bytes,
                })
            }
            3 => {
                let index = Index(bytes.try_get_u64_le().ok()?);
                bytes.is_empty().then_some(Self::Gone(index))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(message: PeerMessage) {
        let is_whole_alone = !matches!(message, PeerMessage::Consensus(_));
        let bytes = message.encode().to_bytes();
        let again = PeerMessage::decode(bytes.clone()).map(|m| m.encode().to_bytes());
        assert_eq!(again, Some(bytes.clone()));
        for length in (0..bytes.len()).filter(|_| is_whole_alone) {
            assert!(PeerMessage::decode(bytes.slice(..length)).is_none());
        }
    }

    #[test]
    fn messages_come_back_and_truncated_ones_do_not() {
        round_trip(PeerMessage::Consensus(Bytes::from_static(b"core").into()));
        round_trip(PeerMessage::Request {
            index: Index(7),
            offset: 9,
        });
        round_trip(PeerMessage::Gone(Index(7)));
        round_trip(PeerMessage::Chunk {
            index: Index(7),
            offset: 2,
            total: 9,
            bytes: Bytes::from_static(b"abc"),
        });
    }

    #[test]
    fn a_chunk_beyond_its_total_is_refused() {
        let chunk = PeerMessage::Chunk {
            index: Index(7),
            offset: u64::MAX,
            total: u64::MAX,
            bytes: Bytes::from_static(b"abc"),
        };
        assert!(PeerMessage::decode(chunk.encode().to_bytes()).is_none());
    }
}
