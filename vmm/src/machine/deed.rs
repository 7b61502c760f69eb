//! The injector's deeds, carried out.

use super::{Halt, Machine};
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::core::{Core, IMPLICIT_READ, Logged, StateWord};
use crate::arch::fault::Fault;
use crate::arch::op::Op;
use crate::arch::tlb::{Scope, Tag};
use crate::arch::walk::{Start, walk};
use crate::event::{Kind, Observer};
use crate::inject::{Deed, Due, Kept, KeptStore};
use stalemate_shared::layout::{IRQ_VECTOR, MM_COUNT};
use stalemate_shared::pcid::ASID_SLOTS;
use stalemate_shared::tlb_state::{MmState, Slot, TlbState, WAITING};
use std::mem::offset_of;

impl Machine {
    /// Does one deed.
    pub(crate) fn deed(&mut self, observer: &mut dyn Observer, due: Due) -> Result<(), Halt> {
        let done = match due.deed {
            Deed::Nmi => {
                self.vcpu_mut().nmi_pending = true;
                true
            }
            Deed::Irq => {
                self.vcpu_mut().apic.request(IRQ_VECTOR);
                true
            }
            Deed::Evict(page) => self.with_core(observer, |core| evict(core, page))?,
            Deed::Speculate(page) => self.with_core(observer, |core| speculate(core, page))?,
            Deed::SetRegisters => {
                self.set_registers(observer)?;
                true
            }
            Deed::Store(KeptStore { cpu, owner, offset, bits, clears }) => {
                let old = self.state_word(owner, offset);
                let new = if clears { old & !bits } else { old | bits };
                self.store_of(observer, cpu, StateWord { owner, offset, old, new })?;
                true
            }
            Deed::Acknowledge(initiator) => {
                let cpu = self.vcpu().id;
                let old = self.state_word(initiator, WAITING);
                let new = old & !(1 << cpu.0);
                let store = StateWord { owner: initiator, offset: WAITING, old, new };
                self.with_core(observer, |core| core.state_store(store, true))?;
                true
            }
            Deed::Op(kept) => {
                self.late(observer, kept)?;
                true
            }
            Deed::RaiseSlots(root) => self.raise_slots(observer, root)?,
        };
        if done {
            self.injector.done(&due);
        }
        Ok(())
    }

    /// The step's report is in: what was kept back happens.
    pub(crate) fn step_is_over(&mut self, observer: &mut dyn Observer) -> Result<(), Halt> {
        for due in self.injector.step_ends(self.vcpu().id) {
            self.deed(observer, due)?;
        }
        Ok(())
    }

    /// Keeps `op` for later, with its operands read; false where reading them faults.
    pub(crate) fn keep(&mut self, observer: &mut dyn Observer, op: Op) -> Result<bool, Halt> {
        let Op::Invpcid { kind, descriptor } = op else {
            let cpu = self.vcpu().id;
            self.injector.keep(cpu, Kept::Op(op));
            return Ok(true);
        };
        let read = self.with_core(observer, |core| core.invpcid_descriptor(kind, descriptor))?;
        match read {
            Ok(descriptor) => {
                let cpu = self.vcpu().id;
                self.injector.keep(cpu, Kept::Invpcid(kind, descriptor));
                Ok(true)
            }
            Err(fault) => {
                self.resolve(observer, Err(fault))?;
                Ok(false)
            }
        }
    }

    /// An operation that was kept back happens. The guest is not where it was asked for: an
    /// exception of it is lost.
    fn late(&mut self, observer: &mut dyn Observer, kept: Kept) -> Result<(), Halt> {
        let next = self.vcpu().rip;
        let result = self.with_core(observer, |core| {
            let first = core.log.events.len();
            let result = match kept {
                Kept::Op(op) => core.execute(op, next),
                Kept::Invpcid(kind, descriptor) => {
                    core.invpcid(kind, descriptor);
                    Ok(())
                }
            };
            for event in &mut core.log.events[first..] {
                event.injected = true;
            }
            result
        })?;
        match result {
            Err(Fault::Stop(stop)) => Err(stop.into()),
            Ok(()) | Err(Fault::Exception(_)) => Ok(()),
        }
    }

    /// Writes the registers with the values they have, as KVM_SET_SREGS lets a VMM do: what is
    /// cached stays, and the projection is made anew.
    fn set_registers(&mut self, observer: &mut dyn Observer) -> Result<(), Halt> {
        let fpu = self.executor.save_fpu()?;
        let registers = self.vcpu().clone();
        *self.vcpu_mut() = registers;
        self.executor.restore_fpu(&fpu)?;
        self.executor.revalidate(&|_| true, &mut |_, _, _| None)?;
        let what = "the VMM wrote the registers".to_owned();
        self.publish(observer, self.vcpu().rip(), true, Kind::Note { what });
        Ok(())
    }

