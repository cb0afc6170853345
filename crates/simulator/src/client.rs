//! Clients: each writes a register of its own and reads those of others.
//!
//! A register is a stream. Its owner's operation `k` creates the stream named after
//! `k`, operation `k + 1` deletes it again, so a repetition that took effect twice
//! is refused and seen. An operation whose outcome is unknown is repeated under the
//! same request number until it is known.
//!
//! One writer per register makes linearizability simple to check: a read must
//! return a version that is not older than what was acknowledged, or seen by
//! anybody, before it began, and not newer than what was begun when it ended.

use adapters::metadata::{
    ClientOperation, ClientRequest, Command, Identifier, MetadataState, Name, Options, Reply,
};

/// A client and its register.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) session: u64,
    /// The operation under way, or the last.
    pub(crate) begun: u64,
    pub(crate) acknowledged: u64,
    /// The newest version that a read has returned.
    seen: u64,
    pub(crate) node: usize,
    pub(crate) waits_for: Option<u64>,
    pub(crate) read: Option<Read>,
    pub(crate) reads_done: u64,
}

/// A read under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) register: usize,
    pub(crate) oldest: u64,
}

impl Client {
    pub(crate) fn new(number: usize, session: u64) -> Self {
        Self {
            number,
            session,
            begun: 0,
            acknowledged: 0,
            seen: 0,
            node: 0,
            waits_for: None,
            read: None,
            reads_done: 0,
        }
    }

    pub(crate) fn id(number: usize) -> u128 {
        1000 + number as u128
    }

    /// The command of the operation under way.
    pub(crate) fn command(&self) -> Command {
        let name = |k: u64| Name::new(&format!("c{}-{k}", self.number)).expect("a short name");
        let k = self.begun;
        let operation = if k % 2 == 1 {
            ClientOperation::CreateStream {
                name: name(k),
                options: Options::default(),
            }
        } else {
            ClientOperation::DeleteStream {
                stream: Identifier::Name(name(k - 1)),
            }
        };
        Command::Client(ClientRequest {
            client: Self::id(self.number),
            session: self.session,
            request: k,
            checksum: k,
            operation,
        })
    }

    /// The operation under way was answered.
    pub(crate) fn answered(&mut self, reply: &Reply) -> Result<(), String> {
        let expected = match reply {
            Reply::StreamCreated { .. } => self.begun % 2 == 1,
            Reply::Done => self.begun.is_multiple_of(2),
            _ => false,
        };
        if !expected {
            return Err(format!(
                "client {}: operation {} was answered by {reply:?}, so it took effect twice or not at all",
                self.number, self.begun
            ));
        }
        self.acknowledged = self.begun;
        Ok(())
    }

    /// What a read that begins now may return at the oldest.
    pub(crate) fn oldest(&self) -> u64 {
        self.acknowledged.max(self.seen)
    }

    /// A state was read in which this register must be at least at `oldest`.
    pub(crate) fn check(&mut self, state: &MetadataState, oldest: u64) -> Result<(), String> {
        let prefix = format!("c{}-", self.number);
        let mut versions = state
            .streams()
            .filter_map(|stream| stream.name.as_str().strip_prefix(&prefix)?.parse().ok());
        let version: Option<u64> = versions.next();
        if versions.next().is_some() {
            return Err(format!("register {} has two versions", self.number));
        }
        let (low, high) = (oldest, self.begun);
        let allowed = match version {
            Some(version) => (low..=high).contains(&version),
            // Some even version.
            None => (low..=high).any(|version| version.is_multiple_of(2)),
        };
        if !allowed {
            return Err(format!(
                "register {} was read as {version:?}, it must be in {low}..={high}",
                self.number
            ));
        }
        self.seen = self.seen.max(version.unwrap_or(0));
        Ok(())
    }
}
