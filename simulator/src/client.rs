//! Clients: each writes a register of its own and reads those of others.
//!
//! A register is a stream whose name is its version. Of two clients one renames
//! it, so that every version can be read; the other creates it and deletes it
//! again. Either way an operation that took effect twice, or not at all, is
//! refused the next time, and seen. An operation whose outcome is unknown is
//! repeated under the same request number until it is known; all its answers have
//! to be the same.
//!
//! Linearizability: a register has one writer, so a read must return a version
//! that is not older than what was acknowledged or read before it started, and not
//! newer than what was started when it ended. Across registers the
//! log's indexes are compared as well, see [`crate::check`].

use adapters::metadata::{
    ClientOperation, ClientRequest, Command, Identifier, MetadataState, Name, Options, Reply,
};
use bytes::Bytes;

use crate::random::Random;

/// A client and its register.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) random: Random,
    pub(crate) session: u64,
    /// The operation in flight, or the last.
    pub(crate) started: u64,
    /// What had been seen when it was started.
    pub(crate) started_after: u64,
    pub(crate) acknowledged: u64,
    answer: Bytes,
    /// The newest version that a read has returned.
    seen: u64,
    pub(crate) node: usize,
    pub(crate) waits_for: Option<u64>,
    pub(crate) read: Option<Read>,
    pub(crate) reads_done: u64,
}

/// A read in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) register: usize,
    pub(crate) oldest: u64,
    /// The index that had been seen when it was started.
    pub(crate) behind: u64,
}

impl Client {
    pub(crate) fn new(number: usize, session: u64, random: Random) -> Self {
        Self {
            number,
            random,
            session,
            started: 0,
            started_after: 0,
            acknowledged: 0,
            answer: Bytes::new(),
            seen: 0,
            node: 0,
            waits_for: None,
            read: None,
            reads_done: 0,
        }
    }

    /// Where it stands, for people.
    pub(crate) fn describe(&self) -> String {
        let waits = match self.waits_for {
            Some(_) => "waits",
            None => "rests",
        };
        format!(
            "client {} has started {} and done {}, and {waits}",
            self.number, self.started, self.acknowledged
        )
    }

    pub(crate) fn id(number: usize) -> u128 {
        1000 + number as u128
    }

    /// Whether its register always has a version that can be read.
    fn renames(&self) -> bool {
        self.number.is_multiple_of(2)
    }

    /// The command of the operation in flight.
    pub(crate) fn command(&self, padding: usize) -> Command {
        let padding = "x".repeat(padding);
        let name = |k: u64| {
            let name = format!("c{}-{k}-{padding}", self.number);
            Name::new(&name).expect("a short name")
        };
        let k = self.started;
        let before = || Identifier::Name(name(k - 1));
        let operation = if k > 1 && self.renames() {
            ClientOperation::UpdateStream {
                stream: before(),
                name: name(k),
                options: Options::default(),
            }
        } else if k % 2 == 1 {
            ClientOperation::CreateStream {
                name: name(k),
                options: Options::default(),
            }
        } else {
            ClientOperation::DeleteStream { stream: before() }
        };
        Command::Client(ClientRequest {
            client: Self::id(self.number),
            session: self.session,
            request: k,
            checksum: k,
            operation,
        })
    }

    /// The operation in flight was answered.
    pub(crate) fn answered(&mut self, answer: Bytes, reply: &Reply) -> Result<(), String> {
        let creates = self.started == 1 || !self.renames() && self.started % 2 == 1;
        let expected = match reply {
            Reply::StreamCreated { .. } => creates,
            Reply::Done => !creates,
            _ => false,
        };
        if !expected {
            return Err(format!(
                "client {}: operation {} was answered by {reply:?}, so it took effect twice or not at all",
                self.number, self.started
            ));
        }
        self.acknowledged = self.started;
        self.answer = answer;
        Ok(())
    }

    /// Another answer to an operation, from another way that it took. One that was
    /// followed by others may be refused by now.
    pub(crate) fn answered_again(&self, operation: u64, answer: &Bytes) -> Result<(), String> {
        let newest = operation == self.acknowledged && operation == self.started;
        if newest && *answer != self.answer {
            return Err(format!(
                "client {}: operation {operation} was answered in two ways",
                self.number
            ));
        }
        Ok(())
    }

    /// The oldest version that a read which starts now may return.
    pub(crate) fn oldest(&self) -> u64 {
        self.acknowledged.max(self.seen)
    }

    /// A state was read in which this register must be at least at `oldest`.
    pub(crate) fn check(&mut self, state: &MetadataState, oldest: u64) -> Result<(), String> {
        let prefix = format!("c{}-", self.number);
        let mut versions = state.streams().filter_map(|stream| {
            let version = stream
                .name
                .as_str()
                .strip_prefix(&prefix)?
                .split('-')
                .next()?;
            version.parse().ok()
        });
        let version: Option<u64> = versions.next();
        if versions.next().is_some() {
            return Err(format!("register {} has two versions", self.number));
        }
        let (low, high) = (oldest, self.started);
        let lowest = match version {
            Some(version) => Some(version).filter(|version| (low..=high).contains(version)),
            // Before the first, or some even version of a register that is deleted.
            None => (low..=high)
                .find(|version| *version == 0 || !self.renames() && version.is_multiple_of(2)),
        };
        let Some(lowest) = lowest else {
            return Err(format!(
                "register {} was read as {version:?}, it must be in {low}..={high}",
                self.number
            ));
        };
        self.seen = self.seen.max(lowest);
        Ok(())
    }
}
