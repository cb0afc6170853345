//! The task of a link: it dials the peer, sends requests and receives replies.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::arrivals::{Arrivals, Arrived, Growth, Place};
use super::turns::{Item, Turns};
use super::wire::Form;
use super::{Caller, Queued, Request, RpcError, UNCOUNTED_BYTES_MAX};
use crate::links::channel::Channel;
use crate::links::dial::{self, Backoff};
use crate::links::handshake::HandshakeError;
use crate::links::target::Target;
use crate::memory::{CountedBuffer, MemoryAccount, ReservedMemory};

/// Replies of which a part has arrived. Only callers that wait have one.
const INCOMPLETE_MAX: usize = usize::MAX;

/// Runs until the queue of requests is closed.
pub(super) fn start(target: Target, channel: Channel, requests: mpsc::Receiver<Request>) {
    let dialler = Dialler {
        memory: target.memory.of(channel).account(),
        target,
        channel,
        requests,
    };
    tokio::spawn(dialler.run());
}

struct Dialler {
    target: Target,
    channel: Channel,
    requests: mpsc::Receiver<Request>,
    /// For replies for which their callers have reserved nothing.
    memory: MemoryAccount,
}

/// The callers of requests that have started to be sent.
#[derive(Clone, Default)]
struct Callers(Arc<Mutex<HashMap<u64, Caller>>>);

/// Requests that are being sent, which count as queued until they are written.
type Requests = Turns<Caller, Queued>;

impl Dialler {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            match self.connect().await {
                Some((stream, form)) => {
                    backoff.reset();
                    if self.serve(stream, form).await.is_ok() {
                        return;
                    }
                }
                None => self.refuse_queued(),
            }
            if self.requests.is_closed() {
                return;
            }
            // Requests that arrive in the pause fail immediately, so that their callers can
            // try another peer.
            let pause = backoff.pause();
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    request = self.requests.recv() => match request {
                        Some(request) => refuse(request.caller),
                        None => return,
                    },
                }
            }
        }
    }

    /// A connection in pieces, or with a peer of version 0.1 in frames.
    async fn connect(&self) -> Option<(TcpStream, Form)> {
        if self.channel == Channel::Data {
            match dial::attempt(&self.target, Channel::DataPieces).await {
                Ok(stream) => return Some((stream, Form::Pieces)),
                Err(Some(HandshakeError::UnknownChannel)) => {}
                Err(_) => return None,
            }
        }
        let stream = dial::connect(&self.target, self.channel).await?;
        Some((stream, Form::Frames))
    }

    fn refuse_queued(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            refuse(request.caller);
        }
    }

    /// Serves until the connection breaks (an error) or the link is dropped.
    async fn serve(&mut self, stream: TcpStream, form: Form) -> io::Result<()> {
        let callers = Callers::default();
        let (reader, writer) = stream.into_split();
        let bytes_max = self.target.limits.frame_bytes_max;
        let arrivals = Arrivals::new(reader, form, bytes_max, INCOMPLETE_MAX);
        let reading = read_replies(arrivals, callers.clone(), self.memory.clone());
        let mut replies = tokio::spawn(reading);
        let mut turns = Turns::new(form);
        let result = tokio::select! {
            result = self.write(writer, &mut turns, &callers) => result,
            _ = &mut replies => Err(ErrorKind::ConnectionReset.into()),
        };
        replies.abort();
        for caller in turns.into_unstarted() {
            refuse(caller);
        }
        for (_, caller) in callers.lock().drain() {
            let _ = caller.reply.send(Err(RpcError::Unknown));
        }
        result
    }

    async fn write(
        &mut self,
        mut writer: OwnedWriteHalf,
        turns: &mut Requests,
        callers: &Callers,
    ) -> io::Result<()> {
        let mut next_id = 0_u64;
        let mut add = |turns: &mut Requests, request: Request| {
            // The caller may have stopped waiting.
            if !request.caller.reply.is_closed() {
                next_id += 1;
                turns.add(Item {
                    id: next_id,
                    kind: Some(request.kind),
                    parts: request.parts,
                    at_start: request.caller,
                    until_written: request.queued,
                });
            }
        };
        loop {
            while !turns.is_full()
                && let Ok(request) = self.requests.try_recv()
            {
                add(turns, request);
            }
            if turns.is_empty() {
                match self.requests.recv().await {
                    Some(request) => add(turns, request),
                    None => return Ok(()),
                }
                continue;
            }
            turns.fill(|id, caller| {
                callers.lock().insert(id, caller);
            });
            writer.write_buf(&mut turns.unwritten).await?;
        }
    }
}

fn refuse(caller: Caller) {
    let _ = caller.reply.send(Err(RpcError::NotSent));
}

async fn read_replies(
    mut arrivals: Arrivals<OwnedReadHalf>,
    callers: Callers,
    memory: MemoryAccount,
) {
    let place = |id, length| callers.place(id, length, &memory);
    while let Ok(Some((id, arrived))) = arrivals.next(place).await {
        let Some(caller) = callers.lock().remove(&id) else {
            continue;
        };
        let reply = match arrived {
            Arrived::Bytes(reply) => Ok(reply),
            Arrived::NoRoom(bytes) => Err(RpcError::NoRoom(bytes)),
            // The caller has stopped waiting.
            Arrived::Dropped => continue,
        };
        let _ = caller.reply.send(reply);
    }
}

impl Callers {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Caller>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a reply is put that starts to arrive.
    fn place(&self, id: u64, length: usize, memory: &MemoryAccount) -> Place {
        let callers = self.lock();
        let Some(caller) = callers.get(&id).filter(|caller| !caller.reply.is_closed()) else {
            return Place::Dropped;
        };
        if length <= UNCOUNTED_BYTES_MAX {
            return Place::Buffer(CountedBuffer::new(length, length), Growth::None);
        }
        let reserved = match &caller.room {
            Some(room) => room.take(),
            None => Some(memory.share().nothing()),
        };
        drop(callers);
        match reserved {
            None => Place::Dropped,
            Some(reserved) => in_memory(length, reserved),
        }
    }
}

fn in_memory(length: usize, mut reserved: ReservedMemory) -> Place {
    match reserved.try_grow(length) {
        true => Place::Buffer(CountedBuffer::reserved(length, reserved), Growth::None),
        false => Place::NoRoom,
    }
}
