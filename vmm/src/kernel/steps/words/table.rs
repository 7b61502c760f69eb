//! Where a kernel's words are: rows, as its table has them or as its `TlbState` and `MmState` lie.

use super::Layout;
use crate::arch::addr::{CpuId, Gpa, Pcid};
use crate::event::SlotPcids;
use crate::ink::one_line;
use crate::memory::GuestMemory;
use stalemate_shared::layout::{MM_STATES, PAGE_SIZE};
use stalemate_shared::pcid::{ASID_SLOTS, USER_PCID_BIT, kernel_pcid};
use stalemate_shared::tlb_state::{MmState, Slot, TlbState};
use stalemate_shared::words::{MAX_ROWS, MAX_WORDS, Meaning, NAME_SIZE, WordRow};
use std::mem::offset_of;

/// A row of a table, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) meaning: Meaning,
    at: u64,
    cpu_stride: u64,
    stride: u64,
    pub(super) count: u16,
    pub(super) pcid: u16,
    pub(super) idle: u64,
    /// What the kernel calls it; `[]` stands for the slot.
    pub(super) name: String,
}

/// Which of a row's words one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) row: usize,
    pub(super) cpu: CpuId,
    /// Of a slot, or of an address space.
    pub(super) index: u16,
}

/// Words of `TlbState` other than its slots, and what each means.
const STATE: [(Meaning, usize, &str); 9] = [
    (Meaning::Loaded, offset_of!(TlbState, loaded_mm), "loaded_mm"),
    (Meaning::Nothing, offset_of!(TlbState, loaded_mm_asid), "loaded_mm_asid"),
    (Meaning::Lazy, offset_of!(TlbState, is_lazy), "is_lazy"),
    (Meaning::Nothing, offset_of!(TlbState, next_asid), "next_asid"),
    (Meaning::OthersStale, offset_of!(TlbState, invalidate_other), "invalidate_other"),
    (Meaning::Marks, offset_of!(TlbState, user_pcid_flush_mask), "user_pcid_flush_mask"),
    (Meaning::Nothing, offset_of!(TlbState, cr4), "cr4"),
    (Meaning::Pending, offset_of!(TlbState, pending), "pending"),
    (Meaning::Waiting, offset_of!(TlbState, waiting), "waiting"),
];

const SLOTS: usize = offset_of!(TlbState, slots);

/// Words of its slots.
const SLOT: [(Meaning, usize, &str); 2] = [
    (Meaning::SlotOwner, SLOTS + offset_of!(Slot, ctx_id), "slots[].ctx_id"),
    (Meaning::SlotGeneration, SLOTS + offset_of!(Slot, tlb_gen), "slots[].tlb_gen"),
];

/// Words of an `MmState`.
const SPACE: [(Meaning, usize, &str); 4] = [
    (Meaning::SpaceNumber, offset_of!(MmState, ctx_id), "ctx_id"),
    (Meaning::SpaceRoot, offset_of!(MmState, kernel_root), "kernel_root"),
    (Meaning::SpaceGeneration, offset_of!(MmState, tlb_gen), "tlb_gen"),
    (Meaning::SpaceCpus, offset_of!(MmState, cpumask), "cpumask"),
];

/// The field of a `TlbState` that is at this byte offset; all slots are one.
#[must_use]
pub fn tlb_state_field(offset: u64) -> Option<&'static str> {
    let word = usize::try_from(offset & !7).ok()?;
    if (SLOTS..SLOTS + ASID_SLOTS * size_of::<Slot>()).contains(&word) {
        return Some("slots");
    }
    STATE.iter().find(|(_, at, _)| *at == word).map(|(_, _, name)| *name)
}

impl Row {
    /// Whether its words are the address spaces', not the CPUs'.
    pub(super) fn is_of_spaces(&self) -> bool {
        matches!(
            self.meaning,
            Meaning::SpaceNumber
                | Meaning::SpaceGeneration
                | Meaning::SpaceRoot
                | Meaning::SpaceCpus
        )
    }

    fn is_of_slots(&self) -> bool {
        matches!(self.meaning, Meaning::SlotOwner | Meaning::SlotGeneration)
    }

    /// Guest-physical address of one of its words.
    pub(super) fn word(&self, cpu: CpuId, index: u16) -> Gpa {
        let cpu = if self.is_of_spaces() { 0 } else { u64::from(cpu.0) };
        Gpa(self.at + cpu * self.cpu_stride + u64::from(index) * self.stride)
    }

