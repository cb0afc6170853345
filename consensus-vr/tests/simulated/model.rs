//! Every interleaving of a small group, on the code that runs.
//!
//! Three replicas in their first view, proposals, lost and reordered messages,
//! timeouts, crashes with what was not durable lost. Bounded by how often each may
//! happen; within that, all states are visited.

use std::collections::BTreeSet;

use bytes::Bytes;
use consensus::testing::{ELECTION_TICKS, HEARTBEAT_TICKS, History, Packet};
use consensus::{Consensus, Input, ProposalId, ReplicaId, Role};
use stateright::{Checker, Model, Property};

use crate::group::{Node, receiver, view};

const VOTERS: u64 = 3;

/// What may happen, and how often.
#[derive(Clone, Copy, Debug)]
struct Group {
    proposals: u8,
    timeouts: u8,
    crashes: u8,
    /// Whether fsyncs are actions of their own, so that crashes lose what is not durable.
    slow_disks: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    nodes: Vec<Node>,
    /// In flight, in no order. What is never delivered is lost.
    network: BTreeSet<Packet>,
    history: History,
    /// Two replicas have committed different ops, or led the same view.
    broken: bool,
    proposals: u8,
    timeouts: u8,
    crashes: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Deliver(Packet),
    Propose(usize),
    /// The replica receives nothing for an election timeout.
    TimeOut(usize),
    Sync(usize),
    Crash(usize),
}

impl State {
    fn settle(&mut self) {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            self.network.extend(node.replica.sent.drain(..));
            self.broken |= !node.record(&mut self.history);
            let status = node.core().status();
            if status.role == Role::Leader {
                let leader = ReplicaId(at as u64 + 1);
                self.broken |= !self.history.lead(status.term, leader);
            }
        }
        // Messages of views that the receiver has left durably have no effect.
        let nodes = &self.nodes;
        self.network
            .retain(|packet| view(packet) >= nodes[receiver(packet)].oldest_view());
    }
}

impl Model for Group {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            nodes: (1..=VOTERS)
                .map(|id| Node::new(ReplicaId(id), VOTERS))
                .collect(),
            network: BTreeSet::new(),
            history: History::default(),
            broken: false,
            proposals: self.proposals,
            timeouts: self.timeouts,
            crashes: self.crashes,
        };
        // The first view has started, and no message is in flight.
        state.nodes[0].beat();
        state.settle();
        while let Some(packet) = state.network.pop_first() {
            let _ = state.nodes[receiver(&packet)].receive(packet);
            state.settle();
        }
        for node in &mut state.nodes {
            node.replica.manual_sync = self.slow_disks;
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(state.network.iter().cloned().map(Action::Deliver));
        for (at, node) in state.nodes.iter().enumerate() {
            if state.proposals > 0 && node.core().status().role == Role::Leader {
                actions.push(Action::Propose(at));
            }
            // A primary that times out sends nothing, as if it were slow.
            if state.timeouts > 0 && node.core().status().role != Role::Leader {
                actions.push(Action::TimeOut(at));
            }
            if node.replica.has_unsynced() {
                actions.push(Action::Sync(at));
            }
            if state.crashes > 0 {
                actions.push(Action::Crash(at));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Deliver(packet) => {
                state.network.remove(&packet);
                let _ = state.nodes[receiver(&packet)].receive(packet);
            }
            Action::Propose(at) => {
                state.proposals -= 1;
                let proposal = ProposalId(u64::from(self.proposals - state.proposals));
                let payload = Bytes::copy_from_slice(&[state.proposals]);
                let _ = state.nodes[at].input(Input::Propose { proposal, payload });
            }
            Action::TimeOut(at) => {
                state.timeouts -= 1;
                for _ in 0..ELECTION_TICKS.div_ceil(HEARTBEAT_TICKS) {
                    state.nodes[at].beat();
                }
            }
            Action::Sync(at) => state.nodes[at].sync(),
            Action::Crash(at) => {
                state.crashes -= 1;
                state.nodes[at].restart();
            }
        }
        state.settle();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one history, one primary of a view", |_, state: &State| {
                !state.broken
            }),
            Property::sometimes("a later view commits", |_, state: &State| {
                let views: BTreeSet<_> = state.history.entries().map(|entry| entry.term).collect();
                views.len() > 1
            }),
        ]
    }
}

#[expect(
    clippy::print_stdout,
    reason = "the states that were covered are part of the result"
)]
fn explore(name: &str, group: Group) {
    let checker = group.checker().threads(2).spawn_dfs().join();
    println!(
        "{name}: {} states, {} of them distinct, depth {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    checker.assert_properties();
}

#[test]
fn every_view_change_of_a_small_group_keeps_one_history() {
    explore(
        "view change",
        Group {
            proposals: 1,
            timeouts: 2,
            crashes: 0,
            slow_disks: false,
        },
    );
}

#[test]
fn every_restart_of_a_small_group_keeps_one_history() {
    explore(
        "restart",
        Group {
            proposals: 0,
            timeouts: 1,
            crashes: 1,
            slow_disks: true,
        },
    );
}

#[test]
fn every_crash_of_a_small_group_with_a_proposal_keeps_one_history() {
    explore(
        "crash",
        Group {
            proposals: 1,
            timeouts: 1,
            crashes: 1,
            slow_disks: false,
        },
    );
}
