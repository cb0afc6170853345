//! Messages between copies as bytes: what is encoded is decoded, and nothing else is.
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::{Bytes, BytesMut};
use consensus::Index;
use iggy_binary_protocol::requests::messages::{RawMessage, SendMessagesEncoder};
use iggy_binary_protocol::{WireIdentifier, WirePartitioning};
use partitions::replication::{
    Ack, Beat, CopyState, Envelope, Epoch, Message, OffsetEntry, OffsetTable, Position, Record,
    Sessions, Start, TableChange, TableVersion, Trust, WireError,
};
use partitions::{ClientBatch, ConsumerKey, PartitionKey, RecordFlags, Stamp, Tag};

/// Random numbers that a seed repeats (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Small, or large but in range.
    fn number(&mut self) -> u64 {
        self.next() >> [2, 30, 60][self.below(3)]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn epoch(&mut self) -> Epoch {
        Epoch(self.number())
    }

    fn position(&mut self) -> Position {
        Position {
            epoch: self.epoch(),
            index: Index(self.number()),
        }
    }

    fn trust(&mut self) -> Trust {
        [Trust::Trusted, Trust::TailLost, Trust::Lost][self.below(3)]
    }

    fn tag(&mut self) -> Tag {
        Tag {
            client: u128::from(self.next()) + 1,
            session: self.next(),
            request: self.next(),
        }
    }

    fn start(&mut self) -> Start {
        Start {
            base: self.position(),
            first_offset: self.number(),
        }
    }

    fn record(&mut self) -> Record {
        let stamp = Stamp {
            partition_id: 3,
            position: self.position(),
            first_offset: self.number() / 2,
            timestamp: self.next(),
            flags: [RecordFlags::NONE, RecordFlags::STARTS_SEGMENT][self.below(2)],
            tag: (self.below(2) == 0).then(|| self.tag()),
        };
        match self.below(4) {
            0 => Record::epoch_start(stamp),
            messages => Record::stamp(batch(messages), stamp),
        }
    }

    fn records(&mut self) -> Vec<Record> {
        (0..self.below(4)).map(|_| self.record()).collect()
    }

    fn table(&mut self) -> OffsetTable {
        let mut table = OffsetTable {
            at: TableVersion {
                epoch: self.epoch(),
                version: self.number(),
            },
            start: self.start(),
            start_version: self.number(),
            ..OffsetTable::default()
        };
        for id in 0..self.below(5) {
            let entry = OffsetEntry {
                offset: (self.below(3) > 0).then(|| self.next()),
                version: table.at.version / 2,
                tag: (self.below(2) == 0).then(|| self.tag()),
            };
            table.entries.insert(consumer(id), entry);
        }
        table
    }

    fn sessions(&mut self) -> Sessions {
        let mut sessions = Sessions::default();
        for index in 1..self.below(6) as u64 {
            let stamp = Stamp {
                partition_id: 3,
                position: Position {
                    epoch: Epoch(2),
                    index: Index(index),
                },
                first_offset: index,
                timestamp: 0,
                flags: RecordFlags::NONE,
                tag: Some(self.tag()),
            };
            sessions.apply(&Record::stamp(batch(1), stamp));
        }
        Sessions::decode(&sessions.encode()).expect("what was encoded")
    }

    fn message(&mut self) -> Message {
        let epoch = self.epoch();
        match self.below(12) {
            0 => Message::Query { epoch },
            1 => Message::Answer {
                epoch,
                state: CopyState {
                    trust: self.trust(),
                    adopted: self.epoch(),
                    last: self.position(),
                    commit: Index(self.number()),
                    next_offset: self.number(),
                    table_trust: self.trust(),
                    table: TableVersion {
                        epoch: self.epoch(),
                        version: self.number(),
                    },
                },
            },
            2 => Message::Fetch {
                epoch,
                after: self.position(),
            },
            3 => Message::Fetched {
                epoch,
                predecessor: self.position(),
                records: self.records(),
            },
            4 => Message::FetchStart { epoch },
            5 => Message::FetchTable { epoch },
            6 => Message::Append {
                epoch,
                predecessor: self.position(),
                records: self.records(),
                beat: Beat {
                    sent_micros: self.next(),
                    commit: Index(self.number()),
                    table_commit: self.number(),
                    end: Index(self.number()),
                },
            },
            7 => Message::Mismatch {
                epoch,
                probed: self.position(),
                have: self.position(),
            },
            8 => Message::Start {
                epoch,
                start: self.start(),
                sessions: self.sessions(),
            },
            9 => Message::Table {
                epoch,
                table: self.table(),
            },
            10 => {
                let change = match self.below(2) {
                    0 => TableChange::Start(self.start()),
                    _ => TableChange::Consumer {
                        consumer: consumer(self.below(9)),
                        offset: (self.below(2) == 0).then(|| self.next()),
                        tag: (self.below(2) == 0).then(|| self.tag()),
                    },
                };
                let version = self.number();
                Message::Offset {
                    epoch,
                    version,
                    change,
                }
            }
            _ => {
                let matched = self.number();
                Message::Ack {
                    epoch,
                    ack: Ack {
                        matched: Index(matched),
                        written: Index(matched / 2),
                        synced: Index(matched / 3),
                        trusted: self.below(2) == 0,
                        table: self.number(),
                        beat_micros: self.next(),
                    },
                }
            }
        }
    }

    fn envelope(&mut self) -> Envelope {
        let half = |number: u64| u32::try_from(number >> 32).unwrap();
        Envelope {
            key: PartitionKey {
                stream_id: half(self.next()),
                topic_id: half(self.next()),
                partition_id: half(self.next()),
                generation: self.next(),
            },
            registration: self.next(),
            message: self.message(),
        }
    }
}

