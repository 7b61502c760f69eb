//! Accesses to watched frames: page tables, and words that the kernel has described.
//!
//! Such a frame is read-only for natively running code, so that each store is seen. The instruction
//! is carried out by the interpreter, one step on the machine's own registers and memory, with its
//! frames writable for that long; what has changed of a watched frame is put back, and then stored
//! again word by word as the processor and the interceptor have it. While the director wants to be
//! asked before loads of words, their pages are not mapped either, and those are carried out likewise.

use super::kernel::View;
use super::{Access, Accesses, Director, Halt, Interceptor, Kernel, Machine};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::core::Memory;
use crate::arch::fault::{Exception, Fault, vector};
use crate::arch::happened::WordStore;
use crate::arch::walk::AccessKind;
use crate::event::Kind;
use crate::executor::{Leaf, Space, Trap};
use iced_x86::Instruction;

/// Pages that one instruction, or one round of it, can use.
const MOST_PAGES: usize = 8;

/// A watched frame that an instruction may store to, as it was before.
struct Before {
    frame: Gpa,
    bytes: Box<[u8; 4096]>,
}

impl<K: Kernel, I: Interceptor> Machine<K, I> {
    /// Whether an access to `gpa` is carried out by interpretation, and not natively.
    pub(super) fn is_emulated(&self, kind: AccessKind, gpa: Gpa) -> bool {
        let is_word = || self.kernel.watched().contains(&gpa.page());
        match kind {
            AccessKind::Write => self.is_protected(gpa),
            AccessKind::Read => self.is_watched(Accesses::Loads) && is_word(),
            AccessKind::Execute => false,
        }
    }

    /// Carries out `instruction`, which is at RIP and accesses a watched frame through `va`; unless the
    /// director holds the CPU before it.
    pub(super) fn watched_access(
        &mut self,
        director: &mut dyn Director,
        instruction: &Instruction,
        va: Gva,
        gpa: Gpa,
        kind: AccessKind,
    ) -> Result<Result<(), Fault>, Halt> {
        if kind == AccessKind::Read && self.is_held_before_load(director, gpa) {
            return Ok(Ok(()));
        }
        let mut vcpu = self.vcpu().clone();
        let space = Space::of(&vcpu);
        let uses_vector_state = stores_vector_state(instruction);
        let (mut before, mut pages) = (Vec::new(), Vec::new());
        let mut missing = Some((va, kind));
        let fault = loop {
            if let Some((va, kind)) = missing.take() {
                match self.open(director, space, va, kind, &mut before)? {
                    Ok(()) => pages.push(va.page()),
                    Err(fault) => break Some(fault),
                }
            }
            match self.executor.step_store(&mut vcpu, uses_vector_state)? {
                None => break None,
                Some(Trap::Exception { vector: vector::PAGE_FAULT, error, address }) => {
                    missing = Some((Gva(address), super::trap::access_kind(error)));
                }
                Some(Trap::Exception { vector, error, .. }) => {
                    break Some(Exception::of_processor(vector, error).into());
                }
                Some(_) => return Err(self.not_executed(director)),
            }
            if pages.len() > MOST_PAGES {
                return Err(self.not_executed(director));
            }
        };
        self.close(space, &pages)?;
        if let Some(fault) = fault {
            return Ok(Err(fault));
        }
        let mut stores = self.changes(&before);
        if self.is_held_before_store(director, &stores) {
            return Ok(Ok(()));
        }
        if stores.is_empty() && !before.is_empty() {
            // A store is seen also where it changes nothing.
            let at = Gpa(gpa.0 & !7);
            let word = self.memory.read_word(at);
            stores.push(WordStore { at, old: word, new: word });
        }
        stores.into_iter().try_for_each(|store| self.store(director, store))?;
        *self.vcpu_mut() = vcpu;
        Ok(Ok(()))
    }

    /// Whether the current CPU is held before it loads the word at `gpa`.
    fn is_held_before_load(&self, director: &mut dyn Director, gpa: Gpa) -> bool {
        let at = Gpa(gpa.0 & !7);
        let old = self.memory.read_word(at);
        let word = self.kernel.stored(&self.memory, &WordStore { at, old, new: old }).word;
        director.holds_before(self.vcpu().id, &Access::Load(&word))
    }

