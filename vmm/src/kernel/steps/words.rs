//! What our guest's words mean: the one place that knows the layout of `TlbState` and `MmState`.

use crate::arch::addr::{CpuId, Gpa, Pcid};
use crate::arch::happened::WordStore;
use crate::event::{Announcement, Owner, SlotPcids, SpaceId, Word};
use crate::machine::Statement;
use crate::memory::GuestMemory;
use stalemate_shared::layout::{MM_STATES, PAGE_SIZE};
use stalemate_shared::pcid::{ASID_SLOTS, USER_PCID_BIT, kernel_pcid, user_pcid};
use stalemate_shared::tlb_state::{MmState, SWITCHING, Slot, TlbState};
use std::collections::BTreeSet;
use std::mem::offset_of;

/// Where a kernel's words are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Guest-physical address of the first CPU's `TlbState`; the others' follow, a page each.
    pub tlb_state: Gpa,
    /// How many CPUs there are.
    pub cpus: u8,
    /// The page that holds the array of `MmState`.
    pub mm_states: Gpa,
}

/// A field of a CPU's `TlbState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    LoadedMm,
    IsLazy,
    InvalidateOther,
    Mask,
    Pending,
    Waiting,
    SlotOwner(u16),
    SlotGeneration(u16),
    /// One that says nothing by itself.
    Other(&'static str),
    /// Beyond the last.
    Beyond,
}

/// A field of an `MmState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MmField {
    CtxId,
    TlbGen,
    KernelRoot,
    CpuMask,
}

const SLOTS: usize = offset_of!(TlbState, slots);

impl Field {
    fn at(offset: usize) -> Self {
        let in_slots = offset.checked_sub(SLOTS).filter(|at| *at < ASID_SLOTS * size_of::<Slot>());
        if let Some(at) = in_slots {
            let slot = (at / size_of::<Slot>()) as u16;
            return match at % size_of::<Slot>() {
                at if at == offset_of!(Slot, ctx_id) => Self::SlotOwner(slot),
                _ => Self::SlotGeneration(slot),
            };
        }
        match offset {
            offset if offset == offset_of!(TlbState, loaded_mm) => Self::LoadedMm,
            offset if offset == offset_of!(TlbState, is_lazy) => Self::IsLazy,
            offset if offset == offset_of!(TlbState, invalidate_other) => Self::InvalidateOther,
            offset if offset == offset_of!(TlbState, user_pcid_flush_mask) => Self::Mask,
            offset if offset == offset_of!(TlbState, pending) => Self::Pending,
            offset if offset == offset_of!(TlbState, waiting) => Self::Waiting,
            offset if offset == offset_of!(TlbState, loaded_mm_asid) => {
                Self::Other("loaded_mm_asid")
            }
            offset if offset == offset_of!(TlbState, next_asid) => Self::Other("next_asid"),
            offset if offset == offset_of!(TlbState, cr4) => Self::Other("cr4"),
            _ => Self::Beyond,
        }
    }

    fn offset(self) -> u64 {
        let at = |slot: u16, field: usize| SLOTS + usize::from(slot) * size_of::<Slot>() + field;
        let offset = match self {
            Self::LoadedMm => offset_of!(TlbState, loaded_mm),
            Self::IsLazy => offset_of!(TlbState, is_lazy),
            Self::InvalidateOther => offset_of!(TlbState, invalidate_other),
            Self::Mask => offset_of!(TlbState, user_pcid_flush_mask),
            Self::Pending => offset_of!(TlbState, pending),
            Self::Waiting => offset_of!(TlbState, waiting),
            Self::SlotOwner(slot) => at(slot, offset_of!(Slot, ctx_id)),
            Self::SlotGeneration(slot) => at(slot, offset_of!(Slot, tlb_gen)),
            Self::Other(_) | Self::Beyond => 0,
        };
        offset as u64
    }

