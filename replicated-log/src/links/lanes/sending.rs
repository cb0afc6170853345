//! What one connection of a lane sends, without the socket.

use std::collections::VecDeque;
use std::vec::IntoIter;

use bytes::{Buf, Bytes};

use super::LaneFrame;
use super::wire::{FRAME_BYTES_MAX, LaneError, PIECE_BYTES_MAX, PieceHead, SLOTS, Window, cost};
use crate::links::outgoing::Outgoing;

/// Pieces are added while less than this is unwritten.
const WRITE_BYTES_MIN: usize = 256 << 10;

/// The frames that are being sent on one connection.
pub(super) struct Sending {
    window: Window,
    /// The cost of all frames that were started, and of those that the receiver has released.
    taken: u64,
    released: u64,
    /// In the order in which they were started.
    started: VecDeque<Started>,
    /// The slot of the last piece, after which the others have their turn.
    last: usize,
    /// A frame for which there is no credit.
    waiting: Option<(LaneFrame, u64)>,
    /// What the socket has not accepted.
    pub(super) unwritten: Outgoing,
}

/// A frame that is being sent.
struct Started {
    slot: usize,
    stream: u64,
    part: Bytes,
    parts: IntoIter<Bytes>,
    bytes: usize,
    is_first: bool,
}

/// What [`Sending::fill`] has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filled {
    /// The source has no more frames for now.
    pub(super) is_dry: bool,
    /// Frames and bytes that were taken from the source and started.
    pub(super) frames: u64,
    pub(super) bytes: u64,
    /// A frame waits for credit since this call.
    pub(super) stalled: bool,
    /// Bytes of frames that were dropped because they are too long.
    pub(super) too_long: Option<usize>,
}

impl Sending {
    pub(super) fn new(window: u64) -> Self {
        Self {
            window: Window(window),
            taken: 0,
            released: 0,
            started: VecDeque::with_capacity(SLOTS),
            last: SLOTS - 1,
            waiting: None,
            unwritten: Outgoing::default(),
        }
    }

    /// The bytes that the receiver has not released, as far as is known.
    pub(super) fn unreleased(&self) -> u64 {
        self.taken - self.released
    }

    /// The receiver reports what it has released so far.
    pub(super) fn released(&mut self, released: u64) -> Result<(), LaneError> {
        if released < self.released || released > self.taken {
            return Err(LaneError::Released {
                released,
                former: self.released,
                taken: self.taken,
            });
        }
        self.released = released;
        Ok(())
    }

    /// Adds pieces to what is to be written, of frames in progress and of those that `next`
    /// returns. `next` is called only if the source may have more.
    pub(super) fn fill(
        &mut self,
        has_more: bool,
        mut next: impl FnMut() -> Option<LaneFrame>,
    ) -> Filled {
        let mut filled = Filled {
            is_dry: !has_more,
            ..Filled::default()
        };
        while self.unwritten.remaining() < WRITE_BYTES_MIN {
            while self.started.len() < SLOTS && self.take(&mut next, &mut filled) {}
            if !self.add_piece() {
                break;
            }
        }
        filled
    }

    /// Starts the next frame, if there is one with credit.
    fn take(&mut self, next: &mut impl FnMut() -> Option<LaneFrame>, filled: &mut Filled) -> bool {
        let (frame, bytes) = match self.waiting.take() {
            Some((frame, cost)) if !self.window.allows(self.unreleased(), cost) => {
                self.waiting = Some((frame, cost));
                return false;
            }
            Some((frame, _)) => {
                let bytes = length(&frame);
                (frame, bytes)
            }
            None if filled.is_dry => return false,
            None => {
                let Some(frame) = next() else {
                    filled.is_dry = true;
                    return false;
                };
                let bytes = length(&frame);
                if bytes > FRAME_BYTES_MAX {
                    filled.too_long = Some(bytes);
                    return true;
                }
                if !self.window.allows(self.unreleased(), cost(bytes)) {
                    self.waiting = Some((frame, cost(bytes)));
                    filled.stalled = true;
                    return false;
                }
                (frame, bytes)
            }
        };
        self.taken += cost(bytes);
        filled.frames += 1;
        filled.bytes += bytes as u64;
        self.start(frame, bytes);
        true
    }

    fn start(&mut self, frame: LaneFrame, bytes: usize) {
        let is_free = |slot: &usize| self.started.iter().all(|started| started.slot != *slot);
        let Some(slot) = (0..SLOTS).find(is_free) else {
            unreachable!("a frame is taken only while a slot is free");
        };
        self.started.push_back(Started {
            slot,
            stream: frame.stream,
            part: Bytes::new(),
            parts: frame.parts.into_iter(),
            bytes,
            is_first: true,
        });
    }

    /// The frame whose turn it is: the first one of its stream, in the slot that follows the
    /// last one's.
    fn next_turn(&self) -> Option<usize> {
        let turn = |slot: usize| (slot + SLOTS - 1 - self.last) % SLOTS;
        let each = self.started.iter().enumerate();
        let eligible = each.filter(|(at, frame)| {
            let mut earlier = self.started.iter().take(*at);
            earlier.all(|earlier| earlier.stream != frame.stream)
        });
        let next = eligible.min_by_key(|(_, frame)| turn(frame.slot));
        next.map(|(at, _)| at)
    }

    /// Adds the next piece. `false` when there is none.
    fn add_piece(&mut self) -> bool {
        let Some(at) = self.next_turn() else {
            return false;
        };
        let frame = &mut self.started[at];
        let bytes = frame.bytes.min(PIECE_BYTES_MAX);
        frame.bytes -= bytes;
        let head = PieceHead {
            slot: frame.slot,
            is_first: frame.is_first,
            bytes,
            following: frame.bytes,
        };
        frame.is_first = false;
        self.last = frame.slot;
        self.unwritten.short(&head.encode());
        let mut left = bytes;
        while left > 0 {
            if frame.part.is_empty() {
                frame.part = frame.parts.next().unwrap_or_default();
                continue;
            }
            let now = left.min(frame.part.len());
            left -= now;
            self.unwritten.part(frame.part.split_to(now));
        }
        self.unwritten.end_slice();
        if frame.bytes == 0 {
            self.started.remove(at);
        }
        true
    }
}

fn length(frame: &LaneFrame) -> usize {
    frame.parts.iter().map(Bytes::len).sum()
}
