//! `results.json`: written in the current format, read in former ones.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use super::{FORMAT, Results};

/// What changed since each former format.
const FORMER: &str = include_str!("former.json");

/// Names of a former format, and their names since the next one.
#[derive(Deserialize)]
struct Former {
    fields: BTreeMap<String, String>,
    /// Within texts.
    words: BTreeMap<String, String>,
}

/// Writes the results to a file.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write(results: &Results, path: &Path) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(results)? + "\n";
    std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a `results.json` of this format or of a former one.
///
/// # Errors
/// When it cannot be read, is of a later format, or is another kind of file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Results> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("cannot use {}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Results> {
    let other = "this is not a results.json of iggy-cluster";
    let mut value: Value = serde_json::from_str(text).context(other)?;
    let former: BTreeMap<u32, Former> = serde_json::from_str(FORMER)?;
    let mut format = value["format"]
        .as_u64()
        .and_then(|format| u32::try_from(format).ok())
        .context(other)?;
    let oldest = former.keys().next().copied().unwrap_or(FORMAT);
    if !(oldest..=FORMAT).contains(&format) {
        bail!(
            "the file has format {format}, this program reads {oldest} to {FORMAT}; run the benchmark again"
        );
    }
    while let Some(changes) = former.get(&format) {
        value = changes.apply(value);
        format += 1;
    }
    value["format"] = FORMAT.into();
    serde_json::from_value(value).context(other)
}

impl Former {
    fn apply(&self, value: Value) -> Value {
        match value {
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| {
                    let name = self.fields.get(&name).cloned().unwrap_or(name);
                    (name, self.apply(value))
                })
                .collect(),
            Value::Array(values) => values.into_iter().map(|value| self.apply(value)).collect(),
            Value::String(text) => self
                .words
                .iter()
                .fold(text, |text, (from, to)| text.replace(from, to))
                .into(),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_former_format_is_read() {
        let results = parse(include_str!("format-2.json")).expect("format 2");
        assert_eq!(results.format, FORMAT);
        assert_eq!(results.started_unix_seconds, 1_795_988_721);
        assert_eq!(results.missing[0].what, "etcd");
        let how = "a command for each, 1,024 in flight";
        assert_eq!(results.rebalance[0].how, how);
        assert_eq!(results.rebalance[0].low_millis, None);
        assert_eq!(results.slow_disk[0].high_per_second, None);
        assert_eq!(results.failover[0].winners, [97, 103, 0]);
        assert_eq!(results.throughput[0].runs[0].latency.p99, 1595);
        let again = serde_json::to_string(&results).expect("JSON");
        let again = parse(&again).expect("the current format");
        assert_eq!(format!("{again:?}"), format!("{results:?}"));
    }

    #[test]
    fn other_files_and_later_formats_are_refused() {
        for (text, why) in [
            ("{}", "is not a results.json"),
            ("[", "is not a results.json"),
            ("{\"format\": 3}", "is not a results.json"),
            ("{\"format\": 1}", "this program reads 2 to 3"),
            ("{\"format\": 4}", "this program reads 2 to 3"),
        ] {
            let refused = parse(text).expect_err(text);
            assert!(format!("{refused:#}").contains(why), "{refused:#}");
        }
    }
}
