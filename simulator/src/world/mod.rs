//! Virtual time, and the loop that carries everything out.

mod availability;
mod clients;
mod damage;
mod election_crash;
mod faults;
mod first_write;
mod late_messages;
mod late_rot;
mod level_checks;
mod links;
mod members;
mod mistakes;
mod network;
mod overtaken_transfer;
mod processes;
mod registration_checks;
mod session_checks;
mod split_writes;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use adapters::metadata::{Reply, SESSIONS_LIMIT};
use bytes::Bytes;
use consensus::rules::{self, Rule};
use consensus::{ProposeError, ReplicaId};
use replica::driver::{Event as Input, Ticket};
use replica::snapshots::PIECE_BYTES;

use crate::check::Checks;
use crate::client::Client;
use crate::fault::{Delivered, Fault, Planned};
use crate::plan::Plan;
use crate::process::{EPOCH_MICROS, Process};
use crate::random::Random;
use crate::trace::Trace;
use clients::Waiting;
use late_messages::ReplayMoment;
pub(crate) use members::GROUP;
use members::Member;
use network::Network;
use overtaken_transfer::OvertakenTransfer;

/// Delays where nothing depends on them.
const HURRY: (u64, u64) = (50, 500);
/// After the faults, everything has come together within this time.
const RECOVERY: u64 = 60_000_000;
/// Entries of a log that was just cut, beyond those that it is to keep.
const ENTRIES_MORE: u64 = 500;
/// The same in segments, beside one for every start.
const SEGMENTS_MORE: u64 = 40;
/// Generators of the seed: of machines, clients, and links.
const PROCESSES: u64 = 1;
const CLIENTS: u64 = 2;
const LINKS: u64 = 3;
/// Operations that are acknowledged in a run that shows anything.
const OPERATIONS_MIN: u64 = 4;

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
    pub faults: Delivered,
    /// What happened, when a trace was requested.
    pub trace: Vec<String>,
}

/// What a run did wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What.
    pub what: String,
    /// What found it.
    pub class: FailureClass,
    /// When, in virtual microseconds.
    pub micros: u64,
    /// What happened before, when a trace was requested.
    pub trace: Vec<String>,
}

/// What found a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// A check of the simulator, or an assertion of the code that names what it protects.
    Check,
    /// An index or an arithmetic operation out of bounds: it shows that something is wrong,
    /// but no check has seen what.
    Bounds,
    /// A fault that was drawn, or the work of clients, had no effect, so the run shows
    /// nothing.
    NoEffect,
}

/// How a failure reads when a fault had no effect.
const NO_EFFECT: &str = "was drawn and had no effect";
/// How it reads when clients have done less than [`OPERATIONS_MIN`].
const NOTHING_DONE: &str = "clients have done nothing, so the run shows nothing";

impl FailureClass {
    fn of(what: &str) -> Self {
        const BOUNDS: [&str; 7] = [
            "panic: attempt to ",
            "panic: byte index",
            "panic: called `",
            "panic: index out of bounds",
            "panic: mid > len",
            "panic: range ",
            "panic: slice index",
        ];
        match what {
            _ if what.ends_with(NO_EFFECT) || what == NOTHING_DONE => Self::NoEffect,
            _ if BOUNDS.iter().any(|start| what.starts_with(start)) => Self::Bounds,
            _ => Self::Check,
        }
    }
}

/// Runs a plan.
///
/// # Errors
/// What went wrong.
pub fn simulate(plan: &Plan, keep_trace: bool) -> Result<Outcome, Box<Failure>> {
    simulate_without(plan, None, keep_trace).0
}

/// Runs a plan on code in which a rule is broken. Tells as well whether the run
/// came to the place where it is.
pub(crate) fn simulate_without(
    plan: &Plan,
    rule: Option<&Rule>,
    keep_trace: bool,
) -> (Result<Outcome, Box<Failure>>, bool) {
    rules::break_rule(rule);
    rules::lower_limits(&[
        (SESSIONS_LIMIT, session_checks::SESSIONS_MAX),
        (PIECE_BYTES, plan.piece_bytes),
    ]);
    let mut world = World::new(plan.clone(), keep_trace);
    // An assertion that fails is a finding like any other.
    let result = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    let was_broken = rules::was_broken();
    rules::break_rule(None);
    (world.finish(result), was_broken)
}

