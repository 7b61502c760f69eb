//! What a scenario asks of a kernel, and whether one can do it.

use super::{CPUS, Scenario, Selection};
use crate::kernel::steps::Abilities;
use stalemate_shared::note::kernel;
use stalemate_shared::page::Page;
use stalemate_shared::step::Op;
use std::collections::BTreeSet;

impl Scenario {
    /// The steps that it has of the kernel, each once.
    fn operations(&self) -> impl Iterator<Item = (Op, [u64; 4])> {
        self.steps.iter().filter_map(|step| Some((step.input.op?, step.input.args)))
    }

    /// How many address spaces it has.
    fn spaces(&self) -> usize {
        let child = |(op, args): (Op, [u64; 4])| (op == Op::Fork).then_some(args[1] as usize);
        let used = self.steps.iter().map(|step| step.mm);
        used.chain(self.operations().filter_map(child)).max().map_or(1, |most| most + 1)
    }

    /// What a kernel with these abilities lacks of what the scenario asks for, whatever the processor;
    /// none where it can run it.
    #[must_use]
    pub fn lacks(&self, abilities: &Abilities) -> Option<String> {
        let unknown: BTreeSet<Op> =
            self.operations().map(|(op, _)| op).filter(|&op| !abilities.does(op)).collect();
        if !unknown.is_empty() {
            let names: Vec<String> = unknown.into_iter().map(step_name).collect();
            return Some(format!("steps: {}", names.join(", ")));
        }
        let pages = self.operations().filter_map(|(_, args)| Page::at(args[1]));
        let kinds: BTreeSet<&str> = pages.filter(|&page| !abilities.maps(page)).map(kind).collect();
        if !kinds.is_empty() {
            return Some(kinds.into_iter().collect::<Vec<_>>().join(", "));
        }
        let lacks = |name: &str, needed: usize, has: usize| {
            (needed > has).then(|| format!("{needed} {name}; it has {has}"))
        };
        lacks("CPUs", usize::from(self.cpus()), usize::from(abilities.cpus))
            .or_else(|| lacks("address spaces", self.spaces(), abilities.spaces))
            .or_else(|| self.lacks_features(abilities))
    }

    fn lacks_features(&self, abilities: &Abilities) -> Option<String> {
        if self.pcid == [true] && !abilities.has(kernel::PCID) {
            return Some("PCIDs".to_owned());
        }
        if self.global == Some(true) && !abilities.has(kernel::GLOBAL) {
            return Some("global kernel pages".to_owned());
        }
        let everything = Selection { thin: false, ..Selection::of(&CPUS) };
        let of_kernel = Selection { abilities: *abilities, ..everything };
        if !self.configs(&of_kernel).is_empty() {
            return None;
        }
        let neither = !abilities.has(kernel::PTI) && !abilities.has(kernel::NO_PTI);
        Some(match (&self.pti[..], abilities.has(kernel::MISTAKES)) {
            _ if neither => "PTI and NO_PTI, of which its note has neither".to_owned(),
            ([true], _) if !abilities.has(kernel::PTI) => "page-table isolation".to_owned(),
            ([false], _) if !abilities.has(kernel::NO_PTI) => "one root for both modes".to_owned(),
            (_, false) => "a mistake or an oddity of the built-in guest".to_owned(),
            _ => "another flush policy".to_owned(),
        })
    }
}

/// A step's name as the header for C has it: `FLUSH_ALL`.
#[must_use]
pub fn step_name(op: Op) -> String {
    let mut name = String::new();
    for c in format!("{op:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

/// What a page is, for people.
fn kind(page: Page) -> &'static str {
    match page {
        Page::User(_) => "user pages u…",
        Page::Large(_) => "2 MiB pages h…",
        Page::Table(_) => "pages v…, on a table of their own",
        Page::Kernel(_) => "kernel pages k…",
    }
}
