//! One modelled processor at work: its registers, its TLB and the memory behind them.
//!
//! A [`Core`] is put together for the length of one trap. What it did is in its [`Log`]: the
//! events in order, and which cached translations changed, so that the executor's shadow pages can
//! follow.

use super::addr::{CpuId, Gpa, Gva, Pcid};
use super::census::{Census, CensusChange};
use super::choice::Chooser;
use super::fault::{Exception, Fault, Stop};
use super::features::Errata;
use super::happened::{Happened, WordStore};
use super::tlb::{Chosen, Effect, Lookup, Scope, Store, Tlb};
use super::vcpu::Vcpu;
use super::walk::{Access, AccessKind, Start, Tables, Translation, Walk, WalkFailure, entry, walk};
use std::collections::BTreeSet;

/// Guest-physical memory.
pub trait Memory: Tables {
    /// The same memory as the walker reads it.
    fn as_tables(&self) -> &dyn Tables;
    /// Reads `bytes.len()` bytes at `at`; false where that is beyond memory.
    fn read(&self, at: Gpa, bytes: &mut [u8]) -> bool;
    /// Writes `bytes` at `at`; false where that is beyond memory.
    fn write(&self, at: Gpa, bytes: &[u8]) -> bool;
}

/// Another processor of the machine.
#[derive(Debug)]
pub struct Remote<'a> {
    /// Its registers.
    pub vcpu: &'a mut Vcpu,
    /// Its TLB.
    pub tlb: &'a mut Tlb,
}

/// What an operation left behind.
#[derive(Debug, Default)]
pub struct Log {
    /// What was done, in order.
    pub entries: Vec<Logged>,
    /// The cached translations of a CPU that may have been removed or changed.
    pub scopes: Vec<(CpuId, Scope)>,
    /// Frames that became page tables.
    pub linked: Vec<Gpa>,
    /// Whether accesses are to be told.
    pub tells_accesses: bool,
    /// The accesses of execution that went through a cached translation, or cached one.
    pub accesses: Vec<Accessed>,
}

/// An access of execution, and what it went through. What a processor caches ahead of accesses is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accessed {
    /// The PCID that was current.
    pub pcid: Pcid,
    /// The address.
    pub va: Gva,
    /// What kind of access.
    pub access: Access,
    /// The translation that is cached.
    pub through: Translation,
}

impl Log {
    fn accessed(&mut self, pcid: Pcid, va: Gva, access: Access, through: Translation) {
        if self.tells_accesses {
            self.accesses.push(Accessed { pcid, va, access, through });
        }
    }

    /// Says of all entries from the `first` on that the injector made or altered them.
    pub fn mark_injected(&mut self, first: usize) {
        self.entries[first..].iter_mut().for_each(|entry| entry.injected = true);
    }
}

/// One entry of a [`Log`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The CPU that it is of.
    pub cpu: CpuId,
    /// What was done.
    pub what: Done,
    /// Whether the injector made or altered it.
    pub injected: bool,
}

/// What a processor did that others may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// An operation.
    Happened(Happened),
    /// A store to a watched word that is no paging-structure entry.
    Stored(WordStore),
}

/// A processor at work.
pub struct Core<'a> {
    /// Its registers.
    pub vcpu: &'a mut Vcpu,
    /// Its TLB.
    pub tlb: &'a mut Tlb,
    /// What it does wrong.
    pub errata: Errata,
    /// Which frames are page tables.
    pub census: &'a mut Census,
    /// Guest-physical memory.
    pub memory: &'a dyn Memory,
    /// The other processors.
    pub remote: Vec<Remote<'a>>,
    /// A root that is the last loaded under no PCID is no table any more: for kernels that do not say
    /// when they free one.
    pub forgets_roots: bool,
    /// Frames, besides page tables, to whose words each store is logged.
    pub watched: &'a BTreeSet<Gpa>,
    /// Decides what the architecture leaves open.
    pub chooser: &'a mut dyn Chooser,
    /// What was done.
    pub log: &'a mut Log,
}