enum Event {
    Tick {
        node: usize,
        start: u64,
    },
    Deliver {
        from: usize,
        to: usize,
        message: Bytes,
        /// The fault that brings it once more.
        again: Option<Fault>,
    },
    Written {
        node: usize,
        start: u64,
        write: u64,
    },
    Filed {
        node: usize,
        start: u64,
    },
    Start(usize),
    /// A fault, the next of the schedule or one more.
    Fault(Planned),
    Join(usize, usize),
    /// A disk has room again.
    Room(usize),
    /// Nothing passes to and from a replica for this time.
    CutOff(usize, u64, Fault),
    /// A machine loses power, and has it again after this time.
    PowerFails(usize, u64),
    /// A replica gets again what it was sent before.
    TargetedReplay(usize, ReplayMoment),
    /// Whether a replica that is cut off needs a snapshot by now.
    CheckLag(usize),
    /// The same before its log overtakes the snapshot.
    CheckOvertaken,
    /// The operator turns to this replica.
    RollingRestart(usize),
    /// A process that was paused continues.
    Continue(usize),
    Act(usize),
    /// A member of a group joins or leaves.
    MemberActs(usize),
    MemberTimeout(usize, u64),
    /// A replica notices that the connection to a peer is broken.
    Unreachable(usize, ReplicaId),
    /// A request arrives at a node.
    Submit(usize, Ticket, Bytes),
    ClientTimeout {
        client: usize,
        ticket: u64,
    },
}

struct World {
    plan: Plan,
    random: Random,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    processes: Vec<Process>,
    /// What happened to processes while they were paused.
    deferred: BTreeMap<usize, Vec<Event>>,
    network: Network,
    clients: Vec<Client>,
    members: Vec<Member>,
    tickets: BTreeMap<u64, Waiting>,
    next_ticket: u64,
    setup_reply: Option<Result<Reply, ProposeError>>,
    faulty: bool,
    /// Clients start nothing new.
    clients_rest: bool,
    /// What happens when the next leader is elected.
    at_election: Option<Planned>,
    overtaken: Option<OvertakenTransfer>,
    /// What draws a power loss in the first write of the next leader.
    first_write: Option<u64>,
    /// A replica that fetches a snapshot, and its source once known.
    fetch: Option<(usize, Option<usize>)>,
    replay_at_election: bool,
    /// The same for every replica that enters another term until then.
    replay_at_term: bool,
    /// Where most reads go.
    read_target: usize,
    delivered: Delivered,
    checks: Checks,
    trace: Trace,
}

