//! Options of streams and topics: those that a client set, and those that were derived
//! from defaults when the stream or topic was created.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::codec::{Malformed, Reader, Result, Writer};

const ENTRIES_MAX: usize = 1024;
const KEY_BYTES_MAX: usize = 255;
const VALUE_BYTES_MAX: usize = 100_000;

/// The option with how many copies a partition has.
pub const REPLICATION_FACTOR: &str = "replication_factor";
/// The option with how many copies an acknowledged message is on, at least.
pub const MIN_IN_SYNC_REPLICAS: &str = "min_in_sync_replicas";
/// Iggy's number for the kind of values that are a `u32`.
const U32_KIND: u8 = 11;

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

/// Options by key. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Arc<BTreeMap<Box<str>, OptionEntry>>);

impl Options {
    /// Sets an option.
    pub fn set(&mut self, key: &str, entry: OptionEntry) {
        Arc::make_mut(&mut self.0).insert(key.into(), entry);
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

    /// How many copies a partition has: what [`REPLICATION_FACTOR`] states, or one.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        self.number(REPLICATION_FACTOR)
            .map_or(1, |set| set as usize)
    }

    /// How many copies an acknowledged record of a partition with so many copies is on, at
    /// least: what `min_in_sync_replicas` states, at most all, and a majority by default.
    #[must_use]
    pub fn min_in_sync(&self, copies: usize) -> usize {
        let set = self.number(MIN_IN_SYNC_REPLICAS);
        set.map_or(copies / 2 + 1, |set| (set as usize).clamp(1, copies))
    }

    /// Sets an option of the kind `u32`.
    pub fn set_number(&mut self, key: &str, number: u32, explicit: bool) {
        let entry = OptionEntry {
            kind: U32_KIND,
            value: number.to_le_bytes().into(),
            explicit,
        };
        self.set(key, entry);
    }

    /// The value of an option of the kind `u32`.
    pub(crate) fn number(&self, key: &str) -> Option<u32> {
        let value = &self.get(key).filter(|entry| entry.kind == U32_KIND)?.value;
        Some(u32::from_le_bytes((**value).try_into().ok()?))
    }

    /// The options except those whose keys are `dropped`.
    #[must_use]
    pub fn without(mut self, dropped: impl Fn(&str) -> bool) -> Self {
        Arc::make_mut(&mut self.0).retain(|key, _| !dropped(key));
        self
    }

    /// Sets the options of `other`; the rest stays.
    pub fn patch(&mut self, other: &Self) {
        if other.0.is_empty() {
            return;
        }
        let options = Arc::make_mut(&mut self.0);
        for (key, entry) in other.0.iter() {
            options.insert(key.clone(), entry.clone());
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
        for (key, entry) in self.0.iter() {
            out.put_text(key);
            out.put_u8(entry.kind);
            out.put_bool(entry.explicit);
            out.put_bytes_with_length(&entry.value);
        }
    }
}
