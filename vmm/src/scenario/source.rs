//! The text of a scenario file, and the parts of it that say where in it they are wrong.

use super::config::{RunConfig, When};
use super::diagnostic::Diagnostic;
use super::order::Order;
use super::raw::{List, RawWhen, RawZoo, Stops};
use super::step::{self, Step};
use super::{Expected, Verdict, ZooRow};
use crate::inject::Fault;
use crate::oracle::{RuleId, rules};
use crate::suggest::suggest;
use stalemate_shared::variant::{VARIANTS, Variant};
use std::collections::BTreeSet;
use std::ops::Range;
use toml::Spanned;

/// The line after which the steps of several CPUs may come in any order.
pub(super) const CONCURRENTLY: &str = "concurrently:";

/// A file and its text.
pub(super) struct Source<'t> {
    pub(super) file: &'t str,
    pub(super) text: &'t str,
}

impl Source<'_> {
    pub(super) fn error(&self, span: Range<usize>, message: String, help: String) -> Diagnostic {
        Diagnostic::at(self.file, self.text, span.start, span.end, message, help)
    }

    pub(super) fn summary(&self, raw: Spanned<String>) -> Result<String, Diagnostic> {
        if raw.get_ref().chars().any(char::is_control) {
            let message = "a summary of more than one line, or with control characters";
            let help = "say it in one line of text; a comment may say more".to_owned();
            return Err(self.error(raw.span(), message.to_owned(), help));
        }
        Ok(raw.into_inner())
    }

    fn rules(&self, raw: &Spanned<Vec<String>>) -> Result<BTreeSet<RuleId>, Diagnostic> {
        raw.get_ref()
            .iter()
            .map(|name| {
                name.parse().map_err(|_: String| {
                    let help = suggest(name, &rules::names());
                    self.error(self.item(raw.span(), name), format!("`{name}` is no rule"), help)
                })
            })
            .collect()
    }

    /// What a fault or a verdict, which stands at `at`, says must come of it.
    pub(super) fn expected(
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

    pub(super) fn faults(&self, raw: &Spanned<List<String>>) -> Result<Vec<Fault>, Diagnostic> {
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

    /// The steps, and the first of those that may come in any order.
    pub(super) fn steps(
        &self,
        raw: &Spanned<String>,
    ) -> Result<(Vec<Step>, Option<usize>), Diagnostic> {
        let span = raw.span();
        let written = self.lines(raw);
        let literal_line = self.line(span.start);
        let first_line = written.as_ref().and_then(|starts| starts.first());
        let first_line = first_line.map(|&start| self.line(start));
        let mut steps = Vec::new();
        let mut order = Order::default();
        let mut concurrently = None;
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
            if text.trim() == CONCURRENTLY {
                if let Some(cpu) = order.held.first() {
                    let message = format!("cpu{} is held where CPUs go on in any order", cpu.0);
                    let help = format!("let it go on with `cpu{} resume` before", cpu.0);
                    return Err(fail((0, message, help)));
                }
                if concurrently.replace(steps.len()).is_some() {
                    let message = format!("`{CONCURRENTLY}` for the second time");
                    let help = "leave one out: all that comes after the first is in any order";
                    return Err(fail((0, message, help.to_owned())));
                }
                continue;
            }
            let number = first_line.map_or(literal_line, |first| first + index);
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
        if concurrently == Some(steps.len()) {
            let message = format!("no step after `{CONCURRENTLY}`");
            let help = "write those after it that may come in any order".to_owned();
            return Err(self.error(span, message, help));
        }
        Ok((steps, concurrently))
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
    pub(super) fn reachable(
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

    /// Refuses a verdict that no run is judged by, since earlier ones take all that it is of.
    pub(super) fn first(
        &self,
        span: Range<usize>,
        when: &When,
        earlier: &[Verdict],
        configs: &[RunConfig],
    ) -> Result<(), Diagnostic> {
        let taken = |config: &RunConfig| earlier.iter().any(|verdict| verdict.when.holds(config));
        if configs.iter().any(|config| when.holds(config) && !taken(config)) {
            return Ok(());
        }
        let message = "no run is judged by this `when`: the first verdict that holds counts";
        let help = "put it before the verdicts that hold wherever it does, or leave it out";
        Err(self.error(span, message.to_owned(), help.to_owned()))
    }

    pub(super) fn when(&self, raw: RawWhen) -> Result<When, Diagnostic> {
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
    pub(super) fn variants(
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

    pub(super) fn zoo(&self, raw: RawZoo) -> Result<ZooRow, Diagnostic> {
        let named = |rule: &Spanned<String>| {
            let name = rule.get_ref();
            name.parse().map_err(|_: String| {
                let help = suggest(name, &rules::names());
                self.error(rule.span(), format!("`{name}` is no rule"), help)
            })
        };
        let rule = raw.rule.as_ref().map(named).transpose()?;
        let RawZoo { reference, year, system, .. } = raw;
        Ok(ZooRow { reference, year, system, rule })
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
