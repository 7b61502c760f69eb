//! The comparison as a chart: a row of panels for each workload, a group of bars for each
//! processor, a bar for each policy.

use super::{Comparison, Costs, Row};
use crate::scenario::Policy;
use std::fmt::Write;

/// A fill for each policy, told apart also by those who see no colours (Okabe and Ito, 2008).
const FILLS: [&str; 8] =
    ["#0072b2", "#56b4e9", "#009e73", "#e69f00", "#999999", "#d55e00", "#cc79a7", "#f0e442"];

/// What a panel shows of a row.
type Metric = (&'static str, fn(&Costs) -> u64);

const METRICS: [Metric; 2] = [
    ("INVLPG, INVPCID, loads of CR3 and writes of CR4", |costs| {
        let invalidations = costs.invlpg + costs.invpcid.iter().sum::<u64>();
        invalidations + costs.cr3_flushing + costs.cr3_kept + costs.cr4_toggles
    }),
    ("refills of what had been cached before", |costs| costs.refills),
];

const WIDTH: usize = 1240;
const LEFT: usize = 110;
const GAP: usize = 50;
const PANEL_WIDTH: usize = (WIDTH - LEFT - GAP - 20) / 2;
const PANEL_HEIGHT: usize = 110;
const ROW_HEIGHT: usize = 168;
const TOP: usize = 96;

/// The chart.
#[must_use]
pub fn svg(comparison: &Comparison) -> String {
    let height = TOP + ROW_HEIGHT * comparison.workloads.len();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <title>Flush policies side by side</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    legend(&mut out, &comparison.policies());
    for (column, (title, _)) in METRICS.iter().enumerate() {
        let x = panel_x(column);
        let _ = writeln!(out, "<text x=\"{x}\" y=\"78\" font-weight=\"bold\">{title}</text>");
    }
    for (number, (name, _)) in comparison.workloads.iter().enumerate() {
        let y = TOP + number * ROW_HEIGHT;
        let middle = y + PANEL_HEIGHT / 2;
        let _ = writeln!(
            out,
            "<text x=\"12\" y=\"{middle}\" font-size=\"13\" font-weight=\"bold\">{name}</text>"
        );
        for (column, metric) in METRICS.iter().enumerate() {
            panel(&mut out, comparison, name, metric, (panel_x(column), y));
        }
    }
    out.push_str("</svg>\n");
    out
}

fn panel_x(column: usize) -> usize {
    LEFT + column * (PANEL_WIDTH + GAP)
}

fn legend(out: &mut String, policies: &[Policy]) {
    let _ = writeln!(
        out,
        "<text x=\"12\" y=\"24\" font-size=\"16\">Flush policies side by side: PTI on, fills \
         on demand</text>"
    );
    for (index, (policy, fill)) in policies.iter().zip(FILLS).enumerate() {
        let x = LEFT + index * 100;
        let text = x + 17;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"40\" width=\"12\" height=\"12\" fill=\"{fill}\"/>\
             <text x=\"{text}\" y=\"50\" font-size=\"12\">{policy}</text>"
        );
    }
    let x = LEFT + policies.len() * 100;
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"50\" font-size=\"12\"><tspan fill=\"#b00020\">×</tspan> a rule was \
         violated in the worst-case run</text>"
    );
}

fn panel(
    out: &mut String,
    comparison: &Comparison,
    workload: &str,
    (_, metric): &Metric,
    (x, y): (usize, usize),
) {
    let rows: Vec<&Row> = comparison.rows.iter().filter(|row| row.workload == workload).collect();
    let highest = rows.iter().map(|row| metric(&row.costs)).max().unwrap_or(0);
    let base = y + PANEL_HEIGHT;
    let end = x + PANEL_WIDTH;
    let _ = writeln!(
        out,
        "<line x1=\"{x}\" y1=\"{base}\" x2=\"{end}\" y2=\"{base}\" stroke=\"#444\"/>\
         <line x1=\"{x}\" y1=\"{y}\" x2=\"{end}\" y2=\"{y}\" stroke=\"#ddd\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{highest}</text>\
         <text x=\"{}\" y=\"{base}\" text-anchor=\"end\">0</text>",
        x - 4,
        y + 4,
        x - 4
    );
    let group = PANEL_WIDTH / comparison.cpus.len().max(1);
    let bar = (group.saturating_sub(14) / comparison.policies().len()).clamp(2, 20);
    for (index, cpu) in comparison.cpus.iter().enumerate() {
        let left = x + index * group + (group - bar * comparison.policies().len()) / 2;
        let (middle, below) = (x + index * group + group / 2, base + 15);
        let _ = writeln!(
            out,
            "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\" font-size=\"10\">{}</text>",
            cpu.name
        );
        for (place, policy) in comparison.policies().iter().enumerate() {
            let Some(row) = comparison.row(workload, cpu.name, *policy) else { continue };
            let value = metric(&row.costs);
            let tall = (value * PANEL_HEIGHT as u64).checked_div(highest).unwrap_or(0) as usize;
            let (at, top) = (left + place * bar, base - tall);
            let _ = writeln!(
                out,
                "<rect x=\"{at}\" y=\"{top}\" width=\"{}\" height=\"{tall}\" fill=\"{}\">\
                 <title>{policy} on {}: {value}</title></rect>",
                bar - 1,
                FILLS[place],
                cpu.name
            );
            if !row.violated.is_empty() {
                let (cross, above) = (at + bar / 2, top.saturating_sub(2));
                let _ = writeln!(
                    out,
                    "<text x=\"{cross}\" y=\"{above}\" text-anchor=\"middle\" fill=\"#b00020\" \
                     font-size=\"13\">×</text>"
                );
            }
        }
    }
}
