//! The last lines of this process's log, kept in memory for the diagnostic archive.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

const KEPT_BYTES_MAX: usize = 256 << 10;

static RECENT: Mutex<Ring> = Mutex::new(Ring::new());

struct Ring {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Ring {
    const fn new() -> Self {
        Self {
            lines: VecDeque::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, line: &[u8]) {
        let line = &line[..line.len().min(KEPT_BYTES_MAX)];
        self.lines.push_back(line.into());
        self.bytes += line.len();
        while self.bytes > KEPT_BYTES_MAX
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.lines.iter().flatten().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Writes log lines to the standard error output, and keeps the last 256 KiB of them for
/// the diagnostic archive. For a `tracing` subscriber: `.with_writer(|| Tee)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tee;

impl Write for Tee {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        ring().push(line);
        io::stderr().write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The last lines that went through a [`Tee`].
pub(crate) fn recent() -> String {
    ring().text()
}

fn ring() -> MutexGuard<'static, Ring> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_no_more() {
        let mut ring = Ring::new();
        ring.push(b"first\n");
        let line = [b'x'; KEPT_BYTES_MAX / 4];
        for _ in 0..4 {
            ring.push(&line);
        }
        assert_eq!(ring.text().len(), KEPT_BYTES_MAX);
        assert!(!ring.text().contains("first"));
        ring.push(&[b'y'; 2 * KEPT_BYTES_MAX]);
        assert_eq!(ring.text(), "y".repeat(KEPT_BYTES_MAX));
    }
}
