//! What happened, as a hash and, when a trace is requested, as lines.

use std::fmt::Arguments;
use std::hash::Hasher;

use twox_hash::XxHash3_64;

/// Records a run.
pub(crate) struct Trace {
    hasher: XxHash3_64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(keep_lines: bool) -> Self {
        Self {
            hasher: XxHash3_64::new(),
            lines: keep_lines.then(Vec::new),
        }
    }

    /// Something that two runs of a seed have in common.
    pub(crate) fn fact(&mut self, now: u64, kind: u8, who: usize, bytes: &[u8]) {
        self.hasher.write(&now.to_le_bytes());
        self.hasher.write(&[kind, who as u8]);
        self.hasher.write(bytes);
    }

    pub(crate) fn line(&mut self, now: u64, text: Arguments<'_>) {
        if let Some(lines) = &mut self.lines {
            let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
            lines.push(format!("{seconds:>4}.{micros:06}  {text}"));
        }
    }

    pub(crate) fn finish(self) -> (u64, Vec<String>) {
        (self.hasher.finish(), self.lines.unwrap_or_default())
    }
}
