//! Virtual time, the network, faults, and the loop that carries all of it out.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use adapters::metadata::{Command, Name, NodeInfo, Reply};
use bytes::Bytes;
use consensus::ReplicaId;
use replica::driver::{Applied, Event as Input, FileEvent, Lane, Output, SubmitError, Ticket};

use crate::check::Checks;
use crate::client::{Client, Read};
use crate::plan::{Fault, Plan};
use crate::process::Process;
use crate::random::Random;
use crate::trace::Trace;

/// A client repeats a request that is not answered for so long.
const PATIENCE: u64 = 1_500_000;
/// After the faults, everything has come together within this time.
const RECOVERY: u64 = 60_000_000;
/// Forming takes at most this long.
const FORMING: u64 = 30_000_000;
const MESSAGES_KEPT: usize = 64;

/// What a run has done.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Equal for equal runs.
    pub hash: u64,
    /// Virtual time, in microseconds.
    pub micros: u64,
    /// Entries applied.
    pub entries: u64,
    /// Operations of clients that were acknowledged.
    pub operations: u64,
    /// Reads of clients that were answered.
    pub reads: u64,
    /// Terms that had a leader.
    pub terms: usize,
    /// Faults that took effect.
    pub faults: u64,
    /// What happened, when it was asked for.
    pub trace: Vec<String>,
}

/// What a run did wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What.
    pub what: String,
    /// When, in virtual microseconds.
    pub micros: u64,
    /// What happened before, when it was asked for.
    pub trace: Vec<String>,
}

/// Runs a plan.
///
/// # Errors
/// What went wrong.
pub fn simulate(plan: &Plan, keep_trace: bool) -> Result<Outcome, Box<Failure>> {
    let mut world = World::new(plan.clone(), keep_trace);
    // An assertion that fails is a finding like any other.
    let result = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    let micros = world.now;
    let operations = world.clients.iter().map(|client| client.acknowledged).sum();
    let reads = world.clients.iter().map(|client| client.reads_done).sum();
    let (entries, terms, faults) = (
        world.checks.applied(),
        world.checks.terms(),
        world.faults_done,
    );
    let (hash, trace) = world.trace.finish();
    match result {
        Ok(()) => Ok(Outcome {
            hash,
            micros,
            entries,
            operations,
            reads,
            terms,
            faults,
            trace,
        }),
        Err(what) => Err(Box::new(Failure {
            what,
            micros,
            trace,
        })),
    }
}

enum Event {
    Tick {
        node: usize,
        life: u64,
    },
    Deliver {
        from: usize,
        to: usize,
        message: Bytes,
    },
    Written {
        node: usize,
        life: u64,
    },
    Filed {
        node: usize,
        life: u64,
    },
    Start(usize),
    Fault,
    Join(usize, usize),
    Act(usize),
    Impatient {
        client: usize,
        ticket: u64,
    },
}

/// Who waits for an answer.
#[derive(Clone, Copy)]
enum Waiting {
    Setup,
    Client(usize),
}

struct World {
    plan: Plan,
    random: Random,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    processes: Vec<Process>,
    cut: BTreeSet<(usize, usize)>,
    clogged: BTreeMap<(usize, usize), u64>,
    /// When the last message of a link arrives: links keep their order.
    arrivals: BTreeMap<(usize, usize, bool), u64>,
    recent: Vec<(usize, usize, Bytes)>,
    clients: Vec<Client>,
    tickets: BTreeMap<u64, Waiting>,
    next_ticket: u64,
    setup_reply: Option<Result<Reply, SubmitError>>,
    faulty: bool,
    faults_done: u64,
    checks: Checks,
    trace: Trace,
}

