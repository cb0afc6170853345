//! Replicas in one process: no threads, no sockets, no disks.
//!
//! The rest is the protocol itself, the loop around it and the state machine.
//! [`Bare`] runs as fast as one core of the machine can; `lab` runs in virtual time,
//! with faults.

mod lab;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus::{Consensus, CoreConfig, Limits, Membership, Recovered, ReplicaId, Role, Tick};
use replica::driver::{Event, FileEvent, FileJob, Now, Output, Replica, ReplicaConfig, Ticket};
use replicated_log::Backend;

use crate::replica::{KEY_BYTES, KeyValues};

pub(crate) use lab::{Lab, LabSettings};

const GROUP: u128 = 7;
/// Ticks of ten milliseconds: heartbeats every 50 ms, elections after 200 ms.
pub(crate) const TICK: Duration = Duration::from_millis(10);
const HEARTBEAT_TICKS: u64 = 5;
const ELECTION_TICKS: u64 = 20;
/// Different commands, which are sent in turn.
const COMMANDS: u64 = 1_024;
/// Without a leader after this many ticks, an election has failed.
const LEADER_TICKS_MAX: u64 = 10_000;

pub(crate) fn core_config(id: ReplicaId, replicas: u64, seed: u64) -> CoreConfig {
    let voters = (1..=replicas).map(ReplicaId);
    CoreConfig {
        id,
        group: GROUP,
        membership: Membership::new(1, voters, []).expect("a list of different replicas"),
        heartbeat_ticks: HEARTBEAT_TICKS,
        election_ticks: ELECTION_TICKS,
        seed: seed ^ id.0.rotate_left(48),
        limits: Limits::default(),
    }
}

pub(crate) fn build(
    backend: Backend,
    config: &CoreConfig,
    recovered: Recovered,
) -> Result<Box<dyn Consensus>, consensus::RecoverError> {
    Ok(match backend {
        Backend::Raft => Box::new(consensus_raft::RaftCore::new(config, recovered)?),
        Backend::Vr => Box::new(consensus_vr::VrCore::new(config, recovered)?),
    })
}

/// The cost of replication, over all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) commands: u64,
    pub(crate) batches: u64,
    pub(crate) messages: u64,
    pub(crate) message_bytes: u64,
    /// Writes that have to be fsynced.
    pub(crate) persists: u64,
}

/// Replicas that exchange messages without delay.
pub(crate) struct Bare {
    replicas: Vec<Replica>,
    inboxes: Vec<VecDeque<(ReplicaId, Bytes)>>,
    commands: Vec<Bytes>,
    now: Now,
    submitted: u64,
    cost: Cost,
}

impl Bare {
    /// Replicas that have a leader, for commands of this many bytes.
    pub(crate) fn new(
        backend: Backend,
        replicas: u64,
        command_bytes: usize,
        configure: impl Fn(&mut ReplicaConfig),
    ) -> anyhow::Result<Self> {
        let value = vec![b'v'; command_bytes.saturating_sub(KEY_BYTES)];
        let command = |key: u64| [&key.to_le_bytes()[..], &value].concat().into();
        let mut built = Vec::new();
        for id in (1..=replicas).map(ReplicaId) {
            let core = build(backend, &core_config(id, replicas, 1), Recovered::default())?;
            let mut config = ReplicaConfig::new(id);
            configure(&mut config);
            built.push(Replica::new(
                &config,
                core,
                Box::new(KeyValues::default()),
                None,
            ));
        }
        let mut bare = Self {
            inboxes: built.iter().map(|_| VecDeque::new()).collect(),
            replicas: built,
            commands: (0..COMMANDS).map(command).collect(),
            now: Now {
                tick: Tick(0),
                wall_micros: 1,
            },
            submitted: 0,
            cost: Cost::default(),
        };
        bare.elect()?;
        bare.cost = Cost::default();
        Ok(bare)
    }

    fn elect(&mut self) -> anyhow::Result<()> {
        for _ in 0..LEADER_TICKS_MAX {
            if self.leader().is_some() {
                return Ok(());
            }
            self.tick()?;
        }
        anyhow::bail!("the replicas elect no leader")
    }

    fn leader(&self) -> Option<usize> {
        let leads = |replica: &Replica| replica.status().core.role == Role::Leader;
        self.replicas.iter().position(leads)
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        self.now.tick.0 += 1;
        for replica in 0..self.replicas.len() {
            self.replicas[replica].handle(self.now, Event::Tick);
            self.advance(replica)?;
        }
        while self.deliver()? {}
        Ok(())
    }

    /// Delivers the messages in all inboxes; returns whether there were any.
    fn deliver(&mut self) -> anyhow::Result<bool> {
        let mut any = false;
        for replica in 0..self.replicas.len() {
            while let Some((from, message)) = self.inboxes[replica].pop_front() {
                any = true;
                self.replicas[replica].handle(self.now, Event::Receive { from, message });
            }
            self.advance(replica)?;
        }
        Ok(any)
    }

