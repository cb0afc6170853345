//! What must hold.

use std::collections::BTreeSet;
use std::time::Duration;

use consensus::Index;
use partitions::replication::{
    OffsetChange, Outcome, Proposal, Record, Refusal, Start, TableChange, TableWrite, Trust,
};
use partitions::{RecordFlags, Tag};

use crate::clients::Attempt;
use crate::faults::apply;
use crate::world::{Node, Violation, World};

fn number_of(index: Index) -> usize {
    usize::try_from(index.0).unwrap_or(usize::MAX)
}

impl World {
    /// A segment grows only while it is smaller than it may become.
    pub(crate) fn wrong_segment(&self, log: &[Record]) -> Option<String> {
        let mut before = 0;
        for record in log {
            if record.flags.contains(RecordFlags::STARTS_SEGMENT) {
                before = 0;
            } else if before >= self.settings.segment_bytes_max {
                return Some(format!("{} does not start a segment", record.position));
            }
            before += record.bytes() as u64;
        }
        let times = log.windows(2);
        let mut back = times.filter(|two| two[0].timestamp > two[1].timestamp);
        let first = back.next()?;
        Some(format!("the time goes back at {}", first[1].position))
    }

    /// At one position there is one record, anywhere and for ever.
    pub(crate) fn check_record(&mut self, record: Record) -> Result<(), Violation> {
        let contents = (record.header, record.body);
        let known = self
            .records
            .entry(record.position)
            .or_insert(contents.clone());
        if *known != contents {
            return Err(format!("two records at {}", record.position));
        }
        Ok(())
    }

    /// What is committed stays: every leader's committed log continues the others'.
    pub(crate) fn check_commit(&mut self, at: usize, through: Index) -> Result<(), Violation> {
        let node = &self.nodes[at];
        if node.log.end() < through {
            return Err(format!("{:?} commits what it does not have", node.id));
        }
        let base = number_of(node.log.start.base.index);
        let records = node.log.between(Index(0), through);
        let known = self.committed.iter().skip(base);
        let mut pairs = known.zip(records);
        if let Some((was, is)) = pairs.find(|(was, is)| was != is) {
            let (was, is) = (was.position, is.position);
            return Err(format!("{was} was committed, {is} is in its place"));
        }
        let end = Index(self.committed.len() as u64);
        let new: Vec<Record> = node.log.between(end, through).to_vec();
        let by = node
            .replica
            .as_ref()
            .map(|replica| replica.assignment().epoch);
        let epoch = by.unwrap_or_default();
        let assignment = self.metadata.latest();
        let min_in_sync = assignment.min_in_sync;
        for record in new {
            let copies = self.had.get(&record.position).map_or(0, BTreeSet::len);
            if copies < min_in_sync {
                let position = record.position;
                return Err(format!("{position} is committed on {copies} copies"));
            }
            for offset in record.first_offset..record.next_offset() {
                let visible = self.visible.entry(offset).or_insert(record.body.clone());
                if *visible != record.body {
                    return Err(format!("offset {offset} names two messages"));
                }
            }
            if let Some(tag) = record.tag {
                let index = record.position.index;
                if *self.tags.entry(tag).or_insert(index) != index {
                    return Err(format!("{tag:?} is stored twice"));
                }
            }
            self.committed.push(record);
            self.committed_by.push(epoch);
            self.counts.committed += 1;
        }
        Ok(())
    }

    /// The answer to a request: the only one, and a true one.
    pub(crate) fn answered(
        &mut self,
        at: usize,
        request: u64,
        outcome: Outcome,
    ) -> Result<(), Violation> {
        if !self.nodes[at].open.remove(&request) {
            return Err(format!("request {request} is answered twice"));
        }
        let Some(attempt) = self.attempts.remove(&request) else {
            return Ok(());
        };
        match attempt {
            Attempt::Append { logical, client } => self.check_append(logical, client, outcome),
            Attempt::Offset {
                consumer, number, ..
            } => {
                if let Some(version) = self.offset_versions.get(&(consumer, number))
                    && outcome == Outcome::Stored
                {
                    self.counts.offsets += 1;
                    let last = self.offsets.entry(consumer).or_default();
                    *last = (*last).max(*version);
                }
                Ok(())
            }
            Attempt::Read => match outcome {
                Outcome::Readable { .. } | Outcome::Offset(_) => {
                    self.counts.reads += 1;
                    self.check_fresh(at)
                }
                _ => Ok(()),
            },
            Attempt::MoveStart => Ok(()),
        }
    }

