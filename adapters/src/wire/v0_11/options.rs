//! Options of streams and topics in requests, checked against Iggy's catalogue and
//! completed with its defaults.

use iggy_binary_protocol::WireOptions;
use iggy_common::{
    CompressionAlgorithm, DEFAULT_MAX_TOPIC_SIZE, DEFAULT_MESSAGE_EXPIRY, DEFAULT_SEGMENT_SIZE,
    IggyError, IggyExpiry, MAX_TOPIC_SEGMENT_SIZE, MaxTopicSize, TopicCreateOptions,
    TopicRuntimeDefaults, UPDATABLE_TOPIC_OPTION_KEYS, validate_preallocated_topic_bytes,
    validate_topic_segment_size,
};

use super::replication;
use crate::error_code::ErrorCode;
use crate::metadata::{Options, REPLICATION_FACTOR};
use crate::wire::option_block::{from_wire, to_wire};

/// Partitions that one request may create, as on Iggy's server.
const PARTITIONS_PER_REQUEST_MAX: u32 = 1000;

/// The options of a new topic: those that the client set, in canonical form, and the
/// defaults of the others.
///
/// # Errors
/// Iggy's code when a key is unknown, a value is invalid, or the partitions are
/// too many.
pub fn create_topic_options(options: &WireOptions, partitions: u32) -> Result<Options, ErrorCode> {
    let create = || -> Result<Options, IggyError> {
        let (options, copies) = &replication::split(options)?;
        let parsed = TopicCreateOptions::parse(options)?;
        let segment_bytes = match parsed.segment_size {
            Some(size) => {
                validate_topic_segment_size(size.as_bytes_u64(), MAX_TOPIC_SEGMENT_SIZE)?;
                size.as_bytes_u64()
            }
            None => DEFAULT_SEGMENT_SIZE,
        };
        check_partitions(partitions)?;
        check_size(parsed.max_topic_size, segment_bytes)?;
        if parsed.preallocate_segments == Some(true) {
            validate_preallocated_topic_bytes(segment_bytes, partitions)?;
        }
        let supplied = |key: &str| options.iter().any(|entry| entry.key == key.as_bytes());
        let explicit = parsed.to_explicit_wire(supplied)?;
        let derived = parsed.derived_block(
            CompressionAlgorithm::default(),
            IggyExpiry::from(DEFAULT_MESSAGE_EXPIRY),
            MaxTopicSize::from(DEFAULT_MAX_TOPIC_SIZE),
            TopicRuntimeDefaults::default(),
            options,
        )?;
        let mut created = from_wire(&derived, false);
        created.patch(&from_wire(&explicit, true));
        created.patch(copies);
        Ok(created)
    };
    create().map_err(ErrorCode::from)
}

/// The options that an update of a topic sets.
///
/// # Errors
/// Iggy's code when a key is unknown or cannot be changed, or a value is invalid.
pub fn update_topic_options(options: &WireOptions) -> Result<Options, ErrorCode> {
    let update = || -> Result<Options, IggyError> {
        let (options, copies) = &replication::split(options)?;
        if copies.get(REPLICATION_FACTOR).is_some() {
            return Err(IggyError::UnsupportedOptionKey(REPLICATION_FACTOR.into()));
        }
        check_keys(options, UPDATABLE_TOPIC_OPTION_KEYS)?;
        let parsed = TopicCreateOptions::parse(options)?;
        // Zero stands for what the topic has.
        let unchanged = |key: &str| match key {
            "message_expiry" => parsed.message_expiry.map_or(0, u64::from) == 0,
            "max_topic_size" => parsed.max_topic_size.map_or(0, u64::from) == 0,
            _ => false,
        };
        let mut updated = from_wire(options, true).without(unchanged);
        updated.patch(copies);
        Ok(updated)
    };
    update().map_err(ErrorCode::from)
}

/// Whether a topic may have the size that an update sets: at least one segment.
///
/// # Errors
/// Iggy's code when it may not.
pub fn check_topic_update(update: &Options, segment_bytes: u64) -> Result<(), ErrorCode> {
    let parsed = TopicCreateOptions::parse_committed(&to_wire(update, |_| true));
    check_size(parsed.max_topic_size, segment_bytes).map_err(ErrorCode::from)
}

/// The options of a stream: there are none yet.
///
/// # Errors
/// Iggy's code when there is one.
pub fn create_stream_options(options: &WireOptions) -> Result<Options, ErrorCode> {
    check_keys(options, &[])?;
    Ok(Options::default())
}

/// Refuses a number of partitions that one request may not add or remove.
pub(super) fn check_partitions_change(partitions: u32) -> Result<(), ErrorCode> {
    if partitions == 0 {
        return Err(IggyError::TooManyPartitions.into());
    }
    check_partitions(partitions).map_err(ErrorCode::from)
}

fn check_partitions(partitions: u32) -> Result<(), IggyError> {
    match partitions > PARTITIONS_PER_REQUEST_MAX {
        true => Err(IggyError::TooManyPartitions),
        false => Ok(()),
    }
}

fn check_size(size: Option<MaxTopicSize>, segment_bytes: u64) -> Result<(), IggyError> {
    match size {
        Some(size) if u64::from(size) < segment_bytes => {
            Err(IggyError::InvalidTopicSize(size, segment_bytes.into()))
        }
        _ => Ok(()),
    }
}

fn check_keys(options: &WireOptions, known: &[&str]) -> Result<(), IggyError> {
    for entry in options {
        let key = String::from_utf8_lossy(entry.key);
        if !known.contains(&&*key) {
            return Err(IggyError::UnsupportedOptionKey(key.into_owned()));
        }
    }
    Ok(())
}
