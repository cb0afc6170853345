//! The report as one page that needs nothing else.

use std::fmt::Write;

use super::Section;
use super::plots::figure;
use super::terminal::is_figure;
use crate::claims::{Verdict, judge};
use crate::results::{Percentiles, Results};

const STYLE: &str = "
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;color:#1f2430;background:#f5f6f8;margin:0}
main{max-width:60rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{font-size:1.7rem;margin:0 0 .2rem}h2{font-size:1.2rem;margin:2.4rem 0 .5rem}
p{max-width:46rem}.faint{color:#667}
.card{background:#fff;border:1px solid #e2e5ea;border-radius:8px;padding:1rem;margin:1rem 0;overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;font-weight:600;border-bottom:2px solid #d5d9e0;padding:.35rem .6rem;vertical-align:bottom}
td{border-bottom:1px solid #eceef2;padding:.3rem .6rem;vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
svg{max-width:100%;height:auto;display:block;margin:0 auto}
.v{white-space:nowrap;border-radius:4px;padding:.1rem .45rem;font-size:13px}
.holds{background:#d9f2e3;color:#0b5c34}.not{background:#fde2e0;color:#8d1f17}
.depends{background:#fff0cf;color:#7a5200}.none{background:#eceef2;color:#667}
";

pub(super) fn page(results: &Results, sections: &[Section]) -> String {
    let mut body = String::new();
    head(&mut body, results);
    claims(&mut body, results);
    for section in sections {
        let _ = write!(
            body,
            "<h2>{}</h2><p>{}</p>",
            escape(&section.title),
            escape(&section.text)
        );
        for plot in &section.plots {
            let _ = write!(body, "<div class=card>{}</div>", plot.svg);
        }
        table(&mut body, &section.head, &section.rows);
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>Raft and VR, measured</title><style>{STYLE}</style><main>{body}</main></html>\n"
    )
}

fn head(body: &mut String, results: &Results) {
    let machine = &results.machine;
    let _ = write!(
        body,
        "<h1>Raft and VR, measured</h1><p class=faint>iggy-cluster {} · <code>{}</code> · {} minutes</p>",
        escape(&results.program),
        escape(&results.command),
        figure(results.seconds / 60.0)
    );
    let _ = write!(
        body,
        "<p>{} · {} cores for all replicas and the load · {} GiB · Linux {} · {}. Where there are rounds, backends take turns, ratios are of runs of one round, and what is given is the median; recovery, share and memory are one run of each backend.</p>",
        escape(&machine.cpu),
        machine.cores,
        figure(machine.memory_bytes as f64 / f64::from(1 << 30)),
        escape(&machine.kernel),
        escape(&machine.file_system)
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
    let rows = [
        row("4 KiB and fdatasync", &calibration.fdatasync),
        row(
            "the same in three files at once",
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
    let columns = ["what the machine can do", "p50, us", "p99, us", "max, us"].map(str::to_owned);
    table(body, &columns, &rows);
    for missing in &results.missing {
        let _ = write!(
            body,
            "<p>{}, not measured: {}.</p>",
            escape(&missing.peer),
            escape(&missing.why)
        );
    }
}

fn claims(body: &mut String, results: &Results) {
    body.push_str("<h2>The article's claims</h2><div class=card><table><tr><th>#<th>claim<th>verdict<th>figures");
    for claim in judge(results) {
        let class = match claim.verdict {
            Verdict::Holds => "holds",
            Verdict::DoesNotHold => "not",
            Verdict::Depends => "depends",
            Verdict::NotMeasured => "none",
        };
        let _ = write!(
            body,
            "<tr><td class=n>{}<td>{}<td><span class=\"v {class}\">{}</span><td>{}",
            claim.number,
            escape(claim.claim),
            claim.verdict.words(),
            escape(&claim.figure)
        );
    }
    body.push_str("</table></div>");
}

fn table(body: &mut String, head: &[String], rows: &[Vec<String>]) {
    body.push_str("<div class=card><table><tr>");
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
        body.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(body, "<td{}>{}", class(column), escape(cell));
        }
    }
    body.push_str("</table></div>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
