//! Metadata commands between nodes.
//!
//! ```text
//! request: the command          answer: 0u8 | index u64 | reply
//!                                       1u8 | code u32          (refused for good)
//!                                       2u8 | effect u8         (try again)
//! ```

use adapters::metadata::Reply;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Attempt, Failure, Metadata};
use replicated_log::links::RpcReply;

pub(super) const SUBMIT: u8 = 1;

/// Serves a request of the control lane.
pub(crate) async fn serve(metadata: &Metadata, kind: u8, payload: Bytes) -> RpcReply {
    let attempt = match kind {
        SUBMIT => metadata.forwarded(payload).await,
        _ => Attempt::Failed(Failure::NotAccepted),
    };
    let mut out = BytesMut::with_capacity(32);
    match attempt {
        Attempt::Done(index, reply) => {
            out.put_u8(0);
            out.put_u64_le(index);
            out.put_slice(&reply.encode());
        }
        Attempt::Failed(failure) => {
            out.put_u8(1);
            out.put_u32_le(failure.code());
        }
        Attempt::Again { effect } => {
            out.put_u8(2);
            out.put_u8(u8::from(effect));
        }
    }
    vec![out.freeze()]
}

pub(super) fn decode_answer(mut answer: Bytes) -> Attempt {
    let decoded = match answer.try_get_u8() {
        Ok(0) => answer
            .try_get_u64_le()
            .ok()
            .and_then(|index| Some(Attempt::Done(index, Reply::decode(&answer).ok()?))),
        Ok(1) => answer
            .try_get_u32_le()
            .ok()
            .map(|code| Attempt::Failed(Failure::Refused(code))),
        Ok(2) => answer.try_get_u8().ok().map(|effect| Attempt::Again {
            effect: effect != 0,
        }),
        _ => None,
    };
    // An answer that is not understood may hide an effect.
    decoded.unwrap_or(Attempt::Again { effect: true })
}
