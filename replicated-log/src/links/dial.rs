//! Connecting to a peer, again and again.

use std::time::Duration;

use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::{Lane, LinkCounters, Target, handshake, socket};

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause before the next attempt.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(PAUSE_MIN)
    }

    pub(super) fn reset(&mut self) {
        self.0 = PAUSE_MIN;
    }

    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(PAUSE_MAX);
    }
}

/// One attempt: connects and shakes hands.
pub(super) async fn connect(target: &Target, lane: Lane) -> Option<TcpStream> {
    let connected =
        tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&target.address)).await;
    let mut stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(peer = %target.replica, address = target.address, %error, "cannot connect");
            return None;
        }
        Err(_) => {
            debug!(peer = %target.replica, address = target.address, "connecting took too long");
            return None;
        }
    };
    socket::prepare(&stream, Some(lane));
    match handshake::present(&mut stream, &target.identity, target.replica, lane).await {
        Ok(_) => {
            LinkCounters::add(&target.counters.connected, 1);
            Some(stream)
        }
        Err(error) => {
            LinkCounters::add(&target.counters.refused, 1);
            warn!(peer = %target.replica, address = target.address, ?lane, %error, "handshake failed");
            None
        }
    }
}
