//! Plots as SVG, of a width that is readable on a phone.

mod lines;
mod rows;
mod scale;
mod svg;

use svg::{Anchor, LABEL, Svg, TITLE};

use crate::figures;

pub(super) use lines::{cdf, lines};
pub(super) use rows::{Group, Row, bars, dots, ratios};
pub(super) use svg::escape;

const WIDTH: f64 = 500.0;
const MARGIN: f64 = 14.0;

/// A plot for the report, and for the documents.
pub(crate) struct Plot {
    /// As the name of a file, without its extension.
    pub(crate) name: String,
    pub(crate) svg: String,
}

/// A value, and its range over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) middle: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Value {
    /// A value of one round.
    pub(super) fn single(value: f64) -> Self {
        Self {
            middle: value,
            low: value,
            high: value,
        }
    }

    /// A median, and the range of the rounds where it is known.
    pub(super) fn with_range(middle: f64, low: Option<f64>, high: Option<f64>) -> Self {
        Self {
            middle,
            low: low.unwrap_or(middle),
            high: high.unwrap_or(middle),
        }
    }
}

impl From<crate::results::Spread> for Value {
    fn from(spread: crate::results::Spread) -> Self {
        Self {
            middle: spread.median,
            low: spread.low,
            high: spread.high,
        }
    }
}

/// The line of one system: its values, by what varies.
pub(super) struct Series {
    pub(super) system: String,
    pub(super) values: Vec<(f64, Value)>,
}

/// The colour of a system, the same in all plots.
fn colour(system: &str) -> &'static str {
    match system {
        "raft" => "#c2610c",
        "vr" => "#2563eb",
        "etcd" => "#107a57",
        "zookeeper" => "#9333a6",
        _ => "#6b7280",
    }
}

/// The title and, below it, the systems; returns where the plot may start.
fn head<'a>(svg: &mut Svg, title: &str, systems: impl Iterator<Item = &'a str>) -> f64 {
    svg.text((MARGIN, 26.0), Anchor::Start, TITLE, title);
    let mut x = MARGIN;
    for system in systems {
        svg.rectangle((x, 39.0), (12.0, 12.0), colour(system));
        let name = figures::name(system);
        svg.text((x + 18.0, 50.0), Anchor::Start, LABEL, name);
        x += 18.0 + svg::width(name, LABEL) + 20.0;
    }
    64.0
}
