//! Which ASID slot an address space gets, and whether its PCIDs must be flushed on the way in.

use stalemate_shared::pcid::ASID_SLOTS;
use stalemate_shared::tlb_state::Slot;

/// What a switch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The slot.
    pub asid: u16,
    /// The slot's PCIDs hold something else, or something old.
    pub need_flush: bool,
    /// The slot was taken by round robin.
    pub taken: bool,
}

/// Chooses a slot for the address space `ctx_id` at generation `tlb_gen`: the one that it has,
/// else the next in turn.
#[must_use]
pub fn choose(slots: &[Slot; ASID_SLOTS], next: u64, ctx_id: u64, tlb_gen: u64) -> Choice {
    let held = (0u16..).zip(slots).find(|(_, slot)| slot.ctx_id == ctx_id);
    match held {
        Some((asid, slot)) => Choice { asid, need_flush: slot.tlb_gen < tlb_gen, taken: false },
        None => {
            let asid = (next % ASID_SLOTS as u64) as u16;
            Choice { asid, need_flush: true, taken: true }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots() -> [Slot; ASID_SLOTS] {
        core::array::from_fn(|asid| Slot { ctx_id: asid as u64 + 1, tlb_gen: 5 })
    }

    #[test]
    fn a_slot_at_the_right_generation_is_kept_without_a_flush() {
        let choice = choose(&slots(), 0, 3, 5);
        assert_eq!(choice, Choice { asid: 2, need_flush: false, taken: false });
    }

    #[test]
    fn a_slot_that_lags_is_flushed() {
        assert!(choose(&slots(), 0, 3, 6).need_flush);
    }

    #[test]
    fn a_stranger_takes_the_next_slot_and_flushes_it() {
        let choice = choose(&slots(), 7, 9, 1);
        assert_eq!(choice, Choice { asid: 1, need_flush: true, taken: true });
    }
}
