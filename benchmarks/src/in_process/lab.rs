//! Failures that are repeated in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use bytes::Bytes;
use consensus::{PersistBatch, ReplicaId, Role, Tick};
use iggy_cluster::config::Backend;
use replica::disk::{Disk, MemoryDisk};
use replica::driver::{Event, Now, Output, Replica, ReplicaConfig};
use replica::open::OpenConfig;
use replica::snapshots::FileWorker;
use replica::superblock::{self, Superblock};
use replica::wal::{Wal, WalConfig};

use super::{GROUP, TICK, build, core_config};
use crate::replica::KeyValues;

/// A message is under way for so long: an exchange of networks in one region.
const DELAY_MICROS: (u64, u64) = (100, 500);
/// A replica that is killed comes back after so long.
const BACK_MICROS: u64 = 1_500_000;
/// A leader is found within this time, or the lab gives up.
const PATIENCE_MICROS: u64 = 60_000_000;
const TICK_MICROS: u64 = TICK.as_micros() as u64;

/// What the lab is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LabSettings {
    pub(crate) backend: Backend,
    pub(crate) replicas: u64,
    pub(crate) seed: u64,
}

/// What happened at a kill of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Succession {
    /// Who leads after it.
    pub(crate) leader: u64,
    /// Until it did, in microseconds of virtual time.
    pub(crate) took_micros: u64,
    /// Terms or views that nobody led.
    pub(crate) skipped: u64,
}

enum Happening {
    Tick {
        replica: usize,
        life: u64,
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
    life: u64,
}

/// Replicas in virtual time.
pub(crate) struct Lab {
    settings: LabSettings,
    members: Vec<Member>,
    happenings: BTreeMap<u64, Happening>,
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
            happenings: BTreeMap::new(),
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
                life: 0,
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
            backend: self.settings.backend.name().into(),
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

    fn after(&mut self, micros: u64, happening: Happening) {
        self.next += 1;
        self.happenings.insert(self.next, happening);
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
        member.life += 1;
        member.running = Some(Running {
            replica: opened.replica,
            wal: opened.wal,
            files: opened.files,
        });
        let life = member.life;
        // Clocks of different machines do not tick together.
        let first = self.between((0, TICK_MICROS));
        self.after(first, Happening::Tick { replica: at, life });
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
            anyhow::ensure!(self.now < end, "nobody leads");
            self.go_on()?;
        }
    }

    /// Kills the leader, which comes back later, and waits for the next.
    pub(crate) fn kill_leader(&mut self) -> anyhow::Result<Succession> {
        let leader = self.elected()?;
        let (term, begun) = (self.term(), self.now);
        let at = leader as usize - 1;
        self.members[at].running = None;
        self.after(BACK_MICROS, Happening::Start { replica: at });
        let next = self.elected()?;
        Ok(Succession {
            leader: next,
            took_micros: self.now - begun,
            skipped: (self.term() - term).saturating_sub(1),
        })
    }

    /// Waits until all replicas run and nobody has anything to say but heartbeats.
    pub(crate) fn settle(&mut self) -> anyhow::Result<()> {
        let end = self.now + 2 * BACK_MICROS;
        while self.now < end {
            self.go_on()?;
        }
        Ok(())
    }

    fn go_on(&mut self) -> anyhow::Result<()> {
        let Some(Reverse((at, number))) = self.due.pop() else {
            anyhow::bail!("nothing happens any more");
        };
        self.now = at;
        match self.happenings.remove(&number) {
            Some(Happening::Tick { replica, life }) => {
                let member = &self.members[replica];
                if member.life == life && member.running.is_some() {
                    self.after(TICK_MICROS, Happening::Tick { replica, life });
                    self.give(replica, Event::Tick)?;
                }
            }
            Some(Happening::Message { to, from, message }) => {
                self.give(to, Event::Receive { from, message })?;
            }
            Some(Happening::Start { replica }) => self.start(replica)?,
            None => {}
        }
        Ok(())
    }

    fn give(&mut self, at: usize, event: Event) -> anyhow::Result<()> {
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
            self.after(delay, Happening::Message { to, from, message });
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
        let first = lab.elected().expect("somebody leads");
        let next = lab.kill_leader().expect("somebody leads");
        assert_eq!(next.leader, (first + next.skipped) % 5 + 1);
    }
}