    fn name(self, offset: u64) -> String {
        match self {
            Self::SlotOwner(slot) => format!("slots[{slot}].ctx_id"),
            Self::SlotGeneration(slot) => format!("slots[{slot}].tlb_gen"),
            _ => tlb_state_field(offset)
                .map_or_else(|| format!("word {offset:#x} of TlbState"), str::to_owned),
        }
    }
}

/// The field of a `TlbState` that is at this byte offset; all slots are one.
#[must_use]
pub fn tlb_state_field(offset: u64) -> Option<&'static str> {
    let offset = usize::try_from(offset).ok().filter(|at| *at < size_of::<TlbState>())?;
    Some(match Field::at(offset & !7) {
        Field::LoadedMm => "loaded_mm",
        Field::IsLazy => "is_lazy",
        Field::InvalidateOther => "invalidate_other",
        Field::Mask => "user_pcid_flush_mask",
        Field::Pending => "pending",
        Field::Waiting => "waiting",
        Field::SlotOwner(_) | Field::SlotGeneration(_) => "slots",
        Field::Other(name) => name,
        Field::Beyond => return None,
    })
}

/// The numbers of the bits that are set.
fn bits(of: u64) -> impl Iterator<Item = u8> {
    (0..64u8).filter(move |bit| of >> bit & 1 != 0)
}

fn space(ctx_id: u64) -> Option<SpaceId> {
    (ctx_id != 0).then_some(SpaceId(ctx_id))
}

/// The user PCID that a bit of the mask stands for.
fn marked(bit: u8) -> Pcid {
    Pcid::new(u16::from(bit) | USER_PCID_BIT as u16)
}

/// The PCIDs of each slot.
pub(super) fn slot_pcids() -> Vec<SlotPcids> {
    let pcids =
        |asid| SlotPcids { kernel: Pcid::new(kernel_pcid(asid)), user: Pcid::new(user_pcid(asid)) };
    (0..ASID_SLOTS as u16).map(pcids).collect()
}

impl Layout {
    /// The frames that the words are in.
    pub(super) fn frames(&self) -> BTreeSet<Gpa> {
        let states = (0..self.cpus).map(|cpu| self.of(CpuId(cpu)));
        states.chain([self.mm_states]).collect()
    }

    /// Guest-physical address of a CPU's `TlbState`.
    pub(super) fn of(&self, cpu: CpuId) -> Gpa {
        Gpa(self.tlb_state.0 + u64::from(cpu.0) * PAGE_SIZE)
    }

    fn owner(&self, at: Gpa) -> Option<CpuId> {
        let page = at.page().0.checked_sub(self.tlb_state.0)? / PAGE_SIZE;
        (page < u64::from(self.cpus)).then_some(CpuId(page as u8))
    }

    fn word(&self, memory: &GuestMemory, cpu: CpuId, field: Field) -> u64 {
        memory.read_word(Gpa(self.of(cpu).0 + field.offset()))
    }

    fn mm_word(&self, memory: &GuestMemory, mm: usize, field: MmField) -> u64 {
        memory
            .read_word(Gpa(self.mm_states.0 + (mm * size_of::<MmState>()) as u64 + field.offset()))
    }

    /// What a store to one of the words says.
    pub(super) fn stored(&self, memory: &GuestMemory, store: &WordStore) -> Statement {
        let WordStore { at, old, new } = *store;
        let offset = at.0 & (PAGE_SIZE - 1);
        let Some(cpu) = self.owner(at) else { return self.mm_stored(memory, store) };
        let field = Field::at(offset as usize);
        let announcements = says(cpu, field, old, new);
        let word = Word { field: field.name(offset), owner: Owner::Cpu(cpu), old, new };
        Statement { announcements, word }
    }

