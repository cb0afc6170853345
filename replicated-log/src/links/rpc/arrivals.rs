//! What one connection receives: requests or replies.
//!
//! Nothing that arrives waits for memory: what there is no memory for is read and dropped,
//! and reported, so that it does not keep what follows it.

use std::collections::HashMap;
use std::io::{self, ErrorKind};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::wire::{Form, Piece, invalid};
use crate::links::frame::TIMEOUT;
use crate::memory::{CountedBuffer, MemoryBudget, MemoryShare};

/// Several short messages are read into a buffer of this size.
const BUFFER_BYTES: usize = 64 << 10;
/// More than this of a piece is read into its place directly.
const DIRECT_BYTES_MIN: usize = 16 << 10;
/// Read into the buffer after a piece that was read directly: the next one is probably long
/// too, and what is in the buffer of it has to be copied.
const AFTER_DIRECT_BYTES: usize = 2 << 10;

/// Where content is put.
pub(super) enum Place {
    /// Into a buffer, which grows with what arrives.
    Buffer(CountedBuffer, Growth),
    /// Nowhere: no caller waits for it.
    Dropped,
    /// Nowhere: there is no memory for it.
    NoRoom,
}

/// Where a buffer has its memory from.
pub(super) enum Growth {
    /// It needs none.
    None,
    /// If there is none, the content is dropped.
    Share(MemoryShare),
    /// It waits for it, and what follows waits too.
    Waits(MemoryBudget),
}

/// Content that has arrived.
pub(super) enum Arrived {
    Bytes(Bytes),
    Dropped,
    /// It was dropped, because there is no memory for so many bytes.
    NoRoom(usize),
}

/// The receiving end of a connection.
pub(super) struct Arrivals<R> {
    reader: R,
    form: Form,
    /// Of the content of one request or reply.
    bytes_max: usize,
    incomplete_max: usize,
    incomplete: HashMap<u64, Incomplete>,
    buffer: BytesMut,
    /// How much the next read into the buffer requests.
    buffer_bytes: usize,
}

struct Incomplete {
    place: Place,
    length: usize,
    missing: usize,
}

impl<R: AsyncRead + Unpin> Arrivals<R> {
    pub(super) fn new(reader: R, form: Form, bytes_max: usize, incomplete_max: usize) -> Self {
        Self {
            reader,
            form,
            bytes_max,
            incomplete_max,
            incomplete: HashMap::new(),
            buffer: BytesMut::with_capacity(BUFFER_BYTES),
            buffer_bytes: BUFFER_BYTES,
        }
    }

    /// The next content that is complete, with its id; `None` at a clean end of the stream.
    /// `place` is called when content of this id and length starts. While some is
    /// incomplete, something must arrive within [`TIMEOUT`].
    pub(super) async fn next(
        &mut self,
        mut place: impl FnMut(u64, usize) -> Place,
    ) -> io::Result<Option<(u64, Arrived)>> {
        loop {
            let Some(piece) = self.head().await? else {
                return Ok(None);
            };
            let mut content = self.take(piece, &mut place)?;
            content.missing -= piece.bytes;
            self.read_piece(&mut content, piece.bytes).await?;
            if piece.following > 0 {
                self.incomplete.insert(piece.id, content);
                continue;
            }
            let arrived = match content.place {
                Place::Buffer(buffer, _) => Arrived::Bytes(buffer.finish()),
                Place::Dropped => Arrived::Dropped,
                Place::NoRoom => Arrived::NoRoom(content.length),
            };
            return Ok(Some((piece.id, arrived)));
        }
    }

    /// The content that a piece starts or continues.
    fn take(
        &mut self,
        piece: Piece,
        place: &mut impl FnMut(u64, usize) -> Place,
    ) -> io::Result<Incomplete> {
        let length = piece.bytes + piece.following;
        match self.incomplete.remove(&piece.id) {
            Some(_) if piece.is_first => Err(invalid("a message starts again")),
            Some(content) if content.missing == length => Ok(content),
            Some(_) => Err(invalid("a piece does not continue its message")),
            None if !piece.is_first => Err(invalid("a piece of a message that has not started")),
            None if self.incomplete.len() >= self.incomplete_max => {
                Err(invalid("too many incomplete messages"))
            }
            None => Ok(Incomplete {
                place: place(piece.id, length),
                length,
                missing: length,
            }),
        }
    }

    async fn head(&mut self) -> io::Result<Option<Piece>> {
        let bytes = self.form.head_bytes();
        while self.buffer.len() < bytes {
            let waits = self.buffer.is_empty() && self.incomplete.is_empty();
            let read = match waits {
                true => self.fill().await,
                false => in_time(self.fill()).await,
            };
            match read {
                Err(error) if waits && error.kind() == ErrorKind::UnexpectedEof => {
                    return Ok(None);
                }
                read => read?,
            }
        }
        let mut head = [0; Form::HEAD_BYTES_MAX];
        self.buffer.copy_to_slice(&mut head[..bytes]);
        self.form.parse(head, self.bytes_max).map(Some)
    }

    async fn read_piece(&mut self, content: &mut Incomplete, bytes: usize) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let Some(buffer) = content.grown().await? else {
                left -= self.skip(left).await?;
                continue;
            };
            let buffered = left.min(self.buffer.len());
            if buffered > 0 {
                let put = buffer.put(&self.buffer[..buffered]);
                self.buffer.advance(put);
                left -= put;
            } else if left >= DIRECT_BYTES_MIN {
                self.buffer_bytes = AFTER_DIRECT_BYTES;
                left -= in_time(buffer.read_up_to(&mut self.reader, left)).await?;
            } else {
                in_time(self.fill()).await?;
            }
        }
        Ok(())
    }

    /// Drops what has arrived of a piece; returns how much.
    async fn skip(&mut self, left: usize) -> io::Result<usize> {
        if self.buffer.is_empty() {
            in_time(self.fill()).await?;
        }
        let skipped = left.min(self.buffer.len());
        self.buffer.advance(skipped);
        Ok(skipped)
    }

    async fn fill(&mut self) -> io::Result<()> {
        let most = std::mem::replace(&mut self.buffer_bytes, BUFFER_BYTES);
        let most = most.saturating_sub(self.buffer.len()).max(1);
        self.buffer.reserve(most);
        let mut reader = (&mut self.reader).take(most as u64);
        match reader.read_buf(&mut self.buffer).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Incomplete {
    /// The buffer, with room for more; `None` when the content is dropped.
    async fn grown(&mut self) -> io::Result<Option<&mut CountedBuffer>> {
        let has_room = match &mut self.place {
            Place::Dropped | Place::NoRoom => false,
            Place::Buffer(_, Growth::None) => true,
            Place::Buffer(buffer, Growth::Share(share)) => buffer.try_grow(share),
            Place::Buffer(buffer, Growth::Waits(budget)) => {
                let grown = async {
                    buffer.grow(budget).await;
                    Ok(())
                };
                in_time(grown).await?;
                true
            }
        };
        if !has_room && matches!(self.place, Place::Buffer(..)) {
            self.place = Place::NoRoom;
        }
        Ok(match &mut self.place {
            Place::Buffer(buffer, _) => Some(buffer),
            _ => None,
        })
    }
}

async fn in_time<T>(arriving: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(TIMEOUT, arriving).await {
        Ok(arrived) => arrived,
        Err(_) => Err(ErrorKind::TimedOut.into()),
    }
}
