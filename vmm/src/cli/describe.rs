//! `stalemate list` and `stalemate explain`.

use super::failure::Failure;
use super::{input, terms};
use crate::arch::tlb::FILLS;
use crate::inject::forms::{DELAY, FORMS, POINTS, SITES, form_of};
use crate::oracle::rules;
use crate::scenario::{self, CPUS, POLICIES};
use crate::suggest::nearest;
use stalemate_shared::variant::{VARIANTS, Variant};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// What to list
    #[arg(value_enum, default_value_t = ListWhat::Scenarios)]
    what: ListWhat,
    /// Of the scenarios, say which this kernel (ELF) can run, and what it lacks for the others
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ListWhat {
    /// The built-in scenarios
    Scenarios,
    /// The rules
    Rules,
    /// The faults that can be injected
    Faults,
    /// The flush policies
    Policies,
    /// The named processors
    Cpus,
    /// The variants of the kernel: historical mistakes
    Variants,
    /// The historical bugs that are rebuilt, and those that are not
    Zoo,
}

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Its name, as `list` prints it
    name: String,
}

/// What `list` prints.
pub fn list(args: &ListArgs) -> Result<String, Failure> {
    let what = args.what;
    if let Some(path) = &args.guest {
        return match what {
            ListWhat::Scenarios => of_guest(path),
            _ => Err(Failure::usage("--guest says which *scenarios* a kernel can run")),
        };
    }
    let rows: Vec<(String, String)> = match what {
        ListWhat::Scenarios => scenario::suite()
            .map_err(|error| Failure::usage(error.to_string()))?
            .into_iter()
            .map(|scenario| (scenario.name.clone(), scenario.summary.clone()))
            .collect(),
        ListWhat::Rules => {
            rules::abouts().map(|rule| (rule.name.to_owned(), rule.statement.to_owned())).collect()
        }
        ListWhat::Faults => {
            FORMS.iter().map(|(form, help)| ((*form).to_owned(), (*help).to_owned())).collect()
        }
        ListWhat::Policies => POLICIES
            .iter()
            .map(|(_, name, help)| ((*name).to_owned(), (*help).to_owned()))
            .collect(),
        ListWhat::Variants => VARIANTS
            .iter()
            .map(|about| {
                let what = format!("{}: {}{}", about.function, about.what, unseen(about.variant));
                (about.name.to_owned(), what)
            })
            .collect(),
        ListWhat::Zoo => Vec::new(),
        ListWhat::Cpus => CPUS.iter().map(|cpu| (cpu.name.to_owned(), cpu.has())).collect(),
    };
    if what == ListWhat::Zoo {
        return zoo();
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, what) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:width$}  {what}");
    }
    if what == ListWhat::Faults {
        let sites: Vec<&str> = SITES.iter().map(|(name, _)| *name).collect();
        let points: Vec<&str> = POINTS.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(out, "\nSITE is one of {}.", sites.join(", "));
        let _ = writeln!(out, "POINT is one of {}.", points.join(", "));
        let _ = writeln!(out, "PAGE is a test page: u0, h0 or k0, say.");
        let _ = writeln!(out, "{DELAY}");
        let _ = writeln!(out, "`#n` after a fault means its nth occurrence; without, all of them.");
    }
    Ok(out)
}

/// The scenarios, each with what a kernel lacks for it.
fn of_guest(path: &Path) -> Result<String, Failure> {
    let guest = input::guest(path)?;
    let scenarios = scenario::suite().map_err(|error| Failure::usage(error.to_string()))?;
    let width = scenarios.iter().map(|one| one.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    let mut can = 0;
    for one in &scenarios {
        let lacks = one.lacks(&guest.abilities());
        can += usize::from(lacks.is_none());
        let what = lacks.map_or(one.summary.clone(), |lacks| format!("SKIP, for want of {lacks}"));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{:width$}  {what}", one.name);
    }
    let _ = writeln!(out, "\n{} can run {can} of {} scenarios", path.display(), scenarios.len());
    Ok(out)
}

/// What keeps a variant from being seen, if anything.
fn unseen(variant: Variant) -> &'static str {
    match variant.needs_store_buffers() {
        true => " It needs store buffers to be seen, which no executor models yet.",
        false => "",
    }
}