    /// Gives the slots of an address space that is not loaded its generation.
    fn raise_slots(&mut self, observer: &mut dyn Observer, root: Gpa) -> Result<bool, Halt> {
        let Some((_, mm)) = self.mm_state(root) else { return Ok(false) };
        let mut raised = false;
        for asid in 0..ASID_SLOTS {
            let slot = (offset_of!(TlbState, slots) + asid * size_of::<Slot>()) as u64;
            let at = slot + offset_of!(Slot, tlb_gen) as u64;
            let cpu = self.vcpu().id;
            let owner = self.state_word(cpu, slot + offset_of!(Slot, ctx_id) as u64);
            let old = self.state_word(cpu, at);
            if owner == mm.ctx_id && old < mm.tlb_gen {
                let store = StateWord { owner: cpu, offset: at, old, new: mm.tlb_gen };
                self.with_core(observer, |core| core.state_store(store, true))?;
                raised = true;
            }
        }
        Ok(raised)
    }

    /// The address space with this kernel root, and where its state is.
    fn mm_state(&self, root: Gpa) -> Option<(Gpa, MmState)> {
        let first = self.info.as_ref().filter(|_| root != Gpa(0))?.watched.mm_states;
        let at = |number: usize| Gpa(first.0 + (number * size_of::<MmState>()) as u64);
        let found =
            (0..MM_COUNT).map(at).find(|at| self.mm_word(*at, Field::KERNEL_ROOT) == root.0)?;
        let mm = MmState {
            ctx_id: self.mm_word(found, Field::CTX_ID),
            tlb_gen: self.mm_word(found, Field::TLB_GEN),
            kernel_root: root.0,
            cpumask: 0,
        };
        Some((found, mm))
    }

    fn mm_word(&self, mm: Gpa, field: usize) -> u64 {
        self.memory.read_word(Gpa(mm.0 + field as u64))
    }

    /// A store that a CPU is told to have made, whichever runs.
    fn store_of(
        &mut self,
        observer: &mut dyn Observer,
        cpu: CpuId,
        store: StateWord,
    ) -> Result<(), Halt> {
        let running = self.current;
        self.switch_to(usize::from(cpu.0))?;
        self.with_core(observer, |core| core.state_store(store, true))?;
        Ok(self.switch_to(running)?)
    }

    /// The word of a CPU's `TlbState` at this offset.
    fn state_word(&self, cpu: CpuId, offset: u64) -> u64 {
        let state = self.info.as_ref().map(|info| info.watched.of(cpu));
        state.map_or(0, |state| self.memory.read_word(Gpa(state.0 + offset)))
    }
}

/// Offsets in [`MmState`].
struct Field;

impl Field {
    const CTX_ID: usize = offset_of!(MmState, ctx_id);
    const TLB_GEN: usize = offset_of!(MmState, tlb_gen);
    const KERNEL_ROOT: usize = offset_of!(MmState, kernel_root);
}

/// What execution could use of the page that begins at `page` goes. A model that holds whatever
/// speculation may reach would have it back at once: there it does nothing.
fn evict(core: &mut Core<'_>, page: Gva) -> bool {
    if core.tlb.model().fill.is_complete() {
        return false;
    }
    let mut done = false;
    for tag in [Tag::Pcid(core.vcpu.pcid()), Tag::Global] {
        if core.tlb.entries(tag).any(|entry| entry.translation.page == page) {
            core.tlb.evict(tag, page);
            let cpu = core.vcpu.id;
            core.log.scopes.push((cpu, Scope::Everything));
            core.log.events.push(Logged { cpu, kind: Kind::Evict { tag, page }, injected: true });
            core.seq += 1;
            done = true;
        }
    }
    done
}

/// The page is cached, where it is not and where a walk finds it.
fn speculate(core: &mut Core<'_>, page: Gva) -> bool {
    let held = core.tlb.peek(core.vcpu.pcid(), page).is_some();
    if core.tlb.model().fill.is_complete() || held {
        return false;
    }
    let start = core.tlb.walk_start(page).unwrap_or(Start::root(core.vcpu.root()));
    if walk(core.memory.as_tables(), start, page, core.vcpu.paging()).result.is_err() {
        return false;
    }
    let first = core.log.events.len();
    let cached = core.translate(page, IMPLICIT_READ).is_ok();
    for event in &mut core.log.events[first..] {
        event.injected = true;
    }
    cached
}