fn consumer(id: usize) -> ConsumerKey {
    ConsumerKey {
        group: id % 2 == 1,
        id: u32::try_from(id).unwrap(),
    }
}

fn batch(messages: usize) -> ClientBatch {
    let message = |number: usize| RawMessage {
        id: number as u128 + 1,
        origin_timestamp: 1_000,
        headers: None,
        payload: b"payload",
    };
    let messages: Vec<_> = (0..messages).map(message).collect();
    let (stream, partitioning) = (WireIdentifier::Numeric(1), WirePartitioning::PartitionId(3));
    let mut out = BytesMut::new();
    SendMessagesEncoder::encode(&mut out, &stream, &stream, &partitioning, &messages).unwrap();
    let metadata = u32::from_le_bytes(out[..4].try_into().unwrap()) as usize;
    ClientBatch::check(&out.freeze().slice(4 + metadata..)).unwrap()
}

fn joined(envelope: &Envelope) -> Bytes {
    let parts = envelope.encode();
    let joined: BytesMut = parts.iter().flat_map(Bytes::as_ref).collect();
    joined.freeze()
}

#[test]
fn what_is_encoded_is_decoded() {
    let mut random = Random(1);
    for _ in 0..20_000 {
        let envelope = random.envelope();
        assert_eq!(Envelope::decode(joined(&envelope)), Ok(envelope));
    }
}

#[test]
fn records_are_neither_copied_to_be_encoded_nor_to_be_decoded() {
    let mut random = Random(2);
    let record = loop {
        let record = random.record();
        if record.messages > 0 {
            break record;
        }
    };
    let envelope = Envelope {
        message: Message::Fetched {
            epoch: Epoch(1),
            predecessor: Position::default(),
            records: vec![record.clone()],
        },
        ..random.envelope()
    };
    let parts = envelope.encode();
    assert_eq!(parts.len(), 3);
    assert_eq!(parts[1].as_ptr(), record.header.as_ptr());
    assert_eq!(parts[2].as_ptr(), record.body.as_ptr());
    let frame = joined(&envelope);
    let Ok(Envelope {
        message: Message::Fetched { records, .. },
        ..
    }) = Envelope::decode(frame.clone())
    else {
        panic!("it is what was encoded");
    };
    assert!(frame.as_ptr_range().contains(&records[0].body.as_ptr()));
}

#[test]
fn a_message_that_is_cut_short_or_continues_is_refused() {
    let mut random = Random(3);
    for _ in 0..300 {
        let frame = joined(&random.envelope());
        for end in 0..frame.len() {
            assert!(Envelope::decode(frame.slice(..end)).is_err());
        }
        let mut longer = BytesMut::from(&frame[..]);
        longer.extend_from_slice(&[0]);
        let decoded = Envelope::decode(longer.freeze());
        assert_eq!(decoded, Err(WireError::Trailing(1)));
    }
}

/// Decoding accepts only what encoding gives, whatever the bytes are.
#[test]
fn changed_and_random_bytes_are_refused_or_mean_something_else() {
    let mut random = Random(4);
    let mut accepted = 0;
    for round in 0..60_000 {
        let mut bytes = BytesMut::from(&joined(&random.envelope())[..]);
        if round % 4 == 0 {
            let length = random.below(300);
            bytes = (0..length)
                .map(|_| random.next().to_le_bytes()[0])
                .collect();
            if length > 2 {
                bytes[0] = 1;
                bytes[1] = random.next().to_le_bytes()[0] % 14;
            }
        } else {
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
        }
        let frame = bytes.freeze();
        if let Ok(envelope) = Envelope::decode(frame.clone()) {
            accepted += 1;
            assert_eq!(joined(&envelope), frame);
        }
    }
    assert!(accepted > 1_000, "{accepted} were accepted");
}

/// Numbers at fixed places: another version of the program reads them.
#[test]
fn an_acknowledgement_has_these_bytes() {
    let envelope = Envelope {
        key: PartitionKey {
            stream_id: 1,
            topic_id: 2,
            partition_id: 3,
            generation: 4,
        },
        registration: 5,
        message: Message::Ack {
            epoch: Epoch(6),
            ack: Ack {
                matched: Index(9),
                written: Index(8),
                synced: Index(7),
                trusted: true,
                table: 10,
                beat_micros: 11,
            },
        },
    };
    let mut expected = vec![1, 12, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0];
    for number in [4u64, 5, 6, 9, 8, 7] {
        expected.extend(number.to_le_bytes());
    }
    expected.push(1);
    for number in [10u64, 11] {
        expected.extend(number.to_le_bytes());
    }
    assert_eq!(joined(&envelope), expected);
}
