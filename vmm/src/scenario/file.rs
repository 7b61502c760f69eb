//! Scenario files: TOML, typed and checked before anything boots.

use super::config::{CPUS, Policy, RunConfig, When};
use super::diagnostic::{Diagnostic, nearest, suggest};
use super::matrix::Selection;
use super::raw::{Grain, List, RawScenario, RawWhen, RawZoo, Stops};
use super::step::{self, Change, Page, Step};
use super::{Expected, FaultCase, Scenario, Verdict, ZooRow};
use crate::arch::addr::CpuId;
use crate::arch::tlb::Fill;
use crate::inject::Fault;
use crate::machine::Schedule;
use crate::oracle::{RULES, RuleId};
use stalemate_shared::variant::{VARIANTS, Variant};
use std::collections::BTreeSet;
use std::ops::Range;
use toml::Spanned;

impl Source<'_> {
    fn when(&self, raw: RawWhen) -> Result<When, Diagnostic> {
        Ok(When {
            variant: self.variants(raw.variant.as_ref(), &[])?,
            policy: raw.policy.0,
            pcid: raw.pcid.0,
            invpcid: raw.invpcid.0,
            pge: raw.pge.0,
            pti: raw.pti.0,
            global: raw.global.0,
            fill: raw.fill.0,
        })
    }

    /// Variants by name, `none` for the kernel as it is; `default` where there is nothing.
    fn variants(
        &self,
        raw: Option<&Spanned<List<String>>>,
        default: &[Option<Variant>],
    ) -> Result<Vec<Option<Variant>>, Diagnostic> {
        let Some(raw) = raw else { return Ok(default.to_vec()) };
        let each = |name: &String| {
            let found = VARIANTS.iter().find(|about| about.name == name);
            match found {
                Some(about) => Ok(Some(about.variant)),
                None if name == "none" => Ok(None),
                None => {
                    let known: Vec<&str> =
                        VARIANTS.iter().map(|about| about.name).chain(["none"]).collect();
                    let message = format!("`{name}` is no variant");
                    Err(self.error(self.item(raw.span(), name), message, suggest(name, &known)))
                }
            }
        };
        raw.get_ref().0.iter().map(each).collect()
    }

    fn zoo(&self, raw: RawZoo) -> Result<ZooRow, Diagnostic> {
        let rule = raw.rule.get_ref();
        let rule = rule.parse().map_err(|_: String| {
            let help = suggest(rule, &RULES.map(|about| about.name));
            self.error(raw.rule.span(), format!("`{rule}` is no rule"), help)
        })?;
        let RawZoo { reference, year, system, .. } = raw;
        Ok(ZooRow { reference, year, system, rule })
    }
}

struct Source<'t> {
    file: &'t str,
    text: &'t str,
}

