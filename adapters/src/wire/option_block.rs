//! Options as a block of the wire, which is the same in all generations served.

use bytes::{BufMut, BytesMut};
use iggy_binary_protocol::WireOptions;

use crate::metadata::{OptionEntry, Options};

/// Iggy's number for the kind of keys, text.
const TEXT_KIND: u8 = 2;

/// The picked options as a block.
pub(super) fn to_wire(options: &Options, pick: impl Fn(&OptionEntry) -> bool) -> WireOptions {
    let mut out = BytesMut::new();
    for (key, entry) in options.iter().filter(|(_, entry)| pick(entry)) {
        out.put_u8(TEXT_KIND);
        out.put_u32_le(key.len() as u32);
        out.put_slice(key.as_bytes());
        out.put_u8(entry.kind);
        out.put_u32_le(entry.value.len() as u32);
        out.put_slice(&entry.value);
    }
    WireOptions::from_bytes(out.freeze()).unwrap_or_else(|_| WireOptions::empty())
}

/// The options of a block.
pub(super) fn from_wire(options: &WireOptions, explicit: bool) -> Options {
    let mut out = Options::default();
    for entry in options {
        let value = OptionEntry {
            kind: entry.value_kind.0,
            value: entry.value.into(),
            explicit,
        };
        out.set(&String::from_utf8_lossy(entry.key), value);
    }
    out
}
