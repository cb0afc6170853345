//! Disks that return something else than was written, or nothing.

use replica::disk::{Disk, DiskError, read_all};

use super::World;
use crate::fault::Fault;
use crate::process::StartError;
use crate::random::Random;

/// Where the log and its spare segments are.
const LOG: &str = "wal/";
/// What a write to the log consists of.
const BLOCK_BYTES: u64 = 4_096;
/// The superblock, and how near to the end of a file damage to its newest part is.
const SUPERBLOCK: &str = "meta/superblock";
const LAST_BYTES: u64 = 64;
/// Blocks at the start of a segment that are in use even where it is not full.
const BLOCKS_IN_USE: u64 = 6;
/// How many reads of a start, or of a process, precede the one that fails, at most.
const START_READS_MAX: u64 = 24;
const READS_MAX: u64 = 3;

impl World {
    /// A byte changes on the disk of a replica that does not run.
    pub(super) fn flip_bit(&mut self, node: usize, draw: u64) -> Result<(), String> {
        self.stop(node, false);
        let mut random = Random::new(draw);
        match random.below(6) {
            0 => return self.flip_newest(node, LOG, ".wal", &mut random),
            1 => return self.flip_superblock(node, &mut random),
            _ => {}
        }
        let process = &self.processes[node];
        let mut files = process.disk.files();
        random.shuffle(&mut files);
        let newest = |start: &str, end: &str| {
            let named = files
                .iter()
                .enumerate()
                .filter(|(_, (path, _))| path.starts_with(start) && path.ends_with(end));
            let newest = named.max_by_key(|(_, (path, _))| path.as_str());
            newest.map_or(0, |(at, _)| at)
        };
        let (at, bytes_max) = match random.below(4) {
            0 => (newest("snapshots/", ".snap"), u64::MAX),
            1 => (newest(LOG, ".wal"), BLOCKS_IN_USE * BLOCK_BYTES),
            _ => (0, u64::MAX),
        };
        files.swap(0, at);
        let Some((path, bytes)) = files.into_iter().find(|(_, bytes)| *bytes > 0) else {
            return Ok(());
        };
        let offset = random.below(bytes.min(bytes_max));
        self.flip(node, &path, offset, &mut random)
    }

    fn flip(
        &mut self,
        node: usize,
        path: &str,
        offset: u64,
        random: &mut Random,
    ) -> Result<(), String> {
        let disk = &self.processes[node].disk;
        let own = disk.copy();
        disk.flip(path, offset as usize, 1 << random.below(8));
        self.delivered.note(Fault::BitRot);
        self.trace.line(
            self.now,
            format_args!("replica {node}: byte {offset} of {path} changes"),
        );
        self.start_on_damage(node, own)
    }

    /// A byte changes in the newest of these files, where it was written last.
    pub(super) fn flip_newest(
        &mut self,
        node: usize,
        start: &str,
        end: &str,
        random: &mut Random,
    ) -> Result<(), String> {
        let disk = &self.processes[node].disk;
        let files = disk.files().into_iter();
        let named = files.filter(|(path, _)| path.starts_with(start) && path.ends_with(end));
        let Some((path, _)) = named.max() else {
            return Ok(());
        };
        let written = written_bytes(disk, &path).map_err(|error| error.to_string())?;
        let back = random.below(written.min(LAST_BYTES));
        self.flip(node, &path, written.saturating_sub(1 + back), random)
    }

    /// A byte of the superblock changes, and another one when a start has repaired that.
    fn flip_superblock(&mut self, node: usize, random: &mut Random) -> Result<(), String> {
        for _ in 0..2 {
            let files = self.processes[node].disk.files().into_iter();
            let mut blocks = files.filter(|(path, bytes)| path == SUPERBLOCK && *bytes > 0);
            let Some((path, bytes)) = blocks.next() else {
                return Ok(());
            };
            let offset = random.below(bytes);
            self.flip(node, &path, offset, random)?;
        }
        Ok(())
    }

