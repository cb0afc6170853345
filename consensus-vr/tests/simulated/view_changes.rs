//! A million view changes: the primary of a view is a function of the view and the
//! order of the voters, nothing that was committed is lost, and equal seeds give
//! equal runs.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::group::{ELECTION_TICKS, HEARTBEAT_TICKS, History, Node, Packet, record};
use bytes::Bytes;
use consensus::{Consensus, Input, ProposalId, ReplicaId, Role, SnapshotMeta, Status};

const VIEW_CHANGES: u64 = 1_000_000;
const THREADS: u64 = 2;
/// Snapshots keep the logs short.
const SNAPSHOT_EVERY: u64 = 200;

/// The generator of George Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

struct Run {
    nodes: Vec<Node>,
    network: VecDeque<Packet>,
    /// Whose messages are lost, in both directions.
    cut_off: Option<ReplicaId>,
    history: History,
    random: Random,
    proposals: u64,
    digest: DefaultHasher,
    views: u64,
    newest: u64,
}

impl Run {
    fn new(voters: u64, seed: u64) -> Self {
        Self {
            nodes: (1..=voters)
                .map(|id| Node::new(ReplicaId(id), voters))
                .collect(),
            network: VecDeque::new(),
            cut_off: None,
            history: History::new(),
            random: Random(seed),
            proposals: 0,
            digest: DefaultHasher::new(),
            views: 0,
            newest: 0,
        }
    }

    fn node(&mut self, id: ReplicaId) -> &mut Node {
        &mut self.nodes[(id.0 - 1) as usize]
    }

    fn statuses(&self) -> Vec<Status> {
        self.nodes.iter().map(|node| node.core.status()).collect()
    }

    fn leader(&self) -> Option<(ReplicaId, Status)> {
        let ids = (1..).map(ReplicaId);
        ids.zip(self.statuses())
            .filter(|(_, status)| status.role == Role::Leader)
            .max_by_key(|(_, status)| status.term)
    }

    fn settle(&mut self) {
        loop {
            for at in 0..self.nodes.len() {
                let node = &mut self.nodes[at];
                self.network.extend(node.sent.drain(..));
                assert!(record(&mut self.history, node), "two ops are committed");
            }
            let Some(packet) = self.network.pop_front() else {
                return;
            };
            if self.cut_off == Some(packet.from) || self.cut_off == Some(packet.to) {
                continue;
            }
            packet.hash(&mut self.digest);
            let to = packet.to;
            let _ = self.node(to).receive(packet);
        }
    }

    fn beat(&mut self) {
        for at in 0..self.nodes.len() {
            self.nodes[at].beat();
        }
        self.settle();
    }

    /// One view change: by a transfer, or because the primary is cut off.
    fn change_view(&mut self) {
        let (leader, before) = self.leader().expect("a replica leads");
        self.proposals += 1;
        let proposal = ProposalId(self.proposals);
        let payload = Bytes::copy_from_slice(&self.proposals.to_le_bytes());
        let proposed = self
            .node(leader)
            .input(Input::Propose { proposal, payload });
        proposed.expect("the leader accepts proposals");
        if self.random.below(8) > 0 {
            self.settle();
            let voters = self.nodes.len() as u64;
            let to = ReplicaId((leader.0 + self.random.below(voters - 1)) % voters + 1);
            let transfer = self.node(leader).input(Input::TransferLeadership(to));
            transfer.expect("the leader transfers");
            self.settle();
        } else {
            self.cut_off = Some(leader);
        }
        for _ in 0..20 * ELECTION_TICKS / HEARTBEAT_TICKS {
            if self.started_after(&before) {
                break;
            }
            self.beat();
        }
        self.cut_off = None;
        assert!(self.started_after(&before), "no view starts");
        // The replica that was cut off joins.
        for _ in 0..3 {
            self.beat();
        }
        self.check();
        if self.views.is_multiple_of(SNAPSHOT_EVERY) {
            self.snapshot();
        }
    }

    fn started_after(&self, before: &Status) -> bool {
        self.leader()
            .is_some_and(|(_, status)| status.term > before.term && status.commit == status.last)
    }

    fn check(&mut self) {
        let statuses = self.statuses();
        let (leader, status) = self.leader().expect("a replica leads");
        let order = status.membership.voters();
        let expected = order[(status.term.0 % order.len() as u64) as usize];
        assert_eq!(leader, expected, "the primary of view {}", status.term);
        for other in &statuses {
            assert_eq!(other.term, status.term, "all are in the view");
            assert_eq!(other.leader, Some(leader), "all know its primary");
            assert_eq!(other.commit, status.commit, "all have its log");
        }
        self.views += status.term.0 - self.newest;
        self.newest = status.term.0;
    }

    fn snapshot(&mut self) {
        let newest = self
            .history
            .values()
            .next_back()
            .expect("something")
            .clone();
        for node in &mut self.nodes {
            let meta = SnapshotMeta {
                index: newest.index,
                term: newest.term,
                membership: node.core.status().membership,
            };
            let taken = node.input(Input::SnapshotTaken(meta.clone()));
            taken.expect("all is applied");
            node.disk.snapshots.insert(meta.index, (meta, Vec::new()));
            while node.disk.snapshots.len() > 1 {
                node.disk.snapshots.pop_first();
            }
        }
        self.history = self.history.split_off(&newest.index);
    }
}

fn run(voters: u64, seed: u64, view_changes: u64) -> u64 {
    let mut run = Run::new(voters, seed);
    for _ in 0..4 {
        run.beat();
    }
    run.check();
    while run.views < view_changes {
        run.change_view();
    }
    run.digest.finish()
}

#[test]
fn a_million_view_changes_follow_the_order_and_lose_nothing() {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                run(
                    3 + 2 * (thread % 2),
                    0x5eed + thread,
                    VIEW_CHANGES / THREADS,
                )
            });
        }
    });
}

#[test]
fn equal_seeds_give_equal_runs() {
    assert_eq!(run(3, 7, 2_000), run(3, 7, 2_000));
    assert_ne!(run(3, 7, 2_000), run(3, 8, 2_000));
}
