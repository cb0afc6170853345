//! Accepting connections while the operating system may refuse to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tracing::warn;

use crate::throttle::Throttle;

/// How long nothing is accepted after an error such as too many open files. Connections
/// wait in the queue of the operating system meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections. An error of the operating system pauses it and is logged once per
/// ten seconds; it never ends it.
pub struct Acceptor {
    listener: Arc<TcpListener>,
    /// Completes "cannot accept a connection of ..." in the log.
    of: &'static str,
    paused_until: Option<Instant>,
    failures: Throttle,
}

impl Acceptor {
    /// Accepts from this listener.
    pub fn new(listener: impl Into<Arc<TcpListener>>, of: &'static str) -> Self {
        Self {
            listener: listener.into(),
            of,
            paused_until: None,
            failures: Throttle::default(),
        }
    }

    /// The next connection. A call that is dropped loses none.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(until) = self.paused_until {
                tokio::time::sleep_until(until).await;
                self.paused_until = None;
            }
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => self.failed(&error),
            }
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.paused_until = Some(Instant::now() + PAUSE);
        if let Some(suppressed) = self.failures.due(std::time::Instant::now()) {
            warn!(
                of = self.of, %error, suppressed,
                "cannot accept a connection, and tries again; check the limit on open files"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_error_pauses_it_and_the_connection_is_accepted_afterwards() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut acceptor = Acceptor::new(listener, "tests");
        let error = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        acceptor.failed(&error);
        let _client = TcpStream::connect(address).await.unwrap();
        let started = Instant::now();
        // A call that is dropped does not shorten the pause.
        let dropped = tokio::time::timeout(PAUSE / 2, acceptor.accept()).await;
        assert!(dropped.is_err());
        acceptor.accept().await;
        assert!(started.elapsed() >= PAUSE);
    }
}
