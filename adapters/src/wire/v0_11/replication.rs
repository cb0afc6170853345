//! Options of topics that only this server has: how many copies partitions have.

use iggy_binary_protocol::WireOptions;
use iggy_common::IggyError;

use crate::error_code::{ErrorCode, code};
use crate::metadata::{COPIES_MAX, MIN_IN_SYNC_REPLICAS, Options, REPLICATION_FACTOR};
use crate::wire::option_block::{from_wire, to_wire};

/// Iggy's numbers of kinds of values.
const TEXT_KIND: u8 = 2;
const U32_KIND: u8 = 11;

/// The keys, with what they mean.
pub(super) const DESCRIBED: [(&str, &str); 2] = [
    (
        REPLICATION_FACTOR,
        "Copies of each partition, 1 to 7, on different nodes",
    ),
    (
        MIN_IN_SYNC_REPLICAS,
        "Copies that an acknowledged message is on, at least; by default a majority",
    ),
];

/// A request's options without those that Iggy does not know, and these.
pub(super) fn split(options: &WireOptions) -> Result<(WireOptions, Options), IggyError> {
    let is_ours = |key: &str| DESCRIBED.iter().any(|(ours, _)| *ours == key);
    let mut ours = Options::default();
    for entry in options {
        let key = String::from_utf8_lossy(entry.key);
        if is_ours(&key) {
            let number = number(entry.value_kind.0, entry.value);
            let number = number.ok_or_else(|| IggyError::InvalidOptionValue(key.to_string()))?;
            ours.set_number(&key, number, true);
        }
    }
    let rest = from_wire(options, true).without(is_ours);
    Ok((to_wire(&rest, |_| true), ours))
}

/// A `u32`, or a text that is one, as Iggy reads numbers.
fn number(kind: u8, value: &[u8]) -> Option<u32> {
    match kind {
        U32_KIND => Some(u32::from_le_bytes(value.try_into().ok()?)),
        TEXT_KIND => std::str::from_utf8(value).ok()?.parse().ok(),
        _ => None,
    }
}

/// Completes the options of a new topic with the cluster's default, and checks them.
///
/// # Errors
/// Iggy's code when there can be no such number of copies.
pub fn complete_replication(options: &mut Options, default_factor: u32) -> Result<(), ErrorCode> {
    if options.get(REPLICATION_FACTOR).is_none() {
        // A client that sets more copies than the default requires all of them.
        let least = options.number(MIN_IN_SYNC_REPLICAS).unwrap_or(1);
        options.set_number(REPLICATION_FACTOR, default_factor.max(least), false);
    }
    check(options, options.replication_factor())
}

/// Whether a topic whose partitions have so many copies may have the number of copies that
/// an update sets.
///
/// # Errors
/// Iggy's code when it may not.
pub fn check_replication_update(update: &Options, copies: usize) -> Result<(), ErrorCode> {
    check(update, copies)
}

fn check(options: &Options, copies: usize) -> Result<(), ErrorCode> {
    let least = options.number(MIN_IN_SYNC_REPLICAS).unwrap_or(1) as usize;
    match (1..=COPIES_MAX).contains(&copies) && (1..=copies).contains(&least) {
        true => Ok(()),
        false => Err(code::INVALID_REPLICATION_FACTOR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(entries: &[(&str, u8, &[u8])]) -> WireOptions {
        let mut options = Options::default();
        for (key, kind, value) in entries {
            let value = crate::metadata::OptionEntry {
                kind: *kind,
                value: (*value).into(),
                explicit: true,
            };
            options.set(key, value);
        }
        to_wire(&options, |_| true)
    }

    #[test]
    fn keys_of_copies_are_numbers_or_texts_and_the_rest_is_iggys() {
        let requested = request(&[
            (REPLICATION_FACTOR, TEXT_KIND, b"3"),
            (MIN_IN_SYNC_REPLICAS, U32_KIND, &[2, 0, 0, 0]),
            ("durability", TEXT_KIND, b"persisted"),
        ]);
        let (iggys, ours) = split(&requested).unwrap();
        assert_eq!(ours.replication_factor(), 3);
        assert_eq!(ours.min_in_sync(3), 2);
        assert_eq!(iggys, request(&[("durability", TEXT_KIND, b"persisted")]));
        for (kind, value) in [(TEXT_KIND, &b"many"[..]), (U32_KIND, &[3]), (3, &[1])] {
            let requested = request(&[(REPLICATION_FACTOR, kind, value)]);
            assert!(split(&requested).is_err(), "{value:?}");
        }
    }

    #[test]
    fn impossible_numbers_of_copies_are_refused() {
        for (factor, least, expected) in [
            (None, None, Ok(3)),
            (Some(1), None, Ok(1)),
            (Some(7), Some(7), Ok(7)),
            (None, Some(5), Ok(5)),
            (Some(0), None, Err(2018)),
            (Some(8), None, Err(2018)),
            (Some(2), Some(3), Err(2018)),
            (None, Some(0), Err(2018)),
            (None, Some(8), Err(2018)),
        ] {
            let mut options = Options::default();
            for (key, number) in [(REPLICATION_FACTOR, factor), (MIN_IN_SYNC_REPLICAS, least)] {
                if let Some(number) = number {
                    options.set_number(key, number, true);
                }
            }
            let completed =
                complete_replication(&mut options, 3).map(|()| options.replication_factor());
            let completed = completed.map_err(ErrorCode::number);
            assert_eq!(completed, expected, "{factor:?} {least:?}");
        }
    }

    /// A majority, and 2 of 2: a failed node stops sends rather than halve the copies.
    #[test]
    fn by_default_a_message_is_on_a_majority() {
        let sizes = (1..=7).map(|copies| Options::default().min_in_sync(copies));
        assert_eq!(sizes.collect::<Vec<_>>(), [1, 2, 2, 3, 3, 4, 4]);
    }
}
