//! What the sockets between nodes are set to.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tracing::debug;

use super::Lane;

/// A peer that takes nothing for so long is gone, be it that its machine is silent or
/// that its process stands still. Without a bound, a connection that a fault of the
/// network has eaten stays for minutes, and after a partition the kernel waits for as long
/// again as it lasted.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// Requests for message data wait longer than any other for an owner that stands still.
const SILENCE_DATA_MAX: Duration = Duration::from_secs(25);
/// How often an idle connection is tried.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Sets a connection up for a lane, `None` for as long as it is not known. What cannot be
/// set is left as it is.
pub(super) fn prepare(stream: &TcpStream, lane: Option<Lane>) {
    let silence = match lane {
        Some(Lane::Data) => SILENCE_DATA_MAX,
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
        debug!(%error, "cannot set up a connection between nodes");
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_silent_peer_is_given_up_in_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        prepare(&stream, Some(Lane::Data));
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 25_000);
        prepare(&stream, Some(Lane::Consensus));
        assert!(stream.nodelay().unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 4_000);
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let idle = sockopt::tcp_keepidle(&stream).unwrap();
        let every = sockopt::tcp_keepintvl(&stream).unwrap();
        let probes = sockopt::tcp_keepcnt(&stream).unwrap();
        assert_eq!((idle + every * probes).as_secs(), 5);
    }
}
