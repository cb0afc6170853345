//! What a receiver has released, and how it reports that.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::counts::{LaneCounts, add};
use super::wire::Window;

/// What a delivered frame counts against the credit of its sender. Dropping it, in any thread,
/// releases that.
pub struct Credit {
    releases: Arc<Releases>,
    cost: u64,
}

impl Credit {
    /// Bytes that the frame counts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.cost
    }
}

impl fmt::Debug for Credit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credit").field(&self.cost).finish()
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.releases.release(self.cost);
    }
}

/// What was released of the frames of one connection.
pub(super) struct Releases {
    window: Window,
    released: AtomicU64,
    reported: AtomicU64,
    /// `None` when the connection has ended: credit that is released later has no effect, and
    /// keeps no socket open.
    report: Mutex<Option<Report>>,
    /// A report could not be written.
    blocked: Notify,
    counts: Arc<LaneCounts>,
}

struct Report {
    stream: Arc<TcpStream>,
    /// What the socket has not accepted of a number.
    rest: [u8; 8],
    rest_bytes: usize,
}

impl Releases {
    /// For a new connection, to which the window is announced.
    pub(super) fn new(stream: Arc<TcpStream>, window: Window, counts: Arc<LaneCounts>) -> Self {
        let report = Report {
            stream,
            rest: window.0.to_le_bytes(),
            rest_bytes: 8,
        };
        Self {
            window,
            released: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            report: Mutex::new(Some(report)),
            blocked: Notify::new(),
            counts,
        }
    }

    /// The credit of a frame that is delivered.
    pub(super) fn credit(self: &Arc<Self>, cost: u64) -> Credit {
        add(&self.counts.held_bytes, cost);
        Credit {
            releases: Arc::clone(self),
            cost,
        }
    }

    /// The total that was released.
    pub(super) fn released(&self) -> u64 {
        self.released.load(Ordering::Relaxed)
    }

    fn release(&self, cost: u64) {
        self.counts.held_bytes.fetch_sub(cost, Ordering::Relaxed);
        let released = self.released.fetch_add(cost, Ordering::AcqRel) + cost;
        let reported = self.reported.load(Ordering::Acquire);
        if released.saturating_sub(reported) >= self.window.slack() {
            self.report_now();
        }
    }

    fn report(&self) -> MutexGuard<'_, Option<Report>> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the window, or the total that was released, unless the socket is full: then the
    /// connection's task does it.
    pub(super) fn report_now(&self) {
        let mut report = self.report();
        // An error is also found, and handled, where the socket is read.
        if let Some(report) = report.as_mut()
            && matches!(self.write(report), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        {
            self.blocked.notify_one();
        }
    }

    fn write(&self, report: &mut Report) -> io::Result<()> {
        report.write()?;
        let released = self.released();
        if released > self.reported.load(Ordering::Relaxed) {
            self.reported.store(released, Ordering::Release);
            report.rest = released.to_le_bytes();
            report.rest_bytes = 8;
            report.write()?;
        }
        Ok(())
    }

    /// Writes reports when the socket has been full, until dropped.
    pub(super) async fn write_blocked(&self, stream: &TcpStream) -> io::Error {
        loop {
            self.blocked.notified().await;
            if let Err(error) = stream.writable().await {
                return error;
            }
            self.report_now();
        }
    }

    /// Ends the use of the socket.
    pub(super) fn close(&self) {
        self.report().take();
    }
}

impl Report {
    fn write(&mut self) -> io::Result<()> {
        while self.rest_bytes > 0 {
            let written = self.stream.try_write(&self.rest[8 - self.rest_bytes..])?;
            self.rest_bytes -= written;
        }
        Ok(())
    }
}
