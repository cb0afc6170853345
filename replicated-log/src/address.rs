//! Addresses to listen on.

use tokio::net::TcpListener;

use crate::error::LogError;

/// Listens on an address; `purpose` completes "cannot listen on ... for" in the error.
///
/// # Errors
/// When the address is in use, or not an address of this machine.
pub async fn listen(address: &str, purpose: &'static str) -> Result<TcpListener, LogError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| LogError::Listen {
            address: address.to_owned(),
            purpose,
            source,
        })
}

/// `host:port`, with brackets where the host is an IPv6 address.
#[must_use]
pub fn join_host_port(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_bracketed_once() {
        assert_eq!(join_host_port("::1", 9090), "[::1]:9090");
        assert_eq!(join_host_port("[::1]", 9090), "[::1]:9090");
        assert_eq!(join_host_port("10.0.0.1", 9090), "10.0.0.1:9090");
    }
}
