//! Intents that nodes forward to the leader.
//!
//! ```text
//! request: the intent          answer: 0u8 | index u64 | reply
//!                                      1u8 | code u32            (refused)
//!                                      2u8 | effect u8           (to be repeated)
//! ```
//!
//! Nodes of version 0.1 use the same bytes: an intent is encoded as they encode a command
//! whose placement the leader fills in. `effect` is 1 when the command may have taken
//! effect, and 0 when it certainly has not.
//!
//! A session is opened by a request of another kind, with the newest session of the client
//! that the node knew when the client logged in: one that arrives late must not replace a
//! session that the client has opened since. A leader of version 0.1 refuses the kind, and
//! gets the intent alone.
//!
//! ```text
//! request: newest session u64 | the intent          answer: as above
//! ```

use adapters::metadata::{ErrorCode, Reply};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::failure::Failure;

pub(super) const SUBMIT: u8 = 1;
pub(super) const REGISTER: u8 = 2;
/// The report of the node; see `admin::reporter`. Nodes of version 0.1 refuse it.
pub(crate) const REPORT: u8 = 3;

/// The answer of the leader.
pub(super) fn encode(outcome: Result<(u64, Reply), Failure>) -> Bytes {
    let mut out = BytesMut::with_capacity(32);
    match outcome {
        Ok((index, reply)) => {
            out.put_u8(0);
            out.put_u64_le(index);
            out.put_slice(&reply.encode());
        }
        Err(Failure::Refused(code)) => {
            out.put_u8(1);
            out.put_u32_le(code.number());
        }
        Err(Failure::OutcomeUnknown) => out.put_slice(&[2, 1]),
        Err(Failure::NotAccepted) => out.put_slice(&[2, 0]),
    }
    out.freeze()
}

/// The outcome in an answer of the leader. One that is not understood may hide an effect.
pub(super) fn decode(answer: Bytes) -> Result<(u64, Reply), Failure> {
    read(answer).unwrap_or(Err(Failure::OutcomeUnknown))
}

fn read(mut answer: Bytes) -> Option<Result<(u64, Reply), Failure>> {
    Some(match answer.try_get_u8().ok()? {
        0 => {
            let index = answer.try_get_u64_le().ok()?;
            Ok((index, Reply::decode(&answer).ok()?))
        }
        1 => Err(Failure::Refused(ErrorCode::from_number(
            answer.try_get_u32_le().ok()?,
        ))),
        2 => Err(match answer.try_get_u8().ok()? {
            0 => Failure::NotAccepted,
            _ => Failure::OutcomeUnknown,
        }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use adapters::metadata::code;

    use super::*;

    /// Nodes of version 0.1 read and write the same.
    #[test]
    fn version_1_answers_stay_as_they_are() {
        for (outcome, bytes) in [
            (Ok((5, Reply::Done)), &[0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0][..]),
            (
                Err(Failure::Refused(code::INVALID_COMMAND)),
                &[1, 3, 0, 0, 0],
            ),
            (Err(Failure::OutcomeUnknown), &[2, 1]),
            (Err(Failure::NotAccepted), &[2, 0]),
        ] {
            assert_eq!(encode(outcome.clone()), bytes);
            assert_eq!(decode(Bytes::copy_from_slice(bytes)), outcome);
        }
        for unknown in [&b""[..], b"\x00", b"\x01\x03", b"\x02", b"\x03\x00"] {
            let answer = Bytes::copy_from_slice(unknown);
            assert_eq!(decode(answer), Err(Failure::OutcomeUnknown));
        }
    }
}
