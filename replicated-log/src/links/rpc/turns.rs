//! What one connection sends: requests or replies, in turns.
//!
//! Those of at most a piece go before the next piece of a longer one, and the longer ones
//! take turns piece by piece. So a long one delays others by a piece, not by its length, and
//! the short ones leave half of the connection to the long ones.

use std::collections::VecDeque;
use std::vec::IntoIter;

use bytes::{Buf, Bytes};

use super::wire::{Form, PIECE_BYTES_MAX, Piece};
use crate::links::outgoing::Outgoing;

/// Pieces are added while less than this is unwritten.
const WRITE_BYTES_MIN: usize = 256 << 10;
/// More are not accepted at a time: they wait where they are.
const TURNS_MAX: usize = 1_024;

/// A request or a reply.
pub(super) struct Item<S, W> {
    pub(super) id: u64,
    /// Of a request.
    pub(super) kind: Option<u8>,
    pub(super) parts: Vec<Bytes>,
    /// What is returned when it starts to be written.
    pub(super) at_start: S,
    /// What is dropped when all of it is in a write.
    pub(super) until_written: W,
}

/// The requests or replies that are being sent on a connection.
pub(super) struct Turns<S, W> {
    form: Form,
    /// Of at most a piece.
    short: VecDeque<Sending<S, W>>,
    long: VecDeque<Sending<S, W>>,
    /// What the socket has not accepted.
    pub(super) unwritten: Outgoing,
}

struct Sending<S, W> {
    id: u64,
    kind: Option<u8>,
    part: Bytes,
    parts: IntoIter<Bytes>,
    bytes: usize,
    /// Until its first piece.
    at_start: Option<S>,
    _until_written: W,
}

impl<S, W> Turns<S, W> {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            short: VecDeque::new(),
            long: VecDeque::new(),
            unwritten: Outgoing::default(),
        }
    }

    pub(super) fn add(&mut self, item: Item<S, W>) {
        let of_parts: usize = item.parts.iter().map(Bytes::len).sum();
        let sending = Sending {
            id: item.id,
            bytes: of_parts + usize::from(item.kind.is_some()),
            kind: item.kind,
            part: Bytes::new(),
            parts: item.parts.into_iter(),
            at_start: Some(item.at_start),
            _until_written: item.until_written,
        };
        match sending.bytes <= PIECE_BYTES_MAX {
            true => self.short.push_back(sending),
            false => self.long.push_back(sending),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.short.len() + self.long.len() >= TURNS_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty() && !self.unwritten.has_remaining()
    }

    /// Adds pieces to what is to be written. `start` is called for each that starts.
    pub(super) fn fill(&mut self, mut start: impl FnMut(u64, S)) {
        while self.unwritten.remaining() < WRITE_BYTES_MIN {
            let before = self.unwritten.remaining();
            while self.unwritten.remaining() - before < PIECE_BYTES_MAX
                && let Some(mut short) = self.short.pop_front()
            {
                short.add_piece(self.form, &mut self.unwritten, &mut start);
            }
            if let Some(mut long) = self.long.pop_front() {
                long.add_piece(self.form, &mut self.unwritten, &mut start);
                if long.bytes > 0 {
                    self.long.push_back(long);
                }
            } else if self.short.is_empty() {
                break;
            }
        }
    }

    /// Those that have not started.
    pub(super) fn into_unstarted(self) -> impl Iterator<Item = S> {
        let all = self.short.into_iter().chain(self.long);
        all.filter_map(|sending| sending.at_start)
    }
}

impl<S, W> Sending<S, W> {
    fn add_piece(&mut self, form: Form, out: &mut Outgoing, start: &mut impl FnMut(u64, S)) {
        let bytes = self.bytes.min(form.piece_bytes_max());
        self.bytes -= bytes;
        let at_start = self.at_start.take();
        let piece = Piece {
            id: self.id,
            is_first: at_start.is_some(),
            bytes,
            following: self.bytes,
        };
        form.put(piece, out);
        if let Some(at_start) = at_start {
            start(self.id, at_start);
        }
        let mut left = bytes;
        if let Some(kind) = self.kind.take() {
            out.short(&[kind]);
            left -= 1;
        }
        while left > 0 {
            if self.part.is_empty() {
                self.part = self.parts.next().unwrap_or_default();
                continue;
            }
            let now = left.min(self.part.len());
            left -= now;
            out.part(self.part.split_to(now));
        }
        out.end_slice();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: u64, bytes: usize) -> Item<u64, ()> {
        Item {
            id,
            kind: None,
            parts: vec![
                vec![id as u8; bytes / 2].into(),
                vec![id as u8; bytes - bytes / 2].into(),
            ],
            at_start: id,
            until_written: (),
        }
    }

    /// The ids of what is written, and the lengths.
    fn written(turns: &mut Turns<u64, ()>, writes: usize) -> Vec<(u64, usize)> {
        let mut pieces = Vec::new();
        for _ in 0..writes {
            turns.fill(|id, at_start| assert_eq!(id, at_start));
            while turns.unwritten.has_remaining() {
                let mut head = [0; Form::HEAD_BYTES_MAX];
                turns
                    .unwritten
                    .copy_to_slice(&mut head[..Form::Pieces.head_bytes()]);
                let piece = Form::Pieces.parse(head, usize::MAX).unwrap();
                let content = turns.unwritten.copy_to_bytes(piece.bytes);
                assert!(content.iter().all(|byte| u64::from(*byte) == piece.id));
                pieces.push((piece.id, piece.bytes));
            }
        }
        pieces
    }

    #[test]
    fn a_long_reply_delays_short_ones_by_a_piece_and_twenty_by_no_more() {
        let mut turns = Turns::new(Form::Pieces);
        for id in 1..=20 {
            turns.add(item(id, 60 << 20));
        }
        assert_eq!(
            written(&mut turns, 3),
            [1, 2, 3].map(|id| (id, PIECE_BYTES_MAX))
        );
        turns.add(item(21, 10));
        turns.add(item(22, PIECE_BYTES_MAX));
        let next = written(&mut turns, 2);
        let expected = [(21, 10), (22, PIECE_BYTES_MAX), (4, PIECE_BYTES_MAX)];
        assert_eq!(next[..3], expected);
        let started = 20 - turns.into_unstarted().count();
        assert_eq!(started, next.len() - 2 + 3);
    }

    #[test]
    fn short_ones_leave_a_turn_to_a_long_one() {
        let mut turns = Turns::new(Form::Pieces);
        turns.add(item(1, 2 * PIECE_BYTES_MAX + 1));
        for id in 2..=9 {
            turns.add(item(id, PIECE_BYTES_MAX));
        }
        let order: Vec<_> = written(&mut turns, 9).iter().map(|(id, _)| *id).collect();
        assert_eq!(order, [2, 1, 3, 1, 4, 1, 5, 6, 7, 8, 9]);
        assert!(turns.is_empty());
    }
}
