//! Reading and writing of our own versioned encodings.
//!
//! Integers are little-endian; texts and byte strings carry a u32 length. A
//! reader never allocates more than there are bytes.

use bytes::{BufMut, Bytes};

/// Why bytes do not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

pub(crate) type Result<T> = std::result::Result<T, Malformed>;

const CUT: Malformed = Malformed("cut short");

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(CUT)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(CUT)?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither true nor false")),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self, length_max: usize) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        if length > length_max {
            return Err(Malformed("longer than allowed"));
        }
        self.take(length)
    }

    pub(crate) fn text(&mut self, length_max: usize) -> Result<&'a str> {
        std::str::from_utf8(self.bytes(length_max)?).map_err(|_| Malformed("not UTF-8"))
    }

    /// A count of items that have at least `item_bytes_min` bytes each.
    pub(crate) fn count(&mut self, item_bytes_min: usize) -> Result<usize> {
        let count = self.u32()? as usize;
        if count > self.bytes.len() / item_bytes_min.max(1) {
            return Err(Malformed("more items than bytes"));
        }
        Ok(count)
    }

    pub(crate) fn end(&self) -> Result<()> {
        match self.bytes {
            [] => Ok(()),
            _ => Err(Malformed("bytes after the end")),
        }
    }
}

pub(crate) trait Writer: BufMut {
    fn put_bool(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }

    fn put_bytes_with_length(&mut self, bytes: &[u8]) {
        self.put_u32_le(bytes.len() as u32);
        self.put_slice(bytes);
    }

    fn put_text(&mut self, text: &str) {
        self.put_bytes_with_length(text.as_bytes());
    }
}

impl<T: BufMut> Writer for T {}

/// A buffer's content, encoded by `write`.
pub(crate) fn encoded(capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(capacity);
    write(&mut out);
    out.into()
}

/// The little-endian number at an offset that is known to be in bounds.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

/// The little-endian number at an offset that is known to be in bounds.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}
