//! What must hold.

use std::collections::BTreeSet;

use bytes::Bytes;
use consensus::Index;
use partitions::replication::{Outcome, Position, Proposal, Record, Trust};

use crate::world::{Violation, World};

/// The records after `predecessor` up to `through`.
pub(crate) fn read(log: &[Record], predecessor: Position, through: Index) -> Vec<Record> {
    let from = usize::try_from(predecessor.index.0).unwrap_or(usize::MAX);
    let through = usize::try_from(through.0).unwrap_or(usize::MAX);
    log.get(from..through.min(log.len()))
        .unwrap_or_default()
        .to_vec()
}

impl World {
    /// At one position there is one record, anywhere and for ever.
    pub(crate) fn check_record(&mut self, record: Record) -> Result<(), Violation> {
        let contents = (record.body, record.first_offset);
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
        let through = usize::try_from(through.0).unwrap_or(usize::MAX);
        let node = &self.nodes[at];
        let Some(log) = node.log.get(..through) else {
            return Err(format!("{:?} commits what it does not have", node.id));
        };
        let common = self.committed.len().min(through);
        if let Some(at) = (0..common).find(|&at| log[at] != self.committed[at]) {
            let (was, is) = (self.committed[at].position, log[at].position);
            return Err(format!("{was} was committed, {is} is in its place"));
        }
        let new: Vec<Record> = log[common..].to_vec();
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
            self.committed.push(record);
            self.committed_by.push(epoch);
            self.counts.committed += 1;
        }
        Ok(())
    }

    pub(crate) fn check_reply(&mut self, request: u64, outcome: Outcome) -> Result<(), Violation> {
        match outcome {
            Outcome::Appended { first_offset } => {
                let batch = Bytes::copy_from_slice(&request.to_le_bytes());
                if self.visible.get(&first_offset) != Some(&batch) {
                    return Err(format!("request {request} is acknowledged, not committed"));
                }
                if self.acknowledged.insert(request, first_offset).is_some() {
                    return Err(format!("request {request} is answered twice"));
                }
            }
            Outcome::Unknown => self.counts.unknown += 1,
            Outcome::Refused(_) => {
                let batch = request.to_le_bytes();
                if self.records.values().any(|(known, _)| known[..] == batch) {
                    return Err(format!("request {request} is refused, but stored"));
                }
            }
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
        if node.epoch_led == Some(epoch) {
            return Ok(());
        }
        node.epoch_led = Some(epoch);
        let who = (node.id, node.registration);
        if *self.started.entry(epoch).or_insert(who) != who {
            return Err(format!("epoch {epoch} starts twice"));
        }
        let common = self
            .committed
            .iter()
            .zip(&node.log)
            .take_while(|(committed, record)| committed == record)
            .count();
        // A leader that the metadata has replaced may still start: it commits nothing.
        let by_former = self.committed_by.get(common).is_some_and(|by| *by < epoch);
        if !by_former {
            return Ok(());
        }
        let lost = self.committed[common].position;
        if !assignment.is_recovery() {
            return Err(format!("{:?} starts epoch {epoch} without {lost}", node.id));
        }
        // Outside the promise: the newest may be missing, and everything else continues.
        self.committed.truncate(common);
        self.committed_by.truncate(common);
        Ok(())
    }
}
