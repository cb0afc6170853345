//! A snapshot file as bytes.
//!
//! ```text
//! header: magic 8 | version u16 | header length u32 | index u64 | term u64 | epoch u64
//!         | voters u16, u64 * | learners u16, u64 *
//!         | state length u64 | checksum of every piece, crc32c * | header crc32c
//! state:  pieces of 1 MiB, the last one shorter
//! ```
//! The header's checksum covers those of the pieces, and so the whole file.

use bytes::{Buf, BufMut};
use consensus::rules::limit;
use consensus::{Index, Membership, ReplicaId, SnapshotMeta, Term};
use crc32c::crc32c;

use super::error::SnapshotError;

/// Bytes of a piece that is sent to a peer, at most.
pub const CHUNK_BYTES: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"IGGYSNP\n";
const VERSION: u16 = 1;
const LENGTH_AT: usize = 8 + 2;
const MEMBERS_MAX: usize = 4096;
/// A longer state is refused: only a faulty peer would announce one.
const STATE_BYTES_MAX: u64 = 16 << 30;
/// The name of the limit by which the simulator makes pieces smaller.
pub const PIECE_BYTES: &str = "snapshot piece";

/// Bytes of a piece.
fn piece_bytes() -> usize {
    limit(PIECE_BYTES, CHUNK_BYTES)
}

/// The length of a header with the largest number of members and pieces.
pub(super) const HEADER_BYTES_MAX: usize =
    128 + 2 * 8 * MEMBERS_MAX + 4 * (STATE_BYTES_MAX as usize / CHUNK_BYTES);
const _: () = assert!(HEADER_BYTES_MAX < CHUNK_BYTES, "a header is one piece");

/// The header of a snapshot file.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) meta: SnapshotMeta,
    /// Its own length in bytes.
    pub(super) bytes: u64,
    pub(super) state_bytes: u64,
    pieces: Vec<u32>,
}

/// A piece of the file that is transferred and verified as one.
pub(super) struct Piece {
    /// Its start in the file.
    pub(super) at: u64,
    pub(super) bytes: usize,
    crc: u32,
}

impl Piece {
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.bytes && crc32c(bytes) == self.crc
    }
}

impl Header {
    pub(super) fn total_bytes(&self) -> u64 {
        self.bytes + self.state_bytes
    }

    /// The pieces of the state, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        (0..self.pieces.len()).map(|n| self.piece(n))
    }

    /// The piece of the state that holds this byte of the file.
    pub(super) fn piece_at(&self, offset: u64) -> Option<Piece> {
        let within = offset.checked_sub(self.bytes)?;
        let n = usize::try_from(within / piece_bytes() as u64).ok()?;
        (within < self.state_bytes).then(|| self.piece(n))
    }

    fn piece(&self, n: usize) -> Piece {
        let before = (n * piece_bytes()) as u64;
        Piece {
            at: self.bytes + before,
            bytes: (self.state_bytes - before).min(piece_bytes() as u64) as usize,
            crc: self.pieces[n],
        }
    }

    /// Decodes the header at the start of a file.
    pub(super) fn decode(path: &str, file: &[u8]) -> Result<Self, SnapshotError> {
        let corrupt = |what| SnapshotError::Corrupt {
            path: path.to_owned(),
            what,
        };
        let mut rest = file
            .strip_prefix(&MAGIC[..])
            .ok_or_else(|| corrupt("not a snapshot"))?;
        let short = |_| corrupt("the header is cut short");
        let found = rest.try_get_u16_le().map_err(short)?;
        if found != VERSION {
            return Err(SnapshotError::Version {
                path: path.to_owned(),
                found,
                known: VERSION,
            });
        }
        let bytes = rest.try_get_u32_le().map_err(short)?;
        let (covered, mut crc) = file
            .get(..bytes as usize)
            .and_then(|header| header.split_last_chunk::<4>())
            .map(|(covered, crc)| (covered, &crc[..]))
            .ok_or_else(|| corrupt("the header is cut short"))?;
        if crc.try_get_u32_le() != Ok(crc32c(covered)) {
            return Err(corrupt("the header's checksum is wrong"));
        }
        covered
            .get(LENGTH_AT + 4..)
            .and_then(|body| decode_body(u64::from(bytes), body))
            .ok_or_else(|| corrupt("the header does not decode"))
    }
}

/// The header of a file with this state.
///
/// # Panics
/// When the state is larger than 16 GiB, or the membership than 4,096 members.
pub(super) fn encode_header(meta: &SnapshotMeta, state: &[u8]) -> Vec<u8> {
    assert!(
        state.len() as u64 <= STATE_BYTES_MAX,
        "a state of {} bytes",
        state.len()
    );
    let mut out = Vec::with_capacity(256);
    out.put_slice(MAGIC);
    out.put_u16_le(VERSION);
    out.put_u32_le(0);
    out.put_u64_le(meta.index.0);
    out.put_u64_le(meta.term.0);
    out.put_u64_le(meta.membership.epoch);
    for ids in [meta.membership.voters(), meta.membership.learners()] {
        assert!(ids.len() <= MEMBERS_MAX, "{} members", ids.len());
        out.put_u16_le(ids.len() as u16);
        for id in ids {
            out.put_u64_le(id.0);
        }
    }
    out.put_u64_le(state.len() as u64);
    for piece in state.chunks(piece_bytes()) {
        out.put_u32_le(crc32c(piece));
    }
    let length = (out.len() + 4) as u32;
    out[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c(&out);
    out.put_u32_le(crc);
    out
}

fn decode_body(bytes: u64, mut rest: &[u8]) -> Option<Header> {
    let index = Index(rest.try_get_u64_le().ok()?);
    let term = Term(rest.try_get_u64_le().ok()?);
    let epoch = rest.try_get_u64_le().ok()?;
    let mut ids = || -> Option<Vec<ReplicaId>> {
        let count = usize::from(rest.try_get_u16_le().ok()?);
        if count > MEMBERS_MAX {
            return None;
        }
        (0..count)
            .map(|_| Some(ReplicaId(rest.try_get_u64_le().ok()?)))
            .collect()
    };
    let voters = ids()?;
    let learners = ids()?;
    let membership = Membership::new(epoch, voters, learners).ok()?;
    let state_bytes = rest.try_get_u64_le().ok()?;
    if state_bytes > STATE_BYTES_MAX
        || rest.len() as u64 != 4 * state_bytes.div_ceil(piece_bytes() as u64)
    {
        return None;
    }
    let mut pieces = Vec::with_capacity(rest.len() / 4);
    while let Ok(crc) = rest.try_get_u32_le() {
        pieces.push(crc);
    }
    Some(Header {
        meta: SnapshotMeta {
            index,
            term,
            membership,
        },
        bytes,
        state_bytes,
        pieces,
    })
}
