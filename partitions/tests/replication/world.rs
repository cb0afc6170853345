//! Nodes with a copy each, their disks and links, and what must hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use consensus::{Index, ReplicaId};
use partitions::Durability;
use partitions::replication::{
    Alarm, Chain, Effect, Epoch, Event, Message, PartitionReplica, Position, Record, Recovered,
    Settings, Ticket, Trust,
};

use crate::checks::read;
use crate::metadata::{Command, Metadata};
use crate::random::Random;

/// Something that must not happen.
pub(crate) type Violation = String;

enum Operation {
    Write(Vec<Record>),
    Truncate(Index),
    Sync,
    Adopt(Epoch),
}

/// What of a copy survives its process, and what survives its machine.
pub(crate) struct Disk {
    pub(crate) written: Vec<Record>,
    pub(crate) synced: usize,
    adopted: Epoch,
    pub(crate) trust: Trust,
    operations: VecDeque<(Ticket, Operation)>,
    hangs: bool,
}

pub(crate) struct Node {
    pub(crate) id: ReplicaId,
    pub(crate) replica: Option<PartitionReplica>,
    up: bool,
    pub(crate) registration: u64,
    /// Which state of the metadata it has applied.
    applied: usize,
    /// The log as the process has it: what is written, and what is being written.
    pub(crate) log: Vec<Record>,
    pub(crate) disk: Disk,
    ticked: Duration,
    pub(crate) epoch_led: Option<Epoch>,
}

type Frame = (u64, Message);

/// How much goes wrong, per mille of the steps.
#[derive(Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) kill: u64,
    pub(crate) power: u64,
    pub(crate) power_all: u64,
    pub(crate) lose_disk: u64,
    pub(crate) hang: u64,
    pub(crate) cut: u64,
    pub(crate) isolate: u64,
    pub(crate) reconnect: u64,
    pub(crate) false_down: u64,
}

pub(crate) struct World {
    random: Random,
    now: Duration,
    pub(crate) nodes: Vec<Node>,
    pub(crate) metadata: Metadata,
    commands: Vec<Command>,
    links: BTreeMap<(usize, usize), VecDeque<Frame>>,
    cut: Vec<(usize, usize)>,
    pub(crate) faults: Faults,
    settings: Settings,
    next_request: u64,
    next_registration: u64,
    /// Which request each record holds, and its first offset: one for ever.
    pub(crate) records: BTreeMap<Position, (Bytes, u64)>,
    /// What is committed, by index.
    pub(crate) committed: Vec<Record>,
    /// In which epoch each of them was.
    pub(crate) committed_by: Vec<Epoch>,
    /// The request of each offset that was visible.
    pub(crate) visible: BTreeMap<u64, Bytes>,
    /// The nodes that had each record once, with the promised durability.
    pub(crate) had: BTreeMap<Position, BTreeSet<ReplicaId>>,
    pub(crate) acknowledged: BTreeMap<u64, u64>,
    pub(crate) started: BTreeMap<Epoch, (ReplicaId, u64)>,
    pub(crate) counts: Counts,
}

