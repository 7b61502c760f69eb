//! The oracle's own copy of what the guest's processors work with, made of events alone.

use crate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use crate::arch::census::Census;
use crate::arch::features::{CpuFeatures, Paging};
use crate::arch::tlb::{Effect, Store, Tag, Tlb};
use crate::arch::vcpu::cr4;
use crate::arch::walk::{Start, Tables, Walk, walk};
use crate::event::{CpuHeader, Event, Kind, Primitive, TraceHeader};
use stalemate_shared::pcid::{NOFLUSH, PCID_MASK, ROOT_MASK, USER_PCID_BIT, USER_ROOT_BIT};
use stalemate_shared::tlb_state::{
    IS_LAZY, MmState, TLB_STATE_WORDS, USER_PCID_FLUSH_MASK, WAITING,
};
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

/// The shadow of one CPU.
#[derive(Clone, Debug)]
pub struct ShadowCpu {
    /// The TLB.
    pub tlb: Tlb,
    /// CR3.
    pub cr3: u64,
    features: CpuFeatures,
    cr0: u64,
    cr4: u64,
    efer: u64,
    /// The words of its `TlbState`.
    state: [u64; TLB_STATE_WORDS],
    /// Marks cleared since their user PCID was last loaded: bits of the mask.
    pub consuming: u64,
    /// The flush primitives under way, the innermost last, and the events that they began at.
    pub primitives: Vec<(u64, Primitive)>,
    /// The scenario's step under way, or the last.
    pub step: Option<usize>,
    /// It is under way.
    in_step: bool,
    /// User mode has run since a kernel CR3 was loaded.
    was_user: bool,
}