    fn mm_stored(&self, memory: &GuestMemory, store: &WordStore) -> Statement {
        let WordStore { at, old, new } = *store;
        let offset = (at.0 & (PAGE_SIZE - 1)) as usize;
        let (mm, field) = (offset / size_of::<MmState>(), MmField::at(offset));
        let known = mm < MM_STATES;
        let ctx_id = if known { self.mm_word(memory, mm, MmField::CtxId) } else { 0 };
        let owner = space(ctx_id).map_or(Owner::Unknown, Owner::Space);
        let announcements =
            if known { self.mm_says(memory, mm, field, old, new) } else { Vec::new() };
        let word = Word { field: field.name().to_owned(), owner, old, new };
        Statement { announcements, word }
    }

    fn mm_says(
        &self,
        memory: &GuestMemory,
        mm: usize,
        field: MmField,
        old: u64,
        new: u64,
    ) -> Vec<Announcement> {
        let ctx_id = match field {
            MmField::CtxId => new,
            _ => self.mm_word(memory, mm, MmField::CtxId),
        };
        let Some(space) = space(ctx_id) else { return Vec::new() };
        let root = || Announcement::Root {
            space,
            root: Gpa(self.mm_word(memory, mm, MmField::KernelRoot)),
        };
        match field {
            MmField::CtxId => vec![root()],
            MmField::TlbGen => vec![Announcement::Generation { space, generation: new }],
            MmField::KernelRoot => vec![Announcement::Root { space, root: Gpa(new) }],
            MmField::CpuMask => bits(old ^ new)
                .map(|cpu| {
                    let member = new >> cpu & 1 != 0;
                    Announcement::Member { space, cpu: CpuId(cpu), member }
                })
                .collect(),
        }
    }

    /// What all words say, but for what they say of nothing.
    pub(super) fn state(&self, memory: &GuestMemory) -> Vec<Announcement> {
        let mut said = Vec::new();
        for mm in 0..MM_STATES {
            for field in [MmField::KernelRoot, MmField::TlbGen, MmField::CpuMask] {
                let now = self.mm_word(memory, mm, field);
                said.extend(self.mm_says(memory, mm, field, 0, now));
            }
        }
        for cpu in (0..self.cpus).map(CpuId) {
            let slots = 0..ASID_SLOTS as u16;
            let slots =
                slots.flat_map(|slot| [Field::SlotOwner(slot), Field::SlotGeneration(slot)]);
            let fields = [Field::LoadedMm, Field::IsLazy, Field::InvalidateOther, Field::Mask];
            for field in slots.chain(fields).chain([Field::Waiting]) {
                let now = self.word(memory, cpu, field);
                if now != 0 {
                    said.extend(says(cpu, field, 0, now));
                }
            }
        }
        said
    }

    /// The store that says this.
    pub(super) fn store_for(
        &self,
        memory: &GuestMemory,
        announcement: &Announcement,
    ) -> Option<WordStore> {
        let bit = |pcid: Pcid| 1u64.checked_shl(u32::from(pcid.value() & !(USER_PCID_BIT as u16)));
        let (cpu, field, set, clear) = match *announcement {
            Announcement::Marked { cpu, pcid } => (cpu, Field::Mask, bit(pcid)?, 0),
            Announcement::Unmarked { cpu, pcid } => (cpu, Field::Mask, 0, bit(pcid)?),
            Announcement::Acknowledged { by, to } => (to, Field::Waiting, 0, 1 << by.0),
            Announcement::SlotFlushed { cpu, slot, generation } => {
                (cpu, Field::SlotGeneration(slot), generation, u64::MAX)
            }
            _ => return None,
        };
        let at = Gpa(self.of(cpu).0 + field.offset());
        let old = memory.read_word(at);
        Some(WordStore { at, old, new: old & !clear | set })
    }
}

impl MmField {
    fn at(offset: usize) -> Self {
        match offset % size_of::<MmState>() {
            at if at == offset_of!(MmState, ctx_id) => Self::CtxId,
            at if at == offset_of!(MmState, tlb_gen) => Self::TlbGen,
            at if at == offset_of!(MmState, kernel_root) => Self::KernelRoot,
            _ => Self::CpuMask,
        }
    }

