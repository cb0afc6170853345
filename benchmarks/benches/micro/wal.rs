//! The write-ahead log: on a disk in memory, which isolates its own work, and on the
//! disk of the directory for temporary files.

use std::sync::Arc;

use bytes::Bytes;
use consensus::{Entry, EntryKind, Index, PersistBatch, PersistId, Term};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use replica::disk::{Disk, MemoryDisk, RealDisk};
use replica::wal::{Wal, WalConfig};

use crate::COMMAND_BYTES;

const GROUP: u128 = 1;
/// The log is compacted after this many entries, as by a snapshot.
const ENTRIES_KEPT: u64 = 1_024;
/// Entries of the log that is opened.
const ENTRIES_OPENED: u64 = 16_384;

pub(crate) fn benchmark(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let disks: [(_, Arc<dyn Disk>); 2] = [
        ("memory", Arc::new(MemoryDisk::new())),
        (
            "disk",
            Arc::new(RealDisk::new(directory.path()).expect("it is writable")),
        ),
    ];
    let mut group = criterion.benchmark_group("wal/append and sync");
    for (name, disk) in &disks {
        for commands in [1, 64, 2_048] {
            let mut log = Log::open(disk, &format!("wal-{commands}"));
            let payload = Bytes::from(vec![b'v'; commands * COMMAND_BYTES]);
            group.throughput(Throughput::Bytes(payload.len() as u64));
            let id = BenchmarkId::new(*name, format!("{commands} of {COMMAND_BYTES} B"));
            group.bench_function(id, |bencher| bencher.iter(|| log.write(&payload)));
        }
    }
    group.finish();

    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut log = Log::open(&disk, "wal");
    let payload = Bytes::from(vec![b'v'; COMMAND_BYTES]);
    for _ in 0..ENTRIES_OPENED {
        log.append(&payload);
    }
    let mut group = criterion.benchmark_group("wal/open");
    group.sample_size(10);
    group.throughput(Throughput::Elements(ENTRIES_OPENED));
    group.bench_function(format!("{ENTRIES_OPENED} entries"), |bencher| {
        bencher.iter_batched(
            || (),
            |()| Wal::open(Arc::clone(&disk), "wal", WalConfig::new(GROUP)).expect("it is whole"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

struct Log {
    wal: Wal,
    last: u64,
}

impl Log {
    fn open(disk: &Arc<dyn Disk>, dir: &str) -> Self {
        let (wal, _) =
            Wal::open(Arc::clone(disk), dir, WalConfig::new(GROUP)).expect("the disk has room");
        Self { wal, last: 0 }
    }

    fn append(&mut self, payload: &Bytes) {
        self.last += 1;
        let entry = Entry {
            term: Term(1),
            index: Index(self.last),
            kind: EntryKind::Command,
            payload: payload.clone(),
        };
        let batch = PersistBatch {
            id: PersistId(self.last),
            entries: vec![entry],
            ..PersistBatch::default()
        };
        self.wal.append(&[batch]).expect("the disk has room");
        self.wal.sync().expect("the disk works");
    }

    fn write(&mut self, payload: &Bytes) {
        self.append(payload);
        if self.last.is_multiple_of(ENTRIES_KEPT) {
            self.wal.compact(Index(self.last)).expect("the disk works");
        }
    }
}