impl World {
    fn new(plan: Plan, keep_trace: bool) -> Self {
        let chance = plan.chance();
        let mut random = Random::new(chance);
        let (low, high) = plan.clock_rate_percent;
        let processes = (1..=plan.replicas())
            .map(|id| {
                let own = Random::of(chance, PROCESSES, id);
                Process::new(ReplicaId(id), random.between(low, high), own)
            })
            .collect();
        Self {
            plan,
            random,
            now: 0,
            events: BTreeMap::new(),
            next_event: 0,
            processes,
            deferred: BTreeMap::new(),
            network: Network::default(),
            clients: Vec::new(),
            members: Vec::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            setup_reply: None,
            faulty: false,
            clients_rest: false,
            at_election: None,
            overtaken: None,
            first_write: None,
            fetch: None,
            replay_at_election: false,
            replay_at_term: false,
            read_target: 0,
            delivered: Delivered::default(),
            checks: Checks::default(),
            trace: Trace::new(keep_trace),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        for node in 0..self.processes.len() {
            let formatted = self.processes[node].format(&self.plan);
            formatted.map_err(|error| format!("replica {node}: {error}"))?;
            self.start(node)?;
        }
        self.in_a_hurry(Self::form)?;
        self.faulty = true;
        for client in 0..self.clients.len() {
            self.after(client as u64 * 1_000, Event::Act(client));
        }
        for member in 0..self.members.len() {
            self.after(0, Event::MemberActs(member));
        }
        for planned in self.plan.schedule.clone() {
            self.after(planned.at, Event::Fault(planned));
        }
        self.run_for(self.plan.faults_for)?;
        let missing = self.deliver_missing_faults()?;
        // What kept a fault from having an effect may be what recovery shows.
        self.recover()?;
        missing.map_or(Ok(()), |fault| Err(format!("{} {NO_EFFECT}", fault.name())))
    }

    /// On a quick network and quick disks: where there are no faults, waiting for them shows
    /// nothing.
    fn in_a_hurry(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let Plan {
            latency,
            bulk_latency,
            disk,
            ..
        } = self.plan;
        self.plan.latency = HURRY;
        self.plan.bulk_latency = 0;
        self.plan.disk = HURRY;
        let done = part(self);
        self.plan.latency = latency;
        self.plan.bulk_latency = bulk_latency;
        self.plan.disk = disk;
        done
    }

    fn run_for(&mut self, micros: u64) -> Result<(), String> {
        let end = self.now + micros;
        while self.now < end {
            self.next()?;
        }
        Ok(())
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
            Event::Tick { node, start } => self.tick(node, start),
            Event::Deliver {
                from,
                to,
                message,
                again,
            } => self.deliver(from, to, message, again),
            Event::Written { node, start, write } => self.written(node, start, write),
            Event::Filed { node, start } => self.filed(node, start),
            Event::Start(node) => self.start(node),
            Event::Fault(planned) => self.fault(planned),
            Event::Join(from, to) => {
                self.network.join(from, to, self.now);
                Ok(())
            }
            Event::Room(node) => {
                self.processes[node].set_full(false);
                Ok(())
            }
            Event::CutOff(node, lasts, fault) => {
                if self.faulty {
                    self.cut_off(node, lasts, fault);
                }
                Ok(())
            }
            Event::PowerFails(node, back) => {
                if self.faulty {
                    self.stop_for(node, true, back);
                }
                Ok(())
            }
            Event::TargetedReplay(node, moment) => {
                self.targeted_replay(node, moment);
                Ok(())
            }
            Event::CheckLag(node) => {
                self.check_lag(node);
                Ok(())
            }
            Event::CheckOvertaken => {
                self.check_overtaken();
                Ok(())
            }
            Event::RollingRestart(node) => {
                self.rolling_restart(node);
                Ok(())
            }
            Event::Continue(node) => {
                self.continues(node);
                Ok(())
            }
            Event::Act(client) => self.act(client),
            Event::MemberActs(member) => self.member_acts(member),
            Event::MemberTimeout(member, ticket) => self.member_timed_out(member, ticket),
            Event::Unreachable(node, peer) => self.peer_is_unreachable(node, peer),
            Event::Submit(node, ticket, command) => {
                self.input(node, Input::Propose { ticket, command })
            }
            Event::ClientTimeout { client, ticket } => {
                self.client_timed_out(client, ticket);
                Ok(())
            }
        }
    }

    /// The faults end: all replicas have to converge, and to make progress.
    fn recover(&mut self) -> Result<(), String> {
        self.trace.line(self.now, format_args!("the faults end"));
        self.end_faults();
        self.converge()?;
        if self.plan.leader_without_quorum {
            self.check_leader_without_quorum()?;
            self.converge()?;
        }
        if self.plan.hung_disk {
            self.check_hung_disk()?;
            self.converge()?;
        }
        if self.plan.lost_source {
            self.in_a_hurry(Self::check_lost_source)?;
            self.converge()?;
        }
        self.check_everything()?;
        self.check_reads()?;
        self.in_a_hurry(Self::check_sessions)?;
        // Clients have had to make room, and rest.
        self.agree_by(|_| true)
    }

    fn converge(&mut self) -> Result<(), String> {
        self.resume_clients();
        let goals: Vec<u64> = self
            .clients
            .iter()
            .map(|client| client.acknowledged + 2)
            .collect();
        self.agree_by(|world| {
            let mut clients = world.clients.iter().zip(&goals);
            clients.all(|(client, goal)| client.acknowledged >= *goal)
        })
    }

    /// Until all replicas agree, and clients have done what they are to do.
    fn agree_by(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        let deadline = self.now + RECOVERY;
        while self.now < deadline {
            self.next()?;
            // A replica with a slow link may lag as long as they continue.
            self.clients_rest = self.clients_rest || done(self);
            if self.clients_rest
                && self.clients_are_idle()
                && self.members_are_gone()
                && self.agree()
                && self.logs_are_bounded()
            {
                return Ok(());
            }
        }
        let mut statuses: Vec<_> = self.processes.iter().map(Process::describe).collect();
        statuses.extend(self.clients.iter().map(Client::describe));
        Err(format!(
            "not recovered {} s after the last fault: {}: {}",
            RECOVERY / 1_000_000,
            self.what_is_missing(),
            statuses.join("; ")
        ))
    }

