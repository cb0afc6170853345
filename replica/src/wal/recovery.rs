//! Reading the log after a stop of any kind.

use std::collections::VecDeque;

use bytes::Bytes;
use consensus::Index;
use consensus::rule;

use super::config::WalConfig;
use super::error::WalError;
use super::record::{self, ReadBody};
use super::recovered::RecoveredLog;
use super::replay::Replay;
use super::segment::{self, BLOCK_BYTES, Sealed, SegmentHeader};
use super::spares::Spares;
use crate::disk::{self, Disk, DiskFile};

pub(super) struct Found {
    pub(super) log: RecoveredLog,
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) spares: Spares,
    pub(super) next_number: u64,
    pub(super) next_sequence: u64,
    pub(super) hard_state_in: u64,
}

pub(super) fn recover(disk: &dyn Disk, dir: &str, config: &WalConfig) -> Result<Found, WalError> {
    let names = disk.list(dir)?;
    let spares = Spares::find(disk, dir, config, &names)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment::number_of(n)).collect();
    numbers.sort_unstable();
    let highest = numbers.last().copied().unwrap_or(0).max(spares.highest());
    let segments = numbers
        .iter()
        .map(|number| Segment::open(disk, dir, config, *number))
        .collect::<Result<Vec<_>, _>>()?;
    let mut scan = Scan::default();
    for (at, segment) in segments.iter().enumerate() {
        let next = segments.get(at + 1).map(|next| next.header.first_sequence);
        scan.segment(segment, next)?;
    }
    let cut = scan.replay.finish();
    let Replay {
        mut log,
        hard_state_in,
        reset_in,
        ..
    } = scan.replay;
    log.torn_tail = scan.torn || cut;
    for sealed in &mut scan.sealed {
        if sealed.number < reset_in {
            sealed.needed_for = Index::ZERO;
        }
    }
    Ok(Found {
        log,
        sealed: scan.sealed,
        spares,
        next_number: highest + 1,
        next_sequence: scan.next_sequence.unwrap_or(1),
        hard_state_in,
    })
}

struct Segment {
    path: String,
    file: Box<dyn DiskFile>,
    header: SegmentHeader,
}

impl Segment {
    fn open(disk: &dyn Disk, dir: &str, config: &WalConfig, number: u64) -> Result<Self, WalError> {
        let path = segment::path(dir, number);
        let file = disk.open(&path)?;
        let mut block = vec![0; BLOCK_BYTES];
        let read = file.read_at(0, &mut block)?;
        let header = SegmentHeader::decode(&path, &block[..read], config.group)?;
        let segment = Self { path, file, header };
        if header.number != number {
            return Err(segment.corrupt(0, format!("it is segment {}", header.number)));
        }
        Ok(segment)
    }

    fn corrupt(&self, at: usize, what: String) -> WalError {
        WalError::Corrupt {
            path: self.path.clone(),
            offset: at as u64,
            what,
        }
    }
}

#[derive(Default)]
struct Scan {
    replay: Replay,
    sealed: VecDeque<Sealed>,
    next_sequence: Option<u64>,
    torn: bool,
}

/// Where the frames of a segment end.
struct End {
    at: usize,
    /// The sequence number that the next frame would have.
    sequence: u64,
    /// The start of the first frame that no later one records as durable.
    unvouched_at: usize,
}

impl Scan {
    /// Replays a segment's frames. `vouched_before` is the first sequence of
    /// the next segment: all frames before it were durable, and none at
    /// or after it belongs to the log.
    fn segment(&mut self, segment: &Segment, vouched_before: Option<u64>) -> Result<(), WalError> {
        let first = segment.header.first_sequence;
        let expected = *self.next_sequence.get_or_insert(first);
        if first != expected {
            let what = format!("it starts with frame {first}, frame {expected} is missing");
            return Err(segment.corrupt(0, what));
        }
        if segment.header.first_of_start {
            self.replay.start();
        }
        let bytes = Bytes::from(disk::read_all(segment.file.as_ref())?);
        let end = self.frames(segment, &bytes, vouched_before.unwrap_or(u64::MAX))?;
        match vouched_before {
            Some(next) if end.sequence < next => {
                let what = format!(
                    "frame {} is damaged, and a later segment exists",
                    end.sequence
                );
                return Err(segment.corrupt(end.at, what));
            }
            Some(_) => {}
            None => {
                self.torn = torn_or_damaged(segment, &bytes, &end)?;
                make_durable(segment, &bytes, &end)?;
            }
        }
        self.next_sequence = Some(end.sequence);
        Ok(())
    }

