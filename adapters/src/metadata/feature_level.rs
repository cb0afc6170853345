//! Which commands and rules a cluster uses, while its nodes may differ in version.
//!
//! A node of an older version does not know newer commands, and a rule that has changed
//! would lead it to another state. So whatever version 0.1 does not know is used only at
//! [`FeatureLevel::V0_2`]:
//!
//! - The level is part of the replicated state
//!   ([`MetadataState::feature_level`](super::MetadataState::feature_level)). Applying a
//!   command depends on the level there, never on the version of the node that applies it.
//! - The leader raises it with a command of its own, `RaiseFeatureLevel`, once every node
//!   that has ever registered runs a version that knows the level. It never falls.
//! - A replica that does not know a level stops at that command, and refuses a snapshot of
//!   a state above level 0.1: it cannot come to another state than the others.
//! - From then on a node of an older version is refused when it registers.
//!
//! To use something new: give it a tag that older versions refuse, or compare with
//! `feature_level()` where a known command is applied; and propose it only at that level.

use std::fmt;

use crate::codec::{Malformed, Reader, Result, Writer};

/// A set of commands and rules, named by the first version that has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeatureLevel {
    major: u16,
    minor: u16,
}

impl FeatureLevel {
    /// What version 0.1 knows. Every cluster starts with it.
    pub const V0_1: Self = Self { major: 0, minor: 1 };
    /// What version 0.2 has added.
    pub const V0_2: Self = Self { major: 0, minor: 2 };
    /// The highest level that this program knows.
    pub const KNOWN: Self = Self::V0_2;

    /// The level of a node with this version of the software, such as `0.2.0`: its first
    /// two numbers. A text that is no version counts as 0.1.
    #[must_use]
    pub fn of_version(version: &str) -> Self {
        let mut parts = version.splitn(3, '.');
        let mut number = || parts.next()?.parse().ok();
        let numbers = number().zip(number());
        numbers.map_or(Self::V0_1, |(major, minor)| Self { major, minor })
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let level = Self {
            major: reader.u16()?,
            minor: reader.u16()?,
        };
        match (Self::V0_1..=Self::KNOWN).contains(&level) {
            true => Ok(level),
            false => Err(Malformed("a feature level that this version does not know")),
        }
    }

    pub(super) fn write(self, out: &mut impl Writer) {
        out.put_u16_le(self.major);
        out.put_u16_le(self.minor);
    }
}

impl Default for FeatureLevel {
    fn default() -> Self {
        Self::V0_1
    }
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_the_level_of_its_first_two_numbers() {
        let of = FeatureLevel::of_version;
        for version in [
            "0.1.0",
            "0",
            "",
            "x.y.z",
            "0.",
            ".2",
            "0.-2.0",
            "0.2-rc.1.0",
        ] {
            assert_eq!(of(version), FeatureLevel::V0_1, "{version}");
        }
        for version in ["0.2.0", "0.2", "0.2.7-rc.1+build.5"] {
            assert_eq!(of(version), FeatureLevel::V0_2, "{version}");
        }
        for version in ["0.3.0", "0.10.0", "1.0.0"] {
            assert!(of(version) > FeatureLevel::V0_2, "{version}");
        }
        assert!(of("0.0.9") < FeatureLevel::V0_1);
        assert!(of(env!("CARGO_PKG_VERSION")) >= FeatureLevel::KNOWN);
    }
}
