//! What a kernel's words mean: the one place that knows where they are.

mod table;
#[cfg(test)]
mod tests;

pub use table::tlb_state_field;

use crate::arch::addr::{CpuId, Gpa, Pcid};
use crate::arch::happened::WordStore;
use crate::event::{Announcement, Owner, SlotPcids, SpaceId, Word};
use crate::machine::Statement;
use crate::memory::GuestMemory;
use stalemate_shared::tlb_state::SWITCHING;
use stalemate_shared::words::Meaning;
use std::collections::BTreeSet;
use table::{Place, Row};

/// Where a kernel's words are, and what each means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    rows: Vec<Row>,
    cpus: u8,
    /// All words, by their addresses.
    places: Vec<(Gpa, Place)>,
}

/// The numbers of the bits that are set.
fn bits(of: u64) -> impl Iterator<Item = u8> {
    (0..64u8).filter(move |bit| of >> bit & 1 != 0)
}

fn space(number: u64) -> Option<SpaceId> {
    (number != 0).then_some(SpaceId(number))
}

impl Layout {
    /// How many CPUs there are.
    pub(super) fn cpus(&self) -> impl Iterator<Item = CpuId> + use<> {
        (0..self.cpus).map(CpuId)
    }

    /// The frames that the words are in.
    pub(super) fn frames(&self) -> BTreeSet<Gpa> {
        self.places.iter().map(|(at, _)| at.page()).collect()
    }

    /// How many words there are that mean this, for each CPU or in all; 0 where there is none.
    pub(super) fn count(&self, meaning: Meaning) -> u16 {
        self.row(meaning).map_or(0, |(_, row)| row.count)
    }

    /// The word that means this; 0 where there is none.
    pub(super) fn value(
        &self,
        memory: &GuestMemory,
        meaning: Meaning,
        cpu: CpuId,
        index: u16,
    ) -> u64 {
        let row = self.row(meaning).map(|(_, row)| row);
        row.map_or(0, |row| memory.read_word(row.word(cpu, index)))
    }

    /// Whether this user PCID of a CPU is marked.
    pub(super) fn is_marked(&self, memory: &GuestMemory, cpu: CpuId, pcid: Pcid) -> bool {
        let marks = self.value(memory, Meaning::Marks, cpu, 0);
        let one = self.row(Meaning::Mark).is_some_and(|(_, row)| {
            memory.read_word(row.word(cpu, 0)) != row.idle && self.mark_pcid(memory, cpu) == pcid
        });
        one || self.mark_bit(pcid).is_some_and(|bit| marks & bit != 0)
    }

    /// The marks of a CPU that are of none of these slots.
    pub(super) fn marked_beside(
        &self,
        memory: &GuestMemory,
        cpu: CpuId,
        slots: &[SlotPcids],
    ) -> u64 {
        let known = slots.iter().filter_map(|slot| self.mark_bit(slot.user));
        self.value(memory, Meaning::Marks, cpu, 0) & !known.fold(0, |bits, bit| bits | bit)
    }

    /// The PCID that the one mark of a CPU is about.
    fn mark_pcid(&self, memory: &GuestMemory, cpu: CpuId) -> Pcid {
        Pcid::new((self.value(memory, Meaning::MarkPcid, cpu, 0) & 0xfff) as u16)
    }

    /// What a store to one of the words says.
    pub(super) fn stored(&self, memory: &GuestMemory, store: &WordStore) -> Statement {
        let WordStore { at, old, new } = *store;
        let found = self.places.binary_search_by_key(&at, |(place, _)| *place);
        let Ok(found) = found else { return Statement::unknown(store) };
        let place = self.places[found].1;
        let row = &self.rows[place.row];
        let owner = match row.is_of_spaces() {
            true => {
                let number = self.value(memory, Meaning::SpaceNumber, place.cpu, place.index);
                space(number).map_or(Owner::Unknown, Owner::Space)
            }
            false => Owner::Cpu(place.cpu),
        };
        let word = Word { field: row.name(place.index), owner, old, new };
        Statement { announcements: self.says(memory, place, old, new), word }
    }

    /// What all words say, but for what they say of nothing.
    pub(super) fn state(&self, memory: &GuestMemory) -> Vec<Announcement> {
        let of = |meanings: &[Meaning], cpu: CpuId, index: u16| {
            let rows = meanings.iter().filter_map(|meaning| self.row(*meaning));
            let said = rows.filter(|(_, row)| index < row.count).flat_map(|(number, row)| {
                let place = Place { row: number, cpu, index };
                let now = memory.read_word(row.word(cpu, index));
                let says = row.is_of_spaces() || now != unsaid(row);
                if says { self.says(memory, place, unsaid(row), now) } else { Vec::new() }
            });
            said.collect::<Vec<_>>()
        };
        let spaces = [Meaning::SpaceRoot, Meaning::SpaceGeneration, Meaning::SpaceCpus];
        let slots = [Meaning::SlotOwner, Meaning::SlotGeneration];
        let cpus = [
            Meaning::Loaded,
            Meaning::Lazy,
            Meaning::OthersStale,
            Meaning::Marks,
            Meaning::Mark,
            Meaning::Waiting,
        ];
        let mut said = Vec::new();
        for index in 0..self.count(Meaning::SpaceNumber) {
            said.extend(of(&spaces, CpuId(0), index));
        }
        for cpu in self.cpus() {
            for slot in 0..self.count(Meaning::SlotOwner) {
                said.extend(of(&slots, cpu, slot));
            }
            said.extend(of(&cpus, cpu, 0));
        }
        said
    }

