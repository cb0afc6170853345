//! A `GET` request for the admin endpoints of nodes.

use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A node that does not reply within this time counts as unreachable.
const TIMEOUT: Duration = Duration::from_secs(1);
const REPLY_BYTES_MAX: u64 = 1 << 20;

/// Why a `GET` request has no body to return.
#[derive(Debug, Error)]
pub enum GetError {
    /// The address cannot be reached.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The reply is not complete in this time.
    #[error("no reply within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The reply has another status than 200. The text is its body.
    #[error("{0}")]
    Status(String),
    /// The reply is not HTTP.
    #[error("the reply is not HTTP")]
    NotHttp,
}

/// Requests `path` of the server at `address` and returns the body of its reply, of at
/// most 1 MiB, within a second.
///
/// # Errors
/// When the server does not reply in time, or replies with another status than 200.
pub async fn get(address: &str, path: &str) -> Result<Vec<u8>, GetError> {
    get_within(TIMEOUT, address, path).await
}

/// The same within another time.
///
/// # Errors
/// The same.
pub async fn get_within(timeout: Duration, address: &str, path: &str) -> Result<Vec<u8>, GetError> {
    match tokio::time::timeout(timeout, exchange(address, path)).await {
        Ok(result) => result,
        Err(_) => Err(GetError::Timeout(timeout)),
    }
}

/// Reads to the end of the stream: the endpoints close the connection on `Connection: close`.
async fn exchange(address: &str, path: &str) -> Result<Vec<u8>, GetError> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = Vec::new();
    stream.take(REPLY_BYTES_MAX).read_to_end(&mut reply).await?;
    let head = reply.windows(4).position(|window| window == b"\r\n\r\n");
    let head = head.ok_or(GetError::NotHttp)?;
    if !reply.starts_with(b"HTTP/1.1 200") {
        let text = String::from_utf8_lossy(&reply[head + 4..]);
        return Err(GetError::Status(text.trim().to_owned()));
    }
    Ok(reply.split_off(head + 4))
}
