//! The protocol between the load generator and a replica of a benchmark: many commands
//! in a frame, as an efficient client of such a log sends them.
//!
//! ```text
//! frame     length u32 (of what follows) | kind u8 | body
//! Commands  first tag u64 | length of each u32 | the commands
//! Outcomes  (tag u64 | code u8) ...
//! Control   JSON of a Control            Reply     JSON of a report
//! ```

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

pub(crate) const COMMANDS: u8 = 1;
pub(crate) const OUTCOMES: u8 = 2;
pub(crate) const CONTROL: u8 = 3;
pub(crate) const REPLY: u8 = 4;

/// The command took effect.
pub(crate) const DONE: u8 = 0;
/// It had no effect: this replica does not lead.
pub(crate) const NOT_LEADER: u8 = 1;
/// It had no effect: a bound is reached.
pub(crate) const OVERLOADED: u8 = 2;
/// It may have taken effect or not.
pub(crate) const UNKNOWN: u8 = 3;

const FRAME_BYTES_MAX: usize = 64 << 20;
/// Length and kind.
const HEAD_BYTES: usize = 5;
/// Tag and code.
const OUTCOME_BYTES: usize = 9;

/// A request to a replica other than commands.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Control {
    /// Report the state and the counters.
    Report,
    /// Delay the disk by this many microseconds from now on.
    DelayDisk(u64),
}

/// The state of a replica, and its counters since it started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ReplicaReport {
    /// The leader that it knows.
    pub(crate) leader: Option<u8>,
    /// Raft's term, VR's view.
    pub(crate) term: u64,
    /// Entries applied.
    pub(crate) applied: u64,
    /// Elections, or view changes, that it started.
    pub(crate) elections: u64,
    /// Commands applied.
    pub(crate) commands: u64,
    /// Batches that it proposed.
    pub(crate) batches: u64,
    /// Commands refused at a bound.
    pub(crate) overloaded: u64,
    /// Messages sent to other replicas.
    pub(crate) messages: u64,
    /// Their bytes.
    pub(crate) message_bytes: u64,
    /// Calls of fdatasync.
    pub(crate) syncs: u64,
    /// Bytes written to its disk.
    pub(crate) written_bytes: u64,
    /// From the start of the process until the log was open, in microseconds.
    pub(crate) opened_micros: u64,
    /// Entries in the log at that time.
    pub(crate) entries_at_start: u64,
}

/// Starts a frame; [`end_frame`] fills in its length.
pub(crate) fn start_frame(buffer: &mut BytesMut, kind: u8) -> usize {
    let at = buffer.len();
    buffer.put_u32_le(0);
    buffer.put_u8(kind);
    at
}

pub(crate) fn end_frame(buffer: &mut BytesMut, start: usize) {
    let length = (buffer.len() - start - 4) as u32;
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// A frame with this body.
pub(crate) fn json_frame(kind: u8, body: &impl Serialize) -> io::Result<BytesMut> {
    let mut frame = BytesMut::new();
    let at = start_frame(&mut frame, kind);
    frame.extend_from_slice(&serde_json::to_vec(body)?);
    end_frame(&mut frame, at);
    Ok(frame)
}

pub(crate) fn put_outcome(frame: &mut BytesMut, tag: u64, code: u8) {
    frame.put_u64_le(tag);
    frame.put_u8(code);
}

/// The outcomes in a frame's body.
pub(crate) fn outcomes(mut body: Bytes) -> impl Iterator<Item = (u64, u8)> + use<> {
    std::iter::from_fn(move || {
        (body.len() >= OUTCOME_BYTES).then(|| (body.get_u64_le(), body.get_u8()))
    })
}

/// The commands in a frame's body, with their tags.
pub(crate) fn commands(mut body: Bytes) -> Option<Vec<(u64, Bytes)>> {
    let first = body.try_get_u64_le().ok()?;
    let length = body.try_get_u32_le().ok()? as usize;
    if length == 0 || !body.len().is_multiple_of(length) {
        return None;
    }
    let mut commands = Vec::with_capacity(body.len() / length);
    let mut tag = first;
    while !body.is_empty() {
        commands.push((tag, body.split_to(length)));
        tag += 1;
    }
    Some(commands)
}

/// Reads frames from a connection, many with one call of the operating system.
pub(crate) struct Frames<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: BytesMut::with_capacity(1 << 20),
        }
    }

    /// The next frame's kind and body; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks, or a frame is longer than any may be.
    pub(crate) async fn next(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if self.buffer.capacity() - self.buffer.len() < 64 << 10 {
                self.buffer.reserve(1 << 20);
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn buffered(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        let Some(head) = self.buffer.first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = head[4];
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.buffer.len() < 4 + length {
            self.buffer.reserve(4 + length - self.buffer.len());
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(4 + length);
        frame.advance(HEAD_BYTES);
        Ok(Some((kind, frame.freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_however_they_are_cut() {
        let mut sent = BytesMut::new();
        let at = start_frame(&mut sent, COMMANDS);
        sent.put_u64_le(7);
        sent.put_u32_le(2);
        sent.put_slice(b"aabb");
        end_frame(&mut sent, at);
        let at = start_frame(&mut sent, OUTCOMES);
        put_outcome(&mut sent, 7, DONE);
        put_outcome(&mut sent, 8, NOT_LEADER);
        end_frame(&mut sent, at);
        for cut in 0..=sent.len() {
            let (front, back) = sent.split_at(cut);
            let mut frames = Frames::new(AsyncReadExt::chain(front, back));
            let (kind, body) = frames.next().await.expect("whole frames").expect("a frame");
            assert_eq!(kind, COMMANDS);
            let expected = vec![(7, Bytes::from("aa")), (8, Bytes::from("bb"))];
            assert_eq!(commands(body), Some(expected));
            let (kind, body) = frames.next().await.expect("whole frames").expect("a frame");
            assert_eq!(kind, OUTCOMES);
            let got: Vec<_> = outcomes(body).collect();
            assert_eq!(got, [(7, DONE), (8, NOT_LEADER)]);
            assert!(frames.next().await.expect("whole frames").is_none());
        }
    }

    #[test]
    fn commands_that_do_not_divide_are_refused() {
        let mut body = BytesMut::new();
        body.put_u64_le(1);
        body.put_u32_le(4);
        body.put_slice(b"12345");
        assert_eq!(commands(body.freeze()), None);
    }
}
