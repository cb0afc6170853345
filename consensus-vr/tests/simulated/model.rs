//! Every interleaving of a small group, on the code that runs.
//!
//! Three replicas in their first view, proposals, lost and reordered messages,
//! timeouts, crashes with what was not durable lost. Bounded by how often each may
//! happen; within that, all states are visited.

use std::collections::BTreeSet;

use bytes::Bytes;
use consensus::{Consensus, Input, ProposalId, ReplicaId, Role, Term};
use stateright::{Checker, Model, Property};

use crate::group::{ELECTION_TICKS, HEARTBEAT_TICKS, History, Node, Packet, record};

const VOTERS: u64 = 3;

/// What may happen, and how often.
#[derive(Clone, Copy, Debug)]
struct Group {
    proposals: u8,
    timeouts: u8,
    crashes: u8,
    /// Whether disks are slow, so that crashes lose what was not fsynced.
    slow_disks: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    nodes: Vec<Node>,
    /// In flight, in no order. What is never delivered is lost.
    network: BTreeSet<Packet>,
    history: History,
    /// Two replicas committed different ops, or lead the same view.
    broken: bool,
    led: BTreeSet<(Term, ReplicaId)>,
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
            self.network.extend(node.sent.drain(..));
            self.broken |= !record(&mut self.history, node);
            let status = node.core.status();
            if status.role == Role::Leader {
                self.led.insert((status.term, ReplicaId(at as u64 + 1)));
            }
        }
        let views: BTreeSet<_> = self.led.iter().map(|(view, _)| view).collect();
        self.broken |= views.len() < self.led.len();
        // Messages of views that their receiver has left for good are worthless.
        let nodes = &self.nodes;
        self.network
            .retain(|packet| packet.view() >= nodes[packet.to_index()].oldest_view());
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
            history: History::new(),
            broken: false,
            led: BTreeSet::new(),
            proposals: self.proposals,
            timeouts: self.timeouts,
            crashes: self.crashes,
        };
        // The first view has started, and nothing is in flight.
        state.nodes[0].beat();
        state.settle();
        while let Some(packet) = state.network.pop_first() {
            let _ = state.nodes[packet.to_index()].receive(packet);
            state.settle();
        }
        for node in &mut state.nodes {
            node.sync_immediately = !self.slow_disks;
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(state.network.iter().cloned().map(Action::Deliver));
        for (at, node) in state.nodes.iter().enumerate() {
            if state.proposals > 0 && node.core.status().role == Role::Leader {
                actions.push(Action::Propose(at));
            }
            // A primary that times out falls silent: as if it were slow.
            if state.timeouts > 0 && node.core.status().role != Role::Leader {
                actions.push(Action::TimeOut(at));
            }
            if node.has_unsynced() {
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
                let _ = state.nodes[packet.to_index()].receive(packet);
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
                let views: BTreeSet<_> = state.history.values().map(|entry| entry.term).collect();
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
