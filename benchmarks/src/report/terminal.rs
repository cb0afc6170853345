//! The report in a terminal.

use std::io::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::Section;
use crate::claims::{Verdict, judge};
use crate::results::Results;

pub(super) fn print(results: &Results, sections: &[Section]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for section in sections {
        writeln!(out, "\n{}", section.title)?;
        writeln!(out, "{}", table(&section.head, &section.rows))?;
    }
    let judged = judge(results);
    let measured: Vec<_> = judged
        .into_iter()
        .filter(|claim| claim.verdict != Verdict::NotMeasured)
        .map(|claim| {
            vec![
                claim.number.to_string(),
                claim.claim.to_owned(),
                claim.verdict.words().to_owned(),
                claim.figure,
            ]
        })
        .collect();
    if !measured.is_empty() {
        let head = ["#", "claim", "verdict", "figures"].map(str::to_owned);
        writeln!(out, "\nThe article's claims\n{}", table(&head, &measured))?;
    }
    for missing in &results.missing {
        writeln!(out, "{}: {}", missing.peer, missing.why)?;
    }
    Ok(())
}

fn table(head: &[String], rows: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(head)
        .add_rows(rows);
    for (number, column) in table.column_iter_mut().enumerate() {
        let figures = rows
            .iter()
            .all(|row| row.get(number).is_none_or(|cell| is_figure(cell)));
        if figures {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Whether a cell reads better on the right.
pub(super) fn is_figure(cell: &str) -> bool {
    cell.starts_with(|first: char| first.is_ascii_digit()) || cell.is_empty() || cell == "-"
}
