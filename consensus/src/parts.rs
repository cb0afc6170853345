//! Messages whose payloads are not copied.
//!
//! An entry's payload is in the log already. A message to each of several peers refers
//! to it where it is; only what surrounds it is encoded. The sender writes the parts one
//! after the other.

use bytes::{BufMut, Bytes, BytesMut};

/// A shorter payload is copied: a part of its own would cost more.
const OWN_PART_BYTES_MIN: usize = 1 << 10;

/// Bytes in several places that follow one another. Two are equal when their parts
/// are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Parts {
    parts: Vec<Bytes>,
}

impl Parts {
    /// How many bytes there are in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The parts, in order; none is empty.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.parts.iter()
    }

    /// The same after a prefix.
    #[must_use]
    pub fn behind(mut self, first: Bytes) -> Self {
        if !first.is_empty() {
            self.parts.insert(0, first);
        }
        self
    }

    /// All bytes in one place. Copies them where there is more than one part.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        if let [only] = &self.parts[..] {
            return only.clone();
        }
        let mut all = BytesMut::with_capacity(self.len());
        self.parts.iter().for_each(|part| all.put_slice(part));
        all.freeze()
    }
}

impl From<Bytes> for Parts {
    fn from(bytes: Bytes) -> Self {
        let parts = match bytes.is_empty() {
            true => Vec::new(),
            false => vec![bytes],
        };
        Self { parts }
    }
}

/// Encodes a message.
#[derive(Debug, Default)]
pub struct PartsWriter {
    done: Vec<Bytes>,
    fields: BytesMut,
}

impl PartsWriter {
    /// Nothing yet, with room for so many bytes of fields.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            done: Vec::new(),
            fields: BytesMut::with_capacity(bytes),
        }
    }

    /// Whether a payload of so many bytes is copied.
    #[must_use]
    pub fn copies(payload_bytes: usize) -> bool {
        payload_bytes < OWN_PART_BYTES_MIN
    }

    /// Where the next fields go.
    pub fn fields(&mut self) -> &mut BytesMut {
        &mut self.fields
    }

    /// Appends a payload, as it is where it is large.
    pub fn payload(&mut self, payload: &Bytes) {
        if Self::copies(payload.len()) {
            self.fields.put_slice(payload);
            return;
        }
        self.end_part();
        self.done.push(payload.clone());
    }

    /// What was written.
    #[must_use]
    pub fn finish(mut self) -> Parts {
        self.end_part();
        Parts { parts: self.done }
    }

    fn end_part(&mut self) {
        if !self.fields.is_empty() {
            self.done.push(self.fields.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_payloads_are_not_copied_and_nothing_changes_its_place() {
        let (small, large) = (Bytes::from(vec![1; 9]), Bytes::from(vec![2; 4_096]));
        let mut writer = PartsWriter::with_capacity(64);
        writer.fields().put_u8(7);
        writer.payload(&small);
        writer.payload(&large);
        writer.payload(&large);
        writer.fields().put_u8(8);
        let parts = writer.finish();
        assert_eq!(parts.iter().count(), 4);
        assert_eq!(
            parts.iter().nth(1).map(|part| part.as_ptr()),
            Some(large.as_ptr())
        );
        let expected = [&[7][..], &small, &large, &large, &[8]].concat();
        assert_eq!(
            (parts.len(), parts.to_bytes()),
            (expected.len(), expected.into())
        );
    }

    #[test]
    fn nothing_has_no_parts() {
        let parts = Parts::from(Bytes::new());
        assert_eq!(parts, PartsWriter::default().finish());
        assert!(parts.is_empty() && parts.iter().next().is_none());
        assert!(parts.to_bytes().is_empty());
        let parts = parts
            .behind(Bytes::new())
            .behind(Bytes::from_static(b"first"));
        assert_eq!(
            parts.behind(Bytes::from_static(b"the ")).to_bytes(),
            "the first"
        );
    }
}
