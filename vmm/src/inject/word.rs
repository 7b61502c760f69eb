//! Stores to the kernel's words, as the injector alters them: it knows them by what they say.

use super::fault::{Action, Point, Target};
use super::{DelayedStore, Injector};
use crate::arch::addr::{CpuId, Pcid};
use crate::arch::happened::WordStore;
use crate::event::Announcement;
use crate::machine::{KernelWords, SideEffect};
use stalemate_shared::pcid::{ASID_SLOTS, USER_PCID_BIT, kernel_pcid, user_pcid};

/// What a store says, as far as faults are about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Says {
    marks: bool,
    unmarks: bool,
    others_stale: bool,
    slot_flushed: bool,
    generation: bool,
    /// The CPU that stores has flushed what another one requested.
    acknowledges: bool,
    /// The CPU that stores has taken notice of a request of this one.
    notices: Option<CpuId>,
}

impl Says {
    fn of(by: CpuId, said: &[Announcement]) -> Self {
        let mut says = Self::default();
        for announcement in said {
            match *announcement {
                Announcement::Marked { .. } => says.marks = true,
                Announcement::Unmarked { .. } => says.unmarks = true,
                Announcement::OtherAsidsStale { stale, .. } => says.others_stale |= stale,
                Announcement::SlotFlushed { .. } => says.slot_flushed = true,
                Announcement::Generation { .. } => says.generation = true,
                Announcement::Acknowledged { by: of, .. } => says.acknowledges |= of == by,
                Announcement::Noticed { by: noticing, of } if noticing == by => {
                    says.notices.get_or_insert(of);
                }
                _ => {}
            }
        }
        says
    }

    /// Whether it is a store of a kind that can be delayed, and not what takes one back.
    fn is_again(&self) -> bool {
        self.marks || self.others_stale || self.generation
    }

    fn concerns(&self, action: Action, target: Target) -> bool {
        match target {
            // A store that does both moves a mark, and is none of these.
            Target::Mark | Target::MarkAsid => self.marks && !self.unmarks,
            Target::Consume if action == Action::Early => self.marks && !self.unmarks,
            Target::Consume => self.unmarks && !self.marks,
            Target::InvalidateOther => self.others_stale,
            Target::Generation => action == Action::Drop && self.slot_flushed,
            Target::MmGeneration => self.generation,
            Target::Ack => action != Action::Early && self.acknowledges,
            _ => false,
        }
    }
}

impl Injector {
    /// The words that are stored, one after the other, where `cpu` is about to make `store`.
    pub(super) fn stored(
        &mut self,
        cpu: CpuId,
        store: &WordStore,
        said: &[Announcement],
        words: &dyn KernelWords,
    ) -> Vec<u64> {
        let says = Says::of(cpu, said);
        if let Some(waiting) = says.notices {
            self.acknowledge_early(cpu, waiting);
        }
        let WordStore { at, old, new } = *store;
        let (set, clear) = (new & !old, old & !new);
        let delayed = |acknowledges| DelayedStore { cpu, at, set, clear, acknowledges };
        // What was delayed happens before the next of its kind.
        let is_late = |delayed: &mut DelayedStore| {
            says.is_again() && delayed.at == at && !delayed.acknowledges
        };
        let late: Vec<DelayedStore> = self.delayed_stores.extract_if(.., is_late).collect();
        let after = |word| late.iter().fold(word, |word, late| word & !late.clear | late.set);
        // A delayed store changes what was to be stored by this one but for the bits of this one.
        let (old, new) = (after(old), after(old) & !clear | set);
        let mut stored = vec![new];
        for armed in &mut self.armed {
            let (action, target) = (armed.fault.action, armed.fault.target);
            if !says.concerns(action, target) || !armed.fires() {
                continue;
            }
            match (action, target) {
                (Action::Drop, _) => stored.clear(),
                (Action::Delay, Target::Ack) => {
                    stored.clear();
                    self.delayed_stores.push(delayed(true));
                }
                (Action::Repeat, _) => stored.push(new),
                (Action::Early, _) => stored.push(new & !set | clear),
                (Action::Alter, Target::MarkAsid) => {
                    stored = vec![old | mask(said, words, next_asid)];
                }
                (Action::Alter, _) => stored = vec![old | mask(said, words, one_too_low)],
                (Action::Delay, _) => {
                    stored.clear();
                    self.delayed_stores.push(delayed(false));
                }
                _ => {}
            }
        }
        if !late.is_empty() {
            stored.insert(0, old);
        }
        if says.marks {
            self.point(cpu, Point::AfterMark);
        }
        stored
    }

    /// A CPU takes notice of who requests a flush of it: here it can be made to say that it has done
    /// it.
    fn acknowledge_early(&mut self, cpu: CpuId, waiting: CpuId) {
        for number in 0..self.armed.len() {
            let fault = self.armed[number].fault;
            if (fault.action, fault.target) == (Action::Early, Target::Ack)
                && self.armed[number].fires()
            {
                let done = Announcement::Acknowledged { by: cpu, to: waiting };
                self.schedule(cpu, SideEffect::Say(done));
            }
        }
    }
}

/// The bits of the marks in `said`, each made for another PCID.
fn mask(said: &[Announcement], words: &dyn KernelWords, other: fn(Pcid) -> Pcid) -> u64 {
    let bit = |announcement: &Announcement| match *announcement {
        Announcement::Marked { cpu, pcid } => {
            let store = words.store_for(&Announcement::Marked { cpu, pcid: other(pcid) })?;
            let without = words.store_for(&Announcement::Unmarked { cpu, pcid: other(pcid) })?;
            Some(store.new & !without.new)
        }
        _ => None,
    };
    said.iter().filter_map(bit).fold(0, |bits, bit| bits | bit)
}

/// The user PCID of the next slot; of the last one the first.
fn next_asid(pcid: Pcid) -> Pcid {
    let slots = ASID_SLOTS as u16;
    let slot = (0..slots).find(|&asid| user_pcid(asid) == pcid.value());
    slot.map_or(pcid, |asid| Pcid::new(user_pcid((asid + 1) % slots)))
}

/// The PCID whose bit stands where the ASID's would, instead of the kernel PCID's.
fn one_too_low(pcid: Pcid) -> Pcid {
    let kernel = pcid.value() & !(USER_PCID_BIT as u16);
    let asid = kernel - kernel_pcid(0);
    Pcid::new(asid | USER_PCID_BIT as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_asid_of_the_last_is_the_first() {
        let pcid = |asid| Pcid::new(user_pcid(asid));
        assert_eq!(next_asid(pcid(0)), pcid(1));
        assert_eq!(next_asid(pcid(ASID_SLOTS as u16 - 1)), pcid(0));
    }

    #[test]
    fn the_bit_of_an_asid_is_one_below_that_of_its_kernel_pcid() {
        assert_eq!(one_too_low(Pcid::new(0x801)), Pcid::new(0x800));
        assert_eq!(one_too_low(Pcid::new(0x806)), Pcid::new(0x805));
    }
}
