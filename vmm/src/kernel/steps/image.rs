//! The kernel image: checked, then loaded by linux-loader.

use super::abilities::{Abilities, NoteError};
use crate::memory::GuestMemory;
use linux_loader::loader::{Elf, KernelLoader};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use stalemate_shared::layout::{IMAGE, IMAGE_END, KERNEL_BASE, MEMORY_SIZE};
use std::io::Cursor;
use std::sync::Arc;

/// Why an ELF file is no kernel for this VMM.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file is not ELF, or its headers are cut short.
    #[error("not a readable 64-bit ELF file: {0}")]
    Header(String),
    /// Another class of ELF.
    #[error("a 32-bit ELF file, and a kernel begins in 64-bit mode: build it for x86-64 (-m64)")]
    Class,
    /// Another machine's.
    #[error("an ELF file for machine {0}, but this VMM runs x86-64 (62)")]
    Machine(u16),
    /// Not an executable.
    #[error("an ELF file of type {0}, but an executable (2) is needed: link with -static -no-pie")]
    Type(u16),
    /// Nothing to load.
    #[error("no PT_LOAD segment")]
    Empty,
    /// A segment's contents lie beyond the end of the file.
    #[error(
        "segment {index} is truncated: it ends at byte {end:#x} of a file of {len:#x}; build or copy it anew"
    )]
    Truncated {
        /// Program header number.
        index: usize,
        /// End of the segment in the file.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// A segment does not fit into memory.
    #[error(
        "segment {index} ends at guest-physical {end:#x}, beyond {limit:#x}: an image lies at {IMAGE:#x} and is \
         {} KiB at most, or above {MEMORY_SIZE:#x} in memory that its note asks for",
        (IMAGE_END - IMAGE) >> 10
    )]
    TooLarge {
        /// Program header number.
        index: usize,
        /// Its end.
        end: u64,
        /// Where images must end.
        limit: u64,
    },
    /// A segment lies where the VMM puts something else.
    #[error(
        "segment {index} begins at guest-physical {start:#x}, below {limit:#x}: give it a load address (AT in \
         a linker script)"
    )]
    TooLow {
        /// Program header number.
        index: usize,
        /// Its begin.
        start: u64,
        /// Where images may begin.
        limit: u64,
    },
    /// Two segments share memory.
    #[error("segments {first} and {second} overlap in guest-physical memory")]
    Overlap {
        /// Program header number.
        first: usize,
        /// Another.
        second: usize,
    },
    /// The entry point is in no segment.
    #[error("entry point {0:#x} is in no executable segment: name it (ENTRY in a linker script)")]
    Entry(u64),
    /// The entry point is not where the tables at entry map its segment.
    #[error(
        "entry point {entry:#x} is not mapped at entry, when guest-physical {physical:#x} is at \
         {:#x}: link the image at its load address + {KERNEL_BASE:#x}",
        physical.wrapping_add(KERNEL_BASE)
    )]
    NotMapped {
        /// The entry point.
        entry: u64,
        /// Where it is in guest-physical memory.
        physical: u64,
    },
    /// What it says of itself cannot be used.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// linux-loader refused.
    #[error("loading failed: {0}")]
    Load(String),
}

/// A checked kernel image.
#[derive(Clone, Debug)]
pub struct Image {
    bytes: Arc<[u8]>,
    entry: u64,
    end: u64,
    abilities: Option<Abilities>,
}

impl Image {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: impl Into<Arc<[u8]>>) -> Result<Self, ImageError> {
        let owned = bytes.into();
        let bytes = &owned[..];
        if bytes.starts_with(&elf::ELFMAG) && bytes.get(4) == Some(&elf::ELFCLASS32.0) {
            return Err(ImageError::Class);
        }
        let header = |error: object::Error| ImageError::Header(error.to_string());
        let file = elf::FileHeader64::<Endianness>::parse(bytes).map_err(header)?;
        let endian = file.endian().map_err(header)?;
        let machine = file.e_machine.get(endian);
        if machine != elf::EM_X86_64 {
            return Err(ImageError::Machine(machine.0));
        }
        let type_ = file.e_type.get(endian);
        if type_ != elf::ET_EXEC {
            return Err(ImageError::Type(type_.0));
        }
        let entry = file.e_entry.get(endian);
        let abilities = Abilities::of(bytes)?;
        let memory = abilities.map_or(MEMORY_SIZE, |abilities| abilities.memory);
        let mut segments = Vec::new();
        let mut entry_found = None;
        for (index, segment) in
            file.program_headers(endian, bytes).map_err(header)?.iter().enumerate()
        {
            if segment.p_type(endian) != elf::PT_LOAD {
                continue;
            }
            let end_in_file = segment.p_offset(endian).saturating_add(segment.p_filesz(endian));
            if end_in_file > bytes.len() as u64
                || segment.p_filesz(endian) > segment.p_memsz(endian)
            {
                let len = bytes.len() as u64;
                return Err(ImageError::Truncated { index, end: end_in_file, len });
            }
            let start = segment.p_paddr(endian);
            let end = start.saturating_add(segment.p_memsz(endian));
            if start < IMAGE {
                return Err(ImageError::TooLow { index, start, limit: IMAGE });
            }
            let limit = if start < MEMORY_SIZE { IMAGE_END } else { memory };
            if end > limit {
                return Err(ImageError::TooLarge { index, end, limit });
            }
            let virtual_ = segment.p_vaddr(endian);
            if entry >= virtual_ && entry - virtual_ < segment.p_memsz(endian) {
                entry_found = Some(start + (entry - virtual_));
            }
            segments.push((index, start, end));
        }
        for (position, &(first, start, end)) in segments.iter().enumerate() {
            for &(second, other_start, other_end) in &segments[position + 1..] {
                if start < other_end && other_start < end {
                    return Err(ImageError::Overlap { first, second });
                }
            }
        }
        let end = segments.iter().map(|segment| segment.2).max().ok_or(ImageError::Empty)?;
        let physical = entry_found.ok_or(ImageError::Entry(entry))?;
        if physical.wrapping_add(KERNEL_BASE) != entry {
            return Err(ImageError::NotMapped { entry, physical });
        }
        Ok(Self { bytes: owned, entry, end, abilities })
    }

    /// Guest-virtual address of the first instruction.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// What it says that it can do; nothing where it says nothing.
    #[must_use]
    pub fn abilities(&self) -> Option<&Abilities> {
        self.abilities.as_ref()
    }

    /// The file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of memory that it needs.
    #[must_use]
    pub fn memory_size(&self) -> u64 {
        self.abilities.map_or(MEMORY_SIZE, |abilities| abilities.memory)
    }

    /// Bytes of memory from the load address to the image's end.
    #[must_use]
    pub fn loaded_size(&self) -> u64 {
        self.end - IMAGE
    }

    /// Loads the segments at their physical addresses.
    ///
    /// # Errors
    /// What linux-loader says.
    pub fn load(&self, memory: &GuestMemory) -> Result<(), ImageError> {
        Elf::load(memory.mmap(), None, &mut Cursor::new(&self.bytes), None)
            .map(|_| ())
            .map_err(|error| ImageError::Load(error.to_string()))
    }
}