/// What happened, to see that something did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) committed: u64,
    pub(crate) epochs: u64,
    pub(crate) sets: u64,
    pub(crate) recoveries: u64,
    pub(crate) cuts: u64,
    pub(crate) unknown: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = [1, 2, 3, 3, 3, 3, 4, 5][random.below(8)];
        let min_in_sync = 1 + random.below(usize::try_from(nodes).unwrap_or(1).min(3));
        let durability = [Durability::Written, Durability::Synced][random.below(2)];
        let some = |random: &mut Random, rate: u64| if random.chance(400) { rate } else { 0 };
        let faults = Faults {
            kill: some(&mut random, 6),
            power: some(&mut random, 4),
            power_all: some(&mut random, 1),
            lose_disk: some(&mut random, 1),
            hang: some(&mut random, 3),
            cut: some(&mut random, 10),
            isolate: some(&mut random, 4),
            reconnect: some(&mut random, 10),
            false_down: some(&mut random, 4),
        };
        let node = |id| Node {
            id: ReplicaId::from_number(id),
            replica: None,
            up: false,
            registration: 0,
            applied: 0,
            log: Vec::new(),
            disk: Disk {
                written: Vec::new(),
                synced: 0,
                adopted: Epoch(0),
                trust: Trust::Trusted,
                operations: VecDeque::new(),
                hangs: false,
            },
            ticked: Duration::ZERO,
            epoch_led: None,
        };
        Self {
            nodes: (0..nodes).map(node).collect(),
            metadata: Metadata::new(nodes, min_in_sync, durability),
            commands: Vec::new(),
            links: BTreeMap::new(),
            cut: Vec::new(),
            faults,
            settings: Settings {
                unsynced_messages_max: 1 + random.next() % 30,
                uncommitted_bytes_max: 8 << random.below(6),
                append_records_max: 1 + random.next() % 6,
                replica_lag_max: Duration::from_millis(200 + random.next() % 2000),
                steady: Duration::from_millis(100 + random.next() % 500),
                failover_timeout: Duration::from_millis(200 + random.next() % 1000),
                ..Settings::default()
            },
            next_request: 1,
            next_registration: 1,
            records: BTreeMap::new(),
            committed: Vec::new(),
            committed_by: Vec::new(),
            visible: BTreeMap::new(),
            had: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            started: BTreeMap::new(),
            counts: Counts::default(),
            now: Duration::ZERO,
            random,
        }
    }

    /// One step of everything.
    pub(crate) fn step(&mut self) -> Result<(), Violation> {
        self.now += Duration::from_millis(1 + self.random.next() % 8);
        self.break_something();
        for _ in 0..4 {
            let node = self.random.below(self.nodes.len());
            match self.random.below(10) {
                0 => self.start_or_apply(node)?,
                1 => self.decide(),
                2 | 3 => self.finish_operation(node)?,
                4..=7 => self.deliver()?,
                8 => self.send(node)?,
                _ => {}
            }
        }
        for node in 0..self.nodes.len() {
            if self.now >= self.nodes[node].ticked + Duration::from_millis(50) {
                self.nodes[node].ticked = self.now;
                self.input(node, Event::Tick)?;
                self.pump(node)?;
            }
        }
        Ok(())
    }

    /// Ends all faults.
    pub(crate) fn heal(&mut self) {
        self.faults = Faults {
            kill: 0,
            power: 0,
            power_all: 0,
            lose_disk: 0,
            hang: 0,
            cut: 0,
            isolate: 0,
            reconnect: 0,
            false_down: 0,
        };
        self.cut.clear();
        for node in &mut self.nodes {
            node.disk.hangs = false;
        }
    }

    /// What keeps the copies apart although nothing fails any more.
    pub(crate) fn not_converged(&self) -> Option<String> {
        let assignment = self.metadata.latest();
        let leader = assignment.leader?;
        let leader = self.nodes.iter().find(|node| node.id == leader)?;
        let replica = leader.replica.as_ref()?;
        if !replica.leads() {
            return Some(format!(
                "{:?} does not lead epoch {}",
                leader.id, assignment.epoch
            ));
        }
        let last = replica.chain().last();
        for node in &self.nodes {
            let Some(replica) = &node.replica else {
                return Some(format!("{:?} does not run", node.id));
            };
            if replica.chain().last() != last || node.disk.written != leader.disk.written {
                let end = replica.chain().last();
                return Some(format!("{:?} ends at {end}, its leader at {last}", node.id));
            }
            if !assignment.is_in_sync(node.id) {
                return Some(format!("{:?} is not in sync", node.id));
            }
        }
        (replica.commit() < last.index).then(|| format!("{last} is not committed"))
    }

    /// Whether an operator would have to decide.
    pub(crate) fn is_lost(&self) -> bool {
        let assignment = self.metadata.latest();
        let in_sync = self
            .nodes
            .iter()
            .filter(|node| assignment.is_in_sync(node.id));
        let kept = in_sync.filter(|node| node.disk.trust != Trust::Lost);
        kept.count() < assignment.election_quorum()
    }

    fn break_something(&mut self) {
        let faults = self.faults;
        let node = self.random.below(self.nodes.len());
        if self.random.chance(faults.kill) {
            self.kill(node);
        }
        if self.random.chance(faults.power) {
            self.power_loss(node);
        }
        if self.random.chance(faults.power_all) {
            for node in 0..self.nodes.len() {
                self.power_loss(node);
            }
        }
        if self.random.chance(faults.lose_disk) {
            self.kill(node);
            let disk = &mut self.nodes[node].disk;
            disk.written.clear();
            disk.synced = 0;
            disk.adopted = Epoch(0);
            disk.trust = Trust::Lost;
        }
        if self.random.chance(faults.hang) {
            self.nodes[node].disk.hangs = true;
        }
        if self.random.chance(20) {
            self.nodes[node].disk.hangs = false;
        }
        let other = self.random.below(self.nodes.len());
        if self.random.chance(faults.cut) {
            self.cut.push((node, other));
            self.counts.cuts += 1;
        }
        if self.random.chance(faults.isolate) {
            let pairs = (0..self.nodes.len()).flat_map(|other| [(node, other), (other, node)]);
            self.cut.extend(pairs);
        }
        if self.random.chance(30) && !self.cut.is_empty() {
            let heal = self.random.below(self.nodes.len());
            self.cut.retain(|&(from, to)| from != heal && to != heal);
        }
        if self.random.chance(faults.reconnect) {
            self.reconnect(node, other);
        }
        let dead = !self.nodes[node].up && self.random.chance(40);
        if dead || self.random.chance(faults.false_down) {
            let id = self.nodes[node].id;
            let member = self.metadata.latest().members[&id];
            self.commands.push(Command::Down {
                node: id,
                registration: member.registration,
            });
        }
    }

    fn kill(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.up = false;
        node.replica = None;
        node.epoch_led = None;
        node.disk.operations.clear();
    }

    fn power_loss(&mut self, node: usize) {
        self.kill(node);
        let durability = self.metadata.latest().durability;
        let disk = &mut self.nodes[node].disk;
        let lost = disk.written.len() - disk.synced.min(disk.written.len());
        let keep = disk.written.len() - self.random.below(lost + 1);
        disk.written.truncate(keep);
        disk.synced = disk.synced.min(keep);
        if durability == Durability::Written && disk.trust == Trust::Trusted {
            disk.trust = Trust::TailLost;
        }
    }

    fn reconnect(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        for (from, to) in [(a, b), (b, a)] {
            self.links.remove(&(from, to));
            let peer = self.nodes[from].id;
            // What it leads to is polled with the next input.
            if let Some(replica) = &mut self.nodes[to].replica {
                replica.handle(self.now, Event::Reconnected { peer });
            }
        }
    }

    /// Starts the process of a node, or lets it apply more of the metadata.
    fn start_or_apply(&mut self, at: usize) -> Result<(), Violation> {
        let node = &mut self.nodes[at];
        if !node.up {
            node.up = true;
            node.registration = self.next_registration;
            self.next_registration += 1;
            node.log = node.disk.written.clone();
            // What was applied before is known again only when it is committed again.
            node.applied = self.random.below(node.applied + 1);
            for other in 0..self.nodes.len() {
                self.reconnect(at, other);
            }
        }
        let node = &mut self.nodes[at];
        let behind = self.metadata.states.len() - 1 - node.applied;
        node.applied += self.random.below(behind + 1);
        let assignment = self.metadata.states[node.applied].clone();
        let member = assignment.members[&node.id];
        let registered = member.registration == node.registration;
        if !registered || !member.live {
            let repeat = self.random.chance(200);
            if member.registration <= node.registration && repeat {
                self.commands.push(Command::Register {
                    node: node.id,
                    registration: node.registration,
                    trust: node.disk.trust,
                });
            }
            if !registered {
                return Ok(());
            }
        }
        match &node.replica {
            Some(_) => self.input(at, Event::Assigned(assignment)),
            None => {
                let mut chain = Chain::new(Position::default());
                for record in &node.log {
                    chain.push(record.position);
                }
                let last = node.log.last();
                let recovered = Recovered {
                    chain,
                    next_offset: last.map_or(0, Record::next_offset),
                    synced: Index(node.disk.synced as u64),
                    synced_offset: node.log[..node.disk.synced]
                        .last()
                        .map_or(0, Record::next_offset),
                    commit: Index(0),
                    adopted: node.disk.adopted,
                    trust: node.disk.trust,
                };
                let (id, settings) = (node.id, self.settings);
                let replica = PartitionReplica::new(id, settings, recovered, assignment, self.now);
                self.nodes[at].replica = Some(replica);
                self.outputs(at)
            }
        }
    }

    /// The metadata decides one of the proposed commands; some are lost, some come twice.
    fn decide(&mut self) {
        if self.commands.is_empty() {
            return;
        }
        let at = self.random.below(self.commands.len());
        let command = self.commands.swap_remove(at);
        if self.random.chance(100) {
            return;
        }
        if self.random.chance(100) {
            self.commands.push(command.clone());
        }
        let before = self.metadata.latest().clone();
        self.metadata.apply(command);
        let after = self.metadata.latest();
        self.counts.epochs += u64::from(after.epoch != before.epoch);
        self.counts.sets += u64::from(after.in_sync != before.in_sync);
        self.counts.recoveries += u64::from(after.recovery != before.recovery);
    }

    fn finish_operation(&mut self, at: usize) -> Result<(), Violation> {
        let Node { disk, id, .. } = &mut self.nodes[at];
        if disk.hangs {
            return Ok(());
        }
        let durability = self.metadata.latest().durability;
        let mut had = |records: &[Record]| {
            for record in records {
                self.had.entry(record.position).or_default().insert(*id);
            }
        };
        let Some((ticket, operation)) = disk.operations.pop_front() else {
            return Ok(());
        };
        match operation {
            Operation::Write(records) => {
                if durability == Durability::Written {
                    had(&records);
                }
                disk.written.extend(records);
            }
            Operation::Truncate(end) => {
                let end = usize::try_from(end.0).unwrap_or(usize::MAX);
                disk.written.truncate(end);
                disk.synced = disk.synced.min(end);
            }
            Operation::Sync => {
                had(&disk.written[disk.synced..]);
                disk.synced = disk.written.len();
            }
            Operation::Adopt(epoch) => disk.adopted = disk.adopted.max(epoch),
        }
        self.input(at, Event::Done { ticket })
    }

    fn deliver(&mut self) -> Result<(), Violation> {
        let ready: Vec<(usize, usize)> = self
            .links
            .iter()
            .filter(|(link, frames)| !frames.is_empty() && !self.cut.contains(link))
            .map(|(link, _)| *link)
            .collect();
        let Some((from, to)) = self.random.pick(&ready) else {
            return Ok(());
        };
        let Some((registration, message)) = self
            .links
            .get_mut(&(from, to))
            .and_then(VecDeque::pop_front)
        else {
            return Ok(());
        };
        let from = self.nodes[from].id;
        let event = Event::Message {
            from,
            registration,
            message,
        };
        self.input(to, event)?;
        self.pump(to)
    }

    fn send(&mut self, at: usize) -> Result<(), Violation> {
        let request = self.next_request;
        self.next_request += 1;
        let messages = 1 + u32::try_from(self.random.below(3)).unwrap_or(0);
        let batch = Bytes::copy_from_slice(&request.to_le_bytes());
        let event = Event::Append {
            request,
            messages,
            batch,
        };
        self.input(at, event)?;
        self.pump(at)
    }

    fn input(&mut self, at: usize, event: Event) -> Result<(), Violation> {
        if let Some(replica) = &mut self.nodes[at].replica {
            replica.handle(self.now, event);
        }
        self.outputs(at)
    }

    /// Sends what the leader has for its followers.
    fn pump(&mut self, at: usize) -> Result<(), Violation> {
        for to in 0..self.nodes.len() {
            for _ in 0..2 {
                let id = self.nodes[to].id;
                let node = &mut self.nodes[at];
                let Some(replica) = &mut node.replica else {
                    return Ok(());
                };
                let Some(plan) = replica.next_append(id) else {
                    break;
                };
                let records = read(&node.log, plan.predecessor, plan.through);
                let message = Message::Append {
                    epoch: plan.epoch,
                    predecessor: plan.predecessor,
                    records,
                    commit: plan.commit,
                    end: plan.end,
                };
                self.post(at, to, message);
            }
        }
        Ok(())
    }

    fn post(&mut self, from: usize, to: usize, message: Message) {
        let registration = self.nodes[from].registration;
        let link = self.links.entry((from, to)).or_default();
        link.push_back((registration, message));
    }

    fn outputs(&mut self, at: usize) -> Result<(), Violation> {
        loop {
            let node = &mut self.nodes[at];
            let Some(effect) = node.replica.as_mut().and_then(PartitionReplica::poll) else {
                break;
            };
            self.output(at, effect)?;
        }
        self.check_leader(at)
    }

    fn output(&mut self, at: usize, effect: Effect) -> Result<(), Violation> {
        let number = |id: ReplicaId| usize::try_from(id.number()).unwrap_or(0);
        let node = &mut self.nodes[at];
        match effect {
            Effect::Send { to, message } => self.post(at, number(to), message),
            Effect::Ready { .. } => {}
            Effect::Serve { to, epoch, after } => {
                let through = Index(after.index.0 + 3).min(Index(node.log.len() as u64));
                let records = read(&node.log, after, through);
                let message = Message::Fetched {
                    epoch,
                    predecessor: after,
                    records,
                };
                self.post(at, number(to), message);
            }
            Effect::Write { ticket, records } => {
                node.log.extend(records.iter().cloned());
                let write = Operation::Write(records.clone());
                node.disk.operations.push_back((ticket, write));
                for record in records {
                    self.check_record(record)?;
                }
            }
            Effect::Truncate { ticket, end } => {
                node.log
                    .truncate(usize::try_from(end.0).unwrap_or(usize::MAX));
                let truncate = Operation::Truncate(end);
                node.disk.operations.push_back((ticket, truncate));
            }
            Effect::Sync { ticket } => node.disk.operations.push_back((ticket, Operation::Sync)),
            Effect::Adopt { ticket, epoch } => {
                let adopt = Operation::Adopt(epoch);
                node.disk.operations.push_back((ticket, adopt));
            }
            Effect::Trusted => node.disk.trust = Trust::Trusted,
            Effect::Committed { through } => self.check_commit(at, through)?,
            Effect::Reply { request, outcome } => self.check_reply(request, outcome)?,
            Effect::Propose(proposal) => {
                self.check_proposal(&proposal)?;
                self.commands.push(Command::Of(proposal));
            }
            Effect::Alarm(Alarm::NotEnoughTrusted) => {}
            Effect::Alarm(alarm) => return Err(format!("{:?}: {alarm:?}", node.id)),
        }
        Ok(())
    }
}
