//! The report as one page that needs nothing else: the recommendation first.

use std::fmt::Write;

use super::plots::escape;
use super::sections::{Section, Table};
use crate::advice::{Advice, Known, Side, of_benchmark};
use crate::claims::{Claim, Judgement, Verdict, article, judge};
use crate::figures::figure;
use crate::results::{Percentiles, Results};
use crate::terminal::is_figure;

const STYLE: &str = include_str!("page.css");
/// Longer tables are folded.
const ROWS_MAX: usize = 8;

pub(super) fn page(results: &Results, sections: &[Section]) -> String {
    let claims = judge(results);
    let mut body = String::new();
    head(&mut body, results);
    if let Some(advice) = of_benchmark(&Known::of_results(results)) {
        answer(&mut body, &advice);
    }
    missing(&mut body, results);
    contents(&mut body, sections);
    claimed(&mut body, &claims);
    for section in sections {
        part(&mut body, section);
    }
    conditions(&mut body, results);
    format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width, initial-scale=1\">\n<title>Raft and VR, measured</title>\n<style>\n{STYLE}</style>\n<main>\n{body}</main>\n</html>\n"
    )
}

fn head(body: &mut String, results: &Results) {
    let machine = &results.machine;
    let _ = writeln!(
        body,
        "<h1>Raft and VR, measured</h1>\n<p class=muted>iggy-cluster {} on {}, {} cores for all replicas and the load, {} GiB, Linux {}, {}. <a href=#conditions>How it was measured</a></p>",
        escape(&results.program),
        escape(&machine.cpu),
        machine.cores,
        figure(machine.memory_bytes as f64 / f64::from(1 << 30)),
        escape(&machine.kernel),
        escape(&machine.file_system)
    );
}

/// The recommendation and the four figures that it rests on.
fn answer(body: &mut String, advice: &Advice) {
    let _ = writeln!(
        body,
        "<section class=answer>\n<h2>{}</h2>\n<div class=keys>",
        escape(&advice.headline)
    );
    for key in &advice.figures {
        let (class, speaks) = match key.side {
            Side::Vr => ("key vr", "for VR"),
            Side::Raft => ("key raft", "for Raft"),
            Side::Unknown => ("key", "not measured"),
        };
        let _ = writeln!(
            body,
            "<div class=\"{class}\"><span>{}</span><b>{}</b><span>{speaks}: {}</span></div>",
            escape(key.name),
            escape(&key.figure),
            escape(key.reason)
        );
    }
    body.push_str("</div>\n<ul>\n");
    for remark in &advice.remarks {
        let _ = writeln!(body, "<li>{}", escape(remark));
    }
    body.push_str("</ul>\n</section>\n");
}

fn missing(body: &mut String, results: &Results) {
    if results.missing.is_empty() {
        return;
    }
    let count = results.missing.len();
    let what = if count == 1 {
        "measurement"
    } else {
        "measurements"
    };
    let _ = writeln!(
        body,
        "<details><summary>{count} {what} failed</summary>\n<ul>"
    );
    for missing in &results.missing {
        let _ = writeln!(
            body,
            "<li>{}: {}.",
            escape(&missing.what),
            escape(&missing.why)
        );
    }
    body.push_str("</ul></details>\n");
}

fn contents(body: &mut String, sections: &[Section]) {
    body.push_str(
        "<nav class=card>\n<b>Contents</b>\n<ul>\n<li><a href=#claims>The article's claims</a>\n",
    );
    for section in sections {
        let _ = writeln!(
            body,
            "<li><a href=#{}>{}</a>",
            section.id,
            escape(section.title)
        );
    }
    body.push_str("<li><a href=#conditions>How it was measured</a>\n</ul>\n</nav>\n");
}