impl Source<'_> {
    fn error(&self, span: Range<usize>, message: String, help: String) -> Diagnostic {
        Diagnostic::at(self.file, self.text, span.start, span.end, message, help)
    }

    fn rules(&self, raw: &Spanned<Vec<String>>) -> Result<BTreeSet<RuleId>, Diagnostic> {
        raw.get_ref()
            .iter()
            .map(|name| {
                name.parse().map_err(|_: String| {
                    let known = RULES.map(|about| about.name);
                    let help = suggest(name, &known);
                    self.error(self.item(raw.span(), name), format!("`{name}` is no rule"), help)
                })
            })
            .collect()
    }

    /// What a fault or a verdict, which stands at `at`, says must come of it.
    fn expected(
        &self,
        at: Range<usize>,
        violates: Option<Spanned<Vec<String>>>,
        stops: Option<Spanned<Stops>>,
    ) -> Result<Expected, Diagnostic> {
        match (violates, stops) {
            (Some(violates), None) => Ok(Expected::Violates(self.rules(&violates)?)),
            (None, Some(stops)) => Ok(Expected::Stops(stops.into_inner())),
            (None, None) => {
                let help = "add `violates = [\"stale-user-entry\"]`, `violates = []` where it does \
                            no harm, or `stops = \"hang\"`";
                Err(self.error(at, "what must come of it is missing".to_owned(), help.to_owned()))
            }
            (Some(_), Some(stops)) => {
                let message = "a guest that stops, and a set of violated rules".to_owned();
                let help = "leave `stops` out: a violation counts for more".to_owned();
                Err(self.error(stops.span(), message, help))
            }
        }
    }

    /// Where a string stands, quotes included, within a list; the whole list if it has escapes.
    fn item(&self, list: Range<usize>, item: &str) -> Range<usize> {
        let written = self.text.get(list.clone()).unwrap_or_default();
        ['"', '\'']
            .iter()
            .find_map(|quote| written.find(&format!("{quote}{item}{quote}")))
            .map_or(list.clone(), |at| list.start + at..list.start + at + item.len() + 2)
    }

    fn faults(&self, raw: &Spanned<List<String>>) -> Result<Vec<Fault>, Diagnostic> {
        if raw.get_ref().0.is_empty() {
            let help = "name at least one, as in `inject = \"drop mark#1\"`".to_owned();
            return Err(self.error(raw.span(), "no fault to inject".to_owned(), help));
        }
        raw.get_ref()
            .0
            .iter()
            .map(|text| {
                text.parse::<Fault>().map_err(|error| {
                    let message = format!("`{text}` is no fault: {}", error.why);
                    self.error(self.item(raw.span(), text), message, error.help)
                })
            })
            .collect()
    }

    fn steps(&self, raw: &Spanned<String>) -> Result<Vec<Step>, Diagnostic> {
        let span = raw.span();
        let written = self.lines(raw);
        let literal_line = self.line(span.start);
        let mut steps = Vec::new();
        let mut order = Order::default();
        for (index, line) in raw.get_ref().split('\n').enumerate() {
            let text = step::without_comment(line);
            if text.trim().is_empty() {
                continue;
            }
            let start = written.as_ref().and_then(|starts| starts.get(index)).copied();
            let fail = |(word, message, help): step::StepError| match start {
                Some(start) => {
                    let (at, len) = word_at(text, word);
                    self.error(start + at..start + at + len, message, help)
                }
                None => {
                    let message = format!("in the step `{}`: {message}", text.trim());
                    self.error(span.clone(), message, help)
                }
            };
            let number = start.map_or(literal_line, |start| self.line(start));
            let step = step::parse(text, number).map_err(fail)?;
            order.check(&step).map_err(|(message, help)| fail((0, message, help)))?;
            steps.push(step);
        }
        if let Some(cpu) = order.held.first() {
            let message = format!("cpu{} is held at the end", cpu.0);
            let help = format!("let it go on with `cpu{} resume`", cpu.0);
            return Err(self.error(span, message, help));
        }
        if steps.is_empty() {
            let help = "write one step a line, as in `user read u0 -> red`".to_owned();
            return Err(self.error(span, "no steps".to_owned(), help));
        }
        Ok(steps)
    }

    /// Line number, from 1, of a byte of the file.
    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
    }

    /// Where each line of a string starts in the file. None where the string was written with
    /// escapes, so that its lines are not the file's.
    fn lines(&self, raw: &Spanned<String>) -> Option<Vec<usize>> {
        let literal = self.text.get(raw.span())?;
        let (quotes, body) = ["\"\"\"", "'''", "\"", "'"].iter().find_map(|quotes| {
            Some((quotes, literal.strip_prefix(quotes)?.strip_suffix(quotes)?))
        })?;
        let mut start = raw.span().start + quotes.len();
        // A line end right after three quotes does not belong to the string.
        let trimmed = body.strip_prefix("\r\n").or_else(|| body.strip_prefix('\n'));
        let body = trimmed.filter(|_| quotes.len() == 3).unwrap_or(body);
        start += literal.len() - 2 * quotes.len() - body.len();
        let mut starts = Vec::new();
        let mut decoded = raw.get_ref().split('\n');
        for line in body.split('\n') {
            if decoded.next()?.trim_end_matches('\r') != line.trim_end_matches('\r') {
                return None;
            }
            starts.push(start);
            start += line.len() + 1;
        }
        decoded.next().is_none().then_some(starts)
    }

    /// Refuses a condition that no configuration of the scenario can meet.
    fn reachable(
        &self,
        span: Range<usize>,
        when: &When,
        configs: &[RunConfig],
    ) -> Result<(), Diagnostic> {
        if configs.iter().any(|config| when.holds(config)) {
            return Ok(());
        }
        let alone = when.parts().into_iter().find(|(_, part)| {
            // One condition that never holds, whatever the others say.
            !configs.iter().any(|config| part.holds(config))
        });
        let help = match alone {
            Some((key, _)) => format!(
                "no run has this `{key}`; see the `cpu`, `kernel` and `model` lines of this file"
            ),
            None => "these conditions never hold together; leave one out".to_owned(),
        };
        Err(self.error(span, "this `when` matches no run of the scenario".to_owned(), help))
    }
}