impl World {
    fn new(plan: Plan, keep_trace: bool) -> Self {
        let mut random = Random::new(plan.seed ^ 0x0073_696d);
        let (low, high) = plan.clock_rate_percent;
        let processes = (1..=plan.voters)
            .map(|id| Process::new(ReplicaId(id), random.between(low, high)))
            .collect();
        Self {
            plan,
            random,
            now: 0,
            events: BTreeMap::new(),
            next_event: 0,
            processes,
            cut: BTreeSet::new(),
            clogged: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            recent: Vec::new(),
            clients: Vec::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            setup_reply: None,
            faulty: false,
            faults_done: 0,
            checks: Checks::default(),
            trace: Trace::new(keep_trace),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        for node in 0..self.processes.len() {
            self.start(node)?;
        }
        self.form()?;
        self.faulty = true;
        let end = self.now + self.plan.faults_for;
        for client in 0..self.clients.len() {
            self.after(client as u64 * 1_000, Event::Act(client));
        }
        if !self.plan.faults.is_empty() {
            self.after(self.plan.fault_every, Event::Fault);
        }
        while self.now < end {
            self.next()?;
        }
        self.recover()
    }

    fn after(&mut self, micros: u64, event: Event) {
        self.next_event += 1;
        self.events
            .insert((self.now + micros, self.next_event), event);
    }

    /// The next thing that happens.
    fn next(&mut self) -> Result<(), String> {
        let Some(((at, _), event)) = self.events.pop_first() else {
            return Err("nothing happens any more".into());
        };
        self.now = at;
        match event {
            Event::Tick { node, life } => self.tick(node, life),
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Written { node, life } => self.written(node, life),
            Event::Filed { node, life } => self.filed(node, life),
            Event::Start(node) => self.start(node),
            Event::Fault => self.fault(),
            Event::Join(from, to) => {
                self.cut.remove(&(from, to));
                Ok(())
            }
            Event::Act(client) => self.act(client),
            Event::Impatient { client, ticket } => {
                self.impatient(client, ticket);
                Ok(())
            }
        }
    }
}

/// Processes.
impl World {
    fn start(&mut self, node: usize) -> Result<(), String> {
        if self.processes[node].running.is_some() {
            return Ok(());
        }
        self.processes[node].disk.fail_after(None);
        let plan = self.plan.clone();
        let started = self.processes[node].start(&plan);
        started.map_err(|error| format!("replica {} cannot start: {error}", node + 1))?;
        self.trace
            .line(self.now, format_args!("replica {} starts", node + 1));
        let life = self.processes[node].life;
        self.after(1, Event::Tick { node, life });
        Ok(())
    }

    /// The process is gone; with power loss, so is what was not synced.
    fn stop(&mut self, node: usize, power: bool) {
        if self.processes[node].running.take().is_none() {
            return;
        }
        self.trace.line(
            self.now,
            format_args!(
                "replica {} {}",
                node + 1,
                if power { "loses power" } else { "is killed" }
            ),
        );
        if power {
            let random = &mut self.random;
            self.processes[node].disk.crash(&mut || random.next());
        }
        let back = self.random.between(10_000, 3_000_000);
        self.after(back, Event::Start(node));
    }

    fn lives(&self, node: usize, life: u64) -> bool {
        let process = &self.processes[node];
        process.life == life && process.running.is_some()
    }

    /// Whether the process stands still; then the event comes again later.
    fn is_paused(&self, node: usize) -> Option<u64> {
        let until = self.processes[node].paused_until;
        (until > self.now).then(|| until - self.now)
    }

    fn tick(&mut self, node: usize, life: u64) -> Result<(), String> {
        if !self.lives(node, life) {
            return Ok(());
        }
        if let Some(rest) = self.is_paused(node) {
            self.after(rest, Event::Tick { node, life });
            return Ok(());
        }
        if let Some(running) = &mut self.processes[node].running {
            running.ticked();
        }
        let again = self.processes[node].tick_micros();
        self.after(again, Event::Tick { node, life });
        self.input(node, Input::Tick)
    }

    /// Gives a replica an event, and carries out what it wants.
    fn input(&mut self, node: usize, input: Input) -> Result<(), String> {
        let now = self.now;
        let id = self.processes[node].id;
        let Some(running) = &mut self.processes[node].running else {
            return Ok(());
        };
        let before = running.replica.status().applied;
        running.replica.handle(running.now(now), input);
        running
            .replica
            .flush()
            .map_err(|error| format!("replica {id} must stop: {error}"))?;
        let status = running.replica.status();
        let mut outputs = Vec::new();
        while let Some(output) = running.replica.poll() {
            outputs.push(output);
        }
        if status.applied != before {
            let digest = running.reader.digest();
            self.checks.state(id, status.applied.0, digest)?;
            self.trace
                .fact(now, 1, node, &status.applied.0.to_le_bytes());
        }
        self.checks.leader(id, &status)?;
        for output in outputs {
            self.carry_out(node, output)?;
        }
        self.pump(node)
    }

