//! Failures in virtual time, which can be repeated.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use bytes::Bytes;
use consensus::{PersistBatch, ReplicaId, Role, Tick};
use replica::disk::{Disk, MemoryDisk};
use replica::driver::{Event, Now, Output, Replica, ReplicaConfig};
use replica::open::OpenConfig;
use replica::snapshots::FileWorker;
use replica::superblock::{self, Superblock};
use replica::wal::{Wal, WalConfig};
use replicated_log::Backend;

use super::{GROUP, TICK, build, core_config};
use crate::replica::KeyValues;

/// The delay of a message, as within one region.
const DELAY_MICROS: (u64, u64) = (100, 500);
/// A killed replica restarts after this time.
const RESTART_MICROS: u64 = 1_500_000;
/// Without a leader after this time, an election has failed.
const PATIENCE_MICROS: u64 = 60_000_000;
const TICK_MICROS: u64 = TICK.as_micros() as u64;

/// The settings of a lab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LabSettings {
    pub(crate) backend: Backend,
    pub(crate) replicas: u64,
    pub(crate) seed: u64,
}

/// The result of a kill of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Succession {
    /// The next leader.
    pub(crate) leader: u64,
    /// From the kill until it led, in microseconds of virtual time.
    pub(crate) took_micros: u64,
    /// Terms or views without a leader.
    pub(crate) skipped: u64,
}

enum Occurrence {
    Tick {
        replica: usize,
        starts: u64,
    },
    Message {
        to: usize,
        from: ReplicaId,
        message: Bytes,
    },
    Start {
        replica: usize,
    },
}

struct Running {
    replica: Replica,
    wal: Wal,
    files: FileWorker,
}

struct Member {
    id: ReplicaId,
    disk: MemoryDisk,
    running: Option<Running>,
    starts: u64,
}

/// Replicas in virtual time.
pub(crate) struct Lab {
    settings: LabSettings,
    members: Vec<Member>,
    occurrences: BTreeMap<u64, Occurrence>,
    due: BinaryHeap<Reverse<(u64, u64)>>,
    next: u64,
    now: u64,
    random: u64,
}

impl Lab {
    /// Replicas that have just started.
    pub(crate) fn new(settings: LabSettings) -> anyhow::Result<Self> {
        let mut lab = Self {
            settings,
            members: Vec::new(),
            occurrences: BTreeMap::new(),
            due: BinaryHeap::new(),
            next: 0,
            now: 0,
            random: settings.seed,
        };
        for id in (1..=settings.replicas).map(ReplicaId) {
            let disk = MemoryDisk::new();
            superblock::format(&disk, &lab.identity(id))?;
            lab.members.push(Member {
                id,
                disk,
                running: None,
                starts: 0,
            });
        }
        for replica in 0..lab.members.len() {
            lab.start(replica)?;
        }
        Ok(lab)
    }

    fn identity(&self, replica: ReplicaId) -> Superblock {
        Superblock {
            group: GROUP,
            cluster: "lab".into(),
            replica,
            incarnation: 0,
            storage_id: 1,
            backend: self.settings.backend.name().into(),
            membership: None,
        }
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.draw() % (high - low)
    }

    fn after(&mut self, micros: u64, occurrence: Occurrence) {
        self.next += 1;
        self.occurrences.insert(self.next, occurrence);
        self.due.push(Reverse((self.now + micros, self.next)));
    }

    fn start(&mut self, at: usize) -> anyhow::Result<()> {
        let id = self.members[at].id;
        let disk: Arc<dyn Disk> = Arc::new(self.members[at].disk.clone());
        let config = OpenConfig {
            identity: self.identity(id),
            wal: WalConfig {
                segment_bytes: 1 << 20,
                ..WalConfig::new(GROUP)
            },
            replica: ReplicaConfig::new(id),
        };
        let (replicas, seed, backend) = (
            self.settings.replicas,
            self.settings.seed,
            self.settings.backend,
        );
        let machine = Box::new(KeyValues::default());
        let opened = replica::open::open(&disk, config, machine, |incarnation, recovered| {
            let seed = seed ^ incarnation.rotate_left(24);
            build(backend, &core_config(id, replicas, seed), recovered)
        })?;
        let member = &mut self.members[at];
        member.starts += 1;
        member.running = Some(Running {
            replica: opened.replica,
            wal: opened.wal,
            files: opened.files,
        });
        let starts = member.starts;
        // The clocks of different machines are not in phase.
        let first = self.between((0, TICK_MICROS));
        self.after(
            first,
            Occurrence::Tick {
                replica: at,
                starts,
            },
        );
        Ok(())
    }

    /// The leader that a majority knows.
    fn leader(&self) -> Option<u64> {
        let majority = self.members.len() / 2 + 1;
        let leaders = self.members.iter().filter(|member| {
            let running = member.running.as_ref();
            running.is_some_and(|running| running.replica.status().core.role == Role::Leader)
        });
        let follows = |leader: ReplicaId| {
            let knows = |member: &&Member| {
                let running = member.running.as_ref();
                running.is_some_and(|running| running.replica.status().core.leader == Some(leader))
            };
            self.members.iter().filter(knows).count()
        };
        leaders
            .map(|member| member.id)
            .find(|leader| follows(*leader) >= majority)
            .map(|leader| leader.0)
    }