    fn offset(self) -> u64 {
        let offset = match self {
            Self::CtxId => offset_of!(MmState, ctx_id),
            Self::TlbGen => offset_of!(MmState, tlb_gen),
            Self::KernelRoot => offset_of!(MmState, kernel_root),
            Self::CpuMask => offset_of!(MmState, cpumask),
        };
        offset as u64
    }

    fn name(self) -> &'static str {
        match self {
            Self::CtxId => "ctx_id",
            Self::TlbGen => "tlb_gen",
            Self::KernelRoot => "kernel_root",
            Self::CpuMask => "cpumask",
        }
    }
}

/// What a word of `cpu`'s `TlbState` says that was `old` and is `new`.
fn says(cpu: CpuId, field: Field, old: u64, new: u64) -> Vec<Announcement> {
    let (set, cleared) = (new & !old, old & !new);
    match field {
        Field::LoadedMm if new == SWITCHING => vec![Announcement::Switching { cpu }],
        Field::LoadedMm => vec![Announcement::Loaded { cpu, space: space(new) }],
        Field::IsLazy => vec![Announcement::Lazy { cpu, lazy: new != 0 }],
        Field::InvalidateOther => vec![Announcement::OtherAsidsStale { cpu, stale: new != 0 }],
        Field::Mask => {
            let made = bits(set).map(|bit| Announcement::Marked { cpu, pcid: marked(bit) });
            let taken = bits(cleared).map(|bit| Announcement::Unmarked { cpu, pcid: marked(bit) });
            made.chain(taken).collect()
        }
        Field::Pending => {
            bits(cleared).map(|of| Announcement::Noticed { by: cpu, of: CpuId(of) }).collect()
        }
        Field::Waiting => {
            let requested = bits(set).map(|of| Announcement::Requested { by: cpu, of: CpuId(of) });
            let done =
                bits(cleared).map(|by| Announcement::Acknowledged { by: CpuId(by), to: cpu });
            requested.chain(done).collect()
        }
        Field::SlotOwner(slot) => {
            vec![Announcement::SlotOwner { cpu, slot, space: space(new) }]
        }
        Field::SlotGeneration(slot) => {
            vec![Announcement::SlotFlushed { cpu, slot, generation: new }]
        }
        Field::Other(_) | Field::Beyond => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_at_its_offset() {
        let slots =
            (0..ASID_SLOTS as u16).flat_map(|n| [Field::SlotOwner(n), Field::SlotGeneration(n)]);
        let others = [Field::LoadedMm, Field::IsLazy, Field::InvalidateOther, Field::Mask];
        for field in slots.chain(others).chain([Field::Pending, Field::Waiting]) {
            assert_eq!(Field::at(field.offset() as usize), field);
        }
        assert_eq!(Field::at(size_of::<TlbState>() - 8), Field::Beyond);
    }

    #[test]
    fn a_bit_that_was_set_already_is_no_mark() {
        let cpu = CpuId(1);
        let marked = |bit: u16| Announcement::Marked { cpu, pcid: Pcid::new(0x800 | bit) };
        assert_eq!(says(cpu, Field::Mask, 0b010, 0b110), [marked(2)]);
        assert_eq!(says(cpu, Field::Mask, 0b110, 0b110), []);
        let unmarked = Announcement::Unmarked { cpu, pcid: Pcid::new(0x801) };
        assert_eq!(says(cpu, Field::Mask, 0b110, 0b100), [unmarked]);
    }

    #[test]
    fn whoever_clears_the_bit_it_is_the_acknowledgement_of_the_bits_cpu() {
        let (by, to) = (CpuId(2), CpuId(0));
        let said = says(to, Field::Waiting, 0b110, 0b010);
        assert_eq!(said, [Announcement::Acknowledged { by, to }]);
    }
}
