//! The report in a terminal: tables, verdicts, and the recommendation last.

use std::io::Write;

use super::sections::Section;
use crate::advice::{Known, of_benchmark};
use crate::claims::{article, judge};
use crate::results::Results;
use crate::terminal::{boxed, columns, table, wrap};

pub(super) fn print(results: &Results, sections: &[Section]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let columns = columns();
    for section in sections {
        writeln!(out, "\n{}", section.title)?;
        let table = table(&section.table.head, &section.table.rows, columns);
        writeln!(out, "{table}")?;
    }
    claims(&mut out, results, columns)?;
    for missing in &results.missing {
        let text = format!("Not measured: {}: {}", missing.what, missing.why);
        writeln!(out)?;
        for line in wrap(&text, columns) {
            writeln!(out, "{line}")?;
        }
    }
    if let Some(advice) = of_benchmark(&Known::of_results(results)) {
        writeln!(out, "\n{}", boxed(&advice, columns))?;
    }
    Ok(())
}

fn claims(out: &mut impl Write, results: &Results, columns: usize) -> anyhow::Result<()> {
    let all = judge(results);
    let measured = all.iter().filter_map(|claim| {
        let judgement = claim.judgement.as_ref()?;
        Some((claim.cited, judgement))
    });
    let measured: Vec<_> = measured.collect();
    if measured.is_empty() {
        return Ok(());
    }
    let title = format!(
        "{} of {} claims of the article \"{}\"",
        measured.len(),
        all.len(),
        article::TITLE
    );
    writeln!(out)?;
    for line in wrap(&title, columns) {
        writeln!(out, "{line}")?;
    }
    for (cited, judgement) in measured {
        let quote = format!("\"{}\"", cited.quote);
        let verdict = judgement.verdict.words();
        writeln!(out)?;
        writeln!(out, "{:>2}  {}: {verdict}", cited.number, cited.subject)?;
        let figures = judgement.figures.iter().map(|figure| format!("- {figure}"));
        for text in [quote].into_iter().chain(figures) {
            for (number, line) in wrap(&text, columns - 6).into_iter().enumerate() {
                let indent = if number > 0 && text.starts_with('-') {
                    "      "
                } else {
                    "    "
                };
                writeln!(out, "{indent}{line}")?;
            }
        }
    }
    Ok(())
}
