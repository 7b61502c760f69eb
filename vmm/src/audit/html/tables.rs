//! The tables of an audit.

use super::super::campaign::{Campaign, WORDS};
use super::super::{Audited, Compared, RULES, Row};
use super::Escaped;
use std::fmt::{self, Write};

/// A cell.
enum Cell<'a> {
    Text(&'a str),
    Number(u64),
    /// A number that ought to be 0.
    Bad(u64),
}
use Cell::{Bad, Number, Text};

fn head(out: &mut String, id: &str, title: &str, about: &str, columns: &[&str]) -> fmt::Result {
    writeln!(out, "<h2 id=\"{id}\">{title}</h2>\n<p class=\"quiet\">{about}</p>")?;
    write!(out, "<div class=\"scroll\"><table><thead><tr>")?;
    for name in columns {
        // Numbers have a name that begins with #.
        match name.strip_prefix('#') {
            Some(name) => write!(out, "<th class=\"number\">{name}</th>")?,
            None => write!(out, "<th>{name}</th>")?,
        }
    }
    writeln!(out, "</tr></thead><tbody>")
}

fn row(out: &mut String, class: &str, cells: &[Cell<'_>]) -> fmt::Result {
    write!(out, "<tr{class}>")?;
    for cell in cells {
        match cell {
            Text(text) => write!(out, "<td>{}</td>", Escaped(text))?,
            Bad(number @ 1..) => write!(out, "<td class=\"number bad\">{number}</td>")?,
            Number(number) | Bad(number) => write!(out, "<td class=\"number\">{number}</td>")?,
        }
    }
    writeln!(out, "</tr>")
}

fn foot(out: &mut String) -> fmt::Result {
    writeln!(out, "</tbody></table></div>")
}

pub(super) fn compared(out: &mut String, compared: &Compared) -> fmt::Result {
    head(out, "baseline", "Against the baseline", "Findings by key.", &["", "key", "reason"])?;
    for key in &compared.new {
        row(out, "", &[Text("new"), Text(key), Text("")])?;
    }
    for key in &compared.expired {
        row(out, "", &[Text("expired"), Text(key), Text("")])?;
    }
    for known in &compared.known {
        row(out, "", &[Text("known"), Text(&known.key), Text(&known.reason)])?;
    }
    for key in &compared.gone {
        row(out, "", &[Text("gone"), Text(key), Text("")])?;
    }
    foot(out)
}

pub(super) fn coverage(out: &mut String, audited: &Audited) -> fmt::Result {
    let about = "What was taken away from page tables, by whom, and what became of what was cached of it. \
                 Harmless: nothing that grants more was cached. Parked: cached under a PCID that is not \
                 current. Unused: a kernel address that was not given out again. Unjudged: no deadline came.";
    let columns = [
        "function",
        "kind",
        "#stores",
        "#harmless",
        "#flushed",
        "#violated",
        "#parked",
        "#unused",
        "#unjudged",
    ];
    head(out, "coverage", "Coverage", about, &columns)?;
    let mut rows: Vec<_> = audited.coverage.rows.iter().collect();
    rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.stores));
    let mut line = |class, function: &str, kind: &str, it: &Row| {
        let numbers = [it.stores, it.harmless, it.flushed].map(Number);
        let others = [it.parked, it.unused, it.unjudged].map(Number);
        let cells = [Text(function), Text(kind)].into_iter().chain(numbers);
        let cells: Vec<_> = cells.chain([Bad(it.violated)]).chain(others).collect();
        row(out, class, &cells)
    };
    for ((function, change), counts) in rows {
        line("", function, change.name(), counts)?;
    }
    line(" class=\"all\"", "all", "", &audited.coverage.total())?;
    foot(out)
}

pub(super) fn judged(out: &mut String, audited: &Audited) -> fmt::Result {
    let about = "It has spoken, or its deadline was the first after the flush.";
    head(out, "judged", "What each rule has judged", about, &["rule", "#judged", "of"])?;
    for (rule, of) in RULES {
        let count = audited.judged.get(rule).copied().unwrap_or_default();
        row(out, "", &[Text(rule), Number(count), Text(of)])?;
    }
    foot(out)
}

pub(super) fn ledger(out: &mut String, audited: &Audited) -> fmt::Result {
    let about = "What removed cached translations: how often it was executed, how often it removed something \
                 stale, and how often that had been accessed since it was last flushed. The fault withholds \
                 the last of them.";
    let columns =
        ["operation", "function", "#executed", "#removed stale", "#accessed", "to withhold one"];
    head(out, "ledger", "Flush ledger", about, &columns)?;
    for site in &audited.sites {
        let counts = site.removals;
        let cells = [
            Text(site.operation),
            Text(&site.function),
            Number(counts.executed),
            Number(counts.stale),
            Number(counts.accessed),
            Text(site.withheld.as_deref().unwrap_or_default()),
        ];
        row(out, "", &cells)?;
    }
    foot(out)
}

pub(super) fn campaign(out: &mut String, campaign: &Campaign) -> fmt::Result {
    let about = format!(
        "Of {} operations that can be withheld {} removed something stale, and each of these was, one at a time.",
        campaign.operations,
        campaign.dropped.len()
    );
    head(out, "campaign", "Flushes withheld", &about, &["it was", "#operations", "that is"])?;
    for (word, meaning) in WORDS {
        row(out, "", &[Text(word), Number(campaign.count(word) as u64), Text(meaning)])?;
    }
    foot(out)?;
    let about = "Those that no rule caught and nothing covered.";
    let columns = ["it was", "fault", "operation", "function", "what was left"];
    head(out, "escaped", "Not caught", about, &columns)?;
    for one in &campaign.dropped {
        if let Some(left) = one.came.left() {
            let cells = [one.came.word(), &one.fault, one.operation, &one.function, left];
            row(out, "", &cells.map(Text))?;
        }
    }
    foot(out)
}
