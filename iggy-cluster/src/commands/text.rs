//! Text for a terminal.

use adapters::Printable;

/// The columns that text without `--wide` fits into.
pub(super) const COLUMNS: u16 = 80;

/// A line of a list in lines of at most 80 columns, except for words that are longer. Its
/// own line breaks stay; other control characters do not reach the terminal.
pub(super) fn wrapped(bullet: &str, text: &str) -> String {
    let indent = " ".repeat(bullet.len());
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        let first = if number == 0 { bullet } else { &indent };
        wrap_line(first, &indent, &Printable(line).to_string(), &mut out);
    }
    out
}

fn wrap_line(first: &str, indent: &str, line: &str, out: &mut String) {
    let width = usize::from(COLUMNS);
    out.push_str(first);
    // What is aligned, such as the column of an error in a file, stays as it is.
    if first.len() + line.chars().count() <= width {
        out.push_str(line);
        out.push('\n');
        return;
    }
    let mut column = first.len();
    let mut is_first = true;
    for word in line.split_whitespace() {
        let length = word.chars().count();
        if is_first {
            is_first = false;
        } else if column + 1 + length > width {
            out.push('\n');
            out.push_str(indent);
            column = indent.len();
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped_and_aligned_ones_stay() {
        let words = "word ".repeat(30);
        let text = wrapped("  - ", &words);
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.starts_with("  - word word") && text.contains("\n    word"));
        assert_eq!(text.split_whitespace().count(), 31);
        assert_eq!(wrapped("- ", "a\u{1b}[2J"), "- a\\u{1b}[2J\n");
        assert_eq!(wrapped("- ", "error\n  |   ^^^"), "- error\n    |   ^^^\n");
    }
}