    /// What recovery waits for, first the cause and then what follows from it.
    fn what_is_missing(&self) -> String {
        for process in &self.processes {
            if process.running.is_none() {
                return format!("replica {} does not run", process.id);
            }
        }
        if self.leader().is_none() {
            return "no replica leads".into();
        }
        let running =
            |process: &Process| process.running.as_ref().map(|it| it.replica.brief_status());
        let statuses: Vec<_> = self.processes.iter().filter_map(running).collect();
        let last = statuses.iter().map(|status| status.applied).max();
        for (process, status) in self.processes.iter().zip(&statuses) {
            let id = process.id;
            if status.reads_waiting > 0 {
                return format!("replica {id} has reads without an answer");
            }
            if status.batches_in_flight + status.commands_waiting > 0 {
                return format!("replica {id} has commands without an answer");
            }
            if Some(status.applied) < last {
                return format!("replica {id} lags");
            }
        }
        if !self.clients_are_idle() {
            return "clients get no answer".into();
        }
        if !self.members_are_gone() {
            return "members of a group get no answer".into();
        }
        if !self.logs_are_bounded() {
            return "logs are not compacted".into();
        }
        "clients have done too little".into()
    }

    fn clients_are_idle(&self) -> bool {
        let mut clients = self.clients.iter();
        clients.all(|client| client.waits_for.is_none() && client.started == client.acknowledged)
    }

    /// Whether all replicas run, have applied the same, and have no unanswered request.
    fn agree(&self) -> bool {
        let mut applied = self.processes.iter().map(|process| {
            let status = process.running.as_ref()?.replica.brief_status();
            let open = status.reads_waiting + status.batches_in_flight + status.commands_waiting;
            (open == 0).then_some(status.applied)
        });
        let first = applied.next().flatten();
        first.is_some() && applied.all(|other| other == first)
    }

    /// Everything acknowledged is there, everywhere.
    fn check_everything(&mut self) -> Result<(), String> {
        self.checks.history.check()?;
        for process in &self.processes {
            let Some(running) = &process.running else {
                continue;
            };
            let state = running.reader.read();
            for client in &mut self.clients {
                let oldest = client.oldest();
                client.check(&state, oldest)?;
            }
            drop(state);
        }
        self.check_time()?;
        let operations: u64 = self.clients.iter().map(|client| client.acknowledged).sum();
        if operations < OPERATIONS_MIN {
            return Err(NOTHING_DONE.into());
        }
        Ok(())
    }

    /// A clock that was ahead by years has not taken the time of the log there: a start may
    /// gain a day, and every second a minute or two.
    fn check_time(&self) -> Result<(), String> {
        const DAY: u64 = 24 * 3_600_000_000;
        let starts: u64 = self.processes.iter().map(|process| process.starts).sum();
        // Ticks jump as well.
        let jumps = self.delivered.of(Fault::ClockJump);
        let latest = EPOCH_MICROS + 200 * self.now + (2 * starts + jumps + 1) * DAY;
        match self.in_newest_state(|state| Some(state.now())) {
            Some(now) if now > latest => Err(format!(
                "the time of the log is {} days ahead",
                (now - EPOCH_MICROS) / DAY
            )),
            _ => Ok(()),
        }
    }

    /// Whether snapshots have cut all logs as far as they have to.
    fn logs_are_bounded(&self) -> bool {
        let planned = self.plan.limits.log_tail_entries + self.plan.snapshot_entries;
        // A restart brings back what else its segments hold.
        let bound = planned + ENTRIES_MORE;
        self.processes.iter().all(|process| {
            let Some(running) = &process.running else {
                return false;
            };
            let status = running.replica.brief_status();
            let entries = status.core.last.0 + 1 - status.core.first.0;
            // An entry and the hard state after it have two frames at most.
            let segments = SEGMENTS_MORE + planned + entries + process.starts;
            entries <= bound && running.log_segments() as u64 <= segments
        })
    }

    fn finish(self, result: Result<(), String>) -> Result<Outcome, Box<Failure>> {
        let micros = self.now;
        let (hash, trace) = self.trace.finish();
        match result {
            Ok(()) => Ok(Outcome {
                hash,
                micros,
                entries: self.checks.applied(),
                operations: self.clients.iter().map(|client| client.acknowledged).sum(),
                reads: self.clients.iter().map(|client| client.reads_done).sum(),
                terms: self.checks.terms(),
                faults: self.delivered,
                trace,
            }),
            Err(what) => Err(Box::new(Failure {
                class: FailureClass::of(&what),
                what,
                micros,
                trace,
            })),
        }
    }
}
