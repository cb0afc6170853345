//! Clients: batches with and without a tag, consumer offsets, reads, and the retention.

use partitions::replication::{Epoch, Event, OffsetChange, Read};
use partitions::{ConsumerKey, Tag};

use crate::client::batch_of;
use crate::world::{Violation, World};

/// A client that sends one request at a time, and repeats it until its outcome is known.
pub(crate) struct Client {
    client: u128,
    session: u64,
    request: u64,
    current: Option<Sent>,
    /// What may still arrive late.
    former: Vec<Sent>,
}

#[derive(Clone, Copy)]
struct Sent {
    tag: Tag,
    logical: u64,
    messages: usize,
    first_epoch: Option<Epoch>,
}

/// A request to a copy.
#[derive(Clone, Copy)]
pub(crate) enum Attempt {
    Append {
        logical: u64,
        client: Option<usize>,
    },
    Offset {
        consumer: ConsumerKey,
        change: OffsetChange,
        /// Its number within its session.
        number: u64,
    },
    Read,
    MoveStart,
}

impl Client {
    pub(crate) fn new(client: u128) -> Self {
        Self {
            // Two of them share a client's name, in different sessions.
            client: client.min(4),
            session: 1 + u64::from(client == 5),
            request: 0,
            current: None,
            former: Vec::new(),
        }
    }
}

impl World {
    /// Some client's request to a node.
    pub(crate) fn request(&mut self, at: usize) -> Result<(), Violation> {
        let Some(epoch) = self.nodes[at]
            .replica
            .as_ref()
            .map(|replica| replica.assignment().epoch)
        else {
            return Ok(());
        };
        match self.random.below(10) {
            0..=2 => self.send(at, epoch)?,
            3..=5 => self.send_in_session(at, epoch)?,
            6 => self.send_late(at, epoch)?,
            7 => self.change_offset(at)?,
            8 => self.read(at)?,
            _ => self.move_start(at)?,
        }
        self.pump(at)
    }

    fn attempt(&mut self, at: usize, attempt: Attempt) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        self.attempts.insert(request, attempt);
        self.nodes[at].open.insert(request);
        request
    }

    fn append(
        &mut self,
        at: usize,
        sent: Sent,
        client: Option<usize>,
        epoch: Epoch,
    ) -> Result<(), Violation> {
        let batch = batch_of(sent.logical, sent.messages);
        self.bodies.insert(sent.logical, batch.body.clone());
        let logical = sent.logical;
        if sent.tag.client != 0 {
            self.tagged.insert(logical);
        }
        let request = self.attempt(at, Attempt::Append { logical, client });
        let now_micros = self.random.next() % 1000;
        let event = Event::Append {
            request,
            batch,
            tag: (sent.tag.client != 0).then_some(sent.tag),
            now_micros,
            epoch,
            first_epoch: sent.first_epoch,
        };
        self.input(at, event)
    }

    fn new_request(&mut self, tag: Tag) -> Sent {
        let logical = self.next_request;
        self.next_request += 1;
        Sent {
            tag,
            logical,
            messages: 1 + self.random.below(3),
            first_epoch: None,
        }
    }

    fn send(&mut self, at: usize, epoch: Epoch) -> Result<(), Violation> {
        let none = Tag {
            client: 0,
            session: 0,
            request: 0,
        };
        let sent = self.new_request(none);
        self.append(at, sent, None, epoch)
    }

    fn send_in_session(&mut self, at: usize, epoch: Epoch) -> Result<(), Violation> {
        let number = self.random.below(self.clients.len());
        let sent = match self.clients[number].current {
            Some(sent) => sent,
            None => {
                let new_session = self.random.chance(100);
                let client = &mut self.clients[number];
                if new_session {
                    client.session += 2;
                    client.request = 0;
                }
                client.request += 1;
                let tag = Tag {
                    client: client.client,
                    session: client.session,
                    request: client.request,
                };
                self.new_request(tag)
            }
        };
        let first_epoch = sent.first_epoch.map_or(epoch, |first| first.min(epoch));
        let client = &mut self.clients[number];
        client.current = Some(Sent {
            first_epoch: Some(first_epoch),
            ..sent
        });
        self.append(at, sent, Some(number), epoch)
    }

    /// A first attempt arrives late. Within an epoch the order of a connection keeps it from
    /// being later than a thousand sessions, after which it would be forgotten.
    fn send_late(&mut self, at: usize, epoch_of_node: Epoch) -> Result<(), Violation> {
        let number = self.random.below(self.clients.len());
        let client = &self.clients[number];
        let former = client.former.iter().chain(&client.current);
        let former: Vec<Sent> = former.copied().collect();
        let latest = self.metadata.latest().epoch;
        match self.random.pick(&former) {
            Some(sent)
                if sent.first_epoch.is_some_and(|first| {
                    first < latest && (first != epoch_of_node || !self.forgets)
                }) =>
            {
                let epoch = sent.first_epoch.unwrap_or_default();
                let sent = Sent {
                    first_epoch: None,
                    ..sent
                };
                self.append(at, sent, None, epoch)
            }
            _ => Ok(()),
        }
    }

    /// The client knows the outcome, and sends something else.
    pub(crate) fn is_done(&mut self, client: usize) {
        let client = &mut self.clients[client];
        if let Some(sent) = client.current.take() {
            client.former.push(sent);
            if client.former.len() > 6 {
                client.former.remove(0);
            }
        }
    }

    fn change_offset(&mut self, at: usize) -> Result<(), Violation> {
        let committed = self.visible.last_key_value().map_or(0, |(last, _)| *last);
        let to = self.random.next() % (committed + 2);
        let change = match self.random.below(5) {
            0 => OffsetChange::Delete,
            1 | 2 => OffsetChange::Advance(to),
            _ => OffsetChange::Store(to),
        };
        let consumer = ConsumerKey {
            group: false,
            id: u32::try_from(self.random.below(3)).unwrap_or(0),
        };
        // Some arrive late, after later ones of the session.
        let back = self.random.below(2) as u64 * self.random.below(30) as u64;
        let number = self.next_request.saturating_sub(back).max(1);
        let attempt = Attempt::Offset {
            consumer,
            change,
            number,
        };
        let request = self.attempt(at, attempt);
        let tag = Some(Tag {
            client: 9,
            session: 1,
            request: number,
        });
        let event = Event::Offset {
            request,
            consumer,
            change,
            tag,
        };
        self.input(at, event)
    }

    fn read(&mut self, at: usize) -> Result<(), Violation> {
        let now = self.now;
        if let Some(replica) = &mut self.nodes[at].replica
            && replica.may_read(now)
        {
            self.check_fresh(at)?;
        }
        let what = match self.random.below(2) {
            0 => Read::Messages,
            _ => Read::Offset(ConsumerKey {
                group: false,
                id: 1,
            }),
        };
        let request = self.attempt(at, Attempt::Read);
        self.input(at, Event::Read { request, what })
    }

    /// The retention chooses a segment, sometimes one that it must not choose.
    fn move_start(&mut self, at: usize) -> Result<(), Violation> {
        let mut starts = self.nodes[at].log.starts();
        starts.push(self.start);
        let Some(start) = self.random.pick(&starts) else {
            return Ok(());
        };
        let careful = self.random.chance(700);
        let removable = self.nodes[at]
            .replica
            .as_ref()
            .and_then(|replica| replica.removable());
        if careful && removable.is_none_or(|removable| start.base.index > removable) {
            return Ok(());
        }
        let request = self.attempt(at, Attempt::MoveStart);
        self.input(at, Event::MoveStart { request, start })
    }
}
