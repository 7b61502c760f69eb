//! Linux's ORC tables (Documentation/arch/x86/orc-unwinder.rst): for each range of instructions where the frame of
//! its function begins.

use crate::arch::addr::Gva;
use crate::arch::vcpu::gpr;
use object::{Object, ObjectSection};
use std::sync::Arc;

/// Bytes of an entry: two offsets, then registers and the kind of frame in bits.
const ENTRY: usize = 6;
/// Bytes of the distance from where it is itself to an instruction.
const DISTANCE: usize = 4;

/// What an address is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// It is not known.
    Undefined,
    /// The frame of the caller.
    Previous,
    /// RBP.
    Bp,
    /// RSP.
    Sp,
    /// Memory at RBP and an offset.
    BpIndirect,
    /// Memory at RSP.
    SpIndirect,
    /// A register that only the innermost frame has, by its number in instructions.
    Register(usize),
}

/// What kind of frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A call's.
    Call,
    /// All registers that an entry has saved.
    Registers,
    /// What the processor has pushed.
    Iret,
    /// There is no caller, or nothing is known.
    End,
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sp: Base,
    pub(super) sp_offset: i16,
    pub(super) bp: Base,
    pub(super) bp_offset: i16,
    pub(super) frame: Frame,
}

/// The tables of an image.
#[derive(Clone)]
pub(super) struct Orc {
    /// The first instruction of each entry, in order.
    begins: Arc<[u64]>,
    entries: Arc<[u8]>,
    /// Since 6.5 the image says which layout it has; 6.4 has the new one, and says nothing.
    numbers_kinds_from_one: bool,
}

impl std::fmt::Debug for Orc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Orc").field("entries", &self.begins.len()).finish_non_exhaustive()
    }
}

impl Orc {
    /// Those that the image has.
    pub(super) fn read(image: &[u8]) -> Option<Self> {
        let file = object::File::parse(image).ok()?;
        let section = |name: &str| {
            let section = file.section_by_name(name)?;
            let data = section.data().ok().filter(|data| !data.is_empty())?;
            Some((section.address(), data))
        };
        let (at, distances) = section(".orc_unwind_ip")?;
        let (_, entries) = section(".orc_unwind")?;
        let begins: Arc<[u64]> = (at..)
            .step_by(DISTANCE)
            .zip(distances.chunks_exact(DISTANCE))
            .map(|(at, bytes)| {
                let distance = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                at.wrapping_add(distance as u64)
            })
            .collect();
        let is_whole = entries.len() == begins.len() * ENTRY && begins.is_sorted();
        is_whole.then(|| Self {
            begins,
            entries: entries.into(),
            numbers_kinds_from_one: section(".orc_header").is_some(),
        })
    }

    /// What it says of an instruction.
    pub(super) fn find(&self, at: Gva) -> Option<Entry> {
        let number = self.begins.partition_point(|&begin| begin <= at.0).checked_sub(1)?;
        let bytes = self.entries.get(number * ENTRY..(number + 1) * ENTRY)?;
        let offset = |at: usize| i16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let bits = u16::from_le_bytes([bytes[4], bytes[5]]);
        Some(Entry {
            sp: base(bits & 15)?,
            sp_offset: offset(0),
            bp: base(bits >> 4 & 15)?,
            bp_offset: offset(2),
            frame: self.frame(bits >> 8),
        })
    }

    fn frame(&self, bits: u16) -> Frame {
        match (self.numbers_kinds_from_one, bits & 7) {
            (true, 2) | (false, 0) => Frame::Call,
            (true, 3) | (false, 1) => Frame::Registers,
            (true, 4) | (false, 2) => Frame::Iret,
            // Bit 2 of the old layout is the end.
            _ => Frame::End,
        }
    }
}

/// What a register's number stands for.
fn base(number: u16) -> Option<Base> {
    Some(match number {
        0 => Base::Undefined,
        1 => Base::Previous,
        2 => Base::Register(gpr::RDX),
        3 => Base::Register(gpr::RDI),
        4 => Base::Bp,
        5 => Base::Sp,
        6 => Base::Register(10),
        7 => Base::Register(13),
        8 => Base::BpIndirect,
        9 => Base::SpIndirect,
        _ => return None,
    })
}
