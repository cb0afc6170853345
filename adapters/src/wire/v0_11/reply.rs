//! Replies and evictions.
//!
//! A failure travels in one of two channels: in the header's status, with an
//! empty body; or, for operations whose replies start with a result section, in
//! that section. [`Reply`] knows which operation uses which.

use bytes::{BufMut, Bytes, BytesMut};
use iggy_binary_protocol::consensus::{Command, EvictionReason, Operation};
use iggy_binary_protocol::version::{IGGY_PROTOCOL_VERSION, IGGY_PROTOCOL_VERSION_MIN};

use super::frame::{HEADER_BYTES, RequestHeader};
use crate::error_code::ErrorCode;

/// The version of Iggy's server whose behaviour is served.
pub const SERVER_VERSION: &str = "0.9.0";

const SIZE_AT: usize = 48;
const COMMAND_AT: usize = 60;
const REPLY_CLIENT_AT: usize = 160;
const REPLY_COMMIT_AT: usize = 184;
const REPLY_REQUEST_AT: usize = 200;
const REPLY_OPERATION_AT: usize = 208;
const REPLY_STATUS_AT: usize = 216;
const EVICTION_CLIENT_AT: usize = 128;
const EVICTION_VERSION_AT: usize = 144;
const EVICTION_VERSION_MIN_AT: usize = 148;

/// A reply, in parts that are written one after the other.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The header, and what precedes the payload.
    pub head: Bytes,
    /// The payload.
    pub body: Vec<Bytes>,
}

impl Reply {
    /// Success. `commit` is the position of the metadata log that the reply reflects: it
    /// must not decrease for a client.
    #[must_use]
    pub fn ok(request: &RequestHeader, commit: u64, body: Vec<Bytes>) -> Self {
        let section = has_result_section(request.operation);
        let prefix: &[u8] = if section { &[0; 4] } else { &[] };
        let payload: usize = body.iter().map(Bytes::len).sum();
        let head = header(request, commit, 0, prefix, payload);
        Self { head, body }
    }

    /// Failure with one of Iggy's codes.
    #[must_use]
    pub fn refused(request: &RequestHeader, commit: u64, code: ErrorCode) -> Self {
        let head = if has_result_section(request.operation) {
            let mut section = BytesMut::with_capacity(12);
            section.put_u32_le(1);
            section.put_u32_le(0);
            section.put_u32_le(code.number());
            header(request, commit, 0, &section, 0)
        } else {
            header(request, commit, code.number(), &[], 0)
        };
        Self {
            head,
            body: Vec::new(),
        }
    }

    /// Failure that was decided before anything was tried, in the status.
    #[must_use]
    pub fn denied(request: &RequestHeader, commit: u64, code: ErrorCode) -> Self {
        Self {
            head: header(request, commit, code.number(), &[], 0),
            body: Vec::new(),
        }
    }

    /// The whole as one piece, for tests and small replies.
    #[must_use]
    pub fn joined(&self) -> Bytes {
        let mut out = BytesMut::from(&self.head[..]);
        for part in &self.body {
            out.put_slice(part);
        }
        out.freeze()
    }
}

fn has_result_section(operation: Operation) -> bool {
    operation.is_result_framed() || operation == Operation::Register
}

fn header(
    request: &RequestHeader,
    commit: u64,
    status: u32,
    prefix: &[u8],
    payload: usize,
) -> Bytes {
    let mut out = BytesMut::zeroed(HEADER_BYTES);
    let size = HEADER_BYTES + prefix.len() + payload;
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(SIZE_AT, &(size as u32).to_le_bytes());
    put(COMMAND_AT, &[Command::Reply as u8]);
    put(REPLY_CLIENT_AT, &request.client.to_le_bytes());
    put(REPLY_COMMIT_AT, &commit.to_le_bytes());
    put(REPLY_REQUEST_AT, &request.request.to_le_bytes());
    put(REPLY_OPERATION_AT, &[request.operation as u8]);
    put(REPLY_STATUS_AT, &status.to_le_bytes());
    out.put_slice(prefix);
    out.freeze()
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// There is no such session.
    NoSession,
    /// Wrong user name or password.
    InvalidCredentials,
    /// Wrong token.
    InvalidToken,
    /// The user of the token may not log in.
    UserInactive,
    /// The client was silent for too long.
    StaleClient,
    /// The client's id has a session of another user.
    ClientOfAnotherUser,
    /// The client speaks another version.
    IncompatibleProtocol,
    /// The login does not decode.
    MalformedLogin,
}

impl Eviction {
    /// The eviction as a frame.
    #[must_use]
    pub fn encode(self, client: u128) -> Bytes {
        let reason = match self {
            Self::NoSession => EvictionReason::NoSession,
            Self::InvalidCredentials => EvictionReason::InvalidCredentials,
            Self::InvalidToken => EvictionReason::InvalidToken,
            Self::UserInactive => EvictionReason::UserInactive,
            Self::StaleClient => EvictionReason::StaleClient,
            Self::ClientOfAnotherUser => EvictionReason::SessionError,
            Self::IncompatibleProtocol => EvictionReason::IncompatibleProtocol,
            Self::MalformedLogin => EvictionReason::MalformedLogin,
        };
        let mut out = BytesMut::zeroed(HEADER_BYTES);
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(SIZE_AT, &(HEADER_BYTES as u32).to_le_bytes());
        put(COMMAND_AT, &[Command::Eviction as u8]);
        put(EVICTION_CLIENT_AT, &client.to_le_bytes());
        if self == Self::IncompatibleProtocol {
            put(EVICTION_VERSION_AT, &IGGY_PROTOCOL_VERSION.to_le_bytes());
            put(
                EVICTION_VERSION_MIN_AT,
                &IGGY_PROTOCOL_VERSION_MIN.to_le_bytes(),
            );
        }
        put(HEADER_BYTES - 1, &[reason as u8]);
        out.freeze()
    }
}
