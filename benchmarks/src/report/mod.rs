//! From results to tables, plots and verdicts.

mod html;
pub(crate) mod plots;
mod sections;
mod terminal;

use std::path::Path;

use anyhow::Context;

use crate::results::{FORMAT, Results};
use plots::Plot;

/// A part of the report.
pub(crate) struct Section {
    pub(crate) title: String,
    /// What a reader must know, in a sentence or two.
    pub(crate) text: String,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) plots: Vec<Plot>,
}

/// Writes `results.json`, `report.html` and the plots as files of their own.
///
/// # Errors
/// When the directory cannot be written.
pub(crate) fn write(results: &Results, out: &Path) -> anyhow::Result<()> {
    let plots = out.join("plots");
    std::fs::create_dir_all(&plots)
        .with_context(|| format!("cannot create {}", plots.display()))?;
    let json = serde_json::to_string_pretty(results)? + "\n";
    std::fs::write(out.join("results.json"), json)?;
    let sections = sections::all(results)?;
    for plot in sections.iter().flat_map(|section| &section.plots) {
        std::fs::write(plots.join(format!("{}.svg", plot.name)), &plot.svg)?;
    }
    std::fs::write(out.join("report.html"), html::page(results, &sections))?;
    Ok(())
}

/// Prints the tables and the verdicts.
///
/// # Errors
/// When the terminal is gone.
pub(crate) fn print(results: &Results) -> anyhow::Result<()> {
    terminal::print(results, &sections::all(results)?)
}

/// What every format of the file says.
#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}

/// Reads a `results.json`.
///
/// # Errors
/// When it is not there, or is not one that this program understands.
pub(crate) fn read(path: &Path) -> anyhow::Result<Results> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_none = || format!("{} is not a results.json of this program", path.display());
    let Format { format } = serde_json::from_str(&text).with_context(is_none)?;
    anyhow::ensure!(
        format == FORMAT,
        "{} has format {format}, this program reads {FORMAT}; run the benchmark again",
        path.display(),
    );
    serde_json::from_str(&text).with_context(is_none)
}
