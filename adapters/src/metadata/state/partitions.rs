//! The partitions of a topic.
//!
//! They are in chunks that are shared copy-on-write: a frozen copy of the state costs two
//! pointers per chunk, and what a change of leaders copies is 12 bytes per partition, not
//! what stays the same.

use std::sync::Arc;

use consensus::ReplicaId;

use crate::metadata::replicas::Replicas;

/// Partitions of a chunk, but for the last.
const CHUNK: usize = 1024;
/// No node has this id.
const NO_NODE: u16 = 0;

/// A partition, at one position of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Identifies the command that created it, or last purged it: the index of the log
    /// entry and, in the bits above, the position of the command in that entry.
    pub generation: u64,
    /// When it was created, in microseconds since the Unix epoch.
    pub created_at: u64,
    /// The nodes with a copy.
    pub replicas: Replicas,
    /// Who leads, and which copies count.
    pub leadership: Leadership,
}

/// Who leads a partition, and which copies count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// Rises with every change of the leader, or of the leader's registration.
    pub epoch: u32,
    /// Rises with every change of the leader, of the copies and of those in sync.
    pub version: u32,
    /// The leader's id.
    leader: u16,
    /// One bit for each copy, in the order of preference.
    in_sync: u8,
}

impl Leadership {
    /// The node that leads.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        (self.leader != NO_NODE).then_some(ReplicaId(u64::from(self.leader)))
    }

    /// The next version, in which these copies are in sync.
    pub(in crate::metadata) fn set_in_sync(&mut self, in_sync: u8) {
        self.version = self.version.saturating_add(1);
        self.in_sync = in_sync;
    }

    /// The next version, in which nothing else changes.
    pub(in crate::metadata) fn keep_in_sync(&mut self) {
        self.set_in_sync(self.in_sync);
    }

    /// The next epoch, with this leader.
    pub(in crate::metadata) fn start_epoch(&mut self, leader: Option<ReplicaId>) {
        self.epoch = self.epoch.saturating_add(1);
        self.version = self.version.saturating_add(1);
        self.leader = leader.map_or(NO_NODE, |node| node.0 as u16);
    }

    /// One bit for each copy that is in sync, in the order of preference.
    pub(in crate::metadata) fn in_sync_bits(&self) -> u8 {
        self.in_sync
    }
}

impl Partition {
    /// A new partition of which every copy is in sync.
    pub(in crate::metadata) fn new(
        replicas: Replicas,
        leader: Option<ReplicaId>,
        generation: u64,
        created_at: u64,
    ) -> Self {
        let in_sync = all_in_sync(&replicas);
        Self::restored(
            replicas,
            Restored {
                generation,
                created_at,
                epoch: 1,
                version: 1,
                leader,
                in_sync,
            },
        )
    }

    /// A partition as it was stored.
    pub(in crate::metadata) fn restored(replicas: Replicas, stored: Restored) -> Self {
        Self {
            generation: stored.generation,
            created_at: stored.created_at,
            replicas,
            leadership: Leadership {
                epoch: stored.epoch,
                version: stored.version,
                leader: stored.leader.map_or(NO_NODE, |node| node.0 as u16),
                in_sync: stored.in_sync,
            },
        }
    }

    /// Some copy is in sync, only existing ones are, and the leader is one of them.
    pub(in crate::metadata) fn is_sound(&self) -> bool {
        let in_sync = self.leadership.in_sync;
        let leader = self.leader();
        in_sync != 0
            && in_sync & !all_in_sync(&self.replicas) == 0
            && leader.is_none_or(|leader| self.is_in_sync(leader))
    }

    /// The node that leads it; none when no copy that is in sync is on a live node.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        self.leadership.leader()
    }

    /// The node that serves it, or would: its leader, or else the preferred one.
    #[must_use]
    pub fn owner(&self) -> ReplicaId {
        self.leader().unwrap_or_else(|| self.replicas.preferred())
    }

    /// The nodes whose copies are in sync, in the order of preference.
    pub fn in_sync(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let bits = self.leadership.in_sync;
        let copies = self.replicas.iter().enumerate();
        copies
            .filter(move |(position, _)| bits & (1 << position) != 0)
            .map(|(_, node)| node)
    }

    /// Whether the node's copy is in sync.
    #[must_use]
    pub fn is_in_sync(&self, node: ReplicaId) -> bool {
        let position = self.replicas.position(node);
        position.is_some_and(|position| self.leadership.in_sync & (1 << position) != 0)
    }
}

/// What is stored of a partition beside its copies.
#[derive(Clone, Copy)]
pub(in crate::metadata) struct Restored {
    pub(in crate::metadata) generation: u64,
    pub(in crate::metadata) created_at: u64,
    pub(in crate::metadata) epoch: u32,
    pub(in crate::metadata) version: u32,
    pub(in crate::metadata) leader: Option<ReplicaId>,
    pub(in crate::metadata) in_sync: u8,
}

