//! Connecting to a peer, with a growing pause between attempts.

use std::time::Duration;

use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::channel::Channel;
use super::counters::LinkCounters;
use super::target::Target;
use super::{handshake, socket};

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

/// One attempt: connects and performs the handshake.
pub(super) async fn connect(target: &Target, channel: Channel) -> Option<TcpStream> {
    let connected =
        tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&target.address)).await;
    let mut stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(peer = %target.replica, address = target.address, %error, "cannot connect");
            return None;
        }
        Err(_) => {
            debug!(peer = %target.replica, address = target.address, "connecting timed out");
            return None;
        }
    };
    socket::prepare(&stream, Some(channel));
    match handshake::present(&mut stream, &target.identity, target.replica, channel).await {
        Ok(_) => {
            LinkCounters::add(&target.counters.connected, 1);
            Some(stream)
        }
        Err(error) => {
            LinkCounters::add(&target.counters.refused, 1);
            warn!(peer = %target.replica, address = target.address, ?channel, %error, "the handshake with a peer failed");
            None
        }
    }
}
