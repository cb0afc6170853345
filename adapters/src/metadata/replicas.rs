//! The nodes with a copy of a partition.

use std::fmt;

use consensus::ReplicaId;

use crate::codec::{Malformed, Reader, Result, Writer};

/// The most copies of a partition.
pub const COPIES_MAX: usize = 7;
/// The highest id of a node: the configuration numbers them from 0 to 255.
pub(super) const NODE_ID_MAX: u64 = 256;

/// The nodes with a copy of a partition, the preferred leader first: one to
/// [`COPIES_MAX`], each once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// One less than the ids; zero where there is no node.
    numbers: [u8; COPIES_MAX],
    count: u8,
}

impl Replicas {
    /// Copies on these nodes, in the order of preference. `None` when there is none, more
    /// than [`COPIES_MAX`], one twice, or an id that no node can have.
    #[must_use]
    pub fn new(nodes: &[ReplicaId]) -> Option<Self> {
        if nodes.is_empty() || nodes.len() > COPIES_MAX {
            return None;
        }
        let mut numbers = [0; COPIES_MAX];
        for (position, node) in nodes.iter().enumerate() {
            if nodes[..position].contains(node) {
                return None;
            }
            numbers[position] = number_of(*node)?;
        }
        Some(Self {
            numbers,
            count: nodes.len() as u8,
        })
    }

    /// One copy. `None` when no node can have this id.
    #[must_use]
    pub fn single(node: ReplicaId) -> Option<Self> {
        Self::new(&[node])
    }

    /// How many copies there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// The nodes, in the order of preference.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ReplicaId> + use<> {
        let numbers = self.numbers.into_iter().take(self.len());
        numbers.map(|number| ReplicaId::from_number(u64::from(number)))
    }

    /// The preferred leader.
    #[must_use]
    pub fn preferred(&self) -> ReplicaId {
        ReplicaId::from_number(u64::from(self.numbers[0]))
    }

    /// Whether the node has a copy.
    #[must_use]
    pub fn contains(&self, node: ReplicaId) -> bool {
        self.position(node).is_some()
    }

    /// The node's place in the order of preference.
    pub(super) fn position(&self, node: ReplicaId) -> Option<usize> {
        let number = number_of(node)?;
        let used = &self.numbers[..self.len()];
        used.iter().position(|used| *used == number)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let count = reader.u8()?;
        let nodes: Vec<ReplicaId> = reader
            .take(usize::from(count))?
            .iter()
            .map(|number| ReplicaId::from_number(u64::from(*number)))
            .collect();
        Self::new(&nodes).ok_or(Malformed("no nodes for the copies of a partition"))
    }

    pub(super) fn write(&self, out: &mut impl Writer) {
        out.put_u8(self.count);
        out.put_slice(&self.numbers[..self.len()]);
    }
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn number_of(node: ReplicaId) -> Option<u8> {
    u8::try_from(node.0.checked_sub(1)?).ok()
}

/// Whether a node can have this id.
pub(super) fn is_node_id(node: ReplicaId) -> bool {
    (1..=NODE_ID_MAX).contains(&node.0)
}

/// A set of nodes.
#[derive(Clone, Copy, Default)]
pub(super) struct NodeSet([u64; NODE_ID_MAX as usize / 64]);

impl NodeSet {
    pub(super) fn contains(&self, node: ReplicaId) -> bool {
        let (word, bit) = Self::place(node);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn insert(&mut self, node: ReplicaId) {
        let (word, bit) = Self::place(node);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    /// The nodes, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        (1..=NODE_ID_MAX)
            .map(ReplicaId)
            .filter(|node| self.contains(*node))
    }

    fn place(node: ReplicaId) -> (usize, u64) {
        let number = node.0.wrapping_sub(1);
        ((number / 64) as usize, 1 << (number % 64))
    }
}

impl FromIterator<ReplicaId> for NodeSet {
    fn from_iter<T: IntoIterator<Item = ReplicaId>>(nodes: T) -> Self {
        let mut set = Self::default();
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[u64]) -> Option<Replicas> {
        let nodes: Vec<_> = ids.iter().copied().map(ReplicaId).collect();
        Replicas::new(&nodes)
    }

    #[test]
    fn a_set_has_the_nodes_that_can_be() {
        let ids = [256, 1, 64, 65, 0, 257];
        let set: NodeSet = ids.into_iter().map(ReplicaId).collect();
        let found: Vec<_> = set.iter().map(|node| node.0).collect();
        assert_eq!(found, [1, 64, 65, 256]);
        assert!(!set.contains(ReplicaId(0)) && !set.contains(ReplicaId(2)));
    }

    #[test]
    fn nodes_keep_their_order_and_are_distinct() {
        let replicas = of(&[256, 1, 7]).unwrap();
        let nodes: Vec<_> = replicas.iter().map(|node| node.0).collect();
        assert_eq!((nodes, replicas.len()), (vec![256, 1, 7], 3));
        assert_eq!(replicas.preferred(), ReplicaId(256));
        assert_eq!(replicas.position(ReplicaId(7)), Some(2));
        for absent in [0, 2, 8, 257] {
            assert!(!replicas.contains(ReplicaId(absent)), "{absent}");
        }
        for wrong in [&[][..], &[1, 2, 1], &[0], &[257], &[1, 2, 3, 4, 5, 6, 7, 8]] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }
}