    fn carry_out(&mut self, node: usize, output: Output) -> Result<(), String> {
        let Some(running) = &mut self.processes[node].running else {
            return Ok(());
        };
        match output {
            Output::Write(batch) => running.write(batch),
            Output::Compact(through) => running.compact(through),
            Output::File(job) => running.file_jobs.push_back(job),
            Output::Send { to, lane, message } => {
                self.send(node, (to.0 - 1) as usize, lane == Lane::Bulk, message);
            }
            Output::Replied { ticket, result } => self.replied(ticket, result)?,
            Output::ReadDone { ticket, result } => {
                let done = result.is_ok();
                self.read_done(node, ticket, done)?;
            }
            Output::TransferBegun { result, .. } => {
                self.faults_done += u64::from(result.is_ok());
            }
            Output::LeaderChanged { term, leader } => {
                self.trace.fact(self.now, 2, node, &term.0.to_le_bytes());
                self.trace.line(
                    self.now,
                    format_args!(
                        "replica {}: term {term}, leader {:?}",
                        node + 1,
                        leader.map(|id| id.0)
                    ),
                );
            }
        }
        Ok(())
    }

    /// Begins disk work that waits.
    fn pump(&mut self, node: usize) -> Result<(), String> {
        let life = self.processes[node].life;
        let Some(running) = &mut self.processes[node].running else {
            return Ok(());
        };
        match running.begin_write() {
            Ok(true) => {
                let takes = self.disk_time(node);
                self.after(takes, Event::Written { node, life });
            }
            Ok(false) => {}
            Err(error) => return self.disk_failed(node, &error.to_string()),
        }
        if let Some(running) = &mut self.processes[node].running
            && !running.filing
            && !running.file_jobs.is_empty()
        {
            running.filing = true;
            let takes = self.disk_time(node);
            self.after(takes, Event::Filed { node, life });
        }
        Ok(())
    }

    fn disk_time(&mut self, node: usize) -> u64 {
        let (low, high) = self.plan.disk;
        let takes = self.random.between(low, high);
        let stalled = self.processes[node].stalled_until;
        takes + stalled.saturating_sub(self.now)
    }

    fn written(&mut self, node: usize, life: u64) -> Result<(), String> {
        if !self.lives(node, life) {
            return Ok(());
        }
        let Some(running) = &mut self.processes[node].running else {
            return Ok(());
        };
        match running.end_write() {
            Ok(Some(last)) => self.input(node, Input::Persisted(last)),
            Ok(None) => Ok(()),
            Err(error) => self.disk_failed(node, &error.to_string()),
        }
    }

    fn filed(&mut self, node: usize, life: u64) -> Result<(), String> {
        if !self.lives(node, life) {
            return Ok(());
        }
        let Some(running) = &mut self.processes[node].running else {
            return Ok(());
        };
        running.filing = false;
        let Some(job) = running.file_jobs.pop_front() else {
            return Ok(());
        };
        let done: FileEvent = running.files.execute(job);
        self.input(node, Input::File(done))
    }

