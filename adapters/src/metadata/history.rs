//! The last requests of sessions that have ended.
//!
//! The table is bounded: when it is full, the one that was put first makes room.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::sessions::REPLY_BYTES_MAX;
use crate::codec::{Malformed, Reader, Result, Writer};

/// The most entries: a constant of the state machine, because all replicas must keep the
/// same. Each takes up 150 bytes and the reply.
pub(super) const HISTORY_MAX: usize = 4096;

/// The last request that was executed in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LastRequest {
    pub(super) user_id: u32,
    pub(super) number: u64,
    /// Zero when the client sent none.
    pub(super) checksum: u64,
    /// Empty when it was not kept.
    pub(super) reply: Bytes,
}

/// The last requests of sessions that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    next: u64,
    by_client: BTreeMap<u128, (u64, LastRequest)>,
    by_end: BTreeMap<u64, u128>,
}

impl LastRequest {
    /// Whether this is the same request again, as far as the client shows it.
    pub(super) fn is_repeated(&self, number: u64, checksum: u64) -> bool {
        let differs = checksum > 0 && self.checksum > 0 && checksum != self.checksum;
        number == self.number && !differs
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            user_id: reader.u32()?,
            number: reader.u64()?,
            checksum: reader.u64()?,
            reply: Bytes::copy_from_slice(reader.bytes(REPLY_BYTES_MAX)?),
        })
    }

    pub(super) fn write(&self, out: &mut impl Writer) {
        out.put_u32_le(self.user_id);
        out.put_u64_le(self.number);
        out.put_u64_le(self.checksum);
        out.put_bytes_with_length(&self.reply);
    }
}

impl History {
    /// Keeps the last request of a client that has no other.
    pub(super) fn put(&mut self, client: u128, last: LastRequest) {
        if self.by_client.len() >= HISTORY_MAX
            && let Some((_, oldest)) = self.by_end.pop_first()
        {
            self.by_client.remove(&oldest);
        }
        self.next += 1;
        self.insert(self.next, client, last);
    }

    fn insert(&mut self, at: u64, client: u128, last: LastRequest) {
        self.by_end.insert(at, client);
        self.by_client.insert(client, (at, last));
    }

    pub(super) fn take(&mut self, client: u128) -> Option<LastRequest> {
        let (at, last) = self.by_client.remove(&client)?;
        self.by_end.remove(&at);
        Some(last)
    }

    pub(super) fn forget_user(&mut self, user_id: u32) {
        self.by_client.retain(|_, (at, last)| {
            let kept = last.user_id != user_id;
            if !kept {
                self.by_end.remove(at);
            }
            kept
        });
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut history = Self {
            next: reader.u64()?,
            ..Self::default()
        };
        for _ in 0..reader.count(48)? {
            let (at, client) = (reader.u64()?, reader.u128()?);
            let last = LastRequest::read(reader)?;
            let known = history.by_client.contains_key(&client) || history.by_end.contains_key(&at);
            if known || at > history.next {
                return Err(Malformed("last requests contradict each other"));
            }
            history.insert(at, client, last);
        }
        Ok(history)
    }

    pub(super) fn write(&self, out: &mut impl Writer) {
        out.put_u64_le(self.next);
        out.put_u32_le(self.by_client.len() as u32);
        for (client, (at, last)) in &self.by_client {
            out.put_u64_le(*at);
            out.put_u128_le(*client);
            last.write(out);
        }
    }
}
