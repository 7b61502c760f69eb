//! The oracle's own copy of what the guest's processor works with, made of events alone.

use crate::arch::addr::{Gpa, Gva, Pcid};
use crate::arch::census::Census;
use crate::arch::features::{CpuFeatures, Paging};
use crate::arch::tlb::{Effect, Store, Tag, Tlb};
use crate::arch::vcpu::cr4;
use crate::arch::walk::Tables;
use crate::event::{Event, Kind, Primitive, TraceHeader};
use stalemate_shared::pcid::{NOFLUSH, PCID_MASK, ROOT_MASK, USER_PCID_BIT};
use stalemate_shared::tlb_state::USER_PCID_FLUSH_MASK;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Contents of the page tables, by frame.
#[derive(Clone, Debug, Default)]
pub struct ShadowTables {
    frames: BTreeMap<Gpa, Rc<[u64; 512]>>,
}

impl Tables for ShadowTables {
    fn entry(&self, slot: Gpa) -> Option<u64> {
        let frame = self.frames.get(&slot.page())?;
        frame.get((slot.0 >> 3 & 0x1ff) as usize).copied()
    }

    fn present(&self, table: Gpa) -> Vec<(u64, u64)> {
        let entries = self.frame(table).iter().enumerate().filter(|(_, bits)| **bits != 0);
        entries.map(|(index, &bits)| (index as u64, bits)).collect()
    }
}

impl ShadowTables {
    fn frame(&self, table: Gpa) -> &[u64] {
        self.frames.get(&table.page()).map_or(&[], |frame| &frame[..])
    }

    fn set(&mut self, slot: Gpa, entry: u64) {
        if let Some(frame) = self.frames.get_mut(&slot.page()) {
            Rc::make_mut(frame)[(slot.0 >> 3 & 0x1ff) as usize] = entry;
        }
    }
}

/// The shadow of one CPU and its tables.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// Page tables.
    pub tables: ShadowTables,
    /// Which frames are tables.
    pub census: Census,
    /// The TLB.
    pub tlb: Tlb,
    /// CR3.
    pub cr3: u64,
    features: CpuFeatures,
    cr0: u64,
    cr4: u64,
    efer: u64,
    /// `user_pcid_flush_mask`.
    pub marks: u64,
    /// Marks cleared since their user PCID was last loaded: bits of the mask.
    pub consuming: u64,
    /// The flush primitive under way.
    pub primitive: Option<Primitive>,
    /// The scenario's step under way.
    pub step: Option<usize>,
    started: bool,
}

impl Shadow {
    /// The state that a trace's first event meets; its tables are told by that event and those
    /// after it.
    #[must_use]
    pub fn new(header: &TraceHeader) -> Self {
        Self {
            tables: ShadowTables::default(),
            census: Census::default(),
            tlb: Tlb::new(header.model),
            cr3: header.cr3,
            features: header.features,
            cr0: header.cr0,
            cr4: header.cr4,
            efer: header.efer,
            marks: header.user_pcid_flush_mask,
            consuming: 0,
            primitive: None,
            step: None,
            started: false,
        }
    }

    /// The control bits that translation depends on.
    #[must_use]
    pub fn paging(&self) -> Paging {
        Paging::of(self.features, self.cr0, self.cr4, self.efer)
    }

    /// The PCID that is current.
    #[must_use]
    pub fn pcid(&self) -> Pcid {
        pcid_of(self.cr3, self.cr4)
    }

    /// Applies one event.
    pub fn apply(&mut self, event: &Event) -> Effect {
        if !matches!(event.kind, Kind::TableLinked { .. } | Kind::RootLinked { .. }) {
            self.start();
        }
        let effect = self.change(event);
        if self.started {
            self.fill();
        }
        effect
    }

