//! Lines over an axis: throughput, latency, distributions.

use super::scale::Scale;
use super::svg::{Anchor, GRID, INK, LABEL, MUTED, Svg, TICK, width};
use super::{MARGIN, Plot, Series, Value, WIDTH, colour, head};
use crate::figures::{count, short};

const HEIGHT: f64 = 370.0;
const LEFT: f64 = 58.0;
const BOTTOM: f64 = 52.0;
/// Lines with more values have no dots.
const DOTS_MAX: usize = 24;
/// Where there are at most so many values on the horizontal axis, each has a tick.
const OWN_TICKS_MAX: usize = 8;

/// Smaller numbers on the horizontal axis have all their digits.
const EXACT_BELOW: f64 = 10_000.0;

/// The area of the plot.
struct Frame {
    top: f64,
    bottom: f64,
    right: f64,
}

/// Lines with the ranges of their rounds as bands, on logarithmic axes.
pub(in crate::report) fn lines(
    name: &str,
    title: &str,
    (x_label, y_label): (&str, &str),
    all: &[Series],
) -> Plot {
    let mut svg = Svg::new(WIDTH, HEIGHT);
    let frame = frame(&mut svg, title, y_label, all);
    let points = || all.iter().flat_map(|series| &series.values);
    let xs = span(points().map(|(x, _)| *x), 1.0);
    let ys = span(points().flat_map(|(_, y)| [y.low, y.high]), 1.15);
    let x = Scale::logarithmic(xs, (LEFT + 16.0, frame.right - 16.0));
    let y = Scale::logarithmic(ys, (frame.bottom, frame.top));
    for tick in y.ticks() {
        horizontal(&mut svg, &frame, y.at(tick), &short(tick));
    }
    let mut measured: Vec<f64> = points().map(|(x, _)| *x).collect();
    measured.sort_by(f64::total_cmp);
    measured.dedup();
    let ticks = match measured.len() <= OWN_TICKS_MAX {
        true => measured,
        false => x.ticks(),
    };
    for tick in ticks {
        let text = match tick < EXACT_BELOW {
            true => count(tick as u64),
            false => short(tick),
        };
        vertical(&mut svg, &frame, x.at(tick), &text);
    }
    axes(&mut svg, &frame, x_label);
    for series in all {
        let colour = colour(&series.system);
        let at = |value: f64, of: f64| (x.at(value), y.at(of));
        let low = series.values.iter().map(|(x, y)| at(*x, y.low));
        let high = series.values.iter().rev().map(|(x, y)| at(*x, y.high));
        svg.area(&low.chain(high).collect::<Vec<_>>(), colour);
    }
    for series in all {
        let at = |(value, of): &(f64, Value)| (x.at(*value), y.at(of.middle));
        let points: Vec<_> = series.values.iter().map(at).collect();
        line(&mut svg, series, &points);
    }
    Plot {
        name: name.to_owned(),
        svg: svg.finish(title),
    }
}

/// The share of values that are not larger, from 0 to 1, over the values.
pub(in crate::report) fn cdf(name: &str, title: &str, x_label: &str, all: &[Series]) -> Plot {
    let mut svg = Svg::new(WIDTH, HEIGHT);
    let frame = frame(&mut svg, title, "of all kills", all);
    let points = all.iter().flat_map(|series| &series.values);
    let (low, high) = span(points.map(|(x, _)| *x), 1.0);
    let room = (high - low) * 0.05;
    let xs = ((low - room).max(0.0), high + room);
    let x = Scale::linear(xs, (LEFT, frame.right));
    let y = Scale::linear((0.0, 1.0), (frame.bottom, frame.top));
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let text = format!("{:.0}%", tick * 100.0);
        horizontal(&mut svg, &frame, y.at(tick), &text);
    }
    for tick in x.ticks() {
        vertical(&mut svg, &frame, x.at(tick), &count(tick as u64));
    }
    axes(&mut svg, &frame, x_label);
    for series in all {
        let at = |(value, of): &(f64, Value)| (x.at(*value), y.at(of.middle));
        let points: Vec<_> = series.values.iter().map(at).collect();
        line(&mut svg, series, &points);
    }
    Plot {
        name: name.to_owned(),
        svg: svg.finish(title),
    }
}

/// Title, systems, and the label of the vertical axis.
fn frame(svg: &mut Svg, title: &str, y_label: &str, all: &[Series]) -> Frame {
    let top = head(svg, title, all.iter().map(|series| series.system.as_str()));
    svg.text((MARGIN, top + 14.0), Anchor::Start, TICK, y_label);
    Frame {
        top: top + 28.0,
        bottom: HEIGHT - BOTTOM,
        right: WIDTH - MARGIN,
    }
}

fn axes(svg: &mut Svg, frame: &Frame, x_label: &str) {
    let (left, bottom) = (LEFT, frame.bottom);
    svg.line((left, frame.top), (left, bottom), MUTED, 1.0);
    svg.line((left, bottom), (frame.right, bottom), MUTED, 1.0);
    let middle = f64::midpoint(left, frame.right);
    svg.text((middle, HEIGHT - 12.0), Anchor::Middle, LABEL, x_label);
}

fn horizontal(svg: &mut Svg, frame: &Frame, y: f64, text: &str) {
    svg.line((LEFT, y), (frame.right, y), GRID, 1.0);
    svg.text((LEFT - 8.0, y + 4.5), Anchor::End, TICK, text);
}

fn vertical(svg: &mut Svg, frame: &Frame, x: f64, text: &str) {
    svg.line((x, frame.bottom), (x, frame.bottom + 5.0), INK, 1.0);
    let half = width(text, TICK) / 2.0;
    let x = x.clamp(LEFT + half, frame.right - half);
    svg.text((x, frame.bottom + 20.0), Anchor::Middle, TICK, text);
}

fn line(svg: &mut Svg, series: &Series, points: &[(f64, f64)]) {
    let colour = colour(&series.system);
    svg.path(points, colour);
    if points.len() <= DOTS_MAX {
        for point in points {
            svg.circle(*point, 4.0, colour);
        }
    }
}

/// The range of the positive values, wider by a factor at both ends.
fn span(values: impl Iterator<Item = f64>, factor: f64) -> (f64, f64) {
    let positive = values.filter(|value| *value > 0.0);
    let (low, high) = positive.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    match high > 0.0 {
        true => (low / factor, high * factor),
        false => (1.0, 10.0),
    }
}
