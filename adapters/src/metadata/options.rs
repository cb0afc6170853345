//! Options of streams and topics: those that a client set, and those that were derived
//! from defaults when the stream or topic was created.

use std::collections::BTreeMap;

use crate::codec::{Malformed, Reader, Result, Writer};

const ENTRIES_MAX: usize = 1024;
const KEY_BYTES_MAX: usize = 255;
const VALUE_BYTES_MAX: usize = 100_000;

/// One option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionEntry {
    /// The kind of the value, as Iggy numbers kinds.
    pub kind: u8,
    /// The value, encoded as its kind is.
    pub value: Box<[u8]>,
    /// Whether a client set it.
    pub explicit: bool,
}

/// Options by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<Box<str>, OptionEntry>);

impl Options {
    /// Sets an option.
    pub fn set(&mut self, key: &str, entry: OptionEntry) {
        self.0.insert(key.into(), entry);
    }

    /// The option of this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&OptionEntry> {
        self.0.get(key)
    }

    /// All options in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &OptionEntry)> {
        self.0.iter().map(|(key, entry)| (&**key, entry))
    }

    /// The options except those whose keys are `dropped`.
    #[must_use]
    pub fn without(mut self, dropped: impl Fn(&str) -> bool) -> Self {
        self.0.retain(|key, _| !dropped(key));
        self
    }

    /// Sets the options of `other`; the rest stays.
    pub fn patch(&mut self, other: &Self) {
        for (key, entry) in &other.0 {
            self.0.insert(key.clone(), entry.clone());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let count = reader.count(10)?;
        if count > ENTRIES_MAX {
            return Err(Malformed("too many options"));
        }
        let mut options = Self::default();
        for _ in 0..count {
            let key = reader.text(KEY_BYTES_MAX)?;
            let entry = OptionEntry {
                kind: reader.u8()?,
                explicit: reader.bool()?,
                value: reader.bytes(VALUE_BYTES_MAX)?.into(),
            };
            options.set(key, entry);
        }
        Ok(options)
    }

    pub(crate) fn write(&self, out: &mut impl Writer) {
        out.put_u32_le(self.0.len() as u32);
        for (key, entry) in &self.0 {
            out.put_text(key);
            out.put_u8(entry.kind);
            out.put_bool(entry.explicit);
            out.put_bytes_with_length(&entry.value);
        }
    }
}