    /// All tables that the first event meets have been told.
    pub fn start(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            let (pcid, root) = (self.pcid(), Gpa(self.cr3 & ROOT_MASK));
            self.census.add_root(&self.tables, root);
            self.tlb.load_cr3(&self.tables, self.paging(), pcid, root, true);
            self.fill();
        }
    }

    fn fill(&mut self) {
        let paging = self.paging();
        // The A bits that speculation sets are events of their own.
        self.tlb.speculate(&self.tables, paging);
    }

    fn change(&mut self, event: &Event) -> Effect {
        let paging = self.paging();
        let effect = match &event.kind {
            Kind::TableLinked { table, entries } => {
                let mut frame = [0; 512];
                for &(index, entry) in entries {
                    frame[usize::from(index) % 512] = entry;
                }
                self.tables.frames.insert(*table, Rc::new(frame));
                return Effect::default();
            }
            Kind::RootLinked { root } => {
                self.census.add_root(&self.tables, *root);
                return Effect::default();
            }
            Kind::TableUnlinked { table } => {
                self.tables.frames.remove(table);
                return Effect::default();
            }
            Kind::TableStore { slot, old, new } => {
                self.tables.set(*slot, *new);
                self.tlb.table_store(&self.census, Store { slot: *slot, old: *old, new: *new });
                self.census.pin(&self.tables, &self.tlb.reached_tables());
                self.census.store(&self.tables, *slot, *old, *new);
                return Effect::default();
            }
            Kind::AccessedDirty { slot, old, new } => {
                self.tables.set(*slot, *new);
                self.tlb.accessed_dirty(&self.census, *slot, *old, *new);
                return Effect::default();
            }
            Kind::Fill { translation, .. } => {
                self.tlb.fill_recorded(&self.tables, paging, translation);
                return Effect::default();
            }
            Kind::Evict { tag, page } => {
                self.tlb.evict(*tag, *page);
                Effect::default()
            }
            Kind::LoadCr3 { value, .. } => self.load_cr3(*value),
            Kind::WriteCr4 { old, new } => {
                self.cr4 = *new;
                self.tlb.write_cr4(&self.tables, self.paging(), *old, *new)
            }
            Kind::WriteCr0 { new, .. } => {
                self.cr0 = *new;
                Effect::default()
            }
            Kind::WriteEfer { new, .. } => {
                self.efer = *new;
                Effect::default()
            }
            Kind::Invlpg { va } if va.is_canonical() => self.tlb.invlpg(&self.tables, paging, *va),
            Kind::InvlpgKeptGlobals { va } if va.is_canonical() => {
                self.tlb.invlpg_keeping_globals(&self.tables, paging, *va)
            }
            Kind::Invpcid { kind, pcid, va } => {
                self.tlb.invpcid(&self.tables, paging, *kind, *pcid, *va)
            }
            Kind::PageFault { va, .. } => self.tlb.page_fault(&self.tables, paging, *va),
            Kind::StateStore { offset, old, new } if *offset == USER_PCID_FLUSH_MASK => {
                self.marks = *new;
                self.consuming = self.consuming & !new | old & !new;
                return Effect::default();
            }
            Kind::PrimitiveBegin(primitive) => {
                self.primitive = Some(*primitive);
                return Effect::default();
            }
            Kind::PrimitiveEnd(_) => {
                self.primitive = None;
                return Effect::default();
            }
            Kind::StepBegin { index, .. } => {
                self.step = Some(*index);
                return Effect::default();
            }
            _ => return Effect::default(),
        };
        if self.census.has_pins() {
            self.census.pin(&self.tables, &self.tlb.reached_tables());
        }
        effect
    }

    fn load_cr3(&mut self, value: u64) -> Effect {
        self.cr3 = value & !NOFLUSH;
        let root = Gpa(value & ROOT_MASK);
        self.census.add_root(&self.tables, root);
        let flush = self.cr4 & cr4::PCIDE == 0 || value & NOFLUSH == 0;
        self.tlb.load_cr3(&self.tables, self.paging(), self.pcid(), root, flush)
    }

    /// Whether a load of CR3 with this value empties its user PCID because of a mark.
    #[must_use]
    pub fn is_consuming(&self, value: u64) -> bool {
        let user = value & USER_PCID_BIT != 0 && self.cr4 & cr4::PCIDE != 0;
        user && value & NOFLUSH == 0 && self.consuming >> (value & 0x7ff) & 1 != 0
    }

    /// The root last loaded under the PCID that this value of CR3 makes current.
    #[must_use]
    pub fn root_under(&self, value: u64) -> Option<Gpa> {
        self.tlb.root(Tag::Pcid(pcid_of(value, self.cr4)))
    }

    /// Forgets that the mark of the user PCID in `value` was cleared: its load is over.
    pub fn loaded(&mut self, value: u64) {
        if value & USER_PCID_BIT != 0 {
            self.consuming &= !(1u64.checked_shl((value & 0x7ff) as u32).unwrap_or(0));
        }
    }

    /// The pages of `[start, end]` that `tag` may still use, with what a walk says of them today.
    #[must_use]
    pub fn walk_today(&self, root: Gpa, va: Gva) -> crate::arch::walk::Walk {
        let start = crate::arch::walk::Start::root(root);
        crate::arch::walk::walk(&self.tables, start, va, self.paging())
    }

    /// Every root that shares an address space with `root`: itself, and the other of its pair.
    #[must_use]
    pub fn pair(root: Gpa) -> BTreeSet<Gpa> {
        let bit = stalemate_shared::pcid::USER_ROOT_BIT;
        [Gpa(root.0 & !bit), Gpa(root.0 | bit)].into()
    }
}

/// The PCID that a CR3 value makes current.
#[must_use]
pub fn pcid_of(cr3: u64, control: u64) -> Pcid {
    let pcide = control & cr4::PCIDE != 0;
    Pcid::new(if pcide { (cr3 & PCID_MASK) as u16 } else { 0 })
}
