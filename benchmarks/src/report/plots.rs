//! Plots as SVG.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::results::Ratio;

const WIDTH: u32 = 760;
const HEIGHT: u32 = 400;
const ROW_HEIGHT: u32 = 34;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 44, 52);
const FAINT: RGBColor = RGBColor(222, 226, 232);
const PAPER: RGBColor = WHITE;

/// A plot for the report, and for the documents.
pub(crate) struct Plot {
    /// As a file's name, without its ending.
    pub(crate) name: String,
    pub(crate) svg: String,
}

/// A line, or bars, of one system.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) values: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Both axes by powers.
    LogLog,
    /// The vertical axis goes from 0 to 1.
    Share,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// The colour of a system, the same in all plots.
fn colour(system: &str) -> RGBColor {
    match system {
        "raft" => RGBColor(217, 119, 6),
        "vr" => RGBColor(37, 99, 235),
        "etcd" => RGBColor(16, 122, 87),
        "zookeeper" => RGBColor(147, 51, 166),
        _ => RGBColor(107, 114, 128),
    }
}

fn draw(
    name: &str,
    size: (u32, u32),
    drawing: impl FnOnce(&Area<'_>) -> Drawn,
) -> anyhow::Result<Plot> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let failed =
            |error: Box<dyn std::error::Error>| anyhow::anyhow!("cannot draw {name}: {error}");
        area.fill(&PAPER).map_err(|error| failed(error.into()))?;
        drawing(&area).map_err(failed)?;
        area.present().map_err(|error| failed(error.into()))?;
    }
    Ok(Plot {
        name: name.to_owned(),
        svg,
    })
}

fn title_style(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

fn span(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    let values: Vec<f64> = values.filter(|value| *value > 0.0).collect();
    let low = values.iter().copied().min_by(f64::total_cmp)?;
    let high = values.iter().copied().max_by(f64::total_cmp)?;
    Some(low..high)
}

macro_rules! mesh {
    ($chart:expr, $x:expr, $y:expr, $format:expr) => {
        $chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .label_style(title_style(13))
            .axis_desc_style(title_style(14))
            .x_desc($x)
            .y_desc($y)
            .x_label_formatter(&|x: &f64| short(*x))
            .y_label_formatter(&$format)
            .draw()?
    };
}
macro_rules! plot_lines {
    ($chart:expr, $all:expr) => {
        for series in $all {
            let colour = colour(&series.name);
            let line = LineSeries::new(series.values.iter().copied(), colour.stroke_width(2));
            $chart
                .draw_series(line)?
                .label(&series.name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled())
                });
            if series.values.len() <= 24 {
                let points = series.values.iter();
                $chart.draw_series(points.map(|point| Circle::new(*point, 4, colour.filled())))?;
            }
        }
        $chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(FAINT)
            .label_font(title_style(14))
            .draw()?
    };
}
/// Lines with their points.
pub(crate) fn lines(
    name: &str,
    title: &str,
    (x_label, y_label): (&str, &str),
    scale: Scale,
    all: &[Series],
) -> anyhow::Result<Plot> {
    let points = || all.iter().flat_map(|series| &series.values);
    let xs = span(points().map(|point| point.0)).unwrap_or(1.0..10.0);
    let ys = span(points().map(|point| point.1)).unwrap_or(1.0..10.0);
    draw(name, (WIDTH, HEIGHT), |area| {
        let mut chart = ChartBuilder::on(area);
        chart
            .caption(title, title_style(19))
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(72);
        match scale {
            Scale::LogLog => {
                let xs = (xs.start * 0.8..xs.end * 1.25).log_scale();
                let ys = (ys.start * 0.7..ys.end * 1.6).log_scale();
                let mut chart = chart.build_cartesian_2d(xs, ys)?;
                mesh!(chart, x_label, y_label, |y: &f64| short(*y));
                plot_lines!(chart, all);
            }
            Scale::Share => {
                let room = (xs.end - xs.start).max(1.0) * 0.05;
                let xs = (xs.start - room).max(0.0)..xs.end + room;
                let mut chart = chart.build_cartesian_2d(xs, 0.0..1.02_f64)?;
                mesh!(chart, x_label, y_label, |y: &f64| format!(
                    "{:.0}%",
                    y * 100.0
                ));
                plot_lines!(chart, all);
            }
        }
        Ok(())
    })
}

