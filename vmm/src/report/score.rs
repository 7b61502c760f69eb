//! The detection score as a person reads it.

use super::fold::wrap;
use super::{Skipped, counted, named, quoted, skipped_lines};
use crate::inject::forms::{FORMS, form_of};
use crate::oracle::RuleId;
use crate::scenario::{Policy, Scenario};
use crate::score::{ClassName, Scored};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// Escapes that the text names one by one; the JSON names all.
const ESCAPES_SHOWN: usize = 20;

/// Everything that a score is made of.
pub struct Score<'a> {
    /// The scenarios.
    pub scenarios: &'a [Arc<Scenario>],
    /// Every fault's class.
    pub scored: &'a [Scored],
    /// The executor's name.
    pub executor: &'a str,
    /// How many faults every named CPU would make.
    pub possible: usize,
    /// A rule that was left out.
    pub without: Option<RuleId>,
    /// Of the boundaries of an interrupt at each, one in so many was tried.
    pub stride: usize,
    /// The kernel's file, where it is not the built-in guest.
    pub guest: Option<&'a Path>,
    /// What the kernel cannot run.
    pub skipped: &'a [Skipped],
}

/// Faults by class, and who caught or covered them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    classes: BTreeMap<ClassName, usize>,
    pub(super) by: BTreeMap<(ClassName, String), usize>,
}

impl Tally {
    pub(super) fn of<'s>(scored: impl IntoIterator<Item = &'s Scored>) -> Self {
        let mut tally = Self::default();
        for one in scored {
            *tally.classes.entry(one.class.name()).or_default() += 1;
            for by in one.class.by() {
                *tally.by.entry((one.class.name(), by)).or_default() += 1;
            }
        }
        tally
    }

    pub(super) fn count(&self, class: ClassName) -> usize {
        self.classes.get(&class).copied().unwrap_or(0)
    }

    fn by(&self) -> String {
        let shown = [ClassName::Caught, ClassName::Covered, ClassName::Stopped];
        let named = self.by.iter().filter(|((class, _), _)| shown.contains(class));
        let named: Vec<String> =
            named.map(|((_, name), count)| format!("{name} {count}")).collect();
        named.join(", ")
    }
}

impl Score<'_> {
    pub(super) fn form(&self, form: &str) -> Vec<&Scored> {
        let fits =
            |one: &&Scored| form_of(&one.fault.to_string()).is_some_and(|(known, _)| known == form);
        self.scored.iter().filter(fits).collect()
    }

    fn escapes(&self) -> Vec<&Scored> {
        self.scored.iter().filter(|one| one.class.name() == ClassName::Escaped).collect()
    }

    /// The one command that reproduces a fault's class.
    pub(super) fn command(&self, one: &Scored) -> String {
        let scenario = &one.scenario;
        let without = self.without.map(|rule| format!(" --without {rule}")).unwrap_or_default();
        let policy = match one.config.policy {
            Policy::Own => String::new(),
            policy => format!(" --policy {policy}"),
        };
        let guest =
            self.guest.map(|path| format!(" --guest {}", quoted(&path.display().to_string())));
        format!(
            "stalemate faults {} --cpu {}{policy} --executor {}{without} --inject {}{}",
            named(scenario),
            one.config.cpu.name,
            self.executor,
            quoted(&one.fault.to_string()),
            guest.unwrap_or_default()
        )
    }
}

/// The score as text; its table is laid out for lines of `width` columns.
#[must_use]
pub fn score_text(score: &Score<'_>, width: usize) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "stalemate {}, executor {}: {} faults, each every time and each time alone\n",
        env!("CARGO_PKG_VERSION"),
        score.executor,
        score.scored.len(),
    );
    table(&mut out, score, width);
    if score.stride > 1 {
        let stride = score.stride;
        let _ = writeln!(
            out,
            "\nnmi@each and irq@each tried one boundary in {stride}; `--stride 1` tries them all"
        );
    }
    let escapes = score.escapes();
    for one in escapes.iter().take(ESCAPES_SHOWN) {
        let scenario = &one.scenario;
        let _ = writeln!(
            out,
            "\nescaped: {} on {}, {}: {}\n  again: {}",
            scenario.name,
            one.config,
            one.fault,
            one.class.by().join(", "),
            score.command(one)
        );
    }
    if escapes.len() > ESCAPES_SHOWN {
        let _ = writeln!(
            out,
            "\nand {} more; --format json has them all",
            escapes.len() - ESCAPES_SHOWN
        );
    }
    if let Some(guest) = score.guest {
        let lines = skipped_lines(guest, score.skipped, score.scenarios.len());
        let _ = write!(out, "\n{lines}");
    }
    let runs: usize = score.scored.iter().map(|one| one.runs).sum();
    let faults = counted(score.scored.len(), "fault", "faults");
    let runs = counted(runs, "run", "runs");
    let _ = writeln!(out, "\n{faults} in {runs}, {} escaped", escapes.len());
    out
}

/// Columns that who caught a fault needs, to stand beside the numbers.
const BESIDE: usize = 30;

/// A row for each form of a fault. Who caught or covered it stands below where lines are short, and
/// so do the numbers where they are shorter.
fn table(out: &mut String, score: &Score<'_>, width: usize) {
    let names = FORMS.iter().map(|(form, _)| form.len()).max().unwrap_or(0);
    let numbers: usize = ClassName::ALL.iter().map(|(_, name)| name.len() + 1).sum();
    let (stacked, beside) =
        (width < names + numbers, width >= names + numbers + "  ".len() + BESIDE);
    let start = |out: &mut String, name: &str| match stacked {
        true => *out += &format!("{name}\n "),
        false => *out += &format!("{name:names$}"),
    };
    start(out, "fault");
    for (_, name) in ClassName::ALL {
        let _ = write!(out, " {name}");
    }
    *out += if beside { "  caught or covered by\n" } else { "\n    caught or covered by\n" };
    let mut row = |name: &str, tally: &Tally| {
        start(out, name);
        for (class, name) in ClassName::ALL {
            let _ = write!(out, " {:>wide$}", tally.count(class), wide = name.len());
        }
        let by = tally.by();
        let margin = if beside { names + numbers + 2 } else { 4 };
        for (index, line) in wrap(&by, width - margin).iter().enumerate() {
            match (index, beside) {
                _ if by.is_empty() => out.push('\n'),
                (0, true) => *out += &format!("  {line}\n"),
                (0, false) => *out += &format!("\n{:margin$}{line}\n", ""),
                _ => *out += &format!("{:margin$}{line}\n", ""),
            }
        }
    };
    for (form, _) in FORMS {
        let of_form = score.form(form);
        if !of_form.is_empty() {
            row(form, &Tally::of(of_form));
        }
    }
    row("all", &Tally::of(score.scored));
}