/// Offset and length of a word of a line.
fn word_at(line: &str, index: usize) -> (usize, usize) {
    let words = line
        .split_whitespace()
        .map(|word| (word.as_ptr() as usize - line.as_ptr() as usize, word.len()));
    let last = words.clone().next_back();
    words.clone().nth(index).or(last).unwrap_or((0, line.len()))
}

/// What the steps so far have made of the pages and of the CPUs.
#[derive(Default)]
struct Order {
    mapped: BTreeSet<(usize, Page)>,
    held: BTreeSet<CpuId>,
}

impl Order {
    fn check(&mut self, step: &Step) -> Result<(), (String, String)> {
        let cpu = step.input.cpu;
        let held = self.held.remove(&cpu);
        if step.input.resumes && !held {
            let message = format!("cpu{} is not held", cpu.0);
            return Err((message, "hold it in a step with `until POINT` first".to_owned()));
        }
        if held && !step.input.resumes {
            let message = format!("cpu{} is held in the middle of a step", cpu.0);
            return Err((message, format!("let it go on with `cpu{} resume` first", cpu.0)));
        }
        if step.input.hold.is_some() {
            self.held.insert(cpu);
        }
        self.change(step)
    }

    fn change(&mut self, step: &Step) -> Result<(), (String, String)> {
        // Kernel pages are in every address space.
        let key = |page| match page {
            Page::Kernel(_) => (0, page),
            _ => (step.mm, page),
        };
        let unmapped = || {
            let message = "this page is not mapped here".to_owned();
            Err((message, "`map` it in this address space first".to_owned()))
        };
        match step.change {
            Change::None => Ok(()),
            Change::Map(page) if self.mapped.insert(key(page)) => Ok(()),
            Change::Map(_) => {
                let message = "this page is mapped already".to_owned();
                Err((message, "use `remap`, or `unmap` it first".to_owned()))
            }
            Change::Edit(page) if self.mapped.contains(&key(page)) => Ok(()),
            Change::Unmap(page) if self.mapped.remove(&key(page)) => Ok(()),
            Change::Edit(_) | Change::Unmap(_) => unmapped(),
            Change::FreeTable(_) => {
                self.mapped.retain(|(mm, page)| *mm != step.mm || !matches!(page, Page::Table(_)));
                Ok(())
            }
            Change::UnmapRange(first, last) => {
                let inside = |page: Page| first <= page && page <= last;
                self.mapped.retain(|(mm, page)| *mm != step.mm || !inside(*page));
                Ok(())
            }
            Change::Move(from, to) => {
                let moved = self.mapped.remove(&key(from)) && self.mapped.insert(key(to));
                if moved { Ok(()) } else { unmapped() }
            }
            Change::Fork(child) => {
                let of = |mm: usize| {
                    let user = move |(of, page): &&(usize, Page)| {
                        *of == mm && matches!(page, Page::User(_))
                    };
                    self.mapped.iter().filter(user).copied().collect::<Vec<_>>()
                };
                if child == step.mm || !of(child).is_empty() {
                    let message = "the child has pages of its own".to_owned();
                    return Err((message, "fork to an address space that maps none".to_owned()));
                }
                let inherited = of(step.mm);
                self.mapped.extend(inherited.into_iter().map(|(_, page)| (child, page)));
                Ok(())
            }
        }
    }
}

fn or<T>(list: List<T>, default: &[T]) -> Vec<T>
where
    T: Clone,
{
    if list.0.is_empty() { default.to_vec() } else { list.0 }
}

