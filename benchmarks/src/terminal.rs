//! Tables and boxes for a terminal of 80 columns or more.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use rustix::termios::tcgetwinsize;

use crate::advice::{Advice, Criterion};

/// The columns that every output fits into.
const COLUMNS_MIN: usize = 80;
/// Wider lines are harder to read.
const COLUMNS_MAX: usize = 120;
/// Names of figures are at most this wide; longer ones have a line of their own.
const NAME_COLUMNS: usize = 32;

/// A line below the head, and none between rows.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// The columns of the terminal, or 80 where there is none.
pub(crate) fn columns() -> usize {
    let size = tcgetwinsize(std::io::stdout());
    let columns = size.map_or(COLUMNS_MIN, |size| usize::from(size.ws_col));
    columns.clamp(COLUMNS_MIN, COLUMNS_MAX)
}

/// A table; figures are aligned to the right.
pub(crate) fn table(head: &[String], rows: &[Vec<String>], columns: usize) -> Table {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(u16::try_from(columns).unwrap_or(u16::MAX))
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
pub(crate) fn is_figure(cell: &str) -> bool {
    let letters = cell.chars().filter(|one| one.is_alphabetic()).count();
    let digits = cell.chars().filter(|one| one.is_ascii_digit()).count();
    cell.is_empty() || cell == "-" || (digits >= letters && !cell.starts_with(char::is_alphabetic))
}

/// The lines of a text, each of at most so many columns.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a line");
        let wide = line.chars().count() + 1 + word.chars().count();
        if line.is_empty() {
            line.push_str(word);
        } else if wide <= columns {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A recommendation and its figures in a box.
pub(crate) fn boxed(advice: &Advice, columns: usize) -> String {
    let inside = columns - 4;
    let mut lines = wrap(&advice.headline, inside);
    lines.push(String::new());
    for criterion in &advice.figures {
        lines.extend(figure_lines(criterion, inside));
    }
    if !advice.remarks.is_empty() {
        lines.push(String::new());
    }
    for remark in &advice.remarks {
        lines.extend(wrap(remark, inside));
    }
    let rule = "─".repeat(columns - 2);
    let mut text = format!("┌{rule}┐\n");
    for line in lines {
        text += &format!("│ {line:inside$} │\n");
    }
    text + &format!("└{rule}┘")
}

/// Name, figure, and which backend it speaks for.
fn figure_lines(criterion: &Criterion, columns: usize) -> Vec<String> {
    let side = criterion.side.name();
    let room = columns - NAME_COLUMNS - 2 - 5;
    let mut lines = Vec::new();
    let name = match criterion.name.chars().count() > NAME_COLUMNS {
        true => {
            lines.push(criterion.name.to_owned());
            ""
        }
        false => criterion.name,
    };
    for (number, part) in wrap(&criterion.figure, room).into_iter().enumerate() {
        lines.push(match number {
            0 => format!("{name:NAME_COLUMNS$}  {part:room$} {side:>4}"),
            _ => format!("{:NAME_COLUMNS$}  {part}", ""),
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use crate::advice::{Known, of_cluster};

    use super::*;

    #[test]
    fn a_box_has_its_width() {
        let known = Known {
            share: Some(0.123_456),
            share_of_messages: Some(0.01),
            failover: Some(([250.0, 500.0], [200.0, 210.0])),
            ..Known::default()
        };
        for columns in [80, 120] {
            let text = boxed(&of_cluster(&known), columns);
            let widths: Vec<_> = text.lines().map(|line| line.chars().count()).collect();
            assert!(widths.iter().all(|width| *width == columns), "{text}");
        }
    }

    #[test]
    fn a_figure_has_more_digits_than_letters() {
        for cell in ["12", "415 us", "17,494 (1 of 5 runs)", "<0.001", "", "-"] {
            assert!(is_figure(cell), "{cell}");
        }
        for cell in ["1 in flight", "Raft", "up to 8 commands"] {
            assert!(!is_figure(cell), "{cell}");
        }
    }

    #[test]
    fn long_lines_are_wrapped_at_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("", 7), [""]);
    }
}
