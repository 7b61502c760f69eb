//! Where in the image the injector's sites are: labels of the guest, found in its symbol table.

use super::fault::Site;
use crate::arch::addr::Gva;
use crate::symbols::Symbols;
use stalemate_shared::page::PageAddresses;
use std::collections::BTreeMap;

/// The labels that stand at a CR3 load, by site. A label is at the instruction itself.
const LABELS: [(&str, Site); 8] = [
    ("cr3_return", Site::Return),
    ("cr3_entry", Site::Entry),
    ("cr3_irq_exit", Site::Return),
    ("cr3_fault_entry", Site::Entry),
    ("cr3_irq_entry", Site::Entry),
    ("cr3_paranoid_entry", Site::ParanoidEntry),
    ("cr3_paranoid_exit", Site::ParanoidExit),
    ("cr3_paranoid_rewrite", Site::ParanoidExit),
];

/// The functions whose every CR3 load belongs to a site, by a part of their path.
const FUNCTIONS: [(&str, Site); 3] =
    [("switch_mm", Site::Switch), ("::policy::", Site::Flush), ("::flush", Site::Flush)];

/// The IRETQ that ends the paranoid path.
const PARANOID_IRET: &str = "iret_paranoid_exit";

/// The load with which an interrupt goes back to user mode.
const IRQ_EXIT: &str = "cr3_irq_exit";

/// A place in the image, as the injector tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SiteAt {
    /// A CR3 load at one of the named sites.
    Cr3(Site),
    /// The IRETQ of the paranoid exit.
    ParanoidIret,
}

/// The sites of one image.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    labels: BTreeMap<Gva, SiteAt>,
    functions: Vec<(Gva, Gva, Site)>,
    /// The user CR3 load of an interrupt's own exit.
    irq_exit: Option<Gva>,
    /// Where its test pages are.
    pub(super) pages: PageAddresses,
}

impl Sites {
    /// Finds the sites in an image's symbols; `pages` are where it has the test pages.
    #[must_use]
    pub fn new(symbols: &Symbols, pages: PageAddresses) -> Self {
        let mut labels = BTreeMap::new();
        for (label, site) in LABELS {
            if let Some(at) = symbols.address(label) {
                labels.insert(at, SiteAt::Cr3(site));
            }
        }
        if let Some(at) = symbols.address(PARANOID_IRET) {
            labels.insert(at, SiteAt::ParanoidIret);
        }
        let functions = FUNCTIONS
            .iter()
            .flat_map(|&(part, site)| {
                symbols.functions(part).map(move |(start, end)| (start, end, site))
            })
            .collect();
        Self { labels, functions, irq_exit: symbols.address(IRQ_EXIT), pages }
    }

    /// Whether an interrupt's own exit is at `rip`.
    #[must_use]
    pub fn is_irq_exit(&self, rip: Gva) -> bool {
        self.irq_exit == Some(rip)
    }

    /// The site at `rip`.
    #[must_use]
    pub(super) fn at(&self, rip: Gva) -> Option<SiteAt> {
        let inside = |&&(start, end, _): &&(Gva, Gva, Site)| start <= rip && rip < end;
        self.labels
            .get(&rip)
            .copied()
            .or_else(|| self.functions.iter().find(inside).map(|&(_, _, site)| SiteAt::Cr3(site)))
    }
}