    /// A replica whose disk fails stops: what is on it is unknown.
    fn disk_failed(&mut self, node: usize, error: &str) -> Result<(), String> {
        if !self.faulty {
            return Err(format!("replica {}: {error}", node + 1));
        }
        self.trace
            .line(self.now, format_args!("replica {}: {error}", node + 1));
        self.stop(node, false);
        Ok(())
    }
}

/// The network.
impl World {
    fn send(&mut self, from: usize, to: usize, bulk: bool, message: Bytes) {
        if self.recent.len() < MESSAGES_KEPT {
            self.recent.push((from, to, message.clone()));
        } else {
            let at = self.random.below(MESSAGES_KEPT as u64) as usize;
            self.recent[at] = (from, to, message.clone());
        }
        let lost = self.faulty && self.random.per_mille(self.plan.loss_per_mille);
        if lost || self.cut.contains(&(from, to)) {
            return;
        }
        let (low, high) = self.plan.latency;
        let mut arrives = self.now + self.random.between(low, high);
        if let Some(until) = self.clogged.get(&(from, to)) {
            arrives = arrives.max(*until);
        }
        let duplicate = self.faulty && self.random.per_mille(self.plan.duplicates_per_mille);
        if duplicate {
            let again = arrives - self.now + self.random.below(500_000);
            let message = message.clone();
            self.after(again, Event::Deliver { from, to, message });
        }
        let last = self.arrivals.entry((from, to, bulk)).or_default();
        arrives = arrives.max(*last);
        *last = arrives;
        self.after(arrives - self.now, Event::Deliver { from, to, message });
    }

    fn deliver(&mut self, from: usize, to: usize, message: Bytes) -> Result<(), String> {
        if self.cut.contains(&(from, to)) {
            return Ok(());
        }
        if let Some(rest) = self.is_paused(to) {
            self.after(rest, Event::Deliver { from, to, message });
            return Ok(());
        }
        let from = self.processes[from].id;
        self.trace.fact(self.now, 3, to, &message);
        self.input(to, Input::Peer { from, message })
    }
}

/// Faults.
impl World {
    fn fault(&mut self) -> Result<(), String> {
        if !self.faulty {
            return Ok(());
        }
        let wait = self.random.between(1, 2 * self.plan.fault_every);
        self.after(wait, Event::Fault);
        let Some(fault) = self.random.pick(&self.plan.faults) else {
            return Ok(());
        };
        let count = self.processes.len() as u64;
        let node = self.random.below(count) as usize;
        let other = (node + 1 + self.random.below(count - 1) as usize) % self.processes.len();
        let lasts = self.random.between(50_000, 3_000_000);
        self.trace
            .line(self.now, format_args!("fault {fault:?} at {}", node + 1));
        self.trace.fact(self.now, 4, node, &[fault as u8]);
        self.faults_done += u64::from(fault != Fault::Transfer);
        match fault {
            Fault::Kill => self.stop(node, false),
            Fault::PowerLoss => self.stop(node, true),
            Fault::PowerLossEverywhere => {
                for node in 0..self.processes.len() {
                    self.stop(node, true);
                }
            }
            Fault::Pause => self.processes[node].paused_until = self.now + lasts,
            Fault::Isolate => {
                for other in (0..self.processes.len()).filter(|other| *other != node) {
                    self.cut_link(node, other, lasts);
                    self.cut_link(other, node, lasts);
                }
            }
            Fault::CutOneWay => self.cut_link(node, other, lasts),
            Fault::Clog => {
                self.clogged.insert((node, other), self.now + lasts);
            }
            Fault::Replay => {
                let old = self.recent.clone();
                for (from, to, message) in old {
                    let late = self.random.below(lasts);
                    self.after(late, Event::Deliver { from, to, message });
                }
            }
            Fault::Stall => self.processes[node].stalled_until = self.now + lasts,
            Fault::DiskError => {
                let after = self.random.below(6);
                self.processes[node].disk.fail_after(Some(after));
            }
            Fault::Transfer => {
                let to = self.processes[other].id;
                let ticket = self.ticket(Waiting::Setup);
                return self.input(node, Input::Transfer { ticket, to });
            }
        }
        Ok(())
    }

    fn cut_link(&mut self, from: usize, to: usize, lasts: u64) {
        self.cut.insert((from, to));
        self.after(lasts, Event::Join(from, to));
    }

