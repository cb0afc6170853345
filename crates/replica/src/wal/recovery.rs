//! Reading the log after a stop of any kind.

use std::collections::VecDeque;

use bytes::Bytes;
use consensus::{Entry, Index};

use super::record::{self, Read};
use super::segment::{self, BLOCK_BYTES, SegmentHeader};
use super::{RecoveredLog, Sealed, WalConfig, WalError};
use crate::disk::{self, Disk};

pub(super) struct Found {
    pub(super) log: RecoveredLog,
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) spares: Vec<u64>,
    pub(super) next_number: u64,
    pub(super) next_sequence: u64,
    pub(super) hard_state_in: u64,
}

pub(super) fn recover(disk: &dyn Disk, dir: &str, config: &WalConfig) -> Result<Found, WalError> {
    let names = disk.list(dir)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment::number_of(n)).collect();
    numbers.sort_unstable();
    let mut spares = Vec::new();
    for number in names.iter().filter_map(|n| segment::spare_number_of(n)) {
        // A spare of another size, or one half made, is not worth keeping.
        let path = segment::spare_path(dir, number);
        let whole = disk.open(&path)?.len()? == config.segment_bytes;
        if whole && spares.len() < config.spares_max {
            spares.push(number);
        } else {
            disk.remove(&path)?;
        }
    }
    let highest = numbers.iter().chain(&spares).max().copied().unwrap_or(0);
    let mut scan = Scan {
        log: RecoveredLog::default(),
        sealed: VecDeque::new(),
        next_sequence: None,
        hard_state_in: 0,
    };
    let segments = read_segments(disk, dir, config, &numbers)?;
    for (at, segment) in segments.iter().enumerate() {
        let next = segments.get(at + 1).map(|next| next.header.first_sequence);
        scan.segment(segment, next)?;
    }
    Ok(Found {
        log: scan.log,
        sealed: scan.sealed,
        spares,
        next_number: highest + 1,
        next_sequence: scan.next_sequence.unwrap_or(1),
        hard_state_in: scan.hard_state_in,
    })
}

struct Segment {
    path: String,
    header: SegmentHeader,
    bytes: Bytes,
}

fn read_segments(
    disk: &dyn Disk,
    dir: &str,
    config: &WalConfig,
    numbers: &[u64],
) -> Result<Vec<Segment>, WalError> {
    let mut segments: Vec<Segment> = Vec::new();
    for number in numbers {
        let path = segment::path(dir, *number);
        let file = disk.open(&path)?;
        // What is read may only be in the page cache of a process that was killed.
        // From here on it counts as durable, so it has to be.
        if Some(number) == numbers.last() {
            file.sync()?;
        }
        let bytes = disk::read_all(file.as_ref())?;
        let header = segment::read_header(&path, &bytes, config.group)?;
        if header.number != *number {
            return Err(WalError::Corrupt {
                path,
                offset: 0,
                what: format!("it is segment {}", header.number),
            });
        }
        segments.push(Segment {
            path,
            header,
            bytes: bytes.into(),
        });
    }
    Ok(segments)
}

struct Scan {
    log: RecoveredLog,
    sealed: VecDeque<Sealed>,
    next_sequence: Option<u64>,
    hard_state_in: u64,
}

impl Scan {
    /// Takes over a segment's frames. `durable_before` is the first sequence of
    /// the next segment, which vouches for all frames before it.
    fn segment(&mut self, segment: &Segment, durable_before: Option<u64>) -> Result<(), WalError> {
        let first = segment.header.first_sequence;
        let expected = *self.next_sequence.get_or_insert(first);
        if first != expected {
            return Err(corrupt(
                segment,
                0,
                format!("it begins with frame {first}, frame {expected} is missing"),
            ));
        }
        let mut sequence = first;
        let mut at = BLOCK_BYTES;
        let mut through = Index::ZERO;
        while let Some(frame) = segment::frame_at(&segment.bytes, at, segment.header.number)
            && frame.header.sequence == sequence
        {
            let end = frame.records_at + frame.records_bytes;
            let records = record::decode(segment.bytes.slice(frame.records_at..end))
                .ok_or_else(|| corrupt(segment, at, "a record does not decode".into()))?;
            for record in records {
                through = through.max(self.record(segment, at, record)?);
            }
            sequence += 1;
            at = frame.end();
        }
        self.end_of_frames(segment, at, sequence, durable_before)?;
        self.next_sequence = Some(sequence);
        self.sealed.push_back(Sealed {
            number: segment.header.number,
            entries_through: through,
        });
        Ok(())
    }

    /// Where frames end: a torn tail, or damage?
    fn end_of_frames(
        &mut self,
        segment: &Segment,
        at: usize,
        sequence: u64,
        durable_before: Option<u64>,
    ) -> Result<(), WalError> {
        if let Some(next) = durable_before {
            if sequence < next {
                return Err(corrupt(
                    segment,
                    at,
                    format!("frame {sequence} is damaged, and a later segment exists"),
                ));
            }
            return Ok(());
        }
        let blocks = (at..segment.bytes.len()).step_by(BLOCK_BYTES);
        for later in blocks {
            let frame = segment::frame_at(&segment.bytes, later, segment.header.number);
            if let Some(frame) = frame
                && frame.header.synced >= sequence
            {
                return Err(corrupt(
                    segment,
                    at,
                    format!(
                        "frame {sequence} is damaged, and frame {} says that it was durable",
                        frame.header.sequence
                    ),
                ));
            }
        }
        self.log.torn_tail = segment::frame_began_at(&segment.bytes, at, segment.header.number);
        Ok(())
    }

    fn record(&mut self, segment: &Segment, at: usize, record: Read) -> Result<Index, WalError> {
        match record {
            Read::Reset(index, term) => {
                self.log.entries.clear();
                self.log.reset = Some((index, term));
                Ok(Index::ZERO)
            }
            Read::HardState(state) => {
                // A copy: a slice would keep the whole segment in memory.
                self.log.hard_state = Some(Bytes::copy_from_slice(&state));
                self.hard_state_in = segment.header.number;
                Ok(Index::ZERO)
            }
            Read::Entry(entry) => {
                let index = entry.index;
                self.entry(segment, at, &entry)?;
                Ok(index)
            }
        }
    }

    /// An entry at or behind the first replaces what was there; in front of the
    /// first it begins the log anew, because what it once followed is compacted.
    fn entry(&mut self, segment: &Segment, at: usize, entry: &Entry) -> Result<(), WalError> {
        let log = &mut self.log;
        let first = log.entries.first().map(|entry| entry.index);
        match first {
            Some(first) if entry.index < first => log.entries.clear(),
            Some(first) => {
                let keep = (entry.index.0 - first.0) as usize;
                if keep > log.entries.len() {
                    return Err(corrupt(
                        segment,
                        at,
                        format!("entry {} follows entry {}", entry.index, log.last()),
                    ));
                }
                log.entries.truncate(keep);
            }
            None => {}
        }
        if log.entries.is_empty()
            && let Some((reset, _)) = log.reset
            && entry.index != reset.next()
        {
            // The reset was overtaken: entries between were compacted away.
            log.reset = None;
        }
        log.entries.push(Entry {
            payload: Bytes::copy_from_slice(&entry.payload),
            ..*entry
        });
        Ok(())
    }
}

fn corrupt(segment: &Segment, at: usize, what: String) -> WalError {
    WalError::Corrupt {
        path: segment.path.clone(),
        offset: at as u64,
        what,
    }
}
