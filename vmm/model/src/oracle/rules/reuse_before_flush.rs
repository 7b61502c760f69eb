//! `reuse-before-flush`: what a CPU may still reach is not given back.

use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::cr3::{self, ROOT_MASK};
use crate::arch::happened::Happened;
use crate::arch::key::StateKey;
use crate::arch::tlb::{Entry, Tag};
use crate::arch::walk::entry::PRESENT;
use crate::arch::walk::{Meaning, Start, Tables, meaning, shift};
use crate::event::Announcement;
use crate::oracle::About;
use crate::oracle::rule::{Context, Finding, Held, Memory, Rule};
use std::collections::BTreeSet;

/// About the rule.
pub static ABOUT: About = About {
    name: "reuse-before-flush",
    statement: "A frame or page-table page is not given back, and so not reused, while some CPU may \
                still reach it through a cached entry of its current PCID or a global one, or by \
                walking a root that some CPU has loaded. The kernel's map of all memory does not count, nor \
                what a CPU that was lazy caches of user pages, until user code runs on it again. A \
                root is not given back while it is in some CPU's CR3, and not used again before an \
                address space has got it.",
    source: "SDM vol. 3, 4.10.5; CVE-2018-18281 (eb66ae030829), Linux 2ff6ddf19c0e",
    violated_by: "table-freed-before-shootdown --cpu pcid",
    near_miss: "matrix/free-table/lazy --cpu pcid --policy split",
    hint: "give a frame or a table back after the flush, when every CPU that may hold it \
           has acknowledged; not between the store and the flush",
    is_cost: false,
};

#[derive(Clone, Default)]
struct ReuseBeforeFlush {
    /// Roots that were given back, and that no address space has got since.
    freed: BTreeSet<Gpa>,
}

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(ReuseBeforeFlush::default())
}

impl Rule for ReuseBeforeFlush {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, key: &mut StateKey) -> Memory {
        key.put(&self.freed);
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        for said in context.event.announcements() {
            match *said {
                Announcement::FrameFreed(frame) if context.replica.kernel.runs_freely => {
                    found.extend(still_stale(context, frame));
                }
                Announcement::FrameFreed(frame) => {
                    found.extend(given_back(context, frame));
                    if context.replica.census.roots().any(|root| root == frame) {
                        self.freed.insert(frame);
                    }
                }
                Announcement::Root { root, .. } => {
                    self.freed.remove(&root);
                }
                _ => {}
            }
        }
        found.extend(self.used_again(context));
        found
    }
}

impl ReuseBeforeFlush {
    /// A root that was given back is loaded, or linked as a table.
    fn used_again(&self, context: &Context<'_>) -> Option<Finding> {
        let (used, how) = match *context.event.happened()? {
            Happened::LoadCr3 { value, .. } => (cr3::root(value), "loaded"),
            Happened::TableStore { new, .. } if new & PRESENT != 0 => {
                (Gpa(new & ROOT_MASK), "linked")
            }
            _ => return None,
        };
        self.freed
            .contains(&used)
            .then(|| Finding::new(format!("root {used} is {how} after it was given back")))
    }
}

/// All ways in which the frame may still be reached.
fn given_back(context: &Context<'_>, frame: Gpa) -> Vec<Finding> {
    let cpus = || context.replica.numbered();
    let loaded = cpus().filter(|(_, state)| state.root() == frame).map(|(cpu, _)| {
        Finding::new(format!("root {frame} is given back while CPU {} has it in CR3", cpu.0))
    });
    let cached = cpus().filter_map(|(cpu, _)| cached(context, cpu, frame));
    let mapped = mapped(context, frame).map(|(root, va)| {
        Finding::new(format!(
            "{frame} is given back while a walk of root {root} for {va} still reaches it"
        ))
    });
    loaded.chain(cached).chain(mapped).collect()
}

fn is_direct(context: &Context<'_>, va: Gva) -> bool {
    let (start, end) = context.header.kernel.direct_map;
    start <= va && va < end
}

