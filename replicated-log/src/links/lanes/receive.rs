//! The receiving end of a lane.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::ReplicaId;
use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::LaneSink;
use super::counts::{LaneCounts, add};
use super::credit::Releases;
use super::gate::Gate;
use super::wire::{HEAD_BYTES, LaneError, PieceHead, SLOTS, Window, cost};
use crate::links::counters::LinkCounters;
use crate::links::handshake::Peer;

/// Several pieces are read into a buffer of this size.
const BUFFER_BYTES: usize = 64 << 10;
/// More than this of a piece is read into its frame directly.
const DIRECT_BYTES_MIN: usize = 16 << 10;
/// Read into the buffer after a piece that was read directly: the next one is probably long
/// too, and what is in the buffer of it has to be copied.
const AFTER_DIRECT_BYTES: usize = 2 << 10;
/// While frames are incomplete, something must arrive within this time.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// Read before other tasks of this thread have a turn.
const TURN_BYTES: usize = 2 << 20;

/// One connection of a peer on a lane.
pub(in crate::links) struct Receiving {
    pub(in crate::links) peer: Peer,
    /// In the order in which the connections were accepted.
    pub(in crate::links) connection: u64,
    pub(in crate::links) sink: Arc<dyn LaneSink>,
    pub(in crate::links) gate: Arc<Gate>,
    pub(in crate::links) counters: Arc<LinkCounters>,
}

/// Receives until the connection ends or is replaced by a newer one.
pub(in crate::links) async fn receive(
    stream: TcpStream,
    receiving: Receiving,
    received: impl Fn(),
) {
    let Peer {
        replica, channel, ..
    } = receiving.peer;
    let counts = receiving.counters.lanes.of(replica, channel);
    let stream = Arc::new(stream);
    let window = Window(channel.window_bytes());
    let releases = Releases::new(Arc::clone(&stream), window, Arc::clone(&counts));
    let releases = Closed(Arc::new(releases));
    releases.0.report_now();
    let mut reader = Reader {
        stream: &stream,
        receiving: &receiving,
        counts: &counts,
        frames: Frames::new(window, Arc::clone(&releases.0)),
        buffer: BytesMut::with_capacity(BUFFER_BYTES),
        buffer_bytes: BUFFER_BYTES,
        turn_bytes: 0,
    };
    let ended = tokio::select! {
        ended = reader.read(received) => ended,
        error = releases.0.write_blocked(&stream) => Ended::Io(error),
    };
    match ended {
        Ended::Io(error) => {
            debug!(peer = %replica, ?channel, %error, "the connection of a peer broke");
        }
        Ended::Replaced => {
            debug!(peer = %replica, ?channel, "a peer has connected anew");
        }
        Ended::Invalid(error) => {
            let counters = &receiving.counters;
            if let Some(suppressed) = counters.refuse(Some(replica), "lane", error.label()) {
                warn!(peer = %replica, ?channel, %error, suppressed, "refused a frame of a peer, and closed the connection");
            }
        }
    }
}

