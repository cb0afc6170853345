//! One row for each system and setting: dots with whiskers, bars, ratios.

use super::scale::Scale;
use super::svg::{Anchor, GRID, HEADING, INK, LABEL, MUTED, Svg, TICK, width};
use super::{MARGIN, Plot, Value, WIDTH, colour, head};
use crate::figures::{figure, percent, short};
use crate::results::Spread;

const ROW: f64 = 24.0;
const HEADING_ROW: f64 = 24.0;
const GAP: f64 = 8.0;
const AXIS: f64 = 34.0;
/// The figures at the right end of the rows.
const FIGURES: f64 = 88.0;
/// The labels of ratios at the left end of the rows.
const LABELS: f64 = 158.0;
/// The last label of an axis must not reach into the figures.
const INSET: f64 = 8.0;

/// Rows under a heading.
pub(in crate::report) struct Group {
    pub(in crate::report) label: String,
    pub(in crate::report) rows: Vec<Row>,
}

pub(in crate::report) struct Row {
    pub(in crate::report) system: String,
    pub(in crate::report) value: Value,
}

fn systems(groups: &[Group]) -> Vec<&str> {
    let mut systems: Vec<&str> = Vec::new();
    for row in groups.iter().flat_map(|group| &group.rows) {
        if !systems.contains(&row.system.as_str()) {
            systems.push(&row.system);
        }
    }
    systems
}

fn height_of(groups: &[Group]) -> f64 {
    let rows: usize = groups.iter().map(|group| group.rows.len()).sum();
    groups.len() as f64 * (HEADING_ROW + GAP) + rows as f64 * ROW
}

/// Dots on a logarithmic axis, with the range of the rounds as whiskers.
pub(in crate::report) fn dots(name: &str, title: &str, unit: &str, groups: &[Group]) -> Plot {
    let top = 64.0;
    let bottom = top + height_of(groups);
    let mut svg = Svg::new(WIDTH, bottom + AXIS);
    head(&mut svg, title, systems(groups).into_iter());
    let values = groups.iter().flat_map(|group| &group.rows);
    let values = values.flat_map(|row| [row.value.low, row.value.high]);
    let values = values.filter(|value| *value > 0.0);
    let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let (low, high) = if high > 0.0 { (low, high) } else { (1.0, 10.0) };
    let right = WIDTH - MARGIN - FIGURES;
    let ends = (MARGIN + INSET, right - INSET);
    let scale = Scale::logarithmic((low / 1.3, high * 1.3), ends);
    for tick in scale.ticks() {
        let x = scale.at(tick);
        svg.line((x, top), (x, bottom), GRID, 1.0);
        svg.text((x, bottom + 20.0), Anchor::Middle, TICK, &short(tick));
    }
    svg.text((WIDTH - MARGIN, bottom + 20.0), Anchor::End, TICK, unit);
    each_row(&mut svg, groups, top, figure, |svg, row, y| {
        let colour = colour(&row.system);
        let at = |value: f64| (scale.at(value), y);
        let value = row.value;
        svg.line((MARGIN, y), (right, y), "#eef0f4", 1.0);
        svg.line(at(value.low), at(value.high), colour, 3.0);
        svg.circle(at(value.middle), 5.5, colour);
    });
    Plot {
        name: name.to_owned(),
        svg: svg.finish(title),
    }
}

/// Bars from zero to a share of 100%, with a threshold where there is one.
pub(in crate::report) fn bars(
    name: &str,
    title: &str,
    groups: &[Group],
    threshold: Option<(f64, &str)>,
) -> Plot {
    let top = 64.0;
    let bottom = top + height_of(groups);
    let mut svg = Svg::new(WIDTH, bottom + AXIS);
    head(&mut svg, title, systems(groups).into_iter());
    let right = WIDTH - MARGIN - FIGURES;
    let scale = Scale::linear((0.0, 100.0), (MARGIN, right - INSET));
    for tick in [0.0, 25.0, 50.0, 75.0, 100.0] {
        let x = scale.at(tick);
        svg.line((x, top), (x, bottom), GRID, 1.0);
        let text = format!("{tick:.0}%");
        let x = x.max(MARGIN + width(&text, TICK) / 2.0);
        svg.text((x, bottom + 20.0), Anchor::Middle, TICK, &text);
    }
    each_row(&mut svg, groups, top, percent_figure, |svg, row, y| {
        let long = scale.at(row.value.middle) - MARGIN;
        let from = (MARGIN, y - 8.0);
        svg.rectangle(from, (long, 16.0), colour(&row.system));
    });
    if let Some((at, label)) = threshold {
        let x = scale.at(at);
        svg.dashed((x, top), (x, bottom), INK);
        svg.text((x + 6.0, top + 2.0), Anchor::Start, TICK, label);
    }
    Plot {
        name: name.to_owned(),
        svg: svg.finish(title),
    }
}

