//! What goes wrong, and what a disk does when it does not.

use consensus::{Index, rule};
use partitions::Durability;
use partitions::replication::{Event, OffsetTable, Record, TableWrite, Trust};

use crate::metadata::Command;
use crate::world::{Disk, Node, Operation, Violation, World};

impl World {
    pub(crate) fn break_something(&mut self) {
        let faults = self.faults;
        let node = self.random.below(self.nodes.len());
        if self.random.chance(faults.kill) {
            self.kill(node);
        }
        if self.random.chance(faults.power) {
            self.power_loss(node);
        }
        if self.random.chance(faults.power_all) {
            for node in 0..self.nodes.len() {
                self.power_loss(node);
            }
        }
        if self.random.chance(faults.lose_disk) {
            self.kill(node);
            let trust = if rule!(LostDiskUntrusted) {
                Trust::Lost
            } else {
                Trust::Trusted
            };
            self.nodes[node].disk = Disk::empty(trust);
        }
        if self.random.chance(faults.hang) {
            self.nodes[node].disk.hangs = true;
        }
        if self.random.chance(20) {
            self.nodes[node].disk.hangs = false;
        }
        if self.nodes[node].disk.failed && self.random.chance(30) {
            self.kill(node);
        }
        let other = self.random.below(self.nodes.len());
        if self.random.chance(faults.cut) {
            self.cut.push((node, other));
            self.counts.cuts += 1;
        }
        if self.random.chance(faults.isolate) {
            let pairs = (0..self.nodes.len()).flat_map(|other| [(node, other), (other, node)]);
            self.cut.extend(pairs);
        }
        if self.random.chance(30) && !self.cut.is_empty() {
            let heal = self.random.below(self.nodes.len());
            self.cut.retain(|&(from, to)| from != heal && to != heal);
        }
        if self.random.chance(faults.reconnect) {
            self.reconnect(node, other);
        }
        let dead = !self.nodes[node].up && self.random.chance(40);
        if dead || self.random.chance(faults.false_down) {
            let id = self.nodes[node].id;
            let member = self.metadata.latest().members[&id];
            self.commands.push(Command::Down {
                node: id,
                registration: member.registration,
            });
        }
    }

    pub(crate) fn kill(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.up = false;
        node.replica = None;
        node.epoch_led = None;
        node.disk.operations.clear();
        node.disk.failed = false;
        node.ready.clear();
        node.open.clear();
        node.kept = None;
        node.trim = None;
    }

    pub(crate) fn power_loss(&mut self, node: usize) {
        self.kill(node);
        let durability = self.metadata.latest().durability;
        let disk = &mut self.nodes[node].disk;
        let end = disk.log.end().0;
        let lost = usize::try_from(end.saturating_sub(disk.synced.0)).unwrap_or(0);
        let keep = Index(end - self.random.below(lost + 1) as u64);
        disk.log.truncate(keep);
        disk.synced = disk.synced.min(keep);
        let trust = if rule!(PowerLossUntrusted) {
            Trust::TailLost
        } else {
            Trust::Trusted
        };
        if durability == Durability::Written && disk.trust == Trust::Trusted {
            disk.trust = trust;
        }
        if self.offset_durability == Durability::Written {
            disk.table = disk.table_synced.clone();
            disk.table_trust = disk.table_trust.max(trust);
        }
    }

    pub(crate) fn reconnect(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        for (from, to) in [(a, b), (b, a)] {
            self.links.remove(&(from, to));
            let peer = self.nodes[from].id;
            // What it leads to is polled with the next input.
            if let Some(replica) = &mut self.nodes[to].replica {
                replica.handle(self.now, Event::Reconnected { peer });
            }
        }
    }

    pub(crate) fn finish_operation(&mut self, at: usize) -> Result<(), Violation> {
        let Node { disk, id, .. } = &mut self.nodes[at];
        if disk.hangs || disk.failed {
            return Ok(());
        }
        let durability = self.metadata.latest().durability;
        let mut had = |records: &[Record]| {
            for record in records {
                self.had.entry(record.position).or_default().insert(*id);
            }
        };
        let Some((ticket, operation)) = disk.operations.pop_front() else {
            return Ok(());
        };
        if self.random.chance(self.faults.fail) {
            // Whatever follows is refused as well.
            disk.failed = true;
            disk.operations.clear();
            self.counts.failed += 1;
            return self.input(at, Event::Failed { ticket });
        }
        match operation {
            Operation::Write(records, kept) => {
                if durability == Durability::Written {
                    had(&records);
                }
                disk.log.write(records, kept);
            }
            Operation::Truncate(end) => {
                disk.log.truncate(end);
                disk.synced = disk.synced.min(end);
                disk.commit = disk.commit.min(end);
            }
            Operation::Reset(start, kept) => {
                disk.log.reset(start, kept);
                disk.synced = start.base.index;
                disk.commit = start.base.index;
            }
            Operation::Sync => {
                had(disk.log.between(disk.synced, disk.log.end()));
                disk.synced = disk.log.end();
                disk.table_synced = disk.table.clone();
            }
            Operation::Table(write) => {
                apply(&mut disk.table, write);
                if self.offset_durability == Durability::Synced {
                    disk.table_synced = disk.table.clone();
                }
            }
            Operation::Adopt(epoch) => disk.adopted = disk.adopted.max(epoch),
        }
        self.input(at, Event::Done { ticket })
    }

    /// The storage removes segments that it may remove.
    pub(crate) fn trim(&mut self, at: usize) -> Result<(), Violation> {
        let node = &mut self.nodes[at];
        let Some(start) = node.trim.filter(|_| node.replica.is_some()) else {
            return Ok(());
        };
        // What is not written yet is not removed.
        let written = node.disk.operations.iter().all(|(_, it)| !changes_log(it));
        if !written || node.disk.failed || !node.disk.log.trim(start) {
            return Ok(());
        }
        node.trim = None;
        node.log.trim(start);
        node.disk.synced = node.disk.synced.max(start.base.index);
        self.counts.trims += 1;
        self.input(at, Event::Trimmed { start })
    }
}

fn changes_log(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Write(..) | Operation::Truncate(_) | Operation::Reset(..)
    )
}

pub(crate) fn apply(table: &mut OffsetTable, write: TableWrite) {
    match write {
        TableWrite::Whole(whole) => *table = whole,
        TableWrite::Change { at, change } => table.apply(at, change),
    }
}
