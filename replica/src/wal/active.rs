//! The segment that is being written.

use consensus::Index;

use super::segment::{BLOCK_BYTES, Sealed, SegmentHeader};
use crate::disk::{DiskError, DiskFile};

pub(super) struct Active {
    pub(super) header: SegmentHeader,
    pub(super) file: Box<dyn DiskFile>,
    /// Its size; less than that of others when the disk was full.
    pub(super) bytes: u64,
    /// Where the next frame is written, in bytes from the start of the file.
    pub(super) at: u64,
    /// Nothing in it is needed once the log up to here is not.
    pub(super) needed_for: Index,
}

impl Active {
    /// A segment that contains nothing but its header.
    pub(super) fn new(header: SegmentHeader, file: Box<dyn DiskFile>) -> Result<Self, DiskError> {
        let bytes = file.len()?;
        Ok(Self {
            header,
            file,
            bytes,
            at: BLOCK_BYTES as u64,
            needed_for: Index::ZERO,
        })
    }

    pub(super) fn sealed(&self) -> Sealed {
        Sealed {
            number: self.header.number,
            needed_for: self.needed_for,
            end: self.at,
            bytes: self.bytes,
        }
    }
}
