//! What goes into a copy, and what comes out of it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use consensus::Index;
use partitions::PartitionKey;
use partitions::replication::{
    Alarm, Effect, Envelope, Event, Message, PartitionReplica, Record, Trust,
};

use crate::metadata::Command;
use crate::world::{Operation, Violation, World, number};

impl World {
    pub(crate) fn deliver(&mut self) -> Result<(), Violation> {
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

    pub(crate) fn input(&mut self, at: usize, event: Event) -> Result<(), Violation> {
        if let Some(replica) = &mut self.nodes[at].replica {
            replica.handle(self.now, event);
        }
        self.outputs(at)
    }

    /// Sends what the leader has for its followers.
    pub(crate) fn pump(&mut self, at: usize) -> Result<(), Violation> {
        for id in self.nodes[at].ready.clone() {
            for _ in 0..2 {
                let node = &mut self.nodes[at];
                let Some(replica) = &mut node.replica else {
                    return Ok(());
                };
                let Some(plan) = replica.next_append(id) else {
                    node.ready.remove(&id);
                    break;
                };
                let log = &node.log;
                let records = log.read(plan.predecessor, plan.through, plan.bytes_max);
                let last = records
                    .last()
                    .map_or(plan.predecessor.index, |record| record.position.index);
                let bytes = records.iter().map(Record::bytes).sum();
                replica.sent(id, &plan, last, bytes);
                let message = Message::Append {
                    epoch: plan.epoch,
                    predecessor: plan.predecessor,
                    records,
                    beat: plan.beat,
                };
                self.post(at, number(id), message);
            }
        }
        Ok(())
    }

    pub(crate) fn post(&mut self, from: usize, to: usize, message: Message) {
        let registration = self.nodes[from].registration;
        let message = if self.random.chance(300) {
            over_the_wire(registration, message)
        } else {
            message
        };
        let link = self.links.entry((from, to)).or_default();
        link.push_back((registration, message));
    }

    pub(crate) fn outputs(&mut self, at: usize) -> Result<(), Violation> {
        loop {
            let node = &mut self.nodes[at];
            let Some(effect) = node.replica.as_mut().and_then(PartitionReplica::poll) else {
                break;
            };
            self.output(at, effect)?;
        }
        let node = &mut self.nodes[at];
        let cuts =
            |(_, it): &(_, Operation)| matches!(it, Operation::Reset(..) | Operation::Truncate(_));
        let cut = node.disk.operations.iter().any(cuts);
        if let Some(replica) = node.replica.as_ref().filter(|_| !cut) {
            node.disk.commit = replica.commit().min(node.disk.log.end());
        }
        self.check_leader(at)
    }

    fn output(&mut self, at: usize, effect: Effect) -> Result<(), Violation> {
        let node = &mut self.nodes[at];
        match effect {
            Effect::Send { to, message } => self.post(at, number(to), message),
            Effect::Ready { to } => {
                node.ready.insert(to);
            }
            Effect::Serve { to, epoch, after } => {
                let through = Index(after.index.0 + 3);
                let records = node.log.read(after, through, usize::MAX);
                let message = Message::Fetched {
                    epoch,
                    predecessor: after,
                    records,
                };
                self.post(at, number(to), message);
            }
            Effect::StartSegment { sessions } => node.kept = Some(sessions),
            Effect::Write { ticket, records } => {
                let kept = node.kept.take();
                node.log.write(records.clone(), kept.clone());
                let write = Operation::Write(records.clone(), kept);
                node.disk.operations.push_back((ticket, write));
                for record in records {
                    self.check_record(record)?;
                }
            }
            Effect::Truncate { ticket, end } => {
                node.log.truncate(end);
                let truncate = Operation::Truncate(end);
                node.disk.operations.push_back((ticket, truncate));
            }
            Effect::Reset {
                ticket,
                start,
                sessions,
            } => {
                node.log.reset(start, sessions.clone());
                let reset = Operation::Reset(start, sessions);
                node.disk.operations.push_back((ticket, reset));
                self.counts.resets += 1;
                self.check_reset(at)?;
            }
            Effect::WriteTable { ticket, write } => {
                let operation = Operation::Table(write.clone());
                node.disk.operations.push_back((ticket, operation));
                self.check_table(at, write)?;
            }
            Effect::Trim { start } => {
                node.trim = Some(start);
                self.check_trim(start)?;
            }
            Effect::Sync { ticket } => node.disk.operations.push_back((ticket, Operation::Sync)),
            Effect::Adopt { ticket, epoch } => {
                let adopt = Operation::Adopt(epoch);
                node.disk.operations.push_back((ticket, adopt));
            }
            Effect::Trusted => {
                node.disk.trust = Trust::Trusted;
                node.disk.table_trust = Trust::Trusted;
            }
            Effect::Committed { through } => self.check_commit(at, through)?,
            Effect::Reply { request, outcome } => self.answered(at, request, outcome)?,
            Effect::Propose(proposal) => {
                self.check_proposal(&proposal)?;
                self.commands.push(Command::Of(proposal));
            }
            Effect::Alarm(Alarm::NotEnoughTrusted) => {}
            Effect::Alarm(Alarm::WriteFailed) if node.disk.failed => {}
            Effect::Alarm(alarm) => return Err(format!("{:?}: {alarm:?}", node.id)),
        }
        Ok(())
    }
}

/// The message as its bytes give it.
fn over_the_wire(registration: u64, message: Message) -> Message {
    let envelope = Envelope {
        key: PartitionKey {
            stream_id: 1,
            topic_id: 2,
            partition_id: 3,
            generation: 4,
        },
        registration,
        message,
    };
    let frame: BytesMut = envelope.encode().iter().flat_map(Bytes::as_ref).collect();
    let decoded = Envelope::decode(frame.freeze());
    assert_eq!(
        decoded.as_ref(),
        Ok(&envelope),
        "a message changes on its way"
    );
    envelope.message
}