/// The bits of all these copies.
pub(in crate::metadata) fn all_in_sync(replicas: &Replicas) -> u8 {
    (1 << replicas.len()) - 1
}

/// What rarely changes of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    generation: u64,
    created_at: u64,
    replicas: Replicas,
}

impl Place {
    fn with(&self, leadership: Leadership) -> Partition {
        Partition {
            generation: self.generation,
            created_at: self.created_at,
            replicas: self.replicas,
            leadership,
        }
    }
}

/// Neighbours. Both lists have the same length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chunk {
    places: Arc<Vec<Place>>,
    leaderships: Arc<Vec<Leadership>>,
}

impl Chunk {
    fn get(&self, at: usize) -> Option<Partition> {
        Some(self.places.get(at)?.with(*self.leaderships.get(at)?))
    }
}

/// The partitions of a topic, by id, without gaps from zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partitions {
    /// All full but the last, which is not empty.
    chunks: Vec<Chunk>,
}

impl Partitions {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let last = self.chunks.last();
        last.map_or(0, |last| {
            (self.chunks.len() - 1) * CHUNK + last.places.len()
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The partition with this id.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<Partition> {
        let id = id as usize;
        self.chunks.get(id / CHUNK)?.get(id % CHUNK)
    }

    /// All of them.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter {
            partitions: self,
            ids: 0..self.len() as u32,
        }
    }

    pub(in crate::metadata) fn push(&mut self, partition: Partition) {
        let full = self.len().is_multiple_of(CHUNK);
        if full {
            self.chunks.push(Chunk::default());
        }
        if let Some(last) = self.chunks.last_mut() {
            let place = Place {
                generation: partition.generation,
                created_at: partition.created_at,
                replicas: partition.replicas,
            };
            Arc::make_mut(&mut last.places).push(place);
            Arc::make_mut(&mut last.leaderships).push(partition.leadership);
        }
    }

    /// Removes all but the first ones.
    pub(in crate::metadata) fn truncate(&mut self, keep: usize) {
        self.chunks.truncate(keep.div_ceil(CHUNK));
        let rest = keep % CHUNK;
        if rest > 0
            && keep < self.len()
            && let Some(last) = self.chunks.last_mut()
        {
            Arc::make_mut(&mut last.places).truncate(rest);
            Arc::make_mut(&mut last.leaderships).truncate(rest);
        }
    }

    /// Whether the leadership of one of them has this property.
    pub(in crate::metadata) fn any(&self, has: impl Fn(&Leadership) -> bool) -> bool {
        let mut chunks = self.chunks.iter();
        chunks.any(|chunk| chunk.leaderships.iter().any(&has))
    }

    /// Starts an epoch in those whose leadership is `concerned`, where `next` returns its
    /// leader.
    pub(in crate::metadata) fn change_leaders(
        &mut self,
        concerned: impl Fn(&Leadership) -> bool,
        mut next: impl FnMut(&Partition) -> Option<Option<ReplicaId>>,
    ) {
        for chunk in &mut self.chunks {
            if !chunk.leaderships.iter().any(&concerned) {
                continue;
            }
            let leaderships = Arc::make_mut(&mut chunk.leaderships);
            for (place, leadership) in chunk.places.iter().zip(leaderships) {
                if concerned(leadership)
                    && let Some(leader) = next(&place.with(*leadership))
                {
                    leadership.start_epoch(leader);
                }
            }
        }
    }

    pub(in crate::metadata) fn leadership_mut(&mut self, id: u32) -> Option<&mut Leadership> {
        let id = id as usize;
        let chunk = self.chunks.get_mut(id / CHUNK)?;
        Arc::make_mut(&mut chunk.leaderships).get_mut(id % CHUNK)
    }

    pub(in crate::metadata) fn set_replicas(&mut self, id: u32, replicas: Replicas) {
        let id = id as usize;
        let chunk = self.chunks.get_mut(id / CHUNK);
        let places = chunk.map(|chunk| Arc::make_mut(&mut chunk.places));
        if let Some(place) = places.and_then(|places| places.get_mut(id % CHUNK)) {
            place.replicas = replicas;
        }
    }

    /// Gives all of them this generation.
    pub(in crate::metadata) fn set_generation(&mut self, generation: u64) {
        for chunk in &mut self.chunks {
            for place in Arc::make_mut(&mut chunk.places) {
                place.generation = generation;
            }
        }
    }
}

/// The partitions of a topic in the order of their ids.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    partitions: &'a Partitions,
    ids: std::ops::Range<u32>,
}

impl Iterator for Iter<'_> {
    type Item = Partition;

    fn next(&mut self) -> Option<Partition> {
        self.partitions.get(self.ids.next()?)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ids.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a Partitions {
    type Item = Partition;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl FromIterator<Partition> for Partitions {
    fn from_iter<T: IntoIterator<Item = Partition>>(partitions: T) -> Self {
        let mut collected = Self::default();
        for partition in partitions {
            collected.push(partition);
        }
        collected
    }
}