    /// Executes the outputs of a replica until there are none.
    fn advance(&mut self, at: usize) -> anyhow::Result<()> {
        loop {
            self.replicas[at].flush()?;
            let mut events = Vec::new();
            let mut idle = true;
            while let Some(output) = self.replicas[at].poll() {
                idle = false;
                match output {
                    Output::Persist(batch) => {
                        self.cost.persists += 1;
                        events.push(Event::Persisted(batch.id));
                    }
                    Output::Send { to, message, .. } => {
                        self.cost.messages += 1;
                        self.cost.message_bytes += message.len() as u64;
                        let from = ReplicaId(at as u64 + 1);
                        self.inboxes[to.0 as usize - 1].push_back((from, message.to_bytes()));
                    }
                    Output::ProposeResult { result, .. } => {
                        result?;
                        self.cost.commands += 1;
                    }
                    Output::File(FileJob::Save { meta, state }) => {
                        std::hint::black_box(state.encode());
                        events.push(Event::File(FileEvent::Saved(Ok((meta, 0)))));
                    }
                    _ => {}
                }
            }
            if idle {
                return Ok(());
            }
            for event in events {
                self.replicas[at].handle(self.now, event);
            }
        }
    }

    fn submit(&mut self, leader: usize, commands: u64) {
        for _ in 0..commands {
            let command = self.commands[(self.submitted % COMMANDS) as usize].clone();
            self.submitted += 1;
            let ticket = Ticket(self.submitted);
            self.replicas[leader].handle(self.now, Event::Propose { ticket, command });
        }
    }

    /// Executes commands, with at most this many in flight; returns their cost.
    pub(crate) fn commands(&mut self, total: u64, in_flight: u64) -> anyhow::Result<Cost> {
        let before = self.cost;
        let leader = self.leader().expect("elected before");
        let end = before.commands + total;
        while self.cost.commands < end {
            let open = self.submitted - self.cost.commands;
            let missing = end - self.cost.commands - open;
            self.submit(leader, (in_flight - open).min(missing));
            self.advance(leader)?;
            while self.deliver()? {}
        }
        Ok(Cost {
            commands: self.cost.commands - before.commands,
            batches: self.replicas[leader]
                .status()
                .counters
                .batch_commands
                .count(),
            messages: self.cost.messages - before.messages,
            message_bytes: self.cost.message_bytes - before.message_bytes,
            persists: self.cost.persists - before.persists,
        })
    }

    /// Fills the log, so that later commands reuse its memory.
    fn fill_log(&mut self) -> anyhow::Result<()> {
        const COMMANDS: u64 = 600_000;
        let done = self.cost.commands;
        self.commands(COMMANDS.saturating_sub(done), 2_048)
            .map(drop)
    }

    /// Executes commands for this time; returns how many per second.
    pub(crate) fn per_second(&mut self, in_flight: u64, measured: Duration) -> anyhow::Result<f64> {
        const ROUND: u64 = 65_536;
        self.fill_log()?;
        let started = Instant::now();
        let mut commands = 0;
        while started.elapsed() < measured {
            commands += self.commands(ROUND, in_flight)?.commands;
            // Heartbeats, as in a cluster.
            self.tick()?;
        }
        Ok(commands as f64 / started.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches that wait together are one write and one message to each follower.
    #[test]
    fn small_batches_that_wait_together_travel_together() {
        for backend in [Backend::Raft, Backend::Vr] {
            let configure = |config: &mut ReplicaConfig| {
                config.batch_commands_max = 64;
                config.pipeline_max = 32;
            };
            let mut bare = Bare::new(backend, 3, 256, configure).expect("it starts");
            let cost = bare.commands(4_096, 2_048).expect("they commit");
            let expected = (64, 4 * 2, 3 * 2);
            let found = (cost.batches, cost.messages, cost.persists);
            assert_eq!(found, expected, "{backend:?}");
        }
    }

    /// The cost of commands does not depend on the machine, and changes on purpose only:
    /// messages and writes of all three replicas for 4,096 commands.
    #[test]
    fn commands_cost_what_they_did() {
        let cost = |backend, in_flight| {
            let mut bare = Bare::new(backend, 3, 256, |_| {}).expect("it starts");
            let cost = bare.commands(4_096, in_flight).expect("they commit");
            assert_eq!(cost.commands, 4_096);
            (
                cost.batches,
                cost.messages,
                cost.message_bytes,
                cost.persists,
            )
        };
        for (backend, in_flight, batches, message_bytes) in [
            (Backend::Raft, 1, 4_096, 3_883_008),
            (Backend::Raft, 64, 64, 2_157_312),
            (Backend::Raft, 2_048, 2, 2_130_776),
            (Backend::Vr, 1, 4_096, 3_670_016),
            (Backend::Vr, 64, 64, 2_153_984),
            (Backend::Vr, 2_048, 2, 2_130_672),
        ] {
            // For each batch: a message to two followers and back, and three writes.
            let expected = (batches, 4 * batches, message_bytes, 3 * batches);
            assert_eq!(
                cost(backend, in_flight),
                expected,
                "{backend:?} {in_flight}"
            );
        }
    }
}
