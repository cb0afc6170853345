//! The owner of each partition, as a cluster of a thousand nodes would keep it.
//!
//! ```text
//! command: kind u32 | a u32 | b u32          reply: partitions that moved, u32
//! 0: a nodes and b partitions    1: partition a to node b    2: nodes a..b live
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use bytes::Bytes;
use consensus::{ApplyContext, FrozenState, RestoreError, StateMachine, UnknownCommand};

pub(crate) const COMMAND_BYTES: usize = 12;

/// A command of the ownership machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OwnershipCommand {
    /// Starts with this many nodes, all live, and this many partitions.
    Create { nodes: u32, partitions: u32 },
    /// Assigns one partition to a node.
    Move { partition: u32, node: u32 },
    /// Only these nodes are live: distributes all partitions evenly over them, and
    /// leaves as many as possible where they are.
    Rebalance { from: u32, to: u32 },
}

impl OwnershipCommand {
    pub(crate) fn encode(self) -> [u8; COMMAND_BYTES] {
        let (kind, a, b) = match self {
            Self::Create { nodes, partitions } => (0_u32, nodes, partitions),
            Self::Move { partition, node } => (1, partition, node),
            Self::Rebalance { from, to } => (2, from, to),
        };
        let mut encoded = [0; COMMAND_BYTES];
        encoded[..4].copy_from_slice(&kind.to_le_bytes());
        encoded[4..8].copy_from_slice(&a.to_le_bytes());
        encoded[8..].copy_from_slice(&b.to_le_bytes());
        encoded
    }

    fn decode(encoded: &[u8]) -> Option<Self> {
        let [kind, a, b] = *words(encoded)?.as_array()?;
        match kind {
            0 => Some(Self::Create {
                nodes: a,
                partitions: b,
            }),
            1 => Some(Self::Move {
                partition: a,
                node: b,
            }),
            2 => Some(Self::Rebalance { from: a, to: b }),
            _ => None,
        }
    }
}

fn words(encoded: &[u8]) -> Option<Vec<u32>> {
    let (words, rest) = encoded.as_chunks::<4>();
    let words = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    rest.is_empty().then_some(words)
}

/// The owner of every partition, and how often it has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ownership {
    nodes: u32,
    owners: Vec<u32>,
    epochs: Vec<u32>,
}

impl Ownership {
    fn assign(&mut self, partition: usize, node: u32) {
        self.owners[partition] = node;
        self.epochs[partition] += 1;
    }

    fn rebalance(&mut self, from: u32, to: u32) -> u32 {
        let live: BTreeSet<u32> = (from..to.min(self.nodes)).collect();
        if live.is_empty() {
            return 0;
        }
        let most = self.owners.len().div_ceil(live.len());
        let mut owned = vec![0_usize; self.nodes as usize];
        let mut unassigned = Vec::new();
        for (partition, owner) in self.owners.iter().enumerate() {
            let count = &mut owned[*owner as usize];
            match live.contains(owner) && *count < most {
                true => *count += 1,
                false => unassigned.push(partition),
            }
        }
        let mut least: BinaryHeap<_> = live
            .iter()
            .map(|node| Reverse((owned[*node as usize], *node)))
            .collect();
        for partition in &unassigned {
            if let Some(mut first) = least.peek_mut() {
                let node = first.0.1;
                first.0.0 += 1;
                drop(first);
                self.assign(*partition, node);
            }
        }
        unassigned.len() as u32
    }
}

impl StateMachine for Ownership {
    fn apply(&mut self, _context: ApplyContext, command: &[u8]) -> Result<Bytes, UnknownCommand> {
        let moved = match OwnershipCommand::decode(command) {
            Some(OwnershipCommand::Create { nodes, partitions }) => {
                *self = Self {
                    nodes,
                    owners: (0..partitions).map(|n| n % nodes.max(1)).collect(),
                    epochs: vec![0; partitions as usize],
                };
                partitions
            }
            Some(OwnershipCommand::Move { partition, node })
                if (partition as usize) < self.owners.len() =>
            {
                self.assign(partition as usize, node);
                1
            }
            Some(OwnershipCommand::Rebalance { from, to }) => self.rebalance(from, to),
            _ => 0,
        };
        Ok(Bytes::copy_from_slice(&moved.to_le_bytes()))
    }

    fn freeze(&self) -> Box<dyn FrozenState> {
        Box::new(self.clone())
    }

    fn restore(&mut self, encoded: &[u8]) -> Result<(), RestoreError> {
        let malformed = || RestoreError::Malformed("not a table of owners".into());
        let words = words(encoded).ok_or_else(malformed)?;
        let (nodes, table) = words.split_first().ok_or_else(malformed)?;
        let (owners, epochs) = table.split_at(table.len() / 2);
        *self = Self {
            nodes: *nodes,
            owners: owners.to_vec(),
            epochs: epochs.to_vec(),
        };
        Ok(())
    }
}

impl FrozenState for Ownership {
    fn encode(&self) -> Vec<u8> {
        let words = std::iter::once(&self.nodes).chain(&self.owners);
        let words = words.chain(&self.epochs);
        words.flat_map(|word| word.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use consensus::Index;

    use super::*;

    fn apply(machine: &mut Ownership, command: OwnershipCommand) -> u32 {
        let context = ApplyContext {
            index: Index(1),
            position: 0,
            timestamp_micros: 0,
        };
        let reply = machine.apply(context, &command.encode()).expect("known");
        u32::from_le_bytes(reply[..].try_into().expect("four bytes"))
    }

    #[test]
    fn partitions_are_distributed_evenly_and_few_move() {
        let mut machine = Ownership::default();
        let (nodes, partitions) = (1_000, 10_000);
        apply(&mut machine, OwnershipCommand::Create { nodes, partitions });
        // Half of the nodes die: their partitions move, and no others.
        let half = OwnershipCommand::Rebalance { from: 0, to: 500 };
        assert_eq!(apply(&mut machine, half), 5_000);
        assert!(machine.owners.iter().all(|owner| *owner < 500));
        // They return: each receives its share.
        let all = OwnershipCommand::Rebalance { from: 0, to: 1_000 };
        assert_eq!(apply(&mut machine, all), 5_000);
        for node in 0..nodes {
            let owned = machine.owners.iter().filter(|owner| **owner == node);
            assert_eq!(owned.count(), 10, "node {node}");
        }
        assert_eq!(apply(&mut machine, all), 0);
        let mut other = Ownership::default();
        let encoded = machine.freeze().encode();
        other.restore(&encoded).expect("it is a table");
        assert_eq!(other, machine);
    }
}