/// Why a connection has ended.
enum Ended {
    Io(io::Error),
    Invalid(LaneError),
    Replaced,
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<LaneError> for Ended {
    fn from(error: LaneError) -> Self {
        Self::Invalid(error)
    }
}

/// Closes the socket for credit that is released later, also when the task is aborted.
struct Closed(Arc<Releases>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The frames of a connection that have not arrived completely.
struct Frames {
    window: Window,
    slots: [Option<Partial>; SLOTS],
    incomplete: usize,
    /// The cost of all frames that have started.
    taken: u64,
    releases: Arc<Releases>,
}

struct Partial {
    bytes: BytesMut,
    length: usize,
}

impl Frames {
    fn new(window: Window, releases: Arc<Releases>) -> Self {
        Self {
            window,
            slots: std::array::from_fn(|_| None),
            incomplete: 0,
            taken: 0,
            releases,
        }
    }

    /// Checks the head of a piece, and makes room for the frame that it starts. Memory that is
    /// not written takes up none, so the room is that of the whole frame.
    fn start_piece(&mut self, piece: PieceHead) -> Result<(), LaneError> {
        let slot = &mut self.slots[piece.slot];
        let length = piece.bytes + piece.following;
        match slot {
            None if piece.is_first => {
                let unreleased = self.taken - self.releases.released();
                if !self.window.allows(unreleased, cost(length)) {
                    return Err(LaneError::Credit);
                }
                self.taken += cost(length);
                self.incomplete += 1;
                *slot = Some(Partial {
                    bytes: BytesMut::with_capacity(length),
                    length,
                });
                Ok(())
            }
            None => Err(LaneError::NotStarted),
            Some(_) if piece.is_first => Err(LaneError::SlotInUse),
            Some(partial) if partial.bytes.len() + length != partial.length => {
                Err(LaneError::NotContinued)
            }
            Some(_) => Ok(()),
        }
    }

    fn frame(&mut self, piece: PieceHead) -> Result<&mut BytesMut, LaneError> {
        let partial = self.slots[piece.slot].as_mut();
        partial
            .map(|partial| &mut partial.bytes)
            .ok_or(LaneError::NotStarted)
    }

    /// The frame of a piece that has arrived, if it is complete.
    fn end_piece(&mut self, piece: PieceHead) -> Option<Bytes> {
        if piece.following > 0 {
            return None;
        }
        let complete = self.slots[piece.slot].take()?;
        self.incomplete -= 1;
        Some(complete.bytes.freeze())
    }
}

struct Reader<'a> {
    stream: &'a TcpStream,
    receiving: &'a Receiving,
    counts: &'a LaneCounts,
    frames: Frames,
    /// What has arrived and was not looked at.
    buffer: BytesMut,
    /// How much the next read into the buffer requests.
    buffer_bytes: usize,
    /// Read in this turn.
    turn_bytes: usize,
}

impl Reader<'_> {
    async fn read(&mut self, received: impl Fn()) -> Ended {
        loop {
            match self.read_piece().await {
                Ok(Some(frame)) => {
                    received();
                    if let Err(ended) = self.deliver(frame) {
                        return ended;
                    }
                    // Tasks that the frame has woken may wait for this worker thread.
                    tokio::task::consume_budget().await;
                }
                Ok(None) => {}
                Err(ended) => return ended,
            }
            if self.turn_bytes >= TURN_BYTES {
                self.turn_bytes = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reads one piece; returns the frame that it completes.
    async fn read_piece(&mut self) -> Result<Option<Bytes>, Ended> {
        while self.buffer.len() < HEAD_BYTES {
            self.fill().await?;
        }
        let piece = PieceHead::decode(self.buffer.get_u64_le().to_le_bytes())?;
        self.frames.start_piece(piece)?;
        let mut left = piece.bytes;
        while left > 0 {
            let buffered = left.min(self.buffer.len());
            if buffered > 0 {
                let frame = self.frames.frame(piece)?;
                frame.put_slice(&self.buffer[..buffered]);
                self.buffer.advance(buffered);
                left -= buffered;
            } else if left >= DIRECT_BYTES_MIN {
                left -= self.read_directly(piece, left).await?;
            } else {
                self.fill().await?;
            }
        }
        Ok(self.frames.end_piece(piece))
    }

    /// Reads into the empty buffer, or one with a part of a head.
    async fn fill(&mut self) -> Result<(), Ended> {
        self.buffer.reserve(BUFFER_BYTES - self.buffer.len());
        let most = self.buffer_bytes;
        self.buffer_bytes = BUFFER_BYTES;
        loop {
            let mut into = (&mut self.buffer).limit(most);
            let read = self.stream.try_read_buf(&mut into);
            if let Some(bytes) = self.arrived(read)? {
                self.turn_bytes += bytes;
                return Ok(());
            }
            self.readable().await?;
        }
    }

    /// Reads at most `left` bytes of a piece into its frame; returns how many.
    async fn read_directly(&mut self, piece: PieceHead, left: usize) -> Result<usize, Ended> {
        self.buffer_bytes = AFTER_DIRECT_BYTES;
        loop {
            let frame = self.frames.frame(piece)?;
            let read = self.stream.try_read_buf(&mut frame.limit(left));
            if let Some(bytes) = self.arrived(read)? {
                self.turn_bytes += bytes;
                return Ok(bytes);
            }
            self.readable().await?;
        }
    }

    /// How much was read, or `None` when nothing has arrived.
    fn arrived(&self, read: io::Result<usize>) -> Result<Option<usize>, Ended> {
        match read {
            Ok(0) => Err(Ended::Io(ErrorKind::UnexpectedEof.into())),
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(Ended::Io(error)),
        }
    }

    async fn readable(&mut self) -> Result<(), Ended> {
        self.turn_bytes = 0;
        if self.frames.incomplete == 0 {
            return Ok(self.stream.readable().await?);
        }
        match tokio::time::timeout(PROGRESS_TIMEOUT, self.stream.readable()).await {
            Ok(readable) => Ok(readable?),
            Err(_) => Err(Ended::Io(ErrorKind::TimedOut.into())),
        }
    }

    fn deliver(&self, frame: Bytes) -> Result<(), Ended> {
        let Receiving {
            peer,
            connection,
            sink,
            gate,
            ..
        } = self.receiving;
        let credit = self.frames.releases.credit(cost(frame.len()));
        add(&self.counts.received, 1);
        add(&self.counts.received_bytes, frame.len() as u64);
        let from: ReplicaId = peer.replica;
        let deliver = || {
            sink.frame(
                from,
                peer.incarnation,
                peer.channel,
                *connection,
                frame,
                credit,
            );
        };
        match gate.deliver(*connection, deliver) {
            true => Ok(()),
            false => Err(Ended::Replaced),
        }
    }
}
