//! The bytes of a record.

use bytes::{Bytes, BytesMut};
use consensus::Index;
use iggy_binary_protocol::batch::decode_batch_slice;

use super::{batch, numbered};
use crate::replication::{Epoch, Position};
use crate::{ClientBatch, RECORD_HEADER_BYTES, Record, RecordError, RecordFlags, Stamp, Tag};

const TAG: Tag = Tag {
    client: 1 << 100 | 3,
    session: 4,
    request: 5,
};

fn stamp() -> Stamp {
    Stamp {
        partition_id: 3,
        position: Position {
            epoch: Epoch(6),
            index: Index(70),
        },
        first_offset: 800,
        timestamp: 9_000,
        flags: RecordFlags::STARTS_SEGMENT,
        tag: Some(TAG),
    }
}

fn stamped() -> Record {
    let batch = ClientBatch::check(&numbered(0, 4)).unwrap();
    Record::stamp(batch, stamp())
}

fn changed(bytes: &Bytes, at: usize, by: u8) -> Bytes {
    let mut changed = BytesMut::from(&bytes[..]);
    changed[at] ^= by;
    changed.freeze()
}

#[test]
fn a_record_is_parsed_as_it_was_stamped() {
    let records = [
        stamped(),
        Record::epoch_start(Stamp {
            tag: None,
            ..stamp()
        }),
        Record::stamp(
            ClientBatch::check(&batch(&[b"x".to_vec()])).unwrap(),
            Stamp {
                flags: RecordFlags::NONE,
                tag: None,
                ..stamp()
            },
        ),
    ];
    for record in records {
        let parsed = Record::parse(record.header.clone(), record.body.clone()).unwrap();
        assert_eq!(parsed, record);
        assert_eq!(Record::body_bytes(&record.header), Ok(record.body.len()));
        assert_eq!(record.header.len(), RECORD_HEADER_BYTES);
    }
    let record = stamped();
    assert_eq!((record.messages, record.next_offset()), (4, 804));
    assert_eq!((record.timestamp, record.tag), (9_000, Some(TAG)));
}

#[test]
fn the_first_record_of_an_epoch_has_no_messages() {
    let record = Record::epoch_start(stamp());
    assert_eq!((record.messages, record.next_offset()), (0, 800));
    assert_eq!(
        (record.bytes(), record.body.len()),
        (RECORD_HEADER_BYTES, 0)
    );
}

/// Numbers at fixed places: another version of the program reads them.
#[test]
fn the_layout_of_a_header_is_as_documented() {
    let header = stamped().header;
    let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
    assert_eq!((u64_at(0), u64_at(8), u64_at(16)), (3, 800, 9_000));
    assert_eq!((u64_at(56), u64_at(64)), (6, 70));
    assert_eq!((u64_at(72), u64_at(80)), (3, 1 << 36));
    assert_eq!((u64_at(88), u64_at(96)), (4, 5));
    assert_eq!(header[104..108], [1, 0, 0, 0]);
    assert_eq!(
        header[108..112],
        crc32c::crc32c(&header[..108]).to_le_bytes()
    );
    assert!(header[112..].iter().all(|&byte| byte == 0));
}

/// What every copy stores is what clients receive, but for the bytes that Iggy keeps zero.
#[test]
fn a_record_without_its_own_fields_is_the_batch_that_is_served() {
    let record = stamped();
    let mut served = record.header.to_vec();
    served[52..].fill(0);
    served.extend_from_slice(&record.body);
    let decoded = decode_batch_slice(&served).unwrap();
    assert_eq!(decoded.header.base_offset, 800);
    assert_eq!(decoded.message_count(), 4);
}

#[test]
fn a_record_with_any_changed_byte_is_refused() {
    let record = stamped();
    for at in 0..RECORD_HEADER_BYTES {
        let header = changed(&record.header, at, 1);
        let parsed = Record::parse(header, record.body.clone());
        assert!(parsed.is_err(), "byte {at} of the header");
    }
    for at in 0..record.body.len() {
        let body = changed(&record.body, at, 0x80);
        let parsed = Record::parse(record.header.clone(), body);
        assert_eq!(parsed, Err(RecordError::Checksum), "byte {at} of the body");
    }
}

#[test]
fn a_record_whose_parts_do_not_belong_together_is_refused() {
    let record = stamped();
    let parse = |header: &Bytes, body: Bytes| Record::parse(header.clone(), body);
    let short = record.body.slice(1..);
    assert_eq!(parse(&record.header, short), Err(RecordError::Lengths));
    let header = record.header.slice(..255);
    assert_eq!(parse(&header, Bytes::new()), Err(RecordError::Short));
    let other = ClientBatch::check(&numbered(1, 4)).unwrap().body;
    assert_eq!(other.len(), record.body.len());
    assert_eq!(parse(&record.header, other), Err(RecordError::Checksum));
}

/// A flag of a later version would be ignored, and the copies would differ.
#[test]
fn an_unknown_flag_is_refused() {
    let record = stamped();
    let mut header = record.header.to_vec();
    header[104] |= 2;
    let crc = crc32c::crc32c(&header[..108]);
    header[108..112].copy_from_slice(&crc.to_le_bytes());
    let parsed = Record::parse(header.into(), record.body);
    assert_eq!(parsed, Err(RecordError::Unknown));
}

#[test]
fn a_tag_without_a_client_is_none() {
    let tag = Some(Tag { client: 0, ..TAG });
    let batch = ClientBatch::check(&numbered(0, 1)).unwrap();
    let record = Record::stamp(batch, Stamp { tag, ..stamp() });
    assert_eq!(record.tag, None);
    assert_eq!(
        Record::parse(record.header.clone(), record.body.clone()),
        Ok(record)
    );
}
