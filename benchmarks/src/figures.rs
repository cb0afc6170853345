//! Numbers as people read them.

use crate::results::Spread;

/// A number with three significant digits.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    match size {
        size if size >= 1e3 => grouped(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        0.0 => "0".into(),
        size if size >= 0.001 => format!("{value:.4}"),
        _ => "<0.001".into(),
    }
}

/// A whole number, its digits in groups of three.
fn grouped(value: f64) -> String {
    let whole = format!("{value:.0}");
    let (sign, digits) = match whole.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", whole.as_str()),
    };
    let groups: Vec<_> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| String::from_utf8_lossy(group))
        .collect();
    format!("{sign}{}", groups.join(","))
}

/// A whole number.
pub(crate) fn count(value: u64) -> String {
    grouped(value as f64)
}

/// A number on an axis.
pub(crate) fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", trim(value / 1e6)),
        value if value >= 1e3 => format!("{}k", trim(value / 1e3)),
        value if value >= 0.01 => trim(value),
        value => format!("{value}"),
    }
}

fn trim(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A ratio, with two digits after the point.
pub(crate) fn ratio(value: f64) -> String {
    match value.abs() >= 10.0 {
        true => figure(value),
        false => format!("{value:.2}"),
    }
}

/// A share from 0 to 1, as a percentage.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        0.0 => "0%".into(),
        small if small < 0.01 => "<0.01%".into(),
        small if small < 1.0 => format!("{small:.2}%"),
        percent => format!("{}%", figure(percent)),
    }
}

/// Both ends of a range, or one where they do not differ.
pub(crate) fn range(spread: Spread, of: fn(f64) -> String) -> String {
    let (low, high) = (of(spread.low), of(spread.high));
    match low == high {
        true => low,
        false => format!("{low} to {high}"),
    }
}

/// A system's name in texts.
pub(crate) fn name(system: &str) -> &str {
    match system {
        "raft" => "Raft",
        "vr" => "VR",
        "zookeeper" => "ZooKeeper",
        other => other,
    }
}

/// A durability in texts.
pub(crate) fn in_words(durability: &str) -> &'static str {
    match durability {
        "fsync" => "with fsync",
        "none" => "without fsync",
        _ => "in one process",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_groups() {
        for (value, text) in [
            (1_234_567.8, "1,234,568"),
            (10_000.0, "10,000"),
            (999.6, "1000"),
            (1_999.0, "1,999"),
            (12.34, "12.3"),
            (0.123, "0.12"),
            (0.0042, "0.0042"),
            (0.000_042, "<0.001"),
            (0.0, "0"),
        ] {
            assert_eq!(figure(value), text);
        }
        assert_eq!(short(8_192.0), "8.19k");
        assert_eq!(short(1_000_000.0), "1M");
        assert_eq!(short(0.001), "0.001");
        assert_eq!(percent(0.575), "57.5%");
        assert_eq!(percent(0.000_141), "0.01%");
        assert_eq!(percent(0.000_001), "<0.01%");
    }

    #[test]
    fn a_range_of_one_round_is_its_value() {
        let spread = |low, high| Spread {
            median: 1.5,
            low,
            high,
        };
        assert_eq!(range(spread(1.5, 1.5), ratio), "1.50");
        assert_eq!(range(spread(1.0, 2.0), ratio), "1.00 to 2.00");
    }
}
