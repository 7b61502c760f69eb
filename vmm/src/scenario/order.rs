//! What may follow what: the steps against the pages and the CPUs that they speak of.

use super::step::{Change, Step};
use crate::arch::addr::CpuId;
use stalemate_shared::page::Page;
use std::collections::BTreeSet;

/// What the steps so far have made of the pages and of the CPUs.
#[derive(Default)]
pub(super) struct Order {
    mapped: BTreeSet<(usize, Page)>,
    /// CPUs that are held in the middle of a step.
    pub(super) held: BTreeSet<CpuId>,
}

impl Order {
    /// Takes the next step; what is wrong with it and what would be right, if it cannot follow.
    pub(super) fn check(&mut self, step: &Step) -> Result<(), (String, String)> {
        let cpu = step.input.cpu;
        let held = self.held.remove(&cpu);
        if step.input.op.is_none() && !held {
            let message = format!("cpu{} is not held", cpu.0);
            return Err((message, "hold it in a step with `until POINT` first".to_owned()));
        }
        if held && step.input.op.is_some() {
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
