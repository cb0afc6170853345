//! What a disk has to return after a restart.
//!
//! A write counts when its sync has returned: from then on every start has to find
//! it, and what is committed has to have been written so by a majority. What was
//! in flight when a process ended may be there or not, batch by batch.

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::{Index, PersistBatch, Recovered, Term};
use twox_hash::XxHash3_64;

/// An entry of the log, distinguished from others at its index.
type Content = (Term, u64);

/// The log and hard state of one disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable {
    log: Log,
    /// Started, and not known to be there.
    in_flight: Vec<Written>,
    /// The last write that is there, and the hard state before it.
    last: Vec<Written>,
    hard_state_before: Option<Bytes>,
    /// The log before the last write, where that has replaced a part of it.
    replaced: Option<Log>,
}

/// What a start found is not what was durable.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) what: String,
    /// Nothing is missing but the last write.
    pub(crate) last_only: bool,
}

#[derive(Clone, Debug, Default)]
struct Log {
    entries: BTreeMap<u64, Content>,
    /// Everything up to here is in a snapshot.
    base: u64,
    hard_state: Option<Bytes>,
}

#[derive(Clone, Debug)]
struct Written {
    reset_to: Option<Index>,
    entries: Vec<(u64, Content)>,
    hard_state: Option<Bytes>,
}

fn content(term: Term, payload: &[u8]) -> Content {
    (term, XxHash3_64::oneshot(payload))
}

impl Written {
    fn new(batch: &PersistBatch) -> Self {
        let entries = batch.entries.iter();
        Self {
            reset_to: batch.reset_to.map(|(index, _)| index),
            entries: entries
                .map(|entry| (entry.index.0, content(entry.term, &entry.payload)))
                .collect(),
            hard_state: batch.hard_state.clone(),
        }
    }
}

impl Log {
    fn apply(&mut self, written: &Written) {
        if let Some(index) = written.reset_to {
            self.entries.clear();
            self.base = index.0;
        }
        if let Some((first, _)) = written.entries.first() {
            self.entries.split_off(first);
            self.entries.extend(written.entries.iter().copied());
        }
        if written.hard_state.is_some() {
            self.hard_state.clone_from(&written.hard_state);
        }
    }

    /// Whether a start that found this found all of it.
    fn is(&self, recovered: &Recovered) -> bool {
        let snapshot = recovered.snapshot.as_ref();
        let base = snapshot.map_or(0, |meta| meta.index.0);
        let replaced = snapshot.is_some_and(|meta| {
            let own = self.entries.get(&base);
            own.map_or(base > self.last(), |(term, _)| *term != meta.term)
        });
        let end = recovered.entries.last().map_or(0, |entry| entry.index.0);
        // A snapshot of less than the log starts with needs the log between them.
        let reaches = replaced || end.max(base) >= self.last();
        let mut found = recovered.entries.iter().filter(|it| it.index.0 > base);
        let mut expected = self.entries.range(base + 1..);
        let same = replaced
            || expected.all(|(index, expected)| {
                found.next().is_some_and(|entry| {
                    entry.index.0 == *index && content(entry.term, &entry.payload) == *expected
                })
            });
        same && reaches && found.next().is_none() && recovered.hard_state == self.hard_state
    }

    fn last(&self) -> u64 {
        let last = self.entries.last_key_value();
        last.map_or(self.base, |(index, _)| *index)
    }
}

impl Durable {
    /// These are written, and not fsynced.
    pub(crate) fn start(&mut self, batches: &[PersistBatch]) {
        self.in_flight.extend(batches.iter().map(Written::new));
    }

    /// All that is in flight is fsynced.
    pub(crate) fn finish(&mut self) {
        self.hard_state_before.clone_from(&self.log.hard_state);
        self.last = std::mem::take(&mut self.in_flight);
        let end = self.log.last();
        let replaces = self.last.iter().any(|written| {
            let first = written.entries.first();
            written.reset_to.is_some() || first.is_some_and(|(first, _)| *first <= end)
        });
        self.replaced = replaces.then(|| self.log.clone());
        for written in &self.last {
            self.log.apply(written);
        }
    }

    /// Whether a start that found this found all but the last write, or the first batches of
    /// it.
    fn misses_last_only(&self, recovered: &Recovered) -> bool {
        let mut log = match &self.replaced {
            Some(replaced) => replaced.clone(),
            None => self.log.clone(),
        };
        log.hard_state.clone_from(&self.hard_state_before);
        for written in self.last.iter().filter(|_| self.replaced.is_none()) {
            if let Some((first, _)) = written.entries.first() {
                log.entries.split_off(first);
            }
        }
        self.last.iter().any(|written| {
            let found = log.is(recovered);
            log.apply(written);
            found
        })
    }

    /// A start has found this. An error when something durable is missing.
    pub(crate) fn recovered(&mut self, recovered: &Recovered) -> Result<(), Lost> {
        let mut possible = vec![self.log.clone()];
        for written in &self.in_flight {
            let mut next = possible[possible.len() - 1].clone();
            next.apply(written);
            possible.push(next);
        }
        let Some(found) = possible.into_iter().rev().find(|log| log.is(recovered)) else {
            let last = recovered.entries.last().map(|entry| entry.index);
            let what = format!(
                "the disk returns a log to {last:?} after snapshot {:?}, and not what was durable: to {}, {} writes in flight; its hard state is {}",
                recovered.snapshot.as_ref().map(|meta| meta.index),
                self.log.last(),
                self.in_flight.len(),
                match recovered.hard_state == self.log.hard_state {
                    true => "the last",
                    false if recovered.hard_state == self.hard_state_before => "the one before",
                    false => "an older one",
                }
            );
            let last_only = self.misses_last_only(recovered);
            return Err(Lost { what, last_only });
        };
        self.log = found;
        self.in_flight.clear();
        if recovered.entries.is_empty()
            && let Some(meta) = &recovered.snapshot
        {
            // The log starts again after it.
            self.log.entries.clear();
            self.log.base = meta.index.0;
        }
        Ok(())
    }

    /// What is durable at this place of the log. `None` in it: all that is known is
    /// that a snapshot covers it.
    fn at(&self, index: u64) -> Option<Option<Content>> {
        match self.log.entries.get(&index) {
            Some(content) => Some(Some(*content)),
            None => (index <= self.log.base).then_some(None),
        }
    }
}

/// Whether a quorum of disks holds the same at this place.
pub(crate) fn quorum_holds<'a>(
    disks: impl Iterator<Item = &'a Durable>,
    quorum: usize,
    index: u64,
) -> bool {
    let entries: Vec<_> = disks.filter_map(|disk| disk.at(index)).collect();
    entries.iter().any(|one| {
        let same = entries
            .iter()
            .filter(|other| other.is_none() || one.is_none() || *other == one);
        same.count() >= quorum
    })
}