/// What is stale of a frame that a kernel which runs freely gives back, and may be used as its CPU is
/// now. What its tables map is its own affair: of the roots that are parked some are gone.
fn still_stale(context: &Context<'_>, frame: Gpa) -> Option<Finding> {
    let kernel = &context.header.kernel;
    let by_design =
        |va: Gva| kernel.wait_for_reuse.iter().any(|&(start, end)| start <= va && va < end);
    let mut stale = context.ledger.open_of_frame(frame, context.replica);
    let (owed, entry) = stale.find(|(owed, entry)| {
        let page = entry.translation.page;
        context.may_use(owed) && !by_design(page) && !is_direct(context, page)
    })?;
    Some(Finding {
        obligation: Some(owed.id),
        held: Some(Held { tag: owed.tag, entry: entry.clone() }),
        message: format!(
            "{frame} is given back while {} of CPU {} still translates {} to it",
            owed.tag, owed.cpu.0, entry.translation.page
        ),
        ..Finding::default()
    })
}

/// The first way in which `cpu` may reach the frame through what it has cached.
fn cached(context: &Context<'_>, cpu: CpuId, frame: Gpa) -> Option<Finding> {
    let of_cpu = context.replica.cpu(cpu);
    let pcid = of_cpu.pcid();
    // A CPU that was lazy runs no user code, and looks at generations before it does.
    let excused = |entry: &Entry| of_cpu.has_yet_to_catch_up() && entry.translation.user;
    // What nobody uses before it is mapped anew may lead to anything until then.
    let unused = |tag: Tag, entry: &Entry| {
        let mut open = context.ledger.open();
        open.any(|owed| {
            (owed.cpu, owed.tag) == (cpu, tag)
                && owed.waits_for_reuse()
                && owed.ids().any(|id| id == entry.id)
        })
    };
    for tag in [Tag::Pcid(pcid), Tag::Global] {
        let held = of_cpu.tlb.held_in(&context.replica.tables, tag, Gva(0), Gva(u64::MAX));
        let reaches = held.into_iter().find(|entry| {
            entry.translation.maps(frame)
                && !is_direct(context, entry.translation.page)
                && !excused(entry)
                && !unused(tag, entry)
        });
        if let Some(entry) = reaches {
            return Some(Finding {
                held: Some(Held { tag, entry: entry.clone() }),
                message: format!(
                    "{frame} is given back while {tag} of CPU {} still translates {} to it",
                    cpu.0, entry.translation.page
                ),
                ..Finding::default()
            });
        }
    }
    let mut cached = of_cpu.tlb.held_structures(&context.replica.tables, pcid).into_iter();
    let structure = cached.find(|structure| structure.table == frame)?;
    Some(Finding::new(format!(
        "page table {frame} is given back while CPU {} still caches a level {} entry for {} that \
         references it",
        cpu.0, structure.level, structure.base
    )))
}

/// A loadable root, and an address that a walk of it takes to the frame, as a page or as a table.
fn mapped(context: &Context<'_>, frame: Gpa) -> Option<(Gpa, Gva)> {
    let replica = context.replica;
    let paging = replica.cpu(context.event.cpu).paging();
    replica.census.roots().find_map(|root| {
        let mut tables = vec![(Start::root(root), 0)];
        while let Some((start, base)) = tables.pop() {
            for (index, bits) in replica.tables.present(start.table) {
                let raw = base | index << shift(start.level);
                let va = Gva(((raw << 16) as i64 >> 16) as u64);
                let reaches = match meaning(bits, start.level, paging) {
                    Meaning::Table(table) => {
                        let below = Start { table, level: start.level - 1, ..start };
                        tables.push((below, raw));
                        table == frame
                    }
                    Meaning::Leaf(size) => {
                        let first = bits & ROOT_MASK & !(size.bytes() - 1);
                        let inside = (first..first + size.bytes()).contains(&frame.0);
                        inside && !is_direct(context, va)
                    }
                    Meaning::NotPresent | Meaning::Reserved => false,
                };
                if reaches {
                    return Some((root, va));
                }
            }
        }
        None
    })
}
