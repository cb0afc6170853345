//! Text of clients and peers, as logs and terminals may show it.

use std::fmt::{self, Write as _};

/// Displays a text with its control characters escaped, so that it neither controls a
/// terminal nor looks like another line of a log.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => c.escape_default().fmt(f),
            false => f.write_char(c),
        })
    }
}
