//! How a node writes its log: to the standard error output, as text or as JSON, with
//! colours on a terminal only, and without endless repeats of one line.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tracing::{Event, Level, Metadata, Subscriber, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::log_lines::Tee;

/// Lines of one place in the code that are written within an interval; further ones are
/// counted.
const LINES_MAX: u32 = 10;
const INTERVAL: Duration = Duration::from_secs(10);

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Text,
    /// One JSON object in each line
    Json,
}

/// Writes the log of this process from now on.
pub(super) fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_env("RUST_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let no_color = std::env::var_os("NO_COLOR");
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(with_colours(
            std::io::stderr().is_terminal(),
            no_color.as_deref(),
        ))
        .with_writer(|| Tee);
    match format {
        LogFormat::Text => builder.map_event_format(Limited::new).init(),
        LogFormat::Json => builder.json().map_event_format(Limited::new).init(),
    }
}

/// See <https://no-color.org>.
fn with_colours(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// Formats events, and leaves out repeats.
struct Limited<F> {
    inner: F,
    repeats: Repeats,
}

impl<F> Limited<F> {
    fn new(inner: F) -> Self {
        Self {
            inner,
            repeats: Repeats::default(),
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(suppressed) = self.repeats.admit(event.metadata(), Instant::now()) else {
            return Ok(());
        };
        if suppressed > 0 {
            warn!(suppressed, "left out repeats of the next line");
        }
        self.inner.format_event(context, writer, event)
    }
}

/// A place in the code, by file and line.
type Place = (&'static str, u32);

/// The lines of the current interval of one place.
struct Lines {
    since: Instant,
    written: u32,
    suppressed: u64,
}

/// What was written of each place. Places are those of the program, so they are bounded.
#[derive(Default)]
struct Repeats(Mutex<HashMap<Place, Lines>>);

impl Repeats {
    /// The lines of the same place that were left out before this one; `None` when this one
    /// is left out too. Lines for debugging are not limited, and neither is the line about
    /// repeats.
    fn admit(&self, metadata: &Metadata<'static>, now: Instant) -> Option<u64> {
        let is_exempt = *metadata.level() > Level::INFO || metadata.target() == module_path!();
        match (metadata.file(), metadata.line()) {
            (Some(file), Some(line)) if !is_exempt => self.admit_place((file, line), now),
            _ => Some(0),
        }
    }

    fn admit_place(&self, place: Place, now: Instant) -> Option<u64> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = places.entry(place).or_insert(Lines {
            since: now,
            written: 0,
            suppressed: 0,
        });
        if now.saturating_duration_since(lines.since) >= INTERVAL {
            lines.since = now;
            lines.written = 0;
        }
        if lines.written >= LINES_MAX {
            lines.suppressed += 1;
            return None;
        }
        lines.written += 1;
        Some(std::mem::take(&mut lines.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_without_no_color() {
        assert!(with_colours(true, None) && with_colours(true, Some(OsStr::new(""))));
        assert!(!with_colours(true, Some(OsStr::new("1"))));
        assert!(!with_colours(false, None));
    }

    /// A full disk has written fifty lines a second.
    #[test]
    fn repeats_of_a_line_are_counted_instead_of_written() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let written = |place: u32, from: u64| {
            let lines = (0..500).map(|line| repeats.admit_place(("file", place), at(from + line)));
            lines.flatten().count()
        };
        assert_eq!(written(1, 0), 10);
        // Another place is limited apart.
        assert_eq!(written(2, 0), 10);
        assert_eq!(repeats.admit_place(("file", 1), at(9_999)), None);
        assert_eq!(repeats.admit_place(("file", 1), at(10_000)), Some(491));
        assert_eq!(repeats.admit_place(("file", 1), at(10_001)), Some(0));
    }
}
