//! `reuse-before-flush`: what a CPU may still reach is not given back.

use crate::arch::addr::{CpuId, Gpa};
use crate::arch::tlb::Tag;
use crate::arch::walk::{Meaning, PageSize, Start, Tables, meaning};
use crate::event::Kind;
use crate::oracle::rule::{About, Context, Finding, Held, Rule, RuleId};
use crate::oracle::shadow::Shadow;

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::ReuseBeforeFlush,
    name: "reuse-before-flush",
    statement: "A frame or page-table page is not given back, and so not reused, while some CPU may \
                still reach it through a cached entry of its current PCID or a global one, or by \
                walking a root it can load.",
    source: "SDM vol. 3, 4.10.5; CVE-2018-18281 (eb66ae030829), Linux 2ff6ddf19c0e",
    violated_by: "zoo scenarios: page tables freed before the shootdown",
    is_cost: false,
};

/// The rule.
#[derive(Clone)]
pub struct ReuseBeforeFlush;

impl Rule for ReuseBeforeFlush {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let Kind::FrameFreed { frame } = context.event.kind else { return Vec::new() };
        let shadow = context.shadow;
        let mut found: Vec<Finding> =
            shadow.numbered().filter_map(|(cpu, _)| cached(context, cpu, frame)).collect();
        found.extend(mapped(shadow, frame).map(|root| Finding {
            message: format!("{frame} is given back while a walk of root {root} still reaches it"),
            ..Finding::default()
        }));
        found
    }
}

/// The first way in which `cpu` may reach the frame through what it has cached.
fn cached(context: &Context<'_>, cpu: CpuId, frame: Gpa) -> Option<Finding> {
    let of_cpu = context.shadow.cpu(cpu);
    let pcid = of_cpu.pcid();
    let reaches = |tag: Tag| {
        of_cpu.tlb.entries(tag).find(|entry| {
            let first = entry.translation.frame;
            let end = first.0 + entry.translation.size.bytes();
            (first.0..end).contains(&frame.0)
        })
    };
    for tag in [Tag::Pcid(pcid), Tag::Global] {
        if let Some(entry) = reaches(tag) {
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
    let structure = of_cpu.tlb.structures(pcid).find(|structure| structure.table == frame)?;
    Some(Finding {
        message: format!(
            "page table {frame} is given back while CPU {} still caches a level {} entry for {} \
             that references it",
            cpu.0, structure.level, structure.base
        ),
        ..Finding::default()
    })
}

/// A loadable root of which a walk reaches the frame, as a page or as a table.
fn mapped(shadow: &Shadow, frame: Gpa) -> Option<Gpa> {
    let paging = shadow.cpus.first()?.paging();
    shadow.census.roots().find(|&root| {
        let mut tables = vec![Start::root(root)];
        while let Some(start) = tables.pop() {
            for (_, bits) in shadow.tables.present(start.table) {
                match meaning(bits, start.level, paging) {
                    Meaning::Table(table) if table == frame => return true,
                    Meaning::Table(table) => {
                        tables.push(Start { table, level: start.level - 1, rights: start.rights })
                    }
                    Meaning::Leaf(size) => {
                        let first = bits & stalemate_shared::pcid::ROOT_MASK & !(size.bytes() - 1);
                        let at = frame.0;
                        if (first..first + size.bytes().max(PageSize::Small.bytes())).contains(&at)
                        {
                            return true;
                        }
                    }
                    Meaning::NotPresent | Meaning::Reserved => {}
                }
            }
        }
        false
    })
}