fn percent_figure(value: f64) -> String {
    percent(value / 100.0)
}

/// Headings, the caller's rows, and their figures at the right.
fn each_row(
    svg: &mut Svg,
    groups: &[Group],
    top: f64,
    text: fn(f64) -> String,
    mut draw: impl FnMut(&mut Svg, &Row, f64),
) {
    let mut y = top;
    for group in groups {
        svg.text((MARGIN, y + 17.0), Anchor::Start, LABEL, &group.label);
        y += HEADING_ROW;
        for row in &group.rows {
            let middle = y + ROW / 2.0;
            draw(svg, row, middle);
            let end = (WIDTH - MARGIN, middle + 5.0);
            svg.text(end, Anchor::End, LABEL, &text(row.value.middle));
            y += ROW;
        }
        y += GAP;
    }
}

/// Ratios to 1 on a logarithmic axis: the median, and the range of the rounds.
pub(in crate::report) fn ratios(
    name: &str,
    title: &str,
    (below, above): (&str, &str),
    groups: &[(String, Vec<(String, Spread)>)],
) -> Plot {
    let top = 64.0;
    let rows: usize = groups.iter().map(|(_, rows)| rows.len()).sum();
    let bottom = top + groups.len() as f64 * (HEADING_ROW + GAP) + rows as f64 * ROW;
    let mut svg = Svg::new(WIDTH, bottom + AXIS);
    head(&mut svg, title, std::iter::empty());
    let all = groups.iter().flat_map(|(_, rows)| rows);
    let widest = all
        .flat_map(|(_, ratio)| [ratio.low, ratio.high])
        .filter(|ratio| *ratio > 0.0)
        .map(|ratio| ratio.max(1.0 / ratio))
        .fold(1.5, f64::max);
    let ends = (MARGIN + LABELS, WIDTH - MARGIN - FIGURES / 2.0);
    let scale = Scale::logarithmic((1.0 / widest, widest), ends);
    for mark in [0.25, 0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0, 4.0] {
        if !(1.0 / widest..=widest).contains(&mark) {
            continue;
        }
        let x = scale.at(mark);
        let one = (mark - 1.0_f64).abs() < 1e-9;
        let (stroke, width) = if one { (INK, 1.5) } else { (GRID, 1.0) };
        svg.line((x, top), (x, bottom), stroke, width);
        svg.text((x, bottom + 20.0), Anchor::Middle, TICK, &short(mark));
    }
    let one = scale.at(1.0);
    svg.text((one - 10.0, top - 12.0), Anchor::End, TICK, below);
    svg.text((one + 10.0, top - 12.0), Anchor::Start, TICK, above);
    let mut y = top;
    for (heading, rows) in groups {
        svg.text((MARGIN, y + 17.0), Anchor::Start, HEADING, heading);
        y += HEADING_ROW;
        for (label, ratio) in rows {
            let middle = y + ROW / 2.0;
            svg.text((MARGIN + 10.0, middle + 5.0), Anchor::Start, LABEL, label);
            let at = |value: f64| (scale.at(value), middle);
            svg.line(at(ratio.low), at(ratio.high), "#9db7f3", 5.0);
            svg.circle(at(ratio.median), 5.5, colour("vr"));
            let text = format!("{:.2}", ratio.median);
            svg.text((WIDTH - MARGIN, middle + 5.0), Anchor::End, LABEL, &text);
            y += ROW;
        }
        y += GAP;
    }
    svg.line((MARGIN, bottom), (WIDTH - MARGIN, bottom), MUTED, 0.5);
    Plot {
        name: name.to_owned(),
        svg: svg.finish(title),
    }
}
