//! From records to the log that they describe.
//!
//! Records of a batch take effect together, when its last one is there.

use consensus::rule;
use consensus::{Entry, Index, Term};

use super::record::{Read, ReadBody};
use super::recovered::RecoveredLog;

#[derive(Default)]
pub(super) struct Replay {
    pub(super) log: RecoveredLog,
    /// The segment that holds the newest hard state.
    pub(super) hard_state_in: u64,
    /// The segment that holds the newest reset: no earlier one is needed.
    pub(super) reset_in: u64,
    /// Records of a batch that is not whole yet, and their segments.
    staged: Vec<(u64, ReadBody)>,
}

impl Replay {
    /// The program was started here: an unfinished batch stays unfinished.
    pub(super) fn start(&mut self) {
        if rule!(CutBatchDropped) {
            self.staged.clear();
        }
    }

    /// The log ends. Whether the end of a batch is missing.
    pub(super) fn finish(&mut self) -> bool {
        let cut = !self.staged.is_empty();
        self.staged.clear();
        cut
    }

    /// Replays a record of a segment. The error is what is wrong with the batch that it
    /// completes: it does not follow the log.
    pub(super) fn record(&mut self, segment: u64, record: Read) -> Result<(), String> {
        self.staged.push((segment, record.body));
        if !record.last && rule!(BatchRecoveredWhole) {
            return Ok(());
        }
        for (segment, body) in std::mem::take(&mut self.staged) {
            match body {
                ReadBody::Reset(index, term) => self.reset(segment, index, term),
                ReadBody::Entry(entry) => self.entry(entry)?,
                ReadBody::HardState(state) => {
                    self.log.hard_state = Some(state);
                    self.hard_state_in = segment;
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self, segment: u64, index: Index, term: Term) {
        self.log.entries.clear();
        self.log.reset = Some((index, term));
        self.reset_in = segment;
    }

    /// An entry at or after the first replaces what was there. One before
    /// the first restarts the log: what it followed is compacted, and what it
    /// replaces was never committed.
    fn entry(&mut self, entry: Entry) -> Result<(), String> {
        let log = &mut self.log;
        if let Some((reset, _)) = log.reset
            && (entry.index <= reset || (log.entries.is_empty() && entry.index != reset.next()))
        {
            return Err(format!(
                "entry {} in a log that starts after {reset}",
                entry.index
            ));
        }
        if let Some(first) = log.entries.first().map(|entry| entry.index) {
            let keep = entry.index.0.saturating_sub(first.0);
            if keep > log.entries.len() as u64 {
                return Err(format!(
                    "entry {} follows entry {}",
                    entry.index,
                    log.last()
                ));
            }
            if (keep as usize) < log.entries.len() && !rule!(ReplacedSuffixDropped) {
                return Ok(());
            }
            log.entries.truncate(keep as usize);
        }
        log.entries.push(entry);
        Ok(())
    }
}
