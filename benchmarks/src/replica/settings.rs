//! What a cluster of a benchmark is started with, beside its configuration file.

use std::ffi::OsString;

use clap::ValueEnum;
use consensus::StateMachine;
use serde::{Deserialize, Serialize};

use super::machine::KeyValues;
use super::ownership::Ownership;

/// When a command counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// When a majority has fsynced it
    Fsync,
    /// When a majority has written it to the page cache
    None,
}

impl Durability {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::None => "none",
        }
    }
}

/// The state machine of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Machine {
    /// Values by key
    Values,
    /// Owners of partitions
    Ownership,
}

impl Machine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Ownership => "ownership",
        }
    }

    pub(super) fn build(self) -> Box<dyn StateMachine> {
        match self {
            Self::Values => Box::new(KeyValues::default()),
            Self::Ownership => Box::new(Ownership::default()),
        }
    }
}

/// What happens to freed memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Memory {
    /// The allocator keeps it for a second, as in a node
    #[default]
    Kept,
    /// It is returned to the system immediately
    Returned,
    /// It is kept, and consists of huge pages
    HugePages,
}

impl Memory {
    pub(crate) const ALL: [Self; 3] = [Self::Kept, Self::Returned, Self::HugePages];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Returned => "returned",
            Self::HugePages => "huge-pages",
        }
    }

    /// The variables that configure the allocator.
    pub(crate) fn environment(self) -> Vec<(OsString, OsString)> {
        match self {
            Self::Kept | Self::HugePages => Vec::new(),
            Self::Returned => vec![("MIMALLOC_PURGE_DELAY".into(), "0".into())],
        }
    }
}