    /// What a report calls the word of this index.
    pub(super) fn name(&self, index: u16) -> String {
        match self.name.split_once("[]") {
            Some((before, after)) => format!("{before}[{index}]{after}"),
            None if self.is_of_slots() => format!("{}[{index}]", self.name),
            None => self.name.clone(),
        }
    }

    fn of_cpus(meaning: Meaning, at: u64, name: &str) -> Self {
        let name = name.to_owned();
        let cpu_stride = PAGE_SIZE;
        Self { meaning, at, cpu_stride, stride: 0, count: 1, pcid: 0, idle: 0, name }
    }

    /// A row of a kernel's table.
    fn read(row: &WordRow, cpus: u8, memory: u64) -> Result<Self, String> {
        let name = row.name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = one_line(&String::from_utf8_lossy(name));
        let says = |what: String| Err(format!("the row \"{name}\" of its table of words {what}"));
        let Ok(meaning) = Meaning::try_from(row.meaning) else {
            return says(format!("means {}, which there is none of", row.meaning));
        };
        let count = row.count.max(1);
        let several = matches!(
            meaning,
            Meaning::SlotOwner
                | Meaning::SlotGeneration
                | Meaning::SpaceNumber
                | Meaning::SpaceGeneration
                | Meaning::SpaceRoot
                | Meaning::SpaceCpus
        );
        if count > MAX_WORDS as u64 || count > 1 && !several {
            return says(format!("is of {count} words, and may be of one for each CPU"));
        }
        if [row.at, row.cpu_stride, row.stride].iter().any(|at| !at.is_multiple_of(8)) {
            return says("is not of whole words: addresses and strides are multiples of 8".into());
        }
        let found = Self {
            meaning,
            at: row.at,
            cpu_stride: row.cpu_stride,
            stride: row.stride,
            count: count as u16,
            pcid: (row.pcid & 0xfff) as u16,
            idle: row.idle,
            name,
        };
        let most_cpus = if found.is_of_spaces() { 1 } else { u64::from(cpus) };
        let last = [(most_cpus - 1, row.cpu_stride), (count - 1, row.stride)];
        let last = last.iter().try_fold(row.at, |at, (number, stride)| {
            number.checked_mul(*stride).and_then(|more| at.checked_add(more))
        });
        let ends = last.and_then(|at| at.checked_add(8));
        if row.at == 0 || ends.is_none_or(|ends| ends > memory) {
            let at = row.at;
            return Err(format!(
                "the row \"{}\" of its table of words begins at guest-physical {at:#x}, and not all \
                 of it is in memory",
                found.name
            ));
        }
        let beyond = |last: u64| row.pcid + last >= USER_PCID_BIT;
        if meaning == Meaning::SlotOwner && (row.pcid >= USER_PCID_BIT || beyond(count - 1)) {
            return Err(format!(
                "the row \"{}\" of its table of words has slots whose kernel PCIDs have bit 11 set",
                found.name
            ));
        }
        Ok(found)
    }
}

impl Layout {
    /// Of a kernel that describes nothing.
    pub(in crate::kernel::steps) fn nothing(cpus: u8) -> Self {
        Self { rows: Vec::new(), cpus, places: Vec::new() }
    }

    /// Of a kernel whose CPUs have a `TlbState` each, from here on, and whose address spaces an
    /// `MmState`.
    pub(in crate::kernel::steps) fn of_states(tlb_state: Gpa, mm_states: Gpa, cpus: u8) -> Self {
        let slots = SLOT.iter().map(|(meaning, at, name)| Row {
            stride: size_of::<Slot>() as u64,
            count: ASID_SLOTS as u16,
            pcid: kernel_pcid(0),
            ..Row::of_cpus(*meaning, tlb_state.0 + *at as u64, name)
        });
        let state = STATE.iter().map(|(meaning, at, name)| Row {
            pcid: USER_PCID_BIT as u16,
            ..Row::of_cpus(*meaning, tlb_state.0 + *at as u64, name)
        });
        let spaces = SPACE.iter().map(|(meaning, at, name)| Row {
            stride: size_of::<MmState>() as u64,
            count: MM_STATES as u16,
            ..Row::of_cpus(*meaning, mm_states.0 + *at as u64, name)
        });
        Self::new(slots.chain(state).chain(spaces).collect(), cpus)
    }

