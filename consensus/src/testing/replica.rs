//! One replica: a core, its disk, and the messages that wait for the disk.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Disk, Packet};
use crate::{
    Consensus, CoreConfig, Effect, Input, PersistBatch, PersistId, RecoverError, Recovered,
    ReplicaId, StepError, Tick,
};

/// A replica. Carries out the effects that concern its disk and its messages; all
/// effects are returned by [`Self::poll`], for the test to handle the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica<C> {
    config: Arc<CoreConfig>,
    /// `None` while the replica does not run.
    pub core: Option<C>,
    /// What survives a crash.
    pub disk: Disk,
    /// Whether batches become durable only by [`Self::fsync`].
    pub manual_sync: bool,
    /// Messages that have left; the test moves them to its network.
    pub sent: Vec<Packet>,
    unsynced: VecDeque<PersistBatch>,
    durable: PersistId,
    /// Messages that leave when this batch is durable.
    pending: Vec<(PersistId, Packet)>,
    now: Tick,
    incarnation: u64,
}

impl<C: Consensus> Replica<C> {
    /// A replica with an empty disk that does not run yet. The seed of `config` plus
    /// the number of the start is the seed of each incarnation.
    #[must_use]
    pub fn new(config: CoreConfig) -> Self {
        Self {
            config: Arc::new(config),
            core: None,
            disk: Disk::default(),
            manual_sync: false,
            sent: Vec::new(),
            unsynced: VecDeque::new(),
            durable: PersistId(0),
            pending: Vec::new(),
            now: Tick(0),
            incarnation: 0,
        }
    }

    /// The configuration of the current incarnation.
    #[must_use]
    pub fn config(&self) -> CoreConfig {
        CoreConfig {
            seed: self.config.seed + self.incarnation,
            ..(*self.config).clone()
        }
    }

    /// Which replica this is.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.config.id
    }

    /// The running core.
    ///
    /// # Panics
    /// When the replica does not run.
    #[must_use]
    pub fn core(&self) -> &C {
        self.core.as_ref().expect("a running replica")
    }

    /// Loses everything that is not durable, and stops.
    pub fn crash(&mut self) {
        self.core = None;
        self.sent.clear();
        self.unsynced.clear();
        self.pending.clear();
        self.durable = PersistId(0);
        self.now = Tick(0);
    }

    /// Builds the core from the disk. Its clock starts at zero.
    ///
    /// # Panics
    /// When the core refuses the disk.
    pub fn start(&mut self, build: impl FnOnce(&CoreConfig, Recovered) -> Result<C, RecoverError>) {
        self.incarnation += 1;
        let recovered = self.disk.recover();
        let core = build(&self.config(), recovered);
        self.core = Some(core.expect("a legal disk is recovered from"));
    }

    /// Steps the core, if it runs.
    ///
    /// # Errors
    /// When the core refuses the input.
    pub fn step(&mut self, now: Tick, input: Input) -> Result<(), StepError> {
        let Some(core) = &mut self.core else {
            return Ok(());
        };
        self.now = now;
        core.step(now, input)
    }

    /// The next effect. Writes, messages and compaction are carried out already.
    ///
    /// # Panics
    /// When the ids of batches do not rise by one.
    pub fn poll(&mut self) -> Option<Effect> {
        let effect = self.core.as_mut()?.poll()?;
        match &effect {
            Effect::Persist(batch) => {
                let previous = self.unsynced.back().map_or(self.durable, |batch| batch.id);
                assert_eq!(batch.id, PersistId(previous.0 + 1), "batch ids rise by one");
                self.unsynced.push_back(batch.clone());
                if !self.manual_sync {
                    self.fsync();
                }
            }
            Effect::Send { to, message, after } => {
                let packet = Packet {
                    from: self.config.id,
                    to: *to,
                    message: message.to_bytes(),
                };
                match after.filter(|after| *after > self.durable) {
                    Some(after) => self.pending.push((after, packet)),
                    None => self.sent.push(packet),
                }
            }
            Effect::Compact(through) => self.disk.compact(*through),
            _ => {}
        }
        Some(effect)
    }

    /// Whether a batch waits to become durable.
    #[must_use]
    pub fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// Makes the oldest batch durable and releases the messages that wait for it.
    /// Whether there was one.
    pub fn fsync(&mut self) -> bool {
        let Some(batch) = self.unsynced.pop_front() else {
            return false;
        };
        self.disk.write(&batch);
        self.durable = batch.id;
        let ready = self.pending.extract_if(.., |(after, _)| *after <= batch.id);
        self.sent.extend(ready.map(|(_, packet)| packet));
        if let Some(core) = &mut self.core {
            let persisted = core.step(self.now, Input::Persisted(batch.id));
            persisted.expect("a core accepts that its batch is durable");
        }
        true
    }
}