/// The historical bugs: what is rebuilt, and what is not.
fn zoo() -> Result<String, Failure> {
    let rows = scenario::zoo().map_err(|error| Failure::usage(error.to_string()))?;
    let mut out = String::new();
    for scenario in &rows {
        let Some(zoo) = &scenario.zoo else { continue };
        let variant = scenario.variant.iter().flatten().next();
        let function = variant.map_or("", |variant| variant.about().function);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{}\n    {} ({}{})\n    {}\n    {} in {function}",
            scenario.name,
            zoo.reference,
            zoo.system,
            zoo.year.map(|year| format!(", {year}")).unwrap_or_default(),
            scenario.summary,
            zoo.rule.map_or("breaks no rule,".to_owned(), |rule| format!("breaks {rule}"))
        );
    }
    let _ =
        writeln!(out, "\n{} historical bugs, each broken and fixed. Not rebuilt:\n", rows.len());
    for (row, why) in scenario::NOT_REBUILT {
        let _ = writeln!(out, "{row}\n    {why}");
    }
    Ok(out)
}

/// What `explain` prints.
pub fn explain(args: &ExplainArgs) -> Result<String, Failure> {
    let name = &args.name[..];
    if let Some(rule) = rules::abouts().find(|rule| rule.name == name) {
        if rule.is_of_audits() {
            return Ok(format!(
                "{}\n\n{}\n\nsource: {}\njudges: kernels that run freely, under `stalemate audit`\n\
                 what to try: {}\n",
                rule.name, rule.statement, rule.source, rule.hint
            ));
        }
        return Ok(format!(
            "{}\n\n{}\n\nsource: {}\nviolated by: stalemate run {}\ncomes close: stalemate run {}\n\
             what to try: {}\n",
            rule.name, rule.statement, rule.source, rule.violated_by, rule.near_miss, rule.hint
        ));
    }
    if let Some((_, name, help)) = POLICIES.iter().find(|(_, known, _)| *known == name) {
        return Ok(format!("{name}\n\n{help}\n"));
    }
    if let Some((_, name, help)) = FILLS.iter().find(|(_, known, _)| *known == name) {
        return Ok(format!("{name}\n\nfill: {help}\n"));
    }
    if let Some(about) = VARIANTS.iter().find(|about| about.name == name) {
        let (what, unseen) = (about.what, unseen(about.variant));
        return Ok(format!("{name}\n\n{what}{unseen}\n\nin: {}\n", about.function));
    }
    if let Some((form, help)) = form_of(name) {
        let late = if form.starts_with("delay ") { format!("\n{DELAY}\n") } else { String::new() };
        return Ok(format!("{form}\n\n{help}\n{late}"));
    }
    if let Some(cpu) = CPUS.iter().find(|cpu| cpu.name == name) {
        return Ok(format!("{name}\n\nof PCID, INVPCID, PGE and SMEP: {}\n", cpu.has()));
    }
    if let Some((file, text)) = scenario::builtin_file(name) {
        // A step may be called as the scenario about it.
        let step = terms::explain(name).map(|step| step + "\n").unwrap_or_default();
        return Ok(format!("{step}{name}\n\n{file}:\n\n{text}"));
    }
    if let Some(one) = scenario::builtin(name) {
        return Ok(format!("{name}\n\n{}:\n\n{}", one.title(), one.source));
    }
    if let Some(text) = terms::explain(name) {
        return Ok(text);
    }
    let rules = rules::abouts().map(|rule| rule.name);
    let policies = POLICIES.iter().map(|(_, name, _)| *name);
    let near = nearest(name, terms::words().chain(rules).chain(policies));
    let see = "see `stalemate list rules`, `list faults` and so on, or docs/glossary.md".to_owned();
    let help = near.map_or(see, |near| format!("did you mean `{near}`?"));
    Err(Failure::usage(format!(
        "`{name}` is no rule, fault, policy, fill, variant, CPU, scenario, step, point, page or word of \
         reports; {help}"
    )))
}