/// Bars that lie, a group for each category, each with its figure.
pub(crate) fn bars(
    name: &str,
    title: &str,
    unit: &str,
    categories: &[String],
    all: &[Series],
) -> anyhow::Result<Plot> {
    const LABELS: i32 = 250;
    const TOP: i32 = 66;
    let rows = (categories.len() * all.len().max(1)) as u32;
    let height = TOP as u32 + rows * 22 + categories.len() as u32 * 12 + 16;
    let most = all.iter().flat_map(|series| &series.values);
    let most = most.map(|value| value.1).fold(f64::MIN_POSITIVE, f64::max);
    draw(name, (WIDTH, height), |area| {
        let style = title_style(13);
        area.draw_text(title, &title_style(19), (12, 12))?;
        let mut x = 12;
        for series in all {
            let colour = colour(&series.name);
            area.draw(&Rectangle::new([(x, 42), (x + 12, 54)], colour.filled()))?;
            area.draw_text(&series.name, &style, (x + 18, 42))?;
            x += 40 + 9 * series.name.len() as i32;
        }
        let room = f64::from(WIDTH as i32 - LABELS - 110);
        let mut y = TOP;
        for (category, label) in categories.iter().enumerate() {
            let right = style.pos(Pos::new(HPos::Right, VPos::Center));
            let middle = y + 11 * all.len() as i32;
            area.draw_text(label, &right, (LABELS - 10, middle))?;
            for series in all {
                let value = series.values.get(category).map_or(0.0, |value| value.1);
                let long = (value / most * room).max(1.0) as i32;
                let bar = [(LABELS, y + 3), (LABELS + long, y + 19)];
                area.draw(&Rectangle::new(bar, colour(&series.name).filled()))?;
                let left = style.pos(Pos::new(HPos::Left, VPos::Center));
                let text = format!("{} {unit}", figure(value));
                area.draw_text(&text, &left, (LABELS + long + 8, y + 11))?;
                y += 22;
            }
            y += 12;
        }
        Ok(())
    })
}

/// A ratio for each label: its median and what it spread over, around 1.
pub(crate) fn ratios(name: &str, title: &str, all: &[(String, Ratio)]) -> anyhow::Result<Plot> {
    const LABELS: i32 = 330;
    const TOP: i32 = 60;
    let height = TOP as u32 + all.len() as u32 * ROW_HEIGHT + 40;
    let widest = all.iter().flat_map(|(_, ratio)| [ratio.low, ratio.high]);
    let widest = widest
        .filter(|ratio| *ratio > 0.0)
        .map(|ratio| ratio.log2().abs())
        .fold(1.0, f64::max);
    draw(name, (WIDTH, height), |area| {
        let style = title_style(13);
        area.draw_text(title, &title_style(19), (12, 12))?;
        let room = f64::from(WIDTH as i32 - LABELS - 90) / 2.0;
        let at = |ratio: f64| {
            let across = ratio.max(f64::MIN_POSITIVE).log2() / widest;
            LABELS + (room * (1.0 + across.clamp(-1.0, 1.0))) as i32
        };
        let bottom = TOP + all.len() as i32 * ROW_HEIGHT as i32;
        for mark in [0.25, 0.5, 1.0, 2.0, 4.0] {
            if f64::log2(mark).abs() > widest {
                continue;
            }
            let x = at(mark);
            let ink = if (mark - 1.0_f64).abs() < 1e-9 {
                INK
            } else {
                FAINT
            };
            area.draw(&PathElement::new(
                [(x, TOP - 8), (x, bottom)],
                ink.stroke_width(1),
            ))?;
            let below = style.pos(Pos::new(HPos::Center, VPos::Top));
            area.draw_text(&format!("{mark}"), &below, (x, bottom + 6))?;
        }
        for (row, (label, ratio)) in all.iter().enumerate() {
            let y = TOP + row as i32 * ROW_HEIGHT as i32 + ROW_HEIGHT as i32 / 2;
            let right = style.pos(Pos::new(HPos::Right, VPos::Center));
            area.draw_text(label, &right, (LABELS - 12, y))?;
            let blue = colour("vr");
            let range = [(at(ratio.low), y), (at(ratio.high), y)];
            area.draw(&PathElement::new(range, blue.mix(0.45).stroke_width(5)))?;
            area.draw(&Circle::new((at(ratio.median), y), 6, blue.filled()))?;
            let left = style.pos(Pos::new(HPos::Left, VPos::Center));
            let text = format!("{:.2}", ratio.median);
            area.draw_text(&text, &left, (WIDTH as i32 - 56, y))?;
        }
        Ok(())
    })
}

/// A number on an axis.
pub(crate) fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", trim(value / 1e6)),
        value if value >= 1e3 => format!("{}k", trim(value / 1e3)),
        value => trim(value),
    }
}

fn trim(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A figure with three digits that count.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    match size {
        size if size >= 1e4 => {
            let whole = format!("{value:.0}");
            let (sign, digits) = match whole.strip_prefix('-') {
                Some(digits) => ("-", digits),
                None => ("", whole.as_str()),
            };
            let groups: Vec<_> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .map(|group| String::from_utf8_lossy(group))
                .collect();
            format!("{sign}{}", groups.join(","))
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        0.0 => "0".into(),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        for (value, text) in [
            (1_234_567.8, "1,234,568"),
            (10_000.0, "10,000"),
            (999.6, "1000"),
            (12.34, "12.3"),
            (0.123, "0.12"),
            (0.0042, "0.0042"),
            (0.0, "0"),
        ] {
            assert_eq!(figure(value), text);
        }
        assert_eq!(short(8_192.0), "8.19k");
        assert_eq!(short(1_000_000.0), "1M");
    }
}