    /// Replays whole frames in sequence, up to but without `before`.
    fn frames(&mut self, segment: &Segment, bytes: &Bytes, before: u64) -> Result<End, WalError> {
        let header = &segment.header;
        let mut end = End {
            at: BLOCK_BYTES,
            sequence: header.first_sequence,
            unvouched_at: BLOCK_BYTES,
        };
        let mut needed_for = Index::ZERO;
        // Frames since the last that is vouched for.
        let mut unvouched = VecDeque::new();
        while (end.sequence < before || !rule!(FramesWithinSegment))
            && let Some(frame) = segment::frame_at(bytes, end.at, header)
            && (frame.header.sequence == end.sequence || !rule!(FrameInSequence))
        {
            unvouched.push_back((end.sequence, end.at));
            while unvouched
                .front()
                .is_some_and(|(s, _)| *s <= frame.header.synced)
            {
                unvouched.pop_front();
            }
            let records = frame.records_at..frame.records_at + frame.records_bytes;
            let records = record::decode(bytes.slice(records))
                .ok_or_else(|| segment.corrupt(end.at, "a record does not decode".into()))?;
            for record in records {
                needed_for = needed_for.max(match &record.body {
                    ReadBody::Entry(entry) => entry.index,
                    ReadBody::Reset(index, _) => index.next(),
                    ReadBody::HardState(_) => Index::ZERO,
                });
                self.replay
                    .record(header.number, record)
                    .map_err(|what| segment.corrupt(end.at, what))?;
            }
            end.sequence += 1;
            end.at = frame.end();
        }
        end.unvouched_at = unvouched.front().map_or(end.at, |(_, at)| *at);
        self.sealed.push_back(Sealed {
            number: header.number,
            needed_for,
            end: end.at as u64,
            bytes: bytes.len() as u64,
        });
        Ok(end)
    }
}

/// What follows the last whole frame of the log: nothing, what a crash tore
/// (true), or an error when something acknowledged is missing.
fn torn_or_damaged(segment: &Segment, bytes: &Bytes, end: &End) -> Result<bool, WalError> {
    let mut torn = false;
    for later in (end.at..bytes.len()).step_by(BLOCK_BYTES) {
        torn |= segment::frame_starts_at(bytes, later, &segment.header);
        let Some(frame) = segment::frame_at(bytes, later, &segment.header) else {
            continue;
        };
        if frame.header.synced >= end.sequence && rule!(DurableDamageReported) {
            let what = format!(
                "frame {} is damaged, and frame {} records that it was durable",
                end.sequence, frame.header.sequence
            );
            return Err(segment.corrupt(end.at, what));
        }
    }
    Ok(torn)
}

/// Writes again, and syncs, what nothing vouches for. It may have been read from
/// the page cache of a process that was killed, or whose sync failed and whose
/// pages the kernel has called clean since: from here on it counts as durable, so
/// it has to be.
fn make_durable(segment: &Segment, bytes: &Bytes, end: &End) -> Result<(), WalError> {
    if !rule!(RecoveredTailRewritten) {
        return Ok(());
    }
    if end.unvouched_at < end.at {
        let unvouched = &bytes[end.unvouched_at..end.at.min(bytes.len())];
        segment.file.write_at(end.unvouched_at as u64, unvouched)?;
    }
    segment.file.sync()?;
    Ok(())
}