fn claimed(body: &mut String, claims: &[Claim]) {
    let measured = claims.iter().filter_map(|claim| {
        let judgement = claim.judgement.as_ref()?;
        Some((claim, judgement))
    });
    let measured: Vec<_> = measured.collect();
    let _ = writeln!(
        body,
        "<h2 id=claims>The article's claims</h2>\n<p>The article is “{}”: {}. {}. {} of its {} claims were measured here; the numbers are this project's.</p>\n<div class=card>",
        escape(article::TITLE),
        escape(article::ABOUT),
        escape(article::NOT),
        measured.len(),
        claims.len()
    );
    for (claim, judgement) in &measured {
        judged(body, claim, judgement);
    }
    body.push_str("</div>\n");
    let rest = claims.iter().filter(|claim| claim.judgement.is_none());
    let rest: Vec<_> = rest.collect();
    if rest.is_empty() {
        return;
    }
    let _ = writeln!(
        body,
        "<details><summary>{} claims were not measured</summary>\n<div class=card><table><tr><th class=n>#<th>about<th>the article",
        rest.len()
    );
    for claim in rest {
        let _ = writeln!(
            body,
            "<tr><td class=n>{}<td>{}<td>“{}”",
            claim.cited.number,
            escape(claim.cited.subject),
            escape(claim.cited.quote)
        );
    }
    body.push_str("</table></div></details>\n");
}

fn judged(body: &mut String, claim: &Claim, judgement: &Judgement) {
    let class = match judgement.verdict {
        Verdict::Holds => "holds",
        Verdict::DoesNotHold => "not",
        Verdict::Depends => "depends",
    };
    let _ = writeln!(
        body,
        "<div class=claim><div class=number>{}</div><div><span class=\"v {class}\">{}</span></div><div><h3>{}</h3><q>{}</q>\n<ul>",
        claim.cited.number,
        judgement.verdict.words(),
        escape(claim.cited.subject),
        escape(claim.cited.quote)
    );
    for figure in &judgement.figures {
        let _ = writeln!(body, "<li>{}", escape(figure));
    }
    body.push_str("</ul></div></div>\n");
}

fn part(body: &mut String, section: &Section) {
    let _ = writeln!(
        body,
        "<h2 id={}>{}</h2>\n<p>{}</p>",
        section.id,
        escape(section.title),
        escape(&section.text)
    );
    if !section.plots.is_empty() {
        body.push_str("<div class=plots>\n");
        for plot in &section.plots {
            let _ = writeln!(body, "<div class=card>{}</div>", plot.svg);
        }
        body.push_str("</div>\n");
    }
    let rows = section.table.rows.len();
    if rows > ROWS_MAX {
        let _ = writeln!(body, "<details><summary>All figures, {rows} rows</summary>");
        table(body, &section.table);
        body.push_str("</details>\n");
    } else {
        table(body, &section.table);
    }
}

fn conditions(body: &mut String, results: &Results) {
    let _ = writeln!(
        body,
        "<h2 id=conditions>How it was measured</h2>\n<p><code>{}</code>, in {} minutes. The backends take turns, {} rounds of each setting; ratios are of the runs of one round, and figures are medians. Recovery, consensus in the latency, and memory are one run of each backend. Right before, the machine was calibrated:</p>",
        escape(&results.command),
        figure(results.seconds / 60.0),
        results.rounds()
    );
    let calibration = &results.calibration;
    let row = |what: &str, times: &Percentiles| {
        vec![
            what.to_owned(),
            times.p50.to_string(),
            times.p99.to_string(),
            times.max.to_string(),
        ]
    };
    let rows = vec![
        row("4 KiB and fdatasync", &calibration.fdatasync),
        row(
            "the same in three files concurrently",
            &calibration.three_fdatasyncs,
        ),
        row(
            "loopback round trip between two cores",
            &calibration.round_trip,
        ),
        row(
            "loopback round trip on one core",
            &calibration.round_trip_one_core,
        ),
    ];
    let head = ["calibration", "p50, us", "p99, us", "max, us"].map(str::to_owned);
    let head = head.into();
    table(body, &Table { head, rows });
}

fn table(body: &mut String, table: &Table) {
    let Table { head, rows } = table;
    body.push_str("<div class=\"card table\"><table><tr>");
    let right: Vec<bool> = (0..head.len())
        .map(|column| {
            rows.iter()
                .all(|row| row.get(column).is_none_or(|cell| is_figure(cell)))
        })
        .collect();
    let class = |column: usize| match right.get(column) {
        Some(true) => " class=n",
        _ => "",
    };
    for (column, cell) in head.iter().enumerate() {
        let _ = write!(body, "<th{}>{}", class(column), escape(cell));
    }
    for row in rows {
        body.push_str("\n<tr>");
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(body, "<td{}>{}", class(column), escape(cell));
        }
    }
    body.push_str("</table></div>\n");
}
