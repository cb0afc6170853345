//! Durations and sizes as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration, such as `"50ms"` or `"5s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(Duration);

/// A size, such as `"64 MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanSize(u64);

impl HumanDuration {
    /// A duration of whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl HumanSize {
    /// A size of whole mebibytes.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

const DURATIONS: [(&str, u64); 5] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
];

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A whole number and one of the units.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that divides the number, and the quotient.
fn print(f: &mut fmt::Formatter<'_>, number: u64, units: &[(&str, u64)], gap: &str) -> fmt::Result {
    let fitting = units
        .iter()
        .filter(|(_, factor)| number >= *factor && number.is_multiple_of(*factor));
    let (name, factor) = fitting
        .max_by_key(|(_, factor)| factor)
        .unwrap_or(&units[0]);
    write!(f, "{}{gap}{name}", number / factor)
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, &DURATIONS)
            .map(|micros| Self(Duration::from_micros(micros)))
            .ok_or_else(|| {
                format!("{text:?} is not a duration; write for instance \"50ms\" or \"5s\"")
            })
    }
}

impl FromStr for HumanSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, &SIZES)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a size; write for instance \"64 MiB\""))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        print(f, micros, &DURATIONS[..3], "")
    }
}

impl fmt::Display for HumanSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = [SIZES[0], SIZES[5], SIZES[6], SIZES[7], SIZES[8]];
        print(f, self.0, &binary, " ")
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(HumanDuration);
as_text!(HumanSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_written_back() {
        for text in ["50ms", "5s", "120s", "7us"] {
            assert_eq!(text.parse::<HumanDuration>().unwrap().to_string(), text);
        }
        for (text, bytes) in [("64 MiB", 64 << 20), ("1 GiB", 1 << 30), ("7 B", 7)] {
            let size: HumanSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string()), (bytes, text.into()));
        }
        assert_eq!("64MB".parse::<HumanSize>().unwrap().bytes(), 64_000_000);
        assert_eq!("2m".parse::<HumanDuration>().unwrap().to_string(), "120s");
    }

    #[test]
    fn text_without_a_known_unit_is_refused_with_an_example() {
        for text in [
            "",
            "5",
            "5 parsecs",
            "-1s",
            "99999999999999999999s",
            "18446744073709551615 GiB",
        ] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
            let error = text.parse::<HumanSize>().unwrap_err();
            assert!(error.contains("64 MiB"), "{error}");
        }
    }
}