    /// The faults end: everything has to come together, and to go on.
    fn recover(&mut self) -> Result<(), String> {
        self.trace.line(self.now, format_args!("the faults end"));
        self.faulty = false;
        self.cut.clear();
        self.clogged.clear();
        for node in 0..self.processes.len() {
            self.processes[node].paused_until = self.now;
            self.processes[node].stalled_until = self.now;
            self.processes[node].disk.fail_after(None);
        }
        let goals: Vec<u64> = self
            .clients
            .iter()
            .map(|client| client.acknowledged + 2)
            .collect();
        let deadline = self.now + RECOVERY;
        while self.now < deadline {
            self.next()?;
            let mut clients = self.clients.iter().zip(&goals);
            if clients.all(|(client, goal)| client.acknowledged >= *goal) && self.agree() {
                return self.check_registers();
            }
        }
        let statuses: Vec<_> = self
            .processes
            .iter()
            .map(|process| {
                let status = process.running.as_ref().map(|it| it.replica.status());
                status.map(|it| (it.core.role, it.core.term.0, it.core.commit.0, it.applied.0))
            })
            .collect();
        Err(format!(
            "not recovered {} s after the last fault: {statuses:?}",
            RECOVERY / 1_000_000
        ))
    }

    /// Whether all replicas run and have applied the same.
    fn agree(&self) -> bool {
        let mut applied = self.processes.iter().map(|process| {
            let running = process.running.as_ref()?;
            Some(running.replica.status().applied)
        });
        let first = applied.next().flatten();
        first.is_some() && applied.all(|other| other == first)
    }

    /// Everything acknowledged is there, everywhere.
    fn check_registers(&mut self) -> Result<(), String> {
        for process in &self.processes {
            let Some(running) = &process.running else {
                continue;
            };
            let state = running.reader.read();
            for client in &mut self.clients {
                let oldest = client.oldest();
                client.check(&state, oldest)?;
            }
        }
        if self.clients.iter().any(|client| client.acknowledged < 2) {
            return Err("a run in which nothing was done shows nothing".into());
        }
        Ok(())
    }
}

/// Clients.
impl World {
    fn ticket(&mut self, waiting: Waiting) -> Ticket {
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, waiting);
        Ticket(self.next_ticket)
    }

    fn submit(&mut self, node: usize, ticket: Ticket, command: &Command) -> Result<(), String> {
        let command = command.encode();
        self.input(node, Input::Submit { ticket, command })
    }

    /// The cluster forms: users, nodes and sessions are there before any fault.
    fn form(&mut self) -> Result<(), String> {
        let root = Command::BootstrapRoot {
            username: Name::new("iggy").map_err(|error| error.to_string())?,
            password_hash: "no password is checked here".into(),
        };
        self.settle(&root)?;
        let info = NodeInfo {
            node: ReplicaId(1),
            name: "node-1".into(),
            incarnation: 1,
            host: "127.0.0.1".into(),
            tcp_port: 8090,
            admin: "127.0.0.1:3300".into(),
            version: "0".into(),
        };
        let Reply::NodeRegistered { registration } = self.settle(&Command::RegisterNode(info))?
        else {
            return Err("the node is not registered".into());
        };
        for number in 0..self.plan.clients as usize {
            let register = Command::Register {
                client: Client::id(number),
                user_id: 0,
                credential_version: self.credential_version(),
                node: ReplicaId(1),
                registration,
            };
            match self.settle(&register)? {
                Reply::Registered { session } => self.clients.push(Client::new(number, session)),
                reply => return Err(format!("no session: {reply:?}")),
            }
        }
        Ok(())
    }

    fn credential_version(&self) -> u64 {
        let versions = self.processes.iter().filter_map(|process| {
            let state = process.running.as_ref()?.reader.read();
            state.user_by_id(0).map(|user| user.credential_version)
        });
        versions.max().unwrap_or_default()
    }