/// Parses and checks one file.
///
/// # Errors
/// The first error in it.
pub fn parse(name: &str, file: &str, text: &str) -> Result<Scenario, Diagnostic> {
    let source = Source { file, text };
    let raw: RawScenario = toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let (message, help) = explain(error.message());
        source.error(span, message, help)
    })?;
    let pti = or(raw.kernel.pti, &[true, false]);
    let global = raw.kernel.global.as_ref().map(|global| *global.get_ref());
    let wants_global = raw.kernel.global.as_ref().filter(|global| *global.get_ref());
    if let (Some(spanned), [false]) = (wants_global, &raw.cpu.pge.0[..]) {
        let message = "kernel pages cannot be global on a CPU without PGE".to_owned();
        let help = "drop `global = true`, or allow `pge = true`".to_owned();
        return Err(source.error(spanned.span(), message, help));
    }
    let fill = or(raw.model.fill, &[Fill::WorstCase]);
    let grains = or(raw.model.schedule, &[Grain::InOrder]);
    let seeded = fill.contains(&Fill::Seeded) || grains.iter().any(|&one| one != Grain::InOrder);
    if let Some(spanned) = raw.model.seed.as_ref().filter(|_| !seeded) {
        let message = "a seed, and no `seeded` fill or schedule that it is for".to_owned();
        let help = "leave it out, or add `seeded` to `fill`, or a `schedule`".to_owned();
        return Err(source.error(spanned.span(), message, help));
    }
    let seed = raw.model.seed.map_or_else(List::default, Spanned::into_inner);
    let mut scenario = Scenario {
        name: name.to_owned(),
        file: file.to_owned(),
        source: text.to_owned(),
        summary: raw.summary,
        pcid: raw.cpu.pcid.0,
        invpcid: raw.cpu.invpcid.0,
        pge: raw.cpu.pge.0,
        policy: or(raw.kernel.policy, &[Policy::Split]),
        global,
        pti,
        paranoid_rewrite: or(raw.kernel.paranoid_rewrite, &[false]),
        nmi_flush: raw.kernel.nmi_flush,
        variant: source.variants(raw.kernel.variant.as_ref(), &[None])?,
        zoo: raw.zoo.map(|zoo| source.zoo(zoo)).transpose()?,
        fill,
        schedule: schedules(&grains, &seed.0),
        seed: or(seed, &[0]),
        structure_caches: or(raw.model.structure_caches, &[true]),
        steps: source.steps(&raw.steps)?,
        faults: Vec::new(),
        verdicts: Vec::new(),
    };
    let configs = every_config(&scenario);
    if let (true, Some(spanned)) = (configs.is_empty(), &raw.kernel.global) {
        let message = "no CPU runs this: kernel pages are global if PGE is on and PTI is off";
        let help = "change `global`, `pti` or `pge` so that they agree".to_owned();
        return Err(source.error(spanned.span(), message.to_owned(), help));
    }
    for fault in raw.fault {
        let inject = source.faults(&fault.inject)?;
        let at = fault.inject.span();
        let expected = match source.expected(at.clone(), fault.violates, fault.stops)? {
            Expected::Violates(rules) if rules.is_empty() => Expected::Clean,
            expected => expected,
        };
        let span = fault.when.as_ref().map_or(at, Spanned::span);
        let when = match fault.when {
            Some(when) => source.when(when.into_inner())?,
            None => When::default(),
        };
        source.reachable(span, &when, &configs)?;
        scenario.faults.push(FaultCase { inject, when, expected });
    }
    for verdict in raw.verdict {
        let span = verdict.when.span();
        let expected = source.expected(span.clone(), verdict.violates, verdict.stops)?;
        let when = source.when(verdict.when.into_inner())?;
        source.reachable(span, &when, &configs)?;
        scenario.verdicts.push(Verdict { when, expected });
    }
    Ok(scenario)
}

/// The schedules that the file asks for, by seed.
fn schedules(grains: &[Grain], seeds: &[u64]) -> Vec<Schedule> {
    let seeds = if seeds.is_empty() { &[0] } else { seeds };
    let each = |&grain: &Grain| match grain {
        Grain::InOrder => vec![Schedule::InOrder],
        Grain::Events => seeds.iter().map(|&seed| Schedule::Events(seed)).collect(),
        Grain::Instructions => seeds.iter().map(|&seed| Schedule::Instructions(seed)).collect(),
    };
    grains.iter().flat_map(each).collect()
}

/// Every configuration that a command line can ask of a scenario.
fn every_config(scenario: &Scenario) -> Vec<RunConfig> {
    let configs = |policy| {
        let selection = Selection { policy, ..Selection::of(&CPUS) };
        scenario.configs(&selection)
    };
    Policy::all().into_iter().flat_map(|policy| configs(Some(policy))).collect()
}

/// Splits a message of the TOML reader into what is wrong and what would be right.
fn explain(message: &str) -> (String, String) {
    for separator in [", expected ", " expected "] {
        if let Some((wrong, right)) = message.split_once(separator) {
            // An unknown word comes in backticks, and so do the known ones.
            let word = wrong.starts_with("unknown").then(|| wrong.split('`').nth(1)).flatten();
            let near = word.and_then(|word| nearest(word, right.split('`').skip(1).step_by(2)));
            let help = match near {
                Some(meant) => format!("did you mean `{meant}`? expected {right}"),
                None => format!("expected {right}"),
            };
            return (wrong.to_owned(), help);
        }
    }
    let help = match message.strip_prefix("missing field ") {
        Some(field) => format!("add a line `{} = …`", field.trim_matches('`')),
        None => "see `stalemate list scenarios`, or copy one of the built-in files".to_owned(),
    };
    (message.to_owned(), help)
}
