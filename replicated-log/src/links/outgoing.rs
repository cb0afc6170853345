//! Frames that wait for a socket, written from where they are in memory.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::Parts;

/// A part of at least this length is not copied, but is a slice of its own in a vectored
/// write.
const OWN_SLICE_BYTES_MIN: usize = 1 << 10;

/// Room for short parts that is allocated at a time.
const TAIL_BYTES: usize = 4 << 10;

/// Bytes that wait to be written, in several places.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// None is empty.
    slices: VecDeque<Bytes>,
    /// Follows the slices: heads of frames and short parts.
    tail: BytesMut,
    remaining: usize,
}

impl Outgoing {
    /// Appends a message as a frame. `false`, and nothing is appended, when it is 4 GiB
    /// or longer.
    #[must_use]
    pub(super) fn frame(&mut self, message: &Parts) -> bool {
        let Ok(length) = u32::try_from(message.len()) else {
            return false;
        };
        self.short(&length.to_le_bytes());
        for part in message.iter() {
            if part.len() < OWN_SLICE_BYTES_MIN {
                self.short(part);
            } else {
                self.long(part.clone());
            }
        }
        self.end_slice();
        true
    }

    /// Appends bytes, which are copied. They are not written before [`Self::end_slice`].
    pub(super) fn short(&mut self, bytes: &[u8]) {
        if self.tail.capacity() - self.tail.len() < bytes.len() {
            // One allocation for many frames.
            self.tail.reserve(bytes.len().max(TAIL_BYTES));
        }
        self.tail.put_slice(bytes);
        self.remaining += bytes.len();
    }

    /// Appends bytes, which are copied if they are few. They are not written before
    /// [`Self::end_slice`].
    pub(super) fn part(&mut self, part: Bytes) {
        if part.len() < OWN_SLICE_BYTES_MIN {
            self.short(&part);
        } else {
            self.long(part);
        }
    }

    fn long(&mut self, part: Bytes) {
        self.end_slice();
        self.remaining += part.len();
        self.slices.push_back(part);
    }

    /// Makes what was appended ready to be written.
    pub(super) fn end_slice(&mut self) {
        if !self.tail.is_empty() {
            self.slices.push_back(self.tail.split().freeze());
        }
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.slices.front().map_or(&[], |slice| slice)
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let taken = out.iter_mut().zip(&self.slices);
        taken
            .map(|(place, slice)| *place = IoSlice::new(slice))
            .count()
    }

    fn advance(&mut self, count: usize) {
        let mut left = count;
        while let Some(first) = self.slices.front_mut().filter(|_| left > 0) {
            let now = left.min(first.len());
            first.advance(now);
            left -= now;
            if first.is_empty() {
                self.slices.pop_front();
            }
        }
        assert_eq!(left, 0, "more was written than there was");
        self.remaining -= count;
    }
}

#[cfg(test)]
mod tests {
    use consensus::PartsWriter;

    use super::*;

    fn messages() -> Vec<Parts> {
        let mut mixed = PartsWriter::default();
        mixed.fields().put_slice(b"head");
        mixed.payload(&Bytes::from(vec![1; 5_000]));
        mixed.payload(&Bytes::from(vec![2; 7]));
        mixed.payload(&Bytes::from(vec![3; 1_024]));
        vec![
            Bytes::from_static(b"short").into(),
            mixed.finish(),
            Parts::default(),
            Bytes::from(vec![4; 2_000]).into(),
            Bytes::from_static(b"last").into(),
        ]
    }

    #[test]
    fn frames_stay_in_order_whatever_a_write_accepts() {
        let mut expected = Vec::new();
        for message in messages() {
            expected.extend((message.len() as u32).to_le_bytes());
            expected.extend(message.to_bytes());
        }
        for step in [1, 3, 100, 1_000, usize::MAX] {
            let mut outgoing = Outgoing::default();
            let (mut taken, mut rest) = (Vec::<u8>::new(), messages().into_iter());
            loop {
                // The next message is added while the others are being written.
                let more = rest.next();
                assert!(more.iter().all(|message| outgoing.frame(message)));
                let mut slices = [IoSlice::new(&[]); 3];
                let count = outgoing.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..count]
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .collect();
                assert!(seen.starts_with(outgoing.chunk()));
                let now = step.min(seen.len());
                taken.extend(&seen[..now]);
                outgoing.advance(now);
                assert_eq!(outgoing.has_remaining(), outgoing.remaining > 0);
                if more.is_none() && !outgoing.has_remaining() {
                    break;
                }
            }
            assert_eq!(taken, expected);
        }
    }

    #[test]
    fn long_parts_are_not_copied() {
        let long = Bytes::from(vec![1; 5_000]);
        let mut outgoing = Outgoing::default();
        assert!(outgoing.frame(&long.clone().into()));
        outgoing.advance(4);
        assert_eq!(outgoing.chunk().as_ptr(), long.as_ptr());
    }
}