    fn term(&self) -> u64 {
        let terms = self.members.iter().filter_map(|member| {
            let running = member.running.as_ref()?;
            Some(running.replica.status().core.term.0)
        });
        terms.max().unwrap_or(0)
    }

    /// Waits for a leader.
    pub(crate) fn elected(&mut self) -> anyhow::Result<u64> {
        let end = self.now + PATIENCE_MICROS;
        loop {
            if let Some(leader) = self.leader() {
                return Ok(leader);
            }
            anyhow::ensure!(
                self.now < end,
                "the replicas have no leader after {} s",
                PATIENCE_MICROS / 1_000_000
            );
            self.advance()?;
        }
    }

    /// Kills the leader, which restarts later, and waits for the next.
    pub(crate) fn kill_leader(&mut self) -> anyhow::Result<Succession> {
        let leader = self.elected()?;
        let (term, killed) = (self.term(), self.now);
        let at = leader as usize - 1;
        self.members[at].running = None;
        self.after(RESTART_MICROS, Occurrence::Start { replica: at });
        let next = self.elected()?;
        Ok(Succession {
            leader: next,
            took_micros: self.now - killed,
            skipped: (self.term() - term).saturating_sub(1),
        })
    }

    /// Waits until all replicas run and exchange heartbeats only.
    pub(crate) fn settle(&mut self) -> anyhow::Result<()> {
        let end = self.now + 2 * RESTART_MICROS;
        while self.now < end {
            self.advance()?;
        }
        Ok(())
    }

    fn advance(&mut self) -> anyhow::Result<()> {
        let Some(Reverse((at, number))) = self.due.pop() else {
            anyhow::bail!("the lab has no further occurrences");
        };
        self.now = at;
        match self.occurrences.remove(&number) {
            Some(Occurrence::Tick { replica, starts }) => {
                let member = &self.members[replica];
                if member.starts == starts && member.running.is_some() {
                    self.after(TICK_MICROS, Occurrence::Tick { replica, starts });
                    self.handle(replica, Event::Tick)?;
                }
            }
            Some(Occurrence::Message { to, from, message }) => {
                self.handle(to, Event::Receive { from, message })?;
            }
            Some(Occurrence::Start { replica }) => self.start(replica)?,
            None => {}
        }
        Ok(())
    }

    fn handle(&mut self, at: usize, event: Event) -> anyhow::Result<()> {
        let now = Now {
            tick: Tick(self.now / TICK_MICROS),
            wall_micros: self.now + 1,
        };
        let Some(running) = &mut self.members[at].running else {
            return Ok(());
        };
        let mut events = vec![event];
        let mut messages = Vec::new();
        while !events.is_empty() {
            for event in events.drain(..) {
                running.replica.handle(now, event);
            }
            running.replica.flush()?;
            while let Some(output) = running.replica.poll() {
                match output {
                    Output::Persist(batch) => {
                        events.push(Event::Persisted(write(&mut running.wal, &batch)?));
                    }
                    Output::Compact(through) => running.wal.compact(through)?,
                    Output::File(job) => events.push(Event::File(running.files.execute(job))),
                    Output::Send { to, message, .. } => {
                        messages.push((to, message.to_bytes()));
                    }
                    _ => {}
                }
            }
        }
        let from = self.members[at].id;
        for (to, message) in messages {
            let to = to.0 as usize - 1;
            let delay = self.between(DELAY_MICROS);
            self.after(delay, Occurrence::Message { to, from, message });
        }
        Ok(())
    }
}

fn write(wal: &mut Wal, batch: &PersistBatch) -> anyhow::Result<consensus::PersistId> {
    wal.append(std::slice::from_ref(batch))?;
    wal.sync()?;
    Ok(batch.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_history() {
        for backend in [Backend::Raft, Backend::Vr] {
            let run = |seed| -> anyhow::Result<Vec<Succession>> {
                let mut lab = Lab::new(LabSettings {
                    backend,
                    replicas: 5,
                    seed,
                })?;
                let mut all = Vec::new();
                for _ in 0..4 {
                    all.push(lab.kill_leader()?);
                    lab.settle()?;
                }
                Ok(all)
            };
            assert_eq!(run(3).expect("it runs"), run(3).expect("it runs"));
        }
    }

    #[test]
    fn the_next_primary_of_vr_is_the_next_in_order() {
        let mut lab = Lab::new(LabSettings {
            backend: Backend::Vr,
            replicas: 5,
            seed: 1,
        })
        .expect("it starts");
        let first = lab.elected().expect("a leader");
        let next = lab.kill_leader().expect("a leader");
        assert_eq!(next.leader, (first + next.skipped) % 5 + 1);
    }
}
