//! What the interceptor has the machine do beside the guest's operations.

use super::kernel::View;
use super::{Director, Halt, Interceptor, Kernel, KernelWords, Machine, Scheduled, SideEffect};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::core::{Core, Done, IMPLICIT_READ, Logged};
use crate::arch::fault::Fault;
use crate::arch::happened::{Happened, WordStore};
use crate::arch::op::Op;
use crate::arch::tlb::{Scope, Tag};
use crate::arch::walk::{Start, walk};
use crate::event::Kind;

impl<K: Kernel, I: Interceptor> Machine<K, I> {
    /// Carries out one side effect.
    pub(super) fn carry_out(
        &mut self,
        director: &mut dyn Director,
        scheduled: Scheduled,
    ) -> Result<(), Halt> {
        let done = match scheduled.effect {
            SideEffect::Nmi => {
                self.vcpu_mut().nmi_pending = true;
                true
            }
            SideEffect::Irq(vector) => {
                self.vcpu_mut().apic.request(vector);
                true
            }
            SideEffect::Evict(page) => self.with_core(director, |core| evict(core, page))?,
            SideEffect::Speculate(page) => {
                self.with_core(director, |core| speculate(core, page))?
            }
            SideEffect::SetRegisters => {
                self.set_registers(director)?;
                true
            }
            SideEffect::Store { cpu, at, set, clear } => {
                let old = self.memory.read_word(at);
                let new = old & !clear | set;
                self.store_of(director, cpu, WordStore { at, old, new })?;
                true
            }
            SideEffect::Say(announcement) => {
                let words = View { kernel: &self.kernel, memory: &self.memory };
                match words.store_for(&announcement) {
                    Some(store) => self.injected_store(director, store)?,
                    None => return Ok(()),
                }
                true
            }
            SideEffect::Op(op) => {
                self.late(director, op)?;
                true
            }
        };
        if done {
            self.interceptor.done(&scheduled);
        }
        Ok(())
    }

    /// A delayed operation happens. The guest is not where it requested it: an exception of it is
    /// lost.
    fn late(&mut self, director: &mut dyn Director, op: Op) -> Result<(), Halt> {
        let next = self.vcpu().rip;
        let result = self.with_core(director, |core| {
            let first = core.log.entries.len();
            let result = core.execute(op, next);
            core.log.mark_injected(first);
            result
        })?;
        match result {
            Err(Fault::Stop(stop)) => Err(stop.into()),
            Ok(()) | Err(Fault::Exception(_)) => Ok(()),
        }
    }

    /// Writes the registers with the values they have, as KVM_SET_SREGS lets a VMM do: what is
    /// cached stays, and the shadow pages are made anew.
    fn set_registers(&mut self, director: &mut dyn Director) -> Result<(), Halt> {
        let fpu = self.executor.save_fpu()?;
        let registers = self.vcpu().clone();
        *self.vcpu_mut() = registers;
        self.executor.restore_fpu(&fpu)?;
        self.executor.revalidate(&|_| true, &mut |_, _, _| None)?;
        let what = "the VMM wrote the registers".to_owned();
        self.publish(director, true, Kind::Note { what });
        Ok(())
    }

    /// A store that a CPU is made to have made, whichever runs.
    fn store_of(
        &mut self,
        director: &mut dyn Director,
        cpu: CpuId,
        store: WordStore,
    ) -> Result<(), Halt> {
        let running = self.current();
        self.switch_to(Self::index(cpu))?;
        self.injected_store(director, store)?;
        Ok(self.switch_to(running)?)
    }

    /// A store of the current CPU that the guest has not made.
    fn injected_store(
        &mut self,
        director: &mut dyn Director,
        store: WordStore,
    ) -> Result<(), Halt> {
        self.with_core(director, |core| {
            let first = core.log.entries.len();
            core.store_word(store.at, store.old, store.new);
            core.log.mark_injected(first);
        })
    }
}

/// Evicts what execution could use of the page that begins at `page`. A model that holds whatever
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
            let what = Done::Happened(Happened::Evict { tag, page });
            core.log.entries.push(Logged { cpu, what, injected: true });
            done = true;
        }
    }
    done
}

/// Caches the page, where it is not cached and a walk finds it.
fn speculate(core: &mut Core<'_>, page: Gva) -> bool {
    let held = core.tlb.peek(core.memory.as_tables(), core.vcpu.pcid(), page).is_some();
    if core.tlb.model().fill.is_complete() || held {
        return false;
    }
    let tables = core.memory.as_tables();
    let start = core.tlb.walk_start(tables, page).unwrap_or(Start::root(core.vcpu.root()));
    if walk(tables, start, page, core.vcpu.paging()).result.is_err() {
        return false;
    }
    let first = core.log.entries.len();
    let cached = core.translate(page, IMPLICIT_READ).is_ok();
    core.log.mark_injected(first);
    cached
}
