//! What a replica must remember beside its log.
//!
//! ```text
//! version u8 | epoch u64 | view u64 | log view u64 | commit u64
//!     | anchors: { op u64 | checksum u128 } * 2
//! ```
//! An anchor is the checksum of an op that the first op of the log may follow: the one
//! before the first, and the last of a snapshot that is being fetched. Op 0 is none.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::{Index, RecoverError};

use crate::ids::{Checksum, View};

const VERSION: u8 = 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HardState {
    pub(crate) epoch: u64,
    pub(crate) view: View,
    /// The last view in which the log was the view's own.
    pub(crate) log_view: View,
    /// A lower bound.
    pub(crate) commit: Index,
    pub(crate) anchors: [Anchor; 2],
}

/// An op and its checksum.
pub(crate) type Anchor = (Index, Checksum);

impl HardState {
    /// The checksum of an op, when it is an anchor.
    pub(crate) fn anchor(&self, op: Index) -> Option<Checksum> {
        let mut anchors = self.anchors.iter();
        anchors
            .find(|(at, _)| *at == op && op > Index::ZERO)
            .map(|(_, checksum)| *checksum)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(33 + 2 * 24);
        out.put_u8(VERSION);
        out.put_u64_le(self.epoch);
        out.put_u64_le(self.view.0);
        out.put_u64_le(self.log_view.0);
        out.put_u64_le(self.commit.0);
        for (op, checksum) in self.anchors {
            out.put_u64_le(op.0);
            out.put_u128_le(checksum.0);
        }
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, RecoverError> {
        let refuse = |what: String| RecoverError::HardState(what);
        let short = |_| refuse("it is cut short".into());
        let version = bytes.try_get_u8().map_err(short)?;
        if version != VERSION {
            return Err(refuse(format!(
                "format {version}, this program knows {VERSION}"
            )));
        }
        let mut state = Self {
            epoch: bytes.try_get_u64_le().map_err(short)?,
            view: View(bytes.try_get_u64_le().map_err(short)?),
            log_view: View(bytes.try_get_u64_le().map_err(short)?),
            commit: Index(bytes.try_get_u64_le().map_err(short)?),
            anchors: Default::default(),
        };
        for anchor in &mut state.anchors {
            anchor.0 = Index(bytes.try_get_u64_le().map_err(short)?);
            anchor.1 = Checksum(bytes.try_get_u128_le().map_err(short)?);
        }
        if !bytes.is_empty() {
            return Err(refuse("bytes after its end".into()));
        }
        if state.log_view > state.view {
            return Err(refuse(format!(
                "its log is of view {}, later than view {}",
                state.log_view, state.view
            )));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_nothing_else_does() {
        let state = HardState {
            epoch: 1,
            view: View(7),
            log_view: View(6),
            commit: Index(5),
            anchors: [(Index(3), Checksum(9)), (Index(4), Checksum(1 << 99))],
        };
        let bytes = state.encode();
        assert_eq!(HardState::decode(&bytes), Ok(state));
        for length in 0..bytes.len() {
            assert!(HardState::decode(&bytes[..length]).is_err());
        }
        let ahead = HardState {
            log_view: View(8),
            ..state
        };
        assert!(HardState::decode(&ahead.encode()).is_err());
    }
}
