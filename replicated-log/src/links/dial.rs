//! Connecting to a peer, with a growing pause between attempts.

use std::time::Duration;

use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::channel::Channel;
use super::counters::LinkCounters;
use super::handshake::{self, HandshakeError, Hello};
use super::socket;
use super::target::Target;

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
    attempt(target, channel).await.ok()
}

/// One attempt. The error is `None` when there is no connection.
pub(super) async fn attempt(
    target: &Target,
    channel: Channel,
) -> Result<TcpStream, Option<HandshakeError>> {
    let mut presented = open(target, channel, Hello::Current).await?;
    if let Err(HandshakeError::Version(refusal)) = &presented {
        debug!(peer = %target.replica, refusal, "the peer is of version 0.1");
        presented = open(target, channel, Hello::V0_1).await?;
    }
    match presented {
        Ok(stream) => {
            LinkCounters::add(&target.counters.connected, 1);
            Ok(stream)
        }
        // A peer of an older version is not a faulty one.
        Err(error @ HandshakeError::UnknownChannel) => Err(Some(error)),
        Err(error) => {
            let peer = Some(target.replica);
            if let Some(suppressed) = target.counters.refuse(peer, "handshake", error.label()) {
                warn!(peer = %target.replica, address = target.address, ?channel, %error, suppressed, "the handshake with a peer failed");
            }
            if let HandshakeError::OutdatedHere(reason) = &error {
                target.fence.note(target.replica, reason.clone());
            }
            Err(Some(error))
        }
    }
}

/// Connects and presents this node. The outer error is that there is no connection.
async fn open(
    target: &Target,
    channel: Channel,
    form: Hello,
) -> Result<Result<TcpStream, HandshakeError>, Option<HandshakeError>> {
    let connected =
        tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&target.address)).await;
    let mut stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(peer = %target.replica, address = target.address, %error, "cannot connect");
            return Err(None);
        }
        Err(_) => {
            debug!(peer = %target.replica, address = target.address, "connecting timed out");
            return Err(None);
        }
    };
    socket::prepare(&stream, Some(channel));
    let presented = present(&mut stream, target, channel, form).await;
    Ok(presented.map(|()| stream))
}

async fn present(
    stream: &mut TcpStream,
    target: &Target,
    channel: Channel,
    form: Hello,
) -> Result<(), HandshakeError> {
    let peer = target.replica;
    let shown = handshake::present(stream, &target.identity, peer, channel, form).await?;
    if channel == Channel::DiskHistory {
        return Ok(());
    }
    target.fence.admit(peer, shown)
}