/// An implicit access of the processor itself: always as supervisor (SDM vol. 3, 4.6.1).
pub const IMPLICIT_READ: Access = Access { kind: AccessKind::Read, user: false };
/// The same for stores.
pub const IMPLICIT_WRITE: Access = Access { kind: AccessKind::Write, user: false };

impl Core<'_> {
    /// Logs an operation of this processor.
    pub fn emit(&mut self, happened: Happened) {
        self.log_of(self.vcpu.id, Done::Happened(happened));
    }

    fn log_of(&mut self, cpu: CpuId, what: Done) {
        self.log.entries.push(Logged { cpu, what, injected: false });
    }

    /// Says which cached translations of this processor may have gone or changed.
    pub(super) fn revalidate(&mut self, scope: Scope) {
        self.log.scopes.push((self.vcpu.id, scope));
    }

    /// An explicit access of this kind at the current virtual CPL.
    #[must_use]
    pub fn access(&self, kind: AccessKind) -> Access {
        Access { kind, user: self.vcpu.cpl == 3 }
    }

    /// Whether stores to this frame are carried out by the model.
    #[must_use]
    pub fn is_protected(&self, frame: Gpa) -> bool {
        self.watched.contains(&frame.page()) || self.census.is_table(frame.page())
    }

    /// Translates `va` for `access` through the TLB; on a miss walks the tables as a processor
    /// does: sets A and D, and caches what it found.
    ///
    /// # Errors
    /// #PF, #GP for a non-canonical address, or a walk beyond memory.
    pub fn translate(&mut self, va: Gva, access: Access) -> Result<Gpa, Fault> {
        if !va.is_canonical() {
            return Err(Exception::general_protection(0).into());
        }
        let paging = self.vcpu.paging();
        let tables = self.memory.as_tables();
        match self.tlb.lookup(tables, paging, va, access) {
            Lookup::Hit(translation) => {
                self.log.accessed(self.vcpu.pcid(), va, access, translation);
                return self.checked(translation.at(va));
            }
            Lookup::Implied(translation) => {
                if self.tlb.touch(va, &translation) {
                    self.emit(Happened::Fill { page: va.page(), translation });
                }
                self.log.accessed(self.vcpu.pcid(), va, access, translation);
                return self.checked(translation.at(va));
            }
            Lookup::Miss => {}
        }
        let start = self.tlb.walk_start(tables, va).unwrap_or(Start::root(self.vcpu.root()));
        let walked = walk(tables, start, va, paging);
        let translation = match walked.result {
            Ok(translation) => translation,
            Err(WalkFailure::BeyondMemory(at)) => return Err(Stop::BeyondMemory(at).into()),
            Err(failure) => {
                let error = failure.error_code(access, paging);
                return Err(self.page_fault(va, error).into());
            }
        };
        if let Err(error) = translation.check(access, paging) {
            return Err(self.page_fault(va, error).into());
        }
        let write = access.kind == AccessKind::Write;
        self.set_accessed_dirty(&walked, write);
        let translation = Translation { dirty: translation.dirty || write, ..translation };
        if self.tlb.fill(tables, paging, &walked, &translation) {
            self.emit(Happened::Fill { page: va.page(), translation });
        }
        self.log.accessed(self.vcpu.pcid(), va, access, translation);
        // A and D that were set may open more to speculation.
        self.fill_ahead();
        self.checked(translation.at(va))
    }

    fn checked(&self, at: Gpa) -> Result<Gpa, Fault> {
        let inside = self.memory.entry(Gpa(at.0 & !7)).is_some();
        if inside { Ok(at) } else { Err(Stop::BeyondMemory(at).into()) }
    }

    /// An architectural #PF drops what the TLB holds for its page (SDM vol. 3, 4.10.4.1).
    fn page_fault(&mut self, va: Gva, error: u32) -> Exception {
        self.emit(Happened::PageFault { va, error });
        let paging = self.vcpu.paging();
        let effect = self.tlb.page_fault(self.memory.as_tables(), paging, va);
        self.flushed(effect);
        Exception::page_fault(va, error)
    }

    /// Sets A along a walk, and D at its leaf for a store, as the processor does before it
    /// caches the translation (SDM vol. 3, 4.8).
    fn set_accessed_dirty(&mut self, walked: &Walk, write: bool) {
        let last = walked.path.len().saturating_sub(1);
        for (position, step) in walked.path.iter().enumerate() {
            let dirty = if write && position == last { entry::DIRTY } else { 0 };
            let new = step.entry | entry::ACCESSED | dirty;
            if new != step.entry {
                self.accessed_dirty(step.slot, step.entry, new);
            }
        }
    }

    fn accessed_dirty(&mut self, slot: Gpa, old: u64, new: u64) {
        self.accessed_dirty_of(self.vcpu.id, slot, old, new);
    }

    /// A processor sets A or D: every TLB learns that the entry may be cached so.
    fn accessed_dirty_of(&mut self, cpu: CpuId, slot: Gpa, old: u64, new: u64) {
        self.memory.write(slot, &new.to_le_bytes());
        self.log_of(cpu, Done::Happened(Happened::AccessedDirty { slot, old, new }));
        let (tables, store) = (self.memory.as_tables(), Store { slot, old, new });
        self.tlb.accessed_dirty(tables, self.census, store);
        for remote in &mut self.remote {
            remote.tlb.accessed_dirty(tables, self.census, store);
        }
    }

    /// Lets the speculating processors fill all that they may reach, and set A there: this one, and
    /// the others, which see what it stored.
    fn fill_ahead(&mut self) {
        let paging = self.vcpu.paging();
        for (slot, old, new) in self.tlb.speculate(self.memory.as_tables(), paging) {
            self.accessed_dirty(slot, old, new);
        }
        for index in 0..self.remote.len() {
            let Remote { vcpu, tlb } = &mut self.remote[index];
            let (id, paging) = (vcpu.id, vcpu.paging());
            for (slot, old, new) in tlb.speculate(self.memory.as_tables(), paging) {
                self.accessed_dirty_of(id, slot, old, new);
            }
        }
    }

    /// Lets it also fill and evict by chance, as its model chooses.
    pub fn speculate(&mut self) {
        self.fill_ahead();
        let (cpu, paging) = (self.vcpu.id, self.vcpu.paging());
        let tables = self.memory.as_tables();
        for chosen in self.tlb.choose(tables, paging, cpu, self.chooser) {
            match chosen {
                Chosen::Accessed((slot, old, new)) => self.accessed_dirty(slot, old, new),
                Chosen::Filled(translation) => {
                    self.emit(Happened::Fill { page: translation.page, translation });
                }
                Chosen::Evicted(tag, page) => {
                    self.revalidate(Scope::Everything);
                    self.emit(Happened::Evict { tag, page });
                }
            }
        }
    }

    /// After an operation that removed entries: tables that only they reached are tables no
    /// more, and the speculating processor fills again.
    pub fn flushed(&mut self, effect: Effect) {
        self.revalidate(effect.scope);
        self.repin();
        self.speculate();
    }

    fn repin(&mut self) {
        let of_others = self.remote.iter().map(|remote| remote.tlb.structure_changes());
        let changes = self.tlb.structure_changes() + of_others.sum::<u64>();
        if !self.census.pins_differ(changes) {
            return;
        }
        let mut reached = self.tlb.reached_tables();
        for remote in &self.remote {
            reached.extend(remote.tlb.reached_tables());
        }
        let change = self.census.pin(self.memory.as_tables(), &reached);
        self.link(change);
    }

    /// Reads `bytes.len()` bytes at `va`.
    ///
    /// # Errors
    /// The access's fault.
    pub fn read(&mut self, va: Gva, bytes: &mut [u8], access: Access) -> Result<(), Fault> {
        let mut done = 0;
        while done < bytes.len() {
            let at = Gva(va.0.wrapping_add(done as u64));
            let len = bytes_in_page(at).min(bytes.len() - done);
            let gpa = self.translate(at, access)?;
            if !self.memory.read(gpa, &mut bytes[done..done + len]) {
                return Err(Stop::BeyondMemory(gpa).into());
            }
            done += len;
        }
        Ok(())
    }

    /// Reads a little-endian word at `va`.
    ///
    /// # Errors
    /// The access's fault.
    pub fn read_u64(&mut self, va: Gva, access: Access) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read(va, &mut bytes, access)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes `bytes` at `va`: all of it or, where a page of it faults, nothing.
    ///
    /// # Errors
    /// The access's fault.
    pub fn write(&mut self, va: Gva, bytes: &[u8], access: Access) -> Result<(), Fault> {
        let mut parts = Vec::with_capacity(2);
        let mut done = 0;
        while done < bytes.len() {
            let at = Gva(va.0.wrapping_add(done as u64));
            let len = bytes_in_page(at).min(bytes.len() - done);
            parts.push((self.translate(at, access)?, done..done + len));
            done += len;
        }
        for (gpa, range) in parts {
            self.store_physical(gpa, &bytes[range]);
        }
        Ok(())
    }

    /// Stores within one page that was translated, word by word where the page is watched.
    fn store_physical(&mut self, at: Gpa, bytes: &[u8]) {
        if !self.is_protected(at) {
            self.memory.write(at, bytes);
            return;
        }
        let end = at.0 + bytes.len() as u64;
        let mut slot = at.0 & !7;
        while slot < end {
            let old = self.memory.entry(Gpa(slot)).unwrap_or(0);
            let mut word = old.to_le_bytes();
            for (index, byte) in word.iter_mut().enumerate() {
                let position = (slot + index as u64).wrapping_sub(at.0) as usize;
                *byte = bytes.get(position).copied().unwrap_or(*byte);
            }
            self.store_word(Gpa(slot), old, u64::from_le_bytes(word));
            slot += 8;
        }
    }

    /// Stores to an aligned word: a paging-structure entry, or a word that is watched.
    pub fn store_word(&mut self, slot: Gpa, old: u64, new: u64) {
        if self.watched.contains(&slot.page()) {
            self.memory.write(slot, &new.to_le_bytes());
            self.log_of(self.vcpu.id, Done::Stored(WordStore { at: slot, old, new }));
        } else {
            self.table_store(slot, old, new);
        }
    }

    /// Stores a paging-structure entry.
    fn table_store(&mut self, slot: Gpa, old: u64, new: u64) {
        self.memory.write(slot, &new.to_le_bytes());
        let (tables, store) = (self.memory.as_tables(), Store { slot, old, new });
        self.tlb.table_store(tables, self.census, store);
        for remote in &mut self.remote {
            remote.tlb.table_store(tables, self.census, store);
        }
        // What a cached entry reaches stays a table although no root does any more.
        self.repin();
        // A table's contents are told before the store that links it.
        let change = self.census.store(self.memory.as_tables(), slot, old, new);
        self.tell_linked(&change);
        self.emit(Happened::TableStore { slot, old, new });
        self.tell_unlinked(&change);
        self.speculate();
    }

    /// Tells of frames that became page tables, with their contents, and of those that ceased.
    pub fn link(&mut self, change: CensusChange) {
        self.tell_linked(&change);
        self.tell_unlinked(&change);
    }

    fn tell_linked(&mut self, change: &CensusChange) {
        for &table in &change.linked {
            let entries = table_entries(self.memory, table);
            self.log.linked.push(table);
            self.emit(Happened::TableLinked { table, entries });
        }
    }

    fn tell_unlinked(&mut self, change: &CensusChange) {
        for &table in &change.unlinked {
            self.emit(Happened::TableUnlinked { table });
        }
    }
}

/// The entries of a table that are not 0.
#[must_use]
pub fn table_entries(memory: &dyn Memory, table: Gpa) -> Vec<(u16, u64)> {
    let entries = memory.as_tables().present(table);
    entries.into_iter().map(|(index, bits)| (index as u16, bits)).collect()
}

fn bytes_in_page(at: Gva) -> usize {
    4096 - (at.0 & 0xfff) as usize
}