    fn check_append(
        &mut self,
        logical: u64,
        client: Option<usize>,
        outcome: Outcome,
    ) -> Result<(), Violation> {
        match outcome {
            Outcome::Appended { first_offset } => {
                if self.visible.get(&first_offset) != self.bodies.get(&logical) {
                    return Err(format!("request {logical} is acknowledged, not committed"));
                }
                if let Some(before) = self.acknowledged.insert(logical, first_offset) {
                    self.counts.repetitions += 1;
                    if before != first_offset {
                        return Err(format!("request {logical} has two offsets"));
                    }
                }
            }
            Outcome::Unknown => self.counts.unknown += 1,
            Outcome::Refused(Refusal::OlderRequest) => {}
            Outcome::Refused(_) => {
                let body = self.bodies.get(&logical);
                let stored = self.records.values().any(|(_, known)| Some(known) == body);
                if client.is_none() && stored && !self.tags_contain(logical) {
                    return Err(format!("request {logical} is refused, but stored"));
                }
                return Ok(());
            }
            other => return Err(format!("{other:?} answers a batch")),
        }
        let gives_up = outcome != Outcome::Unknown || self.random.chance(300);
        if let Some(client) = client.filter(|_| gives_up) {
            self.is_done(client);
        }
        Ok(())
    }

    /// Whether the request has a tag: it may have been stored by another attempt.
    fn tags_contain(&self, logical: u64) -> bool {
        self.tagged.contains(&logical)
    }

    /// What is served lacks nothing that was committed 200 ms ago.
    pub(crate) fn check_fresh(&self, at: usize) -> Result<(), Violation> {
        let node = &self.nodes[at];
        let Some(replica) = &node.replica else {
            return Ok(());
        };
        let since = self.now.saturating_sub(Duration::from_millis(200));
        let then = self.commits.iter().rev().find(|(at, _)| *at <= since);
        let committed = then.map_or(0, |(_, committed)| *committed);
        if number_of(replica.commit()) < committed.min(self.committed.len()) {
            let commit = replica.commit();
            return Err(format!(
                "{:?} serves up to {commit} of {committed}",
                node.id
            ));
        }
        Ok(())
    }

    /// A copy that counts is not replaced by what starts later.
    pub(crate) fn check_reset(&self, at: usize) -> Result<(), Violation> {
        let node = &self.nodes[at];
        let assignment = self.metadata.latest();
        let counts = assignment.is_in_sync(node.id) && node.disk.trust == Trust::Trusted;
        let excused = assignment.recovery.is_some();
        if counts && !excused {
            return Err(format!("{:?} counts, and starts elsewhere", node.id));
        }
        Ok(())
    }

    /// A version of the table is one for ever, and changes as clients requested it.
    pub(crate) fn check_table(&mut self, at: usize, write: TableWrite) -> Result<(), Violation> {
        let node = &mut self.nodes[at];
        if let TableWrite::Change { at, change } = &write
            && let TableChange::Consumer {
                consumer,
                offset,
                tag: Some(tag),
            } = change
        {
            let before = node.table.entries.get(consumer);
            if let Some(last) = before.and_then(|before| before.tag)
                && last.request > tag.request
            {
                return Err(format!("{tag:?} follows {last:?}"));
            }
            let lowers = |attempt: &Attempt| match attempt {
                Attempt::Offset { change, number, .. } => {
                    *number == tag.request && !matches!(change, OffsetChange::Advance(_))
                }
                _ => false,
            };
            let was = before.and_then(|before| before.offset);
            let leads = node.replica.as_ref().is_some_and(|replica| replica.leads());
            if leads && was > *offset && !self.attempts.values().any(lowers) {
                return Err(format!("an offset goes back from {was:?} to {offset:?}"));
            }
            let key = (*consumer, tag.request);
            self.offset_versions.insert(key, *at);
        }
        if let TableWrite::Change {
            change: TableChange::Start(start),
            ..
        } = &write
            && start.first_offset < node.table.start.first_offset
        {
            return Err(format!("the start goes back to {start:?}"));
        }
        apply(&mut node.table, write);
        let known = self.tables.entry(node.table.at);
        let known = known.or_insert_with(|| node.table.clone());
        if *known != node.table {
            return Err(format!("two tables at {:?}", node.table.at));
        }
        Ok(())
    }

