//! Raft's hard state as bytes for the write-ahead log.
//!
//! ```text
//! version u8 | term u64 | vote u64 | commit u64
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::RecoverError;
use raft::eraftpb::HardState;

const VERSION: u8 = 1;

pub(crate) fn encode(term: u64, vote: u64, commit: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(25);
    out.put_u8(VERSION);
    out.put_u64_le(term);
    out.put_u64_le(vote);
    out.put_u64_le(commit);
    out.freeze()
}

pub(crate) fn decode(mut bytes: &[u8]) -> Result<HardState, RecoverError> {
    let short = |_| RecoverError::HardState("it is cut short".into());
    let version = bytes.try_get_u8().map_err(short)?;
    if version != VERSION {
        return Err(RecoverError::HardState(format!(
            "format {version}, this program knows {VERSION}"
        )));
    }
    let state = HardState {
        term: bytes.try_get_u64_le().map_err(short)?,
        vote: bytes.try_get_u64_le().map_err(short)?,
        commit: bytes.try_get_u64_le().map_err(short)?,
        ..HardState::default()
    };
    if !bytes.is_empty() {
        return Err(RecoverError::HardState("bytes after its end".into()));
    }
    Ok(state)
}