    /// What a word says that was `old` and is `new`.
    fn says(&self, memory: &GuestMemory, place: Place, old: u64, new: u64) -> Vec<Announcement> {
        let row = &self.rows[place.row];
        if row.is_of_spaces() {
            return self.space_says(memory, row, place.index, old, new);
        }
        let (cpu, slot) = (place.cpu, place.index);
        let (set, cleared) = (new & !old, old & !new);
        match row.meaning {
            Meaning::Loaded if new == SWITCHING => vec![Announcement::Switching { cpu }],
            Meaning::Loaded => vec![Announcement::Loaded { cpu, space: space(new) }],
            Meaning::Lazy => vec![Announcement::Lazy { cpu, lazy: new != 0 }],
            Meaning::OthersStale => vec![Announcement::OtherAsidsStale { cpu, stale: new != 0 }],
            Meaning::Marks => {
                let pcid = |bit| Pcid::new(row.pcid.wrapping_add(u16::from(bit)) & 0xfff);
                let made = bits(set).map(|bit| Announcement::Marked { cpu, pcid: pcid(bit) });
                let taken =
                    bits(cleared).map(|bit| Announcement::Unmarked { cpu, pcid: pcid(bit) });
                made.chain(taken).collect()
            }
            Meaning::Mark => {
                let pcid = self.mark_pcid(memory, cpu);
                match (old != row.idle, new != row.idle) {
                    (false, true) => vec![Announcement::Marked { cpu, pcid }],
                    (true, false) => vec![Announcement::Unmarked { cpu, pcid }],
                    _ => Vec::new(),
                }
            }
            Meaning::MarkPcid => {
                let mark = self.row(Meaning::Mark).map(|(_, row)| row);
                let is_set =
                    mark.is_some_and(|mark| memory.read_word(mark.word(cpu, 0)) != mark.idle);
                let [before, after] = [old, new].map(|word| Pcid::new((word & 0xfff) as u16));
                match is_set && before != after {
                    true => vec![
                        Announcement::Unmarked { cpu, pcid: before },
                        Announcement::Marked { cpu, pcid: after },
                    ],
                    false => Vec::new(),
                }
            }
            Meaning::Pending => {
                bits(cleared).map(|of| Announcement::Noticed { by: cpu, of: CpuId(of) }).collect()
            }
            Meaning::Waiting => {
                let requested =
                    bits(set).map(|of| Announcement::Requested { by: cpu, of: CpuId(of) });
                let done =
                    bits(cleared).map(|by| Announcement::Acknowledged { by: CpuId(by), to: cpu });
                requested.chain(done).collect()
            }
            Meaning::SlotOwner => {
                vec![Announcement::SlotOwner { cpu, slot, space: space(new) }]
            }
            Meaning::SlotGeneration => {
                vec![Announcement::SlotFlushed { cpu, slot, generation: new }]
            }
            _ => Vec::new(),
        }
    }

    fn space_says(
        &self,
        memory: &GuestMemory,
        row: &Row,
        index: u16,
        old: u64,
        new: u64,
    ) -> Vec<Announcement> {
        let value = |meaning| self.value(memory, meaning, CpuId(0), index);
        let number = match row.meaning {
            Meaning::SpaceNumber => new,
            _ => value(Meaning::SpaceNumber),
        };
        let Some(space) = space(number) else { return Vec::new() };
        match row.meaning {
            Meaning::SpaceNumber if self.row(Meaning::SpaceRoot).is_some() => {
                vec![Announcement::Root { space, root: Gpa(value(Meaning::SpaceRoot)) }]
            }
            Meaning::SpaceGeneration => {
                vec![Announcement::Generation { space, generation: new }]
            }
            Meaning::SpaceRoot => vec![Announcement::Root { space, root: Gpa(new) }],
            Meaning::SpaceCpus => bits(old ^ new)
                .map(|cpu| {
                    let member = new >> cpu & 1 != 0;
                    Announcement::Member { space, cpu: CpuId(cpu), member }
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The store that says this; none where no word can.
    pub(super) fn store_for(
        &self,
        memory: &GuestMemory,
        announcement: &Announcement,
    ) -> Option<WordStore> {
        let (cpu, meaning, index, set, clear) = match *announcement {
            Announcement::Marked { cpu, pcid } => (cpu, Meaning::Marks, 0, self.mark_bit(pcid)?, 0),
            Announcement::Unmarked { cpu, pcid } => match self.mark_bit(pcid) {
                Some(bit) => (cpu, Meaning::Marks, 0, 0, bit),
                None if self.mark_pcid(memory, cpu) == pcid => {
                    (cpu, Meaning::Mark, 0, self.row(Meaning::Mark)?.1.idle, u64::MAX)
                }
                None => return None,
            },
            Announcement::Acknowledged { by, to } => (to, Meaning::Waiting, 0, 0, 1 << by.0),
            Announcement::SlotFlushed { cpu, slot, generation } => {
                (cpu, Meaning::SlotGeneration, slot, generation, u64::MAX)
            }
            _ => return None,
        };
        let (_, row) = self.row(meaning)?;
        let at = row.word(cpu, index);
        let old = memory.read_word(at);
        Some(WordStore { at, old, new: old & !clear | set })
    }

    /// The bit of the marks that is of this user PCID.
    fn mark_bit(&self, pcid: Pcid) -> Option<u64> {
        let (_, row) = self.row(Meaning::Marks)?;
        let bit = pcid.value().wrapping_sub(row.pcid) & 0xfff;
        1u64.checked_shl(u32::from(bit))
    }
}

/// What a word is that says nothing.
fn unsaid(row: &Row) -> u64 {
    if row.meaning == Meaning::Mark { row.idle } else { 0 }
}