impl ShadowCpu {
    fn new(header: &TraceHeader, cpu: &CpuHeader) -> Self {
        let mut state = [0; TLB_STATE_WORDS];
        state.iter_mut().zip(&cpu.tlb_state).for_each(|(word, &known)| *word = known);
        Self {
            tlb: Tlb::new(header.model),
            cr3: cpu.cr3,
            features: header.features,
            cr0: cpu.cr0,
            cr4: cpu.cr4,
            efer: cpu.efer,
            state,
            consuming: 0,
            primitives: Vec::new(),
            step: None,
            in_step: false,
            was_user: false,
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
        let pcide = self.cr4 & cr4::PCIDE != 0;
        Pcid::new(if pcide { (self.cr3 & PCID_MASK) as u16 } else { 0 })
    }

    /// The root in CR3.
    #[must_use]
    pub fn root(&self) -> Gpa {
        Gpa(self.cr3 & ROOT_MASK)
    }

    /// A word of its `TlbState`, by its byte offset.
    #[must_use]
    pub fn state(&self, offset: u64) -> u64 {
        self.state.get((offset / 8) as usize).copied().unwrap_or(0)
    }

    /// `user_pcid_flush_mask`.
    #[must_use]
    pub fn marks(&self) -> u64 {
        self.state(USER_PCID_FLUSH_MASK)
    }

    /// Whether it runs a kernel thread on an address space that is not its own.
    #[must_use]
    pub fn is_lazy(&self) -> bool {
        self.state(IS_LAZY) != 0
    }

    /// The innermost primitive under way, and the event that it began at.
    #[must_use]
    pub fn primitive(&self) -> Option<(u64, Primitive)> {
        self.primitives.last().copied()
    }

    /// Whether a load of CR3 with this value empties its user PCID because of a mark.
    #[must_use]
    pub fn is_consuming(&self, value: u64) -> bool {
        let user = value & USER_PCID_BIT != 0 && self.cr4 & cr4::PCIDE != 0;
        user && value & NOFLUSH == 0 && self.consuming & marked(value) != 0
    }

    /// The root last loaded under the PCID that this value of CR3 makes current.
    #[must_use]
    pub fn root_under(&self, value: u64) -> Option<Gpa> {
        let pcide = self.cr4 & cr4::PCIDE != 0;
        self.tlb.root(Tag::Pcid(Pcid::new(if pcide { (value & PCID_MASK) as u16 } else { 0 })))
    }

    /// A load of CR3 with this value is over, and has been judged: it has consumed its mark, or has
    /// left user mode behind.
    pub fn loaded(&mut self, value: u64) {
        if value & USER_PCID_BIT != 0 {
            self.consuming &= !marked(value);
        } else {
            self.was_user = false;
        }
    }
}

/// The bit of the mask that stands for the user PCID in a value of CR3, if there is one.
fn marked(value: u64) -> u64 {
    1u64.checked_shl((value & 0x7ff) as u32).unwrap_or(0)
}

/// The shadow of all CPUs and their tables.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// Page tables.
    pub tables: ShadowTables,
    /// Which frames are tables.
    pub census: Census,
    /// The CPUs.
    pub cpus: Vec<ShadowCpu>,
    /// The words of the array of `MmState`.
    mm_states: Vec<u64>,
    /// The step that the last event belongs to.
    step: Option<usize>,
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
            cpus: header.cpus.iter().map(|cpu| ShadowCpu::new(header, cpu)).collect(),
            mm_states: header.mm_states.clone(),
            step: None,
            started: false,
        }
    }

    /// The shadow of `cpu`; a trace that names a CPU which its header does not have means the
    /// last.
    #[must_use]
    pub fn cpu(&self, cpu: CpuId) -> &ShadowCpu {
        &self.cpus[self.index(cpu)]
    }

    /// The same, to change.
    pub fn cpu_mut(&mut self, cpu: CpuId) -> &mut ShadowCpu {
        let index = self.index(cpu);
        &mut self.cpus[index]
    }

    fn index(&self, cpu: CpuId) -> usize {
        usize::from(cpu.0).min(self.cpus.len().saturating_sub(1))
    }

    /// The CPUs with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (CpuId, &ShadowCpu)> {
        (0u8..).map(CpuId).zip(&self.cpus)
    }

    /// The address spaces.
    pub fn mm_states(&self) -> impl Iterator<Item = MmState> + '_ {
        self.mm_states.chunks_exact(size_of::<MmState>() / 8).map(|words| MmState {
            ctx_id: words[0],
            tlb_gen: words[1],
            kernel_root: words[2],
            cpumask: words[3],
        })
    }

    /// The primitive that `cpu` works for, and the event that it began at: its own, or that of a
    /// CPU which waits for this one.
    #[must_use]
    pub fn works_for(&self, cpu: CpuId) -> Option<(u64, Primitive)> {
        let asked = || self.asking(cpu).and_then(ShadowCpu::primitive);
        self.cpu(cpu).primitive().or_else(asked)
    }

    /// The CPU that waits for `cpu`, if one does.
    fn asking(&self, cpu: CpuId) -> Option<&ShadowCpu> {
        self.cpus.iter().find(|other| other.state(WAITING) >> cpu.0 & 1 != 0)
    }

    /// The step that the last event belongs to: its CPU's own, or that of the CPU which waited for
    /// it; else the last that it had.
    #[must_use]
    pub fn step(&self) -> Option<usize> {
        self.step
    }

    fn step_of(&self, event: &Event) -> Option<usize> {
        if let Kind::StepBegin { index, .. } = event.kind {
            return Some(index);
        }
        let own = self.cpu(event.cpu);
        let asking = self.asking(event.cpu).filter(|_| !own.in_step);
        asking.map_or(own.step, |asking| asking.step)
    }

    /// Whether a CR3 load that took effect on `cpu` makes another PCID current for new uses. A user
    /// CR3 that is loaded to return has its deadline at the entry to user mode; and a flush that hops
    /// to its user CR3 and back, or an NMI in the middle of that, comes back to the kernel PCID that
    /// was in use before: user mode has not run in between.
    #[must_use]
    pub fn changes_asid(&self, pti: bool, cpu: CpuId, old: u64, value: u64) -> bool {
        let changed = (old ^ value) & PCID_MASK;
        let returns = pti && value & USER_ROOT_BIT != 0;
        let hops = changed == USER_PCID_BIT && !self.cpu(cpu).was_user;
        self.cpu(cpu).paging().pcide && changed != 0 && !returns && !hops
    }

    /// Applies one event.
    pub fn apply(&mut self, event: &Event) -> Effect {
        if !matches!(event.kind, Kind::TableLinked { .. } | Kind::RootLinked { .. }) {
            self.start();
        }
        self.step = self.step_of(event);
        let effect = self.change(event);
        if self.started {
            self.fill();
        }
        effect
    }

    /// All tables that the first event meets have been told.
    pub fn start(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            for cpu in &mut self.cpus {
                let (pcid, root) = (cpu.pcid(), cpu.root());
                self.census.add_root(&self.tables, root);
                cpu.tlb.load_cr3(&self.tables, cpu.paging(), pcid, root, true);
            }
            self.fill();
        }
    }

    fn fill(&mut self) {
        for cpu in &mut self.cpus {
            // The A bits that speculation sets are events of their own.
            cpu.tlb.speculate(&self.tables, cpu.paging());
        }
    }

    fn pin(&mut self) {
        let mut reached = BTreeSet::new();
        for cpu in &self.cpus {
            reached.extend(cpu.tlb.reached_tables());
        }
        self.census.pin(&self.tables, &reached);
    }

    fn change(&mut self, event: &Event) -> Effect {
        match &event.kind {
            Kind::TableLinked { table, entries } => {
                let mut frame = [0; 512];
                for &(index, entry) in entries {
                    frame[usize::from(index) % 512] = entry;
                }
                self.tables.frames.insert(*table, Rc::new(frame));
            }
            Kind::RootLinked { root } => {
                self.census.add_root(&self.tables, *root);
            }
            Kind::TableUnlinked { table } => {
                self.tables.frames.remove(table);
            }
            Kind::TableStore { slot, old, new } => {
                self.tables.set(*slot, *new);
                let store = Store { slot: *slot, old: *old, new: *new };
                for cpu in &mut self.cpus {
                    cpu.tlb.table_store(&self.census, store);
                }
                self.pin();
                self.census.store(&self.tables, *slot, *old, *new);
            }
            Kind::AccessedDirty { slot, old, new } => {
                self.tables.set(*slot, *new);
                for cpu in &mut self.cpus {
                    cpu.tlb.accessed_dirty(&self.census, *slot, *old, *new);
                }
            }
            Kind::StateStore { owner, offset, old, new } => {
                let owner = self.cpu_mut(*owner);
                if let Some(word) = owner.state.get_mut((*offset / 8) as usize) {
                    *word = *new;
                }
                if *offset == USER_PCID_FLUSH_MASK {
                    owner.consuming = owner.consuming & !new | old & !new;
                }
            }
            Kind::MmStore { offset, new, .. } => {
                if let Some(word) = self.mm_states.get_mut((*offset / 8) as usize) {
                    *word = *new;
                }
            }
            Kind::PrimitiveBegin(primitive) => {
                self.cpu_mut(event.cpu).primitives.push((event.seq, *primitive));
            }
            Kind::PrimitiveEnd(_) => {
                self.cpu_mut(event.cpu).primitives.pop();
            }
            Kind::StepBegin { index, .. } => {
                let cpu = self.cpu_mut(event.cpu);
                (cpu.step, cpu.in_step) = (Some(*index), true);
            }
            Kind::StepEnd { .. } => self.cpu_mut(event.cpu).in_step = false,
            Kind::UserEntry => self.cpu_mut(event.cpu).was_user = true,
            Kind::LoadCr3 { value, .. } => {
                let root = Gpa(value & ROOT_MASK);
                self.census.add_root(&self.tables, root);
                return self.invalidate(event);
            }
            _ => return self.invalidate(event),
        }
        Effect::default()
    }

    /// What concerns the event's CPU alone.
    fn invalidate(&mut self, event: &Event) -> Effect {
        let index = self.index(event.cpu);
        let Some(cpu) = self.cpus.get_mut(index) else { return Effect::default() };
        let (tables, paging) = (&self.tables, cpu.paging());
        let effect = match &event.kind {
            Kind::Fill { translation, .. } => {
                cpu.tlb.fill_recorded(tables, paging, translation);
                return Effect::default();
            }
            Kind::Evict { tag, page } => {
                cpu.tlb.evict(*tag, *page);
                Effect::default()
            }
            Kind::LoadCr3 { value, .. } => {
                cpu.cr3 = value & !NOFLUSH;
                let flush = cpu.cr4 & cr4::PCIDE == 0 || value & NOFLUSH == 0;
                cpu.tlb.load_cr3(tables, paging, cpu.pcid(), cpu.root(), flush)
            }
            Kind::WriteCr4 { old, new } => {
                cpu.cr4 = *new;
                cpu.tlb.write_cr4(tables, cpu.paging(), *old, *new)
            }
            Kind::WriteCr0 { new, .. } => {
                cpu.cr0 = *new;
                Effect::default()
            }
            Kind::WriteEfer { new, .. } => {
                cpu.efer = *new;
                Effect::default()
            }
            Kind::Invlpg { va } if va.is_canonical() => cpu.tlb.invlpg(tables, paging, *va),
            Kind::InvlpgKeptGlobals { va } if va.is_canonical() => {
                cpu.tlb.invlpg_keeping_globals(tables, paging, *va)
            }
            Kind::Invpcid { kind, pcid, va } => cpu.tlb.invpcid(tables, paging, *kind, *pcid, *va),
            Kind::PageFault { va, .. } => cpu.tlb.page_fault(tables, paging, *va),
            _ => return Effect::default(),
        };
        if self.census.has_pins() {
            self.pin();
        }
        effect
    }

    /// What a walk of `root` by `cpu` says of `va` today.
    #[must_use]
    pub fn walk_today(&self, cpu: CpuId, root: Gpa, va: Gva) -> Walk {
        walk(&self.tables, Start::root(root), va, self.cpu(cpu).paging())
    }

    /// Every root that shares an address space with `root`: itself, and the other of its pair.
    #[must_use]
    pub fn pair(root: Gpa) -> BTreeSet<Gpa> {
        let bit = stalemate_shared::pcid::USER_ROOT_BIT;
        [Gpa(root.0 & !bit), Gpa(root.0 | bit)].into()
    }
}
