//! [`Fill::Seeded`]: what the processor fills ahead of time, and what it evicts, by chance. The
//! choices are logged, so that the oracle need not make them.

use super::entry::Tag;
use super::fill::AccessedUpdate;
use super::reachable::Reachable;
use super::{Fill, Tlb};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::choice::{Chooser, Point};
use crate::arch::features::Paging;
use crate::arch::walk::{Start, Tables, Translation, entry, walk};

/// What was chosen, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// An A bit is set.
    Accessed(AccessedUpdate),
    /// A translation is cached.
    Filled(Translation),
    /// What is held of the page that begins at the address is evicted.
    Evicted(Tag, Gva),
}

impl Tlb {
    /// Has this moment's choices made and carries them out, but for the A bits.
    pub fn choose(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        cpu: CpuId,
        chooser: &mut dyn Chooser,
    ) -> Vec<Chosen> {
        let mut chosen = Vec::new();
        if self.model.fill != Fill::Seeded {
            return chosen;
        }
        for tag in self.tags().collect::<Vec<_>>() {
            let pages: Vec<Gva> = self.entries(tag).map(|entry| entry.translation.page).collect();
            for page in pages {
                if chooser.choose(Point::Evict(cpu, tag, page)) == 1 {
                    self.evict(tag, page);
                    chosen.push(Chosen::Evicted(tag, page));
                }
            }
        }
        let Some(root) = self.tagged.get(&self.current).map(|tagged| tagged.root) else {
            return chosen;
        };
        let mut reachable = Reachable::default();
        reachable.below(tables, paging, Start::root(root), 0);
        self.beyond |= reachable.is_full();
        for translation in reachable.leaves {
            if chooser.choose(Point::Fill(cpu, &translation)) == 0 {
                continue;
            }
            // The walk of an access, which a cached paging-structure entry may lead astray.
            let Some(start) = self.walk_start(tables, translation.page) else { continue };
            let walked = walk(tables, start, translation.page, paging);
            let Ok(found) = walked.result else { continue };
            for step in walked.path.iter().filter(|step| step.entry & entry::ACCESSED == 0) {
                let new = step.entry | entry::ACCESSED;
                let update = Chosen::Accessed((step.slot, step.entry, new));
                if !chosen.contains(&update) {
                    chosen.push(update);
                }
            }
            self.fill(tables, paging, &walked, &found);
            chosen.push(Chosen::Filled(found));
        }
        chosen
    }

    /// Drops what is held under `tag` of the page that begins at `page`.
    pub fn evict(&mut self, tag: Tag, page: Gva) {
        let set = match tag {
            Tag::Pcid(pcid) => self.tagged.get_mut(&pcid).map(|tagged| &mut tagged.entries),
            Tag::Global => Some(&mut self.globals),
        };
        if let Some(set) = set {
            set.remove_beginning(page);
        }
    }
}
