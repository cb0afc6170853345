//! Which nodes have copies of new partitions.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use consensus::ReplicaId;
use thiserror::Error;

use super::commands::{ClientOperation, Placement};
use super::replicas::Replicas;
use super::state::{MetadataState, Node};

/// Why partitions cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlacementError {
    /// No registered node is live.
    #[error("no registered node is live, so that no node can own new partitions")]
    NoLiveNode,
    /// Copies of a partition are on different nodes.
    #[error(
        "a partition with replication_factor {copies} needs as many nodes, and {nodes} have registered; choose a lower factor, or add nodes"
    )]
    TooFewNodes {
        /// The replication factor.
        copies: usize,
        /// How many nodes have registered.
        nodes: usize,
    },
}

/// What has been proposed for a node and is not part of the state yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Copies of partitions.
    pub copies: u64,
    /// Partitions of which it is the preferred leader.
    pub leads: u64,
}

/// What a node has, including what is in flight.
struct Place {
    node: ReplicaId,
    copies: u64,
    leads: u64,
}

/// How many copies the partitions of a change have.
pub(super) fn copies_of<P>(state: &MetadataState, change: &ClientOperation<P>) -> usize {
    match change {
        ClientOperation::CreateTopic { options, .. } => options.replication_factor(),
        ClientOperation::CreatePartitions { stream, topic, .. } => state
            .topic(stream, topic)
            .map_or(1, |(_, topic)| topic.options.replication_factor()),
        _ => 1,
    }
}

/// Nodes for `count` new partitions with this number of copies each: those with the fewest
/// copies, including those `in_flight`; of several, those with the lowest ids. Nodes that
/// are not live get copies only where there are too few others. Of its nodes, a partition
/// prefers as leader the live one that leads the fewest.
///
/// # Errors
/// When no node is live, or fewer nodes have registered than there are copies.
pub fn place(
    state: &MetadataState,
    in_flight: &BTreeMap<ReplicaId, Load>,
    count: u32,
    copies: usize,
) -> Result<Placement, PlacementError> {
    let too_few = PlacementError::TooFewNodes {
        copies,
        nodes: state.nodes().len(),
    };
    if state.nodes().len() < copies {
        return Err(too_few);
    }
    let mut live = heap(state.nodes().filter(|node| node.live), in_flight);
    let mut others = heap(state.nodes().filter(|node| !node.live), in_flight);
    if live.is_empty() {
        return Err(PlacementError::NoLiveNode);
    }
    let mut leads: BTreeMap<ReplicaId, u64> = state
        .nodes()
        .map(|node| (node.info.node, load(node, in_flight).leads))
        .collect();
    let mut placed = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let mut chosen: Vec<Place> = Vec::with_capacity(copies);
        let from_live = copies.min(live.len());
        take(&mut live, from_live, &leads, &mut chosen);
        let live_chosen = chosen.len();
        take(&mut others, copies - from_live, &leads, &mut chosen);
        let leader = chosen[..live_chosen]
            .iter()
            .enumerate()
            .min_by_key(|(_, place)| (place.leads, place.copies, place.node))
            .map_or(0, |(position, _)| position);
        let nodes = in_preference(&chosen, leader);
        *leads.entry(nodes[0]).or_insert(0) += 1;
        placed.push(Replicas::new(&nodes).ok_or(too_few)?);
        for (position, place) in chosen.into_iter().enumerate() {
            let heap = if position < live_chosen {
                &mut live
            } else {
                &mut others
            };
            heap.push(Reverse((place.copies + 1, place.node)));
        }
    }
    Ok(Placement(placed))
}

type ByCopies = BinaryHeap<Reverse<(u64, ReplicaId)>>;

fn heap<'a>(
    nodes: impl Iterator<Item = &'a Node>,
    in_flight: &BTreeMap<ReplicaId, Load>,
) -> ByCopies {
    nodes
        .map(|node| Reverse((load(node, in_flight).copies, node.info.node)))
        .collect()
}

fn load(node: &Node, in_flight: &BTreeMap<ReplicaId, Load>) -> Load {
    let proposed = in_flight.get(&node.info.node).copied().unwrap_or_default();
    Load {
        copies: node.partitions + proposed.copies,
        leads: node.leads + proposed.leads,
    }
}

fn take(
    from: &mut ByCopies,
    count: usize,
    leads: &BTreeMap<ReplicaId, u64>,
    chosen: &mut Vec<Place>,
) {
    let fewest = std::iter::from_fn(|| from.pop()).take(count);
    chosen.extend(fewest.map(|Reverse((copies, node))| Place {
        node,
        copies,
        leads: leads.get(&node).copied().unwrap_or(0),
    }));
}

/// The leader, and then the others: each partition of a leader has another one first, so
/// that they share what it led when it fails.
fn in_preference(chosen: &[Place], leader: usize) -> Vec<ReplicaId> {
    let mut others: Vec<ReplicaId> = chosen.iter().map(|place| place.node).collect();
    let first = others.remove(leader);
    others.sort_unstable();
    if !others.is_empty() {
        let turn = chosen[leader].leads % others.len() as u64;
        others.rotate_left(turn as usize);
    }
    others.insert(0, first);
    others
}
