//! Stores to `TlbState`, as the injector alters them.

use super::deed::KeptStore;
use super::fault::{Action, Point, Target};
use super::{Deed, Due, Injector};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::core::{StateHook, StateWord};
use stalemate_shared::pcid::{ASID_SLOTS, kernel_pcid};
use stalemate_shared::tlb_state::{
    INVALIDATE_OTHER, MmState, PENDING, Slot, TlbState, USER_PCID_FLUSH_MASK, WAITING,
};
use std::mem::offset_of;

impl StateHook for Injector {
    fn mm_store(&mut self, offset: u64, new: u64) -> Vec<u64> {
        let field = offset as usize % size_of::<MmState>();
        let mut words = vec![new];
        for armed in &mut self.armed {
            let concerned = armed.fault.target == Target::MmGeneration;
            if concerned && field == offset_of!(MmState, tlb_gen) && armed.fires() {
                words.clear();
            }
        }
        words
    }

    fn state_store(&mut self, _: Gva, cpu: CpuId, store: StateWord) -> Vec<u64> {
        let StateWord { owner, offset, old, new } = store;
        self.acknowledgements(cpu, &store);
        let (set, cleared) = (new & !old, old & !new);
        let is_mask = offset == USER_PCID_FLUSH_MASK;
        // What was kept back happens before the next of its kind.
        let late: u64 = match set {
            0 => 0,
            _ => {
                let late = |kept: &mut KeptStore| {
                    (kept.owner, kept.offset) == (owner, offset) && !kept.clears
                };
                self.kept_stores.extract_if(.., late).fold(0, |bits, kept| bits | kept.bits)
            }
        };
        let (old, new) = (old | late, new | late);
        let mut words = vec![new];
        for armed in &mut self.armed {
            let (action, target) = (armed.fault.action, armed.fault.target);
            let concerned = match target {
                Target::Mark | Target::MarkAsid => is_mask && set != 0,
                Target::Consume if action == Action::Early => is_mask && set != 0,
                Target::Consume => is_mask && cleared != 0,
                Target::InvalidateOther => offset == INVALIDATE_OTHER && set != 0,
                Target::Generation if action == Action::Drop => is_generation(offset),
                Target::Ack if action != Action::Early => {
                    offset == WAITING && cleared >> cpu.0 & 1 != 0
                }
                _ => false,
            };
            if !concerned || !armed.fires() {
                continue;
            }
            match (action, target) {
                (Action::Drop, _) => words.clear(),
                (Action::Delay, Target::Ack) => {
                    words.clear();
                    let bits = cleared;
                    self.kept_stores.push(KeptStore { cpu, owner, offset, bits, clears: true });
                }
                (Action::Repeat, _) => words.push(new),
                (Action::Early, _) => words.push(new & !set),
                (Action::Alter, Target::MarkAsid) => words = vec![old | next_asid(set)],
                // The ASID's bit where the kernel PCID's belongs: one too low.
                (Action::Alter, _) => words = vec![old | set >> 1],
                (Action::Delay, _) => {
                    words.clear();
                    let clears = false;
                    self.kept_stores.push(KeptStore { cpu, owner, offset, bits: set, clears });
                }
                _ => {}
            }
        }
        if late != 0 {
            words.insert(0, old);
        }
        if is_mask && set != 0 {
            self.point(cpu, Point::AfterMark);
        }
        words
    }
}

impl Injector {
    /// A CPU takes notice of who asks it to flush: here it can be made to say that it has.
    fn acknowledgements(&mut self, cpu: CpuId, store: &StateWord) {
        let asked_by = store.old & !store.new;
        let noticed = store.offset == PENDING && store.owner == cpu && asked_by != 0;
        if !noticed {
            return;
        }
        for armed in &mut self.armed {
            let fault = armed.fault;
            if (fault.action, fault.target) == (Action::Early, Target::Ack) && armed.fires() {
                let initiator = CpuId(asked_by.trailing_zeros() as u8);
                let deed = Deed::Acknowledge(initiator);
                self.due.push((cpu, Due { deed, if_done: None }));
            }
        }
    }
}

/// The marks of the ASIDs after those in `marks`.
fn next_asid(marks: u64) -> u64 {
    let (first, last) = (kernel_pcid(0), kernel_pcid(ASID_SLOTS as u16 - 1));
    let next = |bit: u16| if bit == last { first } else { bit + 1 };
    (first..=last).filter(|bit| marks >> bit & 1 != 0).map(|bit| 1 << next(bit)).sum()
}

/// Whether a slot's `tlb_gen` is at this offset of `TlbState`.
fn is_generation(offset: u64) -> bool {
    let first = offset_of!(TlbState, slots);
    let slots = first..first + ASID_SLOTS * size_of::<Slot>();
    let at = offset as usize;
    slots.contains(&at) && (at - first) % size_of::<Slot>() == offset_of!(Slot, tlb_gen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_asid_of_the_last_is_the_first() {
        assert_eq!(next_asid(1 << 1), 1 << 2);
        assert_eq!(next_asid(1 << 6 | 1 << 1), 1 << 1 | 1 << 2);
    }

    #[test]
    fn a_generation_is_in_every_slot() {
        let found = (0..4096).step_by(8).filter(|&at| is_generation(at)).count();
        assert_eq!(found, ASID_SLOTS);
    }
}
