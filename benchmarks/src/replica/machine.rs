//! The state machine of most scenarios: values by key, as in etcd and ZooKeeper.
//!
//! ```text
//! command: key u64 | value          reply: how often the key was written, u64
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::{ApplyContext, FrozenState, RestoreError, StateMachine, UnknownCommand};

const VERSION: u32 = 1;
/// Bytes of the key, before a command's value.
pub(crate) const KEY_BYTES: usize = 8;

#[derive(Clone, Debug, Default)]
struct Value {
    writes: u64,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct KeyValues(BTreeMap<u64, Value>);

impl StateMachine for KeyValues {
    fn apply(&mut self, _context: ApplyContext, command: &[u8]) -> Result<Bytes, UnknownCommand> {
        let Some((key, bytes)) = command.split_first_chunk() else {
            return Ok(Bytes::new());
        };
        let value = self.0.entry(u64::from_le_bytes(*key)).or_default();
        value.writes += 1;
        value.bytes.clear();
        value.bytes.extend_from_slice(bytes);
        Ok(Bytes::copy_from_slice(&value.writes.to_le_bytes()))
    }

    fn freeze(&self) -> Box<dyn FrozenState> {
        Box::new(self.clone())
    }

    fn restore(&mut self, encoded: &[u8]) -> Result<(), RestoreError> {
        *self = decode(encoded).ok_or_else(|| RestoreError::Malformed("truncated".into()))?;
        Ok(())
    }
}

impl FrozenState for KeyValues {
    fn encode(&self) -> Vec<u8> {
        let mut encoded = VERSION.to_le_bytes().to_vec();
        for (key, value) in &self.0 {
            encoded.extend(key.to_le_bytes());
            encoded.extend(value.writes.to_le_bytes());
            encoded.extend((value.bytes.len() as u64).to_le_bytes());
            encoded.extend(&value.bytes);
        }
        encoded
    }
}

fn decode(encoded: &[u8]) -> Option<KeyValues> {
    let mut rest = encoded;
    if rest.split_off(..4)? != VERSION.to_le_bytes() {
        return None;
    }
    let mut values = BTreeMap::new();
    while !rest.is_empty() {
        let key = number(&mut rest)?;
        let writes = number(&mut rest)?;
        let length = usize::try_from(number(&mut rest)?).ok()?;
        let bytes = rest.split_off(..length)?.to_vec();
        values.insert(key, Value { writes, bytes });
    }
    Some(KeyValues(values))
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (number, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use consensus::Index;

    use super::*;

    #[test]
    fn a_snapshot_restores_what_was_written() {
        let context = ApplyContext {
            index: Index(1),
            position: 0,
            timestamp_micros: 0,
        };
        let mut machine = KeyValues::default();
        for key in [3_u64, 1, 3] {
            let mut command = key.to_le_bytes().to_vec();
            command.extend(b"value");
            machine.apply(context, &command).expect("known");
        }
        let encoded = machine.freeze().encode();
        let mut other = KeyValues::default();
        other.restore(&encoded).expect("it is a snapshot");
        assert_eq!(other.freeze().encode(), encoded);
        let reply = other.apply(context, &3_u64.to_le_bytes()).expect("known");
        assert_eq!(reply[..], 3_u64.to_le_bytes());
        assert!(other.restore(&encoded[..encoded.len() - 1]).is_err());
    }
}