    /// A block of the log is overwritten by another one. Mostly they are neighbours, so that
    /// the block is one of the same start, and only its place is wrong.
    pub(super) fn misdirect_write(&mut self, node: usize, draw: u64) -> Result<(), String> {
        self.stop(node, false);
        let mut random = Random::new(draw);
        let process = &self.processes[node];
        let mut files = process.disk.files();
        files.retain(|(path, bytes)| path.starts_with(LOG) && *bytes >= 2 * BLOCK_BYTES);
        random.shuffle(&mut files);
        let Some((from, bytes)) = files.first() else {
            return Ok(());
        };
        let (from, bytes) = (from.as_str(), *bytes);
        let to = match random.per_mille(700) {
            true => from,
            false => files[files.len() - 1].0.as_str(),
        };
        let block = |random: &mut Random| match random.per_mille(700) {
            // Near the start of the file: most segments are not full.
            true => random.below((bytes / BLOCK_BYTES).min(BLOCKS_IN_USE)) * BLOCK_BYTES,
            false => random.below(bytes / BLOCK_BYTES) * BLOCK_BYTES,
        };
        let (mut read, mut written) = (block(&mut random), block(&mut random));
        if from == to && random.per_mille(400) {
            // The last block in use is overwritten by one shortly before it.
            let bytes = written_bytes(&process.disk, from).map_err(|error| error.to_string())?;
            written = bytes.saturating_sub(1) / BLOCK_BYTES * BLOCK_BYTES;
            read = written.saturating_sub(random.between(1, 3) * BLOCK_BYTES);
        }
        let own = process.disk.copy();
        process.disk.fail_after(None);
        copy_block(&process.disk, (from, read), (to, written))
            .map_err(|error| format!("replica {node}: {error}"))?;
        self.delivered.note(Fault::MisdirectedWrite);
        self.trace.line(
            self.now,
            format_args!("replica {node}: the block at {read} of {from} is at {written} of {to}"),
        );
        self.start_on_damage(node, own)
    }

    /// The replica refuses to start, and its disk is restored; or it starts, and nothing that
    /// was durable is gone.
    fn start_on_damage(
        &mut self,
        node: usize,
        own: replica::disk::MemoryDisk,
    ) -> Result<(), String> {
        let process = &mut self.processes[node];
        let (durable, incarnation) = (process.durable.clone(), process.incarnation);
        match process.start(&self.plan, &self.checks.history) {
            Ok(()) => {
                process.running = None;
                return Ok(());
            }
            Err(StartError::Open(_)) => {}
            // Nothing vouches yet for the very last frame of a log: the damage looks
            // like a write that a crash has torn, in any log.
            Err(StartError::Lost(lost)) if lost.last_only => {}
            Err(error) => return Err(format!("replica {node}: {error}")),
        }
        process.disk = own;
        process.durable = durable;
        process.incarnation = incarnation;
        Ok(())
    }

    /// A read fails in the next start, or in the next work on snapshot files.
    pub(super) fn arm_read_error(&mut self, node: usize, draw: u64) {
        let mut random = Random::new(draw);
        if random.per_mille(700) {
            self.stop(node, random.per_mille(500));
            self.processes[node].start_reads_fail_at = random.between(1, START_READS_MAX);
        } else {
            let at = random.between(1, READS_MAX);
            self.processes[node].read_errors.fail_at(at);
        }
    }
}

/// Where the last byte of a file is that is not zero, plus one.
fn written_bytes(disk: &impl Disk, path: &str) -> Result<u64, DiskError> {
    let bytes = read_all(disk.open(path)?.as_ref())?;
    let last = bytes.iter().rposition(|byte| *byte != 0);
    Ok(last.map_or(0, |last| last as u64 + 1))
}

fn copy_block(disk: &impl Disk, from: (&str, u64), to: (&str, u64)) -> Result<(), DiskError> {
    let mut block = vec![0; BLOCK_BYTES as usize];
    disk.open(from.0)?.read_at(from.1, &mut block)?;
    let file = disk.open(to.0)?;
    if to.1 + BLOCK_BYTES <= file.len()? {
        file.write_at(to.1, &block)?;
        file.sync()?;
    }
    Ok(())
}
