//! A log on a disk, or as a process has it.

use bytes::Bytes;
use consensus::Index;
use partitions::RecordFlags;
use partitions::replication::{Chain, Position, Record, Sessions, Start};

#[derive(Clone, Default)]
pub(crate) struct Log {
    pub(crate) start: Start,
    pub(crate) records: Vec<Record>,
    /// What is kept with segments, by the index of their first record.
    kept: Vec<(Index, Bytes)>,
}

impl Log {
    pub(crate) fn end(&self) -> Index {
        Index(self.start.base.index.0 + self.records.len() as u64)
    }

    /// How many of the records are up to this one.
    fn count(&self, through: Index) -> usize {
        let count = through.0.saturating_sub(self.start.base.index.0);
        usize::try_from(count).map_or(self.records.len(), |it| it.min(self.records.len()))
    }

    /// The records after one, up to another.
    pub(crate) fn between(&self, after: Index, through: Index) -> &[Record] {
        let (from, to) = (self.count(after), self.count(through));
        &self.records[from.min(to)..to]
    }

    /// The records after `predecessor` up to `through`, in `bytes_max` bytes, but at least
    /// one.
    pub(crate) fn read(
        &self,
        predecessor: Position,
        through: Index,
        bytes_max: usize,
    ) -> Vec<Record> {
        if predecessor.index < self.start.base.index {
            return Vec::new();
        }
        let mut bytes = 0;
        let fits = |record: &&Record| {
            let first = bytes == 0;
            bytes += record.bytes();
            first || bytes <= bytes_max
        };
        let records = self.between(predecessor.index, through).iter();
        records.take_while(fits).cloned().collect()
    }

    pub(crate) fn write(&mut self, records: Vec<Record>, kept: Option<Bytes>) {
        if let (Some(kept), Some(first)) = (kept, records.first()) {
            self.kept.push((first.position.index, kept));
        }
        self.records.extend(records);
    }

    pub(crate) fn truncate(&mut self, end: Index) {
        self.records.truncate(self.count(end));
        self.kept.retain(|(first, _)| *first <= end.next());
    }

    pub(crate) fn reset(&mut self, start: Start, kept: Bytes) {
        self.start = start;
        self.records.clear();
        self.kept = vec![(start.base.index.next(), kept)];
    }

    /// Removes what is before this start, if that is in the log.
    pub(crate) fn trim(&mut self, start: Start) -> bool {
        let chain = self.chain();
        if start.base.index <= self.start.base.index || !chain.contains(start.base) {
            return false;
        }
        self.records.drain(..self.count(start.base.index));
        self.kept.retain(|(first, _)| *first > start.base.index);
        self.start = start;
        true
    }

    pub(crate) fn chain(&self) -> Chain {
        let mut chain = Chain::new(self.start.base);
        for record in &self.records {
            chain.push(record.position);
        }
        chain
    }

    pub(crate) fn next_offset(&self) -> u64 {
        let last = self.records.last();
        last.map_or(self.start.first_offset, Record::next_offset)
    }

    /// The records of the last segment.
    pub(crate) fn segment(&self) -> &[Record] {
        let starts = |record: &Record| record.flags.contains(RecordFlags::STARTS_SEGMENT);
        let first = self.records.iter().rposition(starts).unwrap_or(0);
        &self.records[first..]
    }

    /// As a storage computes them: what is kept with the last segment, and its records.
    pub(crate) fn sessions(&self) -> Sessions {
        let (first, kept) = match self.kept.last() {
            Some((first, kept)) => (*first, Sessions::decode(kept).unwrap_or_default()),
            None => (Index(1), Sessions::default()),
        };
        let mut sessions = kept;
        for record in self.between(Index(first.0 - 1), self.end()) {
            sessions.apply(record);
        }
        sessions
    }

    /// The starts that a retention may choose: before segments.
    pub(crate) fn starts(&self) -> Vec<Start> {
        let pairs = self.records.windows(2);
        let starts = pairs.filter(|two| two[1].flags.contains(RecordFlags::STARTS_SEGMENT));
        let start = |two: &[Record]| Start {
            base: two[0].position,
            first_offset: two[1].first_offset,
        };
        starts.map(start).collect()
    }
}
