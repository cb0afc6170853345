//! From results to a page, plots and tables.

mod page;
mod plots;
mod sections;
mod terminal;

use std::path::Path;

use anyhow::Context;

use crate::results::{self, Results};

/// Writes `results.json`, `report.html` and the plots as files of their own.
///
/// # Errors
/// When the directory cannot be written.
pub(crate) fn write(results: &Results, out: &Path) -> anyhow::Result<()> {
    let plots = out.join("plots");
    std::fs::create_dir_all(&plots)
        .with_context(|| format!("cannot create {}", plots.display()))?;
    results::write(results, &out.join("results.json"))?;
    let sections = sections::all(results);
    for plot in sections.iter().flat_map(|section| &section.plots) {
        let path = plots.join(format!("{}.svg", plot.name));
        std::fs::write(&path, &plot.svg)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let path = out.join("report.html");
    let page = page::page(results, &sections);
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// Prints the tables, the verdicts and the recommendation.
///
/// # Errors
/// When the terminal is gone.
pub(crate) fn print(results: &Results) -> anyhow::Result<()> {
    terminal::print(results, &sections::all(results))
}