    /// Of a kernel with a table of `rows` rows at `table`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub(in crate::kernel::steps) fn read(
        memory: &GuestMemory,
        table: u64,
        rows: u64,
        cpus: u8,
    ) -> Result<Self, String> {
        if rows > MAX_ROWS as u64 {
            return Err(format!("its table of words has {rows} rows, and may have {MAX_ROWS}"));
        }
        let bytes = rows * size_of::<WordRow>() as u64;
        let is_there = table.checked_add(bytes).is_some_and(|end| end <= memory.len());
        if !table.is_multiple_of(8) || !is_there {
            return Err(format!(
                "its table of words at guest-physical {table:#x} is not in memory"
            ));
        }
        let row = |number: u64| Row::read(&row_at(memory, table, number), cpus, memory.len());
        let rows = (0..rows).map(row).collect::<Result<Vec<_>, _>>()?;
        check(&rows, cpus)?;
        let layout = Self::new(rows, cpus);
        let twice = layout.places.windows(2).find(|pair| pair[0].0 == pair[1].0);
        if let Some([(at, one), (_, other)]) = twice {
            let name = |place: &Place| &layout.rows[place.row].name;
            return Err(format!(
                "the rows \"{}\" and \"{}\" of its table of words both have the word at {at}",
                name(one),
                name(other)
            ));
        }
        Ok(layout)
    }

    fn new(rows: Vec<Row>, cpus: u8) -> Self {
        let mut places = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let cpus = if row.is_of_spaces() { 1 } else { cpus };
            for cpu in (0..cpus).map(CpuId) {
                let place = |index| (row.word(cpu, index), Place { row: number, cpu, index });
                places.extend((0..row.count).map(place));
            }
        }
        places.sort_by_key(|(at, _)| *at);
        Self { rows, cpus, places }
    }

    /// The PCIDs of each slot.
    pub(in crate::kernel::steps) fn slots(&self) -> Vec<SlotPcids> {
        let Some((_, row)) = self.row(Meaning::SlotOwner) else { return Vec::new() };
        let pcids = |slot| SlotPcids {
            kernel: Pcid::new(row.pcid + slot),
            user: Pcid::new((row.pcid + slot) | USER_PCID_BIT as u16),
        };
        (0..row.count).map(pcids).collect()
    }

    /// The row of the words that mean this.
    pub(super) fn row(&self, meaning: Meaning) -> Option<(usize, &Row)> {
        self.rows.iter().enumerate().find(|(_, row)| row.meaning == meaning)
    }
}

fn row_at(memory: &GuestMemory, table: u64, number: u64) -> WordRow {
    let at = table + number * size_of::<WordRow>() as u64;
    let word = |offset: usize| memory.read_word(Gpa(at + offset as u64));
    let mut name = [0; NAME_SIZE];
    for (index, bytes) in name.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *bytes = word(offset_of!(WordRow, name) + index * 8).to_le_bytes();
    }
    WordRow {
        meaning: word(offset_of!(WordRow, meaning)),
        at: word(offset_of!(WordRow, at)),
        cpu_stride: word(offset_of!(WordRow, cpu_stride)),
        stride: word(offset_of!(WordRow, stride)),
        count: word(offset_of!(WordRow, count)),
        pcid: word(offset_of!(WordRow, pcid)),
        idle: word(offset_of!(WordRow, idle)),
        name,
    }
}

/// What rows need of each other.
fn check(rows: &[Row], cpus: u8) -> Result<(), String> {
    let words = |row: &Row| usize::from(row.count) * usize::from(cpus);
    if rows.iter().map(words).sum::<usize>() > MAX_WORDS {
        return Err(format!("its table describes more than {MAX_WORDS} words"));
    }
    let has = |meaning| rows.iter().any(|row| row.meaning == meaning);
    for (number, row) in rows.iter().enumerate() {
        let name = &row.name;
        let again = rows[..number].iter().find(|other| other.meaning == row.meaning);
        if let Some(other) = again.filter(|_| row.meaning != Meaning::Nothing) {
            return Err(format!(
                "the rows \"{}\" and \"{name}\" of its table of words mean the same, {:?}",
                other.name, row.meaning
            ));
        }
        let needs = match row.meaning {
            Meaning::Mark => Meaning::MarkPcid,
            Meaning::MarkPcid => Meaning::Mark,
            Meaning::SlotGeneration => Meaning::SlotOwner,
            Meaning::SpaceGeneration | Meaning::SpaceRoot | Meaning::SpaceCpus => {
                Meaning::SpaceNumber
            }
            _ => continue,
        };
        if !has(needs) {
            return Err(format!(
                "the row \"{name}\" of its table of words ({:?}) needs one that says {needs:?}",
                row.meaning
            ));
        }
        let other = rows.iter().find(|other| other.meaning == needs);
        if let Some(other) = other.filter(|other| other.count != row.count) {
            return Err(format!(
                "the rows \"{}\" and \"{name}\" of its table of words are of {} and {} words",
                other.name, other.count, row.count
            ));
        }
    }
    Ok(())
}
