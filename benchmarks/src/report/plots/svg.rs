//! The few elements of SVG that the plots consist of.

use std::fmt::Write;

pub(super) const INK: &str = "#1f2430";
pub(super) const MUTED: &str = "#5b6270";
pub(super) const GRID: &str = "#dfe3e9";

/// Where a text is anchored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Font {
    pub(super) size: u32,
    pub(super) fill: &'static str,
    pub(super) bold: bool,
}

pub(super) const TITLE: Font = Font {
    size: 15,
    fill: INK,
    bold: true,
};
pub(super) const HEADING: Font = Font {
    size: 14,
    fill: INK,
    bold: true,
};
pub(super) const LABEL: Font = Font {
    size: 14,
    fill: INK,
    bold: false,
};
pub(super) const TICK: Font = Font {
    size: 13,
    fill: MUTED,
    bold: false,
};

/// A drawing of a fixed size, which a page may scale.
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        let mut svg = Self {
            width,
            height,
            body: String::new(),
        };
        svg.rectangle((0.0, 0.0), (width, height), "#fff");
        svg
    }

    pub(super) fn rectangle(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        fill: &str,
    ) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
        );
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{stroke}\" stroke-width=\"{width}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    pub(super) fn dashed(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{stroke}\" stroke-dasharray=\"5 4\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    pub(super) fn circle(&mut self, (x, y): (f64, f64), radius: f64, fill: &str) {
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{fill}\"/>"
        );
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], stroke: &str) {
        let points = coordinates(points);
        let _ = writeln!(
            self.body,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\" stroke-linejoin=\"round\"/>"
        );
    }

    /// A translucent area.
    pub(super) fn area(&mut self, points: &[(f64, f64)], fill: &str) {
        let points = coordinates(points);
        let _ = writeln!(
            self.body,
            "<polygon points=\"{points}\" fill=\"{fill}\" fill-opacity=\"0.18\"/>"
        );
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, font: Font, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let weight = if font.bold {
            " font-weight=\"600\""
        } else {
            ""
        };
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{}\" fill=\"{}\"{anchor}{weight}>{}</text>",
            font.size,
            font.fill,
            escape(text)
        );
    }

    /// The whole, with a title for readers that cannot see it.
    pub(super) fn finish(self, title: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" role=\"img\" aria-label=\"{2}\" font-family=\"system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif\">\n{3}</svg>\n",
            self.width,
            self.height,
            escape(title),
            self.body
        )
    }
}

fn coordinates(points: &[(f64, f64)]) -> String {
    let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
    points.collect::<Vec<_>>().join(" ")
}

/// A text in XML or HTML.
pub(in crate::report) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// About how wide a text is.
pub(super) fn width(text: &str, font: Font) -> f64 {
    let each = if font.bold { 0.58 } else { 0.55 };
    text.chars().count() as f64 * f64::from(font.size) * each
}