    /// Repeats a command at every node until it is answered.
    fn settle(&mut self, command: &Command) -> Result<Reply, String> {
        let deadline = self.now + FORMING;
        let mut node = 0;
        while self.now < deadline {
            let ticket = self.ticket(Waiting::Setup);
            self.setup_reply = None;
            self.submit(node, ticket, command)?;
            let patience = self.now + 500_000;
            while self.setup_reply.is_none() && self.now < patience {
                self.next()?;
            }
            match self.setup_reply.take() {
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(SubmitError::NotLeader { leader: Some(id) })) => {
                    node = (id.0 - 1) as usize;
                }
                _ => node = (node + 1) % self.processes.len(),
            }
            let pause = self.now + 20_000;
            while self.now < pause {
                self.next()?;
            }
        }
        Err("the cluster does not form".into())
    }

    /// A client does the next thing, or what it did once more.
    fn act(&mut self, number: usize) -> Result<(), String> {
        if self.clients[number].waits_for.is_some() {
            return Ok(());
        }
        let client = &self.clients[number];
        let open = client.begun > client.acknowledged;
        let reads = !open && self.random.per_mille(400);
        let ticket = self.ticket(Waiting::Client(number));
        self.clients[number].waits_for = Some(ticket.0);
        self.after(
            PATIENCE,
            Event::Impatient {
                client: number,
                ticket: ticket.0,
            },
        );
        if reads {
            let node = self.random.below(self.processes.len() as u64) as usize;
            let register = self.random.below(self.clients.len() as u64) as usize;
            let oldest = self.clients[register].oldest();
            self.clients[number].read = Some(Read { register, oldest });
            self.trace.line(
                self.now,
                format_args!(
                    "client {number} reads register {register} at replica {}, at least {oldest}",
                    node + 1
                ),
            );
            return self.input(node, Input::Read(ticket));
        }
        let client = &mut self.clients[number];
        client.read = None;
        if !open {
            client.begun += 1;
        }
        let (node, command) = (client.node, client.command());
        self.submit(node, ticket, &command)
    }

    fn impatient(&mut self, number: usize, ticket: u64) {
        let nodes = self.processes.len() as u64;
        let client = &mut self.clients[number];
        if client.waits_for != Some(ticket) {
            return;
        }
        client.waits_for = None;
        client.node = self.random.below(nodes) as usize;
        self.after(1, Event::Act(number));
    }

    fn replied(
        &mut self,
        ticket: Ticket,
        result: Result<Applied, SubmitError>,
    ) -> Result<(), String> {
        let decode = |applied: Applied| {
            Reply::decode(&applied.reply).map_err(|error| format!("a reply: {error}"))
        };
        let number = match self.tickets.remove(&ticket.0) {
            Some(Waiting::Client(number)) => number,
            Some(Waiting::Setup) => {
                self.setup_reply = Some(match result {
                    Ok(applied) => Ok(decode(applied)?),
                    Err(error) => Err(error),
                });
                return Ok(());
            }
            None => return Err(format!("ticket {} is answered twice", ticket.0)),
        };
        let client = &mut self.clients[number];
        if client.waits_for != Some(ticket.0) {
            return Ok(());
        }
        client.waits_for = None;
        let pause = match result {
            Ok(applied) => {
                client.answered(&decode(applied)?)?;
                let done = client.acknowledged;
                self.trace
                    .line(self.now, format_args!("client {number}: {done} is done"));
                self.trace
                    .fact(self.now, 5, number, &client.acknowledged.to_le_bytes());
                0
            }
            Err(SubmitError::NotLeader { leader: Some(id) }) => {
                client.node = (id.0 - 1) as usize;
                5_000
            }
            Err(_) => {
                client.node = (client.node + 1) % self.processes.len();
                20_000
            }
        };
        let thinks = pause + self.random.below(20_000);
        self.after(thinks, Event::Act(number));
        Ok(())
    }

    fn read_done(&mut self, node: usize, ticket: Ticket, done: bool) -> Result<(), String> {
        let Some(Waiting::Client(number)) = self.tickets.remove(&ticket.0) else {
            return Err(format!("ticket {} is answered twice", ticket.0));
        };
        if self.clients[number].waits_for != Some(ticket.0) {
            return Ok(());
        }
        self.clients[number].waits_for = None;
        if let Some(read) = self.clients[number].read.take()
            && done
            && let Some(running) = &self.processes[node].running
        {
            let state = running.reader.read();
            self.trace.line(
                self.now,
                format_args!(
                    "client {number} has read at replica {}, {} applied",
                    node + 1,
                    state.applied()
                ),
            );
            self.clients[read.register].check(&state, read.oldest)?;
            drop(state);
            self.clients[number].reads_done += 1;
        }
        let thinks = self.random.below(20_000);
        self.after(thinks, Event::Act(number));
        Ok(())
    }
}
