//! Request headers.

use iggy_binary_protocol::codes::{LOGIN_REGISTER_CODE, LOGOUT_USER_CODE, SEND_MESSAGES_CODE};
use iggy_binary_protocol::consensus::{Command, Operation};
use thiserror::Error;
use twox_hash::XxHash3_64;

use crate::codec::{u32_at, u64_at};
use crate::error_code::{ErrorCode, code};

/// Every frame starts with a header of this size.
pub const HEADER_BYTES: usize = 256;

const SIZE_AT: usize = 48;
const COMMAND_AT: usize = 60;
const CLIENT_AT: usize = 128;
const CHECKSUM_AT: usize = 144;
const REQUEST_AT: usize = 168;
const OPERATION_AT: usize = 176;
const SESSION_AT: usize = 184;
const CODE_AT: usize = 196;

/// A checked request header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Bytes of the body that follows.
    pub body_bytes: usize,
    /// The client's id, never zero.
    pub client: u128,
    /// XXH3-64 of the body; zero when the client gave none.
    pub checksum: u128,
    /// The request's number.
    pub request: u64,
    /// What kind of request it is.
    pub operation: Operation,
    /// The session that the client names; zero when none.
    pub session: u64,
    /// The command's code.
    pub code: u32,
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The start of the next frame is unknown: the connection must be closed.
    #[error("not a request of this protocol")]
    NotARequest,
    /// The frame is answered with this code. It is too long to be skipped in any case, so the
    /// connection is closed.
    #[error("a frame of {} bytes, {max} are allowed", header.body_bytes + HEADER_BYTES)]
    TooLarge {
        /// The header, to answer to.
        header: RequestHeader,
        /// The code.
        code: ErrorCode,
        /// The bound.
        max: usize,
    },
    /// The frame can be skipped and answered with this code.
    #[error("invalid header")]
    Invalid {
        /// The header as far as it goes, to answer to.
        header: RequestHeader,
        /// The code.
        code: ErrorCode,
    },
}

impl RequestHeader {
    /// Checks a header.
    ///
    /// # Errors
    /// When it is not a request, belongs to a frame larger than `frame_bytes_max`, or
    /// contradicts itself.
    pub fn parse(bytes: &[u8; HEADER_BYTES], frame_bytes_max: usize) -> Result<Self, FrameError> {
        if bytes[COMMAND_AT] != Command::Request as u8 {
            return Err(FrameError::NotARequest);
        }
        let size = u32_at(bytes, SIZE_AT) as usize;
        if size < HEADER_BYTES {
            return Err(FrameError::NotARequest);
        }
        let known = bytemuck::checked::try_cast::<u8, Operation>(bytes[OPERATION_AT]);
        let operation = known.unwrap_or(Operation::Reserved);
        let mut header = Self {
            body_bytes: size - HEADER_BYTES,
            client: u128_at(bytes, CLIENT_AT),
            checksum: u128_at(bytes, CHECKSUM_AT),
            request: u64_at(bytes, REQUEST_AT),
            operation,
            session: u64_at(bytes, SESSION_AT),
            code: 0,
        };
        header.code = match operation {
            Operation::NonReplicated => u32_at(bytes, CODE_AT),
            Operation::Register => LOGIN_REGISTER_CODE,
            Operation::Logout => LOGOUT_USER_CODE,
            other => other.to_command_code().unwrap_or(0),
        };
        if size > frame_bytes_max {
            let code = match header.code {
                SEND_MESSAGES_CODE => code::TOO_BIG_PAYLOAD,
                _ => code::INVALID_SIZE,
            };
            return Err(FrameError::TooLarge {
                header,
                code,
                max: frame_bytes_max,
            });
        }
        let consistent = match operation {
            Operation::Register => header.session == 0 && header.request == 0,
            Operation::NonReplicated => true,
            other => other.is_client_allowed() && header.session > 0 && header.request > 0,
        };
        if header.client == 0 || !consistent {
            return Err(FrameError::Invalid {
                header,
                code: code::INVALID_COMMAND,
            });
        }
        Ok(header)
    }
}

/// Whether the body is the one that the client hashed, if it did.
#[must_use]
pub fn body_matches(header: &RequestHeader, body: &[u8]) -> bool {
    header.checksum == 0 || header.checksum == u128::from(XxHash3_64::oneshot(body))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    let mut out = [0; 16];
    out.copy_from_slice(&bytes[at..at + 16]);
    u128::from_le_bytes(out)
}