    /// Whether the current CPU is held before it makes these stores.
    fn is_held_before_store(&self, director: &mut dyn Director, stores: &[WordStore]) -> bool {
        self.is_watched(Accesses::Stores)
            && stores.iter().any(|store| {
                let is_word = self.kernel.watched().contains(&store.at.page());
                let said = is_word.then(|| self.kernel.stored(&self.memory, store).announcements);
                let access = match &said {
                    Some(said) => Access::WordStore(said),
                    None => Access::TableStore,
                };
                director.holds_before(self.vcpu().id, &access)
            })
    }

    /// Lets the instruction have the page of `va`, watched or not.
    fn open(
        &mut self,
        director: &mut dyn Director,
        space: Space,
        va: Gva,
        kind: AccessKind,
        before: &mut Vec<Before>,
    ) -> Result<Result<(), Fault>, Halt> {
        let translated = self.with_core(director, |core| {
            let access = core.access(kind);
            core.translate(va, access)
        })?;
        let frame = match translated {
            Ok(gpa) => gpa.page(),
            Err(fault) => return Ok(Err(fault)),
        };
        let known = self.executor.store_leaf(space, va.page());
        let known = known.filter(|leaf| leaf.frame == frame);
        let writes = kind == AccessKind::Write;
        if writes {
            self.memory.touch(frame);
            if self.is_protected(frame) && before.iter().all(|known| known.frame != frame) {
                let mut bytes = Box::new([0; 4096]);
                self.memory.read(frame, &mut bytes[..]);
                before.push(Before { frame, bytes });
            }
        }
        let leaf = Leaf {
            frame,
            writable: writes || known.is_some_and(|leaf| leaf.writable),
            executable: kind == AccessKind::Execute || known.is_some_and(|leaf| leaf.executable),
        };
        self.executor.map_for_store(space, va.page(), leaf)?;
        Ok(Ok(()))
    }

    /// Takes back what [`Self::open`] gave beyond what the TLB grants. The rest stays, and runs
    /// natively from now on, as after any other access.
    fn close(&mut self, space: Space, pages: &[Gva]) -> Result<(), Halt> {
        for &page in pages {
            self.narrow(space, page)?;
            self.map_current(space, page)?;
        }
        Ok(())
    }

    /// The stores by which frames differ from `before`; what has changed is put back.
    fn changes(&self, before: &[Before]) -> Vec<WordStore> {
        let mut changes = Vec::new();
        for Before { frame, bytes } in before {
            let mut now = [0; 4096];
            self.memory.read(*frame, &mut now);
            let words = bytes.as_chunks::<8>().0.iter().zip(now.as_chunks::<8>().0).zip(0u64..);
            changes.extend(words.filter(|((old, new), _)| old != new).map(
                |((old, new), index)| {
                    let at = Gpa(frame.0 + index * 8);
                    WordStore { at, old: u64::from_le_bytes(*old), new: u64::from_le_bytes(*new) }
                },
            ));
        }
        for store in &changes {
            self.memory.write_word(store.at, store.old);
        }
        changes
    }

    /// One store of the guest's to a watched word, or what the interceptor makes of it.
    fn store(&mut self, director: &mut dyn Director, store: WordStore) -> Result<(), Halt> {
        let mut words = vec![store.new];
        let mut name = None;
        if self.kernel.watched().contains(&store.at.page()) {
            let said = self.kernel.stored(&self.memory, &store);
            let view = View { kernel: &self.kernel, memory: &self.memory };
            let cpu = self.cpus[self.current()].vcpu.id;
            words = self.interceptor.word(cpu, &store, &said.announcements, &view);
            name = Some(said.word.to_string());
        }
        let altered = words != [store.new];
        if let (true, Some(name)) = (words.is_empty(), name) {
            let what = format!("dropped the store to {name}");
            self.publish(director, true, Kind::Suppressed { what });
        }
        let mut old = store.old;
        for new in words {
            self.with_core(director, |core| {
                let first = core.log.entries.len();
                core.store_word(store.at, old, new);
                if altered {
                    core.log.mark_injected(first);
                }
            })?;
            old = new;
        }
        Ok(())
    }
}

/// Whether the instruction stores from the vector registers, or their control word.
fn stores_vector_state(instruction: &Instruction) -> bool {
    let vector = |operand| {
        let register = instruction.op_register(operand);
        register.is_vector_register() || register.is_mm()
    };
    instruction.is_save_restore_instruction()
        || instruction.mnemonic() == iced_x86::Mnemonic::Stmxcsr
        || (0..instruction.op_count()).any(vector)
}
