//! What clients do.

use adapters::metadata::{Command, MetadataState, Name, Reply};
use consensus::{ProposeError, ReplicaId};
use replica::driver::{Applied, Event as Input, Ticket};

use super::{CLIENTS, Event, World};
use crate::client::{Client, Read};
use crate::random::Random;

/// Of a thousand requests so many are long on their way to a node.
const LATE_PER_MILLE: u64 = 50;
/// A replica that is well confirms a read within this time; requests are this far apart.
const READ_MAX: u64 = 10_000_000;
const READ_AGAIN: u64 = 20_000;
/// Forming takes at most this long.
const FORMING: u64 = 30_000_000;

/// Who waits for an answer.
#[derive(Clone, Copy)]
pub(super) enum Waiting {
    Setup,
    /// A client, to its operation of this number.
    Operation(usize, u64),
    Read(usize),
    /// A member of a group, to its change.
    Member(usize),
    /// The answer does not matter.
    Ignored,
}

impl World {
    pub(super) fn ticket(&mut self, waiting: Waiting) -> Ticket {
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, waiting);
        Ticket(self.next_ticket)
    }

    pub(super) fn submit(
        &mut self,
        node: usize,
        ticket: Ticket,
        command: &Command,
    ) -> Result<(), String> {
        let command = command.encode();
        self.input(node, Input::Propose { ticket, command })
    }

    /// The cluster forms: users, nodes and sessions are there before any fault.
    pub(super) fn form(&mut self) -> Result<(), String> {
        let root = Command::BootstrapRoot {
            username: Name::new("iggy").map_err(|error| error.to_string())?,
            password_hash: "no password is checked here".into(),
        };
        self.settle(&root)?;
        let registration = self.register_node(ReplicaId(1))?;
        self.create_one_of_each(registration)?;
        self.register_members(registration)?;
        for number in 0..self.plan.clients as usize {
            match self.register(Client::id(number), ReplicaId(1), registration)? {
                Reply::Registered { session } => {
                    let own = Random::of(self.plan.chance(), CLIENTS, number as u64);
                    self.clients.push(Client::new(number, session, own));
                }
                reply => return Err(format!("no session: {reply:?}")),
            }
        }
        Ok(())
    }

    /// Reads the state of the replica that has applied most.
    pub(super) fn in_newest_state<T>(
        &self,
        read: impl FnOnce(&MetadataState) -> Option<T>,
    ) -> Option<T> {
        let running = self.processes.iter().filter_map(|it| it.running.as_ref());
        let newest = running.max_by_key(|it| it.replica.brief_status().applied)?;
        read(&newest.reader.read())
    }

    pub(super) fn credential_version(&self) -> u64 {
        let versions = self.processes.iter().filter_map(|process| {
            let state = process.running.as_ref()?.reader.read();
            state.user_by_id(0).map(|user| user.credential_version)
        });
        versions.max().unwrap_or_default()
    }

    /// Repeats a command at every node until it is answered.
    pub(super) fn settle(&mut self, command: &Command) -> Result<Reply, String> {
        let deadline = self.now + FORMING;
        let mut node = 0;
        while self.now < deadline {
            let ticket = self.ticket(Waiting::Setup);
            self.setup_reply = None;
            self.submit(node, ticket, command)?;
            let request_timeout = self.now + 500_000;
            while self.setup_reply.is_none() && self.now < request_timeout {
                self.next()?;
            }
            match self.setup_reply.take() {
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(ProposeError::NotLeader { leader: Some(id) })) => {
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
    pub(super) fn act(&mut self, number: usize) -> Result<(), String> {
        if self.clients[number].waits_for.is_some() {
            return Ok(());
        }
        let client = &self.clients[number];
        let open = client.started > client.acknowledged;
        if self.clients_rest && !open {
            return Ok(());
        }
        let reads = self.plan.reads_per_mille;
        if !open && self.clients[number].random.per_mille(reads) {
            return self.start_read(number);
        }
        let (seen, padding) = (self.checks.seen(), self.plan.padding as usize);
        let client = &mut self.clients[number];
        client.read = None;
        if !open {
            client.started += 1;
            client.started_after = seen;
        }
        let (node, operation, command) = (client.node, client.started, client.command(padding));
        let ticket = self.wait(number, Waiting::Operation(number, operation));
        let random = &mut self.clients[number].random;
        if self.faulty && random.per_mille(LATE_PER_MILLE) {
            // It may be answered elsewhere long before it gets there.
            let late = random.below(2 * self.plan.request_timeout);
            let command = command.encode();
            self.after(late, Event::Submit(node, ticket, command));
            return Ok(());
        }
        self.submit(node, ticket, &command)
    }

    fn wait(&mut self, client: usize, waiting: Waiting) -> Ticket {
        let ticket = self.ticket(waiting);
        self.clients[client].waits_for = Some(ticket.0);
        let ticket_number = ticket.0;
        self.after(
            self.plan.request_timeout,
            Event::ClientTimeout {
                client,
                ticket: ticket_number,
            },
        );
        ticket
    }

    fn start_read(&mut self, number: usize) -> Result<(), String> {
        let nodes = self.processes.len() as u64;
        let random = &mut self.clients[number].random;
        let node = match random.per_mille(500) {
            true => self.read_target,
            false => random.below(nodes) as usize,
        };
        self.start_read_at(number, node)
    }

    fn start_read_at(&mut self, number: usize, node: usize) -> Result<(), String> {
        let ticket = self.wait(number, Waiting::Read(number));
        let registers = self.clients.len() as u64;
        let random = &mut self.clients[number].random;
        let register = random.below(registers) as usize;
        let oldest = self.clients[register].oldest();
        let behind = self.checks.seen();
        self.clients[number].read = Some(Read {
            register,
            oldest,
            behind,
        });
        self.trace.line(
            self.now,
            format_args!(
                "client {number} reads register {register} at replica {node}, at least {oldest}"
            ),
        );
        self.input(node, Input::ReadIndex(ticket))
    }

    /// Every replica confirms a read.
    pub(super) fn check_reads(&mut self) -> Result<(), String> {
        for node in 0..self.processes.len() {
            let done = |world: &Self| world.clients[0].reads_done;
            let (before, deadline, mut again) = (done(self), self.now + READ_MAX, self.now);
            while done(self) == before {
                if self.now > deadline {
                    return Err(format!("replica {node} confirms no read"));
                }
                if self.clients[0].waits_for.is_none() && self.now >= again {
                    again = self.now + READ_AGAIN;
                    self.start_read_at(0, node)?;
                }
                self.next()?;
            }
        }
        Ok(())
    }

    pub(super) fn client_timed_out(&mut self, number: usize, ticket: u64) {
        let nodes = self.processes.len() as u64;
        let client = &mut self.clients[number];
        if client.waits_for != Some(ticket) {
            return;
        }
        client.waits_for = None;
        client.node = client.random.below(nodes) as usize;
        self.after(1, Event::Act(number));
    }

    pub(super) fn replied(
        &mut self,
        ticket: Ticket,
        result: Result<Applied, ProposeError>,
    ) -> Result<(), String> {
        let decode = |applied: &Applied| {
            Reply::decode(&applied.reply).map_err(|error| format!("a reply: {error}"))
        };
        let (number, operation) = match self.tickets.remove(&ticket.0) {
            Some(Waiting::Operation(number, operation)) => (number, operation),
            Some(Waiting::Setup) => {
                self.setup_reply = Some(match result {
                    Ok(applied) => Ok(decode(&applied)?),
                    Err(error) => Err(error),
                });
                return Ok(());
            }
            Some(Waiting::Member(number)) => return self.member_replied(number, ticket.0, result),
            Some(Waiting::Ignored) => return Ok(()),
            _ => return Err(format!("ticket {} is answered twice", ticket.0)),
        };
        let client = &mut self.clients[number];
        if client.waits_for != Some(ticket.0) {
            return match result {
                Ok(applied) => client.answered_again(operation, &applied.reply),
                Err(_) => Ok(()),
            };
        }
        client.waits_for = None;
        let pause = match result {
            Ok(applied) => {
                client.answered(applied.reply.clone(), &decode(&applied)?)?;
                let (done, behind) = (client.acknowledged, client.started_after);
                self.checks.written(behind, applied.index.0)?;
                self.trace
                    .line(self.now, format_args!("client {number}: {done} is done"));
                self.trace.fact(self.now, 5, number, &done.to_le_bytes());
                0
            }
            Err(ProposeError::NotLeader { leader: Some(id) }) => {
                client.node = (id.0 - 1) as usize;
                5_000
            }
            Err(_) => {
                client.node = (client.node + 1) % self.processes.len();
                20_000
            }
        };
        let think_time = pause + client.random.below(self.plan.think_time);
        self.after(think_time, Event::Act(number));
        Ok(())
    }

    pub(super) fn read_done(
        &mut self,
        node: usize,
        ticket: Ticket,
        done: bool,
    ) -> Result<(), String> {
        let Some(Waiting::Read(number)) = self.tickets.remove(&ticket.0) else {
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
            let applied = running.replica.brief_status().applied.0;
            let state = running.reader.read();
            self.trace.line(
                self.now,
                format_args!("client {number} has read at replica {node}, {applied} applied"),
            );
            self.checks.read(read.behind, applied, state.applied())?;
            self.clients[read.register].check(&state, read.oldest)?;
            drop(state);
            self.clients[number].reads_done += 1;
        }
        let think_time = self.clients[number].random.below(self.plan.think_time);
        self.after(think_time, Event::Act(number));
        Ok(())
    }
}
