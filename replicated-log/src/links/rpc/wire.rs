//! How requests and replies look on a connection.
//!
//! ```text
//! frame (version 0.1):  length u32 of what follows | id u64 | content
//! piece:                id u64 | length of the piece u31, first u1 | bytes that follow it u32 | piece
//! content of a request: kind u8 | payload         of a reply: payload
//! ```
//!
//! All numbers are little-endian. A frame is the only piece of its content.

use std::io;

use bytes::Buf;

use crate::links::outgoing::Outgoing;

/// Bytes of a piece at most, without its head.
pub(super) const PIECE_BYTES_MAX: usize = 256 << 10;
const IS_FIRST: u32 = 1 << 31;

/// How a connection carries requests and replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::links) enum Form {
    /// Each as a whole.
    Frames,
    /// Long ones in pieces, which take turns.
    Pieces,
}

/// The head of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) id: u64,
    pub(super) is_first: bool,
    pub(super) bytes: usize,
    /// Bytes of the same content that follow this piece.
    pub(super) following: usize,
}

impl Form {
    pub(super) const HEAD_BYTES_MAX: usize = 16;

    pub(super) fn head_bytes(self) -> usize {
        match self {
            Self::Frames => 12,
            Self::Pieces => Self::HEAD_BYTES_MAX,
        }
    }

    pub(super) fn piece_bytes_max(self) -> usize {
        match self {
            // The length has 32 bits, and counts the id.
            Self::Frames => u32::MAX as usize - 8,
            Self::Pieces => PIECE_BYTES_MAX,
        }
    }

    pub(super) fn put(self, piece: Piece, out: &mut Outgoing) {
        let mut head = [0; Self::HEAD_BYTES_MAX];
        match self {
            Self::Frames => {
                head[..4].copy_from_slice(&(piece.bytes as u32 + 8).to_le_bytes());
                head[4..12].copy_from_slice(&piece.id.to_le_bytes());
            }
            Self::Pieces => {
                let first = if piece.is_first { IS_FIRST } else { 0 };
                head[..8].copy_from_slice(&piece.id.to_le_bytes());
                head[8..12].copy_from_slice(&(piece.bytes as u32 | first).to_le_bytes());
                head[12..].copy_from_slice(&(piece.following as u32).to_le_bytes());
            }
        }
        out.short(&head[..self.head_bytes()]);
    }

    /// The head of a piece of content of at most so many bytes.
    pub(super) fn parse(
        self,
        head: [u8; Self::HEAD_BYTES_MAX],
        bytes_max: usize,
    ) -> io::Result<Piece> {
        let mut head = &head[..];
        let piece = match self {
            Self::Frames => {
                let length = head.get_u32_le() as usize;
                let bytes = length.checked_sub(8);
                Piece {
                    bytes: bytes.ok_or_else(|| invalid("a frame is shorter than its head"))?,
                    id: head.get_u64_le(),
                    is_first: true,
                    following: 0,
                }
            }
            Self::Pieces => {
                let id = head.get_u64_le();
                let length = head.get_u32_le();
                Piece {
                    id,
                    is_first: length & IS_FIRST != 0,
                    bytes: (length & !IS_FIRST) as usize,
                    following: head.get_u32_le() as usize,
                }
            }
        };
        if piece.bytes > self.piece_bytes_max() {
            return Err(invalid("a piece is too long"));
        }
        if piece.bytes + piece.following > bytes_max {
            let length = piece.bytes + piece.following;
            let text = format!("{length} bytes are more than the {bytes_max} allowed");
            return Err(invalid(text));
        }
        // Content that is empty has one piece. Other pieces make it progress.
        if piece.bytes == 0 && (piece.following > 0 || !piece.is_first) {
            return Err(invalid("an empty piece"));
        }
        Ok(piece)
    }
}

pub(super) fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
