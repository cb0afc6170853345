//! Options of the sockets between nodes.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tracing::debug;

use super::channel::Channel;

/// A peer that acknowledges nothing for this long is considered lost, whether its machine
/// is unreachable or its process is stopped. Without a bound, a connection that a network
/// fault has cut stays open for minutes, and after a partition the kernel waits as long again
/// as the partition lasted.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// Requests of [`Channel::Data`] wait longer for a peer that is stopped for a while.
const SILENCE_DATA_MAX: Duration = Duration::from_secs(25);
/// How often an idle connection is probed.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Sets the options of a connection for a channel, which is `None` until it is known. An
/// option that cannot be set keeps its default.
pub(super) fn prepare(stream: &TcpStream, channel: Option<Channel>) {
    let silence = match channel {
        Some(Channel::Data | Channel::DataPieces) => SILENCE_DATA_MAX,
        _ => SILENCE_MAX,
    };
    let probes = (silence.as_secs() / PROBE_EVERY.as_secs()) as u32;
    let done = stream.set_nodelay(true).and_then(|()| {
        sockopt::set_tcp_user_timeout(stream, silence.as_millis() as u32)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, PROBE_EVERY)?;
        sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
        Ok(sockopt::set_tcp_keepcnt(stream, probes)?)
    });
    if let Err(error) = done {
        debug!(%error, "cannot set an option of a connection between nodes");
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_silent_peer_is_considered_lost_within_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        prepare(&stream, Some(Channel::Data));
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 25_000);
        prepare(&stream, Some(Channel::Consensus));
        assert!(stream.nodelay().unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 4_000);
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let idle = sockopt::tcp_keepidle(&stream).unwrap();
        let every = sockopt::tcp_keepintvl(&stream).unwrap();
        let probes = sockopt::tcp_keepcnt(&stream).unwrap();
        assert_eq!((idle + every * probes).as_secs(), 5);
    }
}