    /// What is removed is on every copy that counts.
    pub(crate) fn check_trim(&mut self, start: Start) -> Result<(), Violation> {
        let assignment = self.metadata.latest();
        let counts = |node: &&Node| {
            assignment.is_in_sync(node.id)
                && node.disk.trust == Trust::Trusted
                && assignment.recovery.is_none()
        };
        for node in self.nodes.iter().filter(counts) {
            if node.disk.log.end() < start.base.index {
                return Err(format!("{:?} lacks what is removed", node.id));
            }
        }
        if start.first_offset > self.start.first_offset {
            self.start = start;
        }
        Ok(())
    }

    /// The table of a new leader has every change that was acknowledged.
    fn check_table_of_leader(&mut self, at: usize) -> Result<(), Violation> {
        let node = &self.nodes[at];
        let assignment = self.metadata.latest();
        let in_sync = |node: &&Node| assignment.is_in_sync(node.id);
        let trusted = |node: &&Node| node.disk.table_trust == Trust::Trusted;
        let trusted = self.nodes.iter().filter(in_sync).filter(trusted).count();
        let excused = trusted < assignment.election_quorum() || assignment.recovery.is_some();
        let mut missing = Vec::new();
        for (consumer, version) in &self.offsets {
            let entry = node.table.entries.get(consumer);
            let tag = entry.and_then(|entry| entry.tag);
            let key = |tag: Tag| (*consumer, tag.request);
            let has = tag.and_then(|tag| self.offset_versions.get(&key(tag)));
            if has.is_none_or(|has| has < version) {
                missing.push(*consumer);
            }
        }
        let back = node.table.start.first_offset < self.start.first_offset;
        if !excused && (back || !missing.is_empty()) {
            return Err(format!("{:?} starts without {missing:?}", node.id));
        }
        if back {
            self.start = node.table.start;
        }
        for consumer in missing {
            self.offsets.remove(&consumer);
        }
        Ok(())
    }

    pub(crate) fn check_proposal(&self, proposal: &Proposal) -> Result<(), Violation> {
        match proposal {
            Proposal::AlterInSync { in_sync, .. } => {
                let min = self.metadata.latest().min_in_sync;
                if in_sync.len() < min {
                    return Err(format!("{in_sync:?} is proposed, {min} are the minimum"));
                }
            }
            Proposal::Move { .. } => {}
            Proposal::Recover { epoch, .. } => {
                let assignment = self.metadata.latest();
                if assignment.epoch != *epoch {
                    return Ok(());
                }
                let trusted = self.nodes.iter().filter(|node| {
                    assignment.is_in_sync(node.id) && node.disk.trust == Trust::Trusted
                });
                // Their disks say more than their answers: a node that is down may be probed
                // later.
                if trusted.count() >= assignment.election_quorum() {
                    return Err("a recovery although enough copies are trusted".to_owned());
                }
            }
        }
        Ok(())
    }

    /// One node starts an epoch, and with everything that is committed.
    pub(crate) fn check_leader(&mut self, at: usize) -> Result<(), Violation> {
        let node = &mut self.nodes[at];
        let Some(replica) = node.replica.as_ref().filter(|replica| replica.leads()) else {
            return Ok(());
        };
        let assignment = replica.assignment();
        let epoch = assignment.epoch;
        let forced = assignment.recovery.is_some_and(|it| it.is_forced());
        let recovers = assignment.is_recovery() || forced;
        let latest = epoch == self.metadata.latest().epoch;
        if node.epoch_led == Some(epoch) {
            return Ok(());
        }
        node.epoch_led = Some(epoch);
        let who = (node.id, node.registration);
        if *self.started.entry(epoch).or_insert(who) != who {
            return Err(format!("epoch {epoch} starts twice"));
        }
        let base = number_of(node.log.start.base.index);
        let records = node.log.between(Index(0), node.log.end());
        let committed = self.committed.iter().skip(base).zip(records);
        let common = base + committed.take_while(|(was, is)| was == is).count();
        // A leader that the metadata has replaced may still start: it commits nothing.
        let by_former = self.committed_by.get(common).is_some_and(|by| *by < epoch);
        if latest {
            self.check_table_of_leader(at)?;
        }
        if !by_former {
            return Ok(());
        }
        let lost = self.committed[common].position;
        if !recovers {
            let id = self.nodes[at].id;
            return Err(format!("{id:?} starts epoch {epoch} without {lost}"));
        }
        // Outside the promise: the newest may be missing, and everything else continues.
        for record in self.committed.drain(common..) {
            if let Some(tag) = record.tag {
                self.tags.remove(&tag);
            }
        }
        self.committed_by.truncate(common);
        Ok(())
    }
}
