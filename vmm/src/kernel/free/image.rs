//! A kernel image as it is distributed: a bzImage, or the ELF kernel itself.

use super::payload::{self, PayloadError};
use crate::arch::addr::Gva;
use linux_loader::loader::bootparam::setup_header;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use std::sync::Arc;
use vm_memory::ByteValued;

/// Why a file is no kernel that can be audited.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Neither bzImage nor ELF.
    #[error(
        "neither a bzImage nor an ELF file: give a kernel as it is installed (/boot/vmlinuz-*) or as \
         it is linked (vmlinux)"
    )]
    NotAKernel,
    /// The kernel in a bzImage cannot be had.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The ELF headers are damaged.
    #[error("not a readable 64-bit ELF file: {0}")]
    Header(String),
    /// Another machine's.
    #[error("an ELF file for machine {0}; this VMM runs x86-64 (62)")]
    Machine(u16),
    /// Not an executable.
    #[error("an ELF file of type {0}; a kernel is an executable (2)")]
    Type(u16),
    /// Nothing to load.
    #[error("no PT_LOAD segment")]
    Empty,
    /// A segment's contents lie beyond the end of the file.
    #[error("segment {index} ends at byte {end:#x} of a file of {len:#x}: it is cut short")]
    Truncated {
        /// Program header number.
        index: usize,
        /// End of the segment in the file.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// A segment has more in the file than in memory.
    #[error(
        "segment {index} has {file:#x} bytes in the file, and {memory:#x} in memory to hold them"
    )]
    Overfull {
        /// Program header number.
        index: usize,
        /// Bytes in the file.
        file: u64,
        /// Bytes in memory.
        memory: u64,
    },
    /// It begins where nothing is.
    #[error("its first instruction is at {0:#x}, and no segment has that address")]
    Entry(u64),
    /// The kernel lies where the VMM puts what it is told.
    #[error(
        "segment {index} begins at physical {start:#x}; a kernel begins at {limit:#x} or above"
    )]
    TooLow {
        /// Program header number.
        index: usize,
        /// Its begin.
        start: u64,
        /// Where kernels may begin.
        limit: u64,
    },
    /// Kernel and initramfs do not fit.
    #[error("kernel and initramfs need {needed} MiB, and --ram gives {ram} MiB")]
    Memory {
        /// What is needed, in MiB.
        needed: u64,
        /// What there is, in MiB.
        ram: u64,
    },
    /// The command line is too long.
    #[error("a command line of {len} bytes; this kernel takes {most}")]
    CommandLine {
        /// Its length.
        len: usize,
        /// The most that the kernel takes.
        most: usize,
    },
    /// linux-loader refused.
    #[error("loading failed: {0}")]
    Load(String),
}

/// Kernels begin here or above: 1 MiB, where memory that a PC's firmware does not use begins.
pub const LOWEST: u64 = 1 << 20;

/// A kernel that can be booted.
#[derive(Clone)]
pub struct KernelImage {
    /// The ELF file.
    pub elf: Arc<[u8]>,
    /// What the bzImage around it says; none for a bare ELF file.
    pub header: Option<setup_header>,
    /// Guest-physical address of the first instruction.
    pub entry: u64,
    /// Guest-physical end.
    pub end: u64,
}

impl std::fmt::Debug for KernelImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelImage").field("entry", &self.entry).finish_non_exhaustive()
    }
}

impl KernelImage {
    /// The kernel that is in a file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn parse(file: &[u8]) -> Result<Self, KernelError> {
        if payload::is_bz_image(file) {
            let elf = payload::unpack(file)?;
            return Self::of_elf(elf.into(), setup_header_of(file));
        }
        if file.starts_with(&elf::ELFMAG) {
            return Self::of_elf(file.into(), None);
        }
        Err(KernelError::NotAKernel)
    }

    /// At most `len` of the bytes that the image has for this virtual address.
    #[must_use]
    pub fn bytes_at(&self, at: Gva, len: usize) -> Option<&[u8]> {
        let file = elf::FileHeader64::<Endianness>::parse(&self.elf[..]).ok()?;
        let endian = file.endian().ok()?;
        let headers = file.program_headers(endian, &self.elf[..]).ok()?;
        headers.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD).find_map(
            |segment| {
                let inside = at.0.checked_sub(segment.p_vaddr(endian))?;
                let left = segment.p_filesz(endian).checked_sub(inside).filter(|left| *left > 0)?;
                let begin = usize::try_from(segment.p_offset(endian).checked_add(inside)?).ok()?;
                let len = len.min(usize::try_from(left).ok()?);
                self.elf.get(begin..begin.checked_add(len)?)
            },
        )
    }

    fn of_elf(bytes: Arc<[u8]>, setup: Option<setup_header>) -> Result<Self, KernelError> {
        let error = |error: object::Error| KernelError::Header(error.to_string());
        let file = elf::FileHeader64::<Endianness>::parse(&bytes[..]).map_err(error)?;
        let endian = file.endian().map_err(error)?;
        let machine = file.e_machine.get(endian);
        if machine != elf::EM_X86_64 {
            return Err(KernelError::Machine(machine.0));
        }
        let type_ = file.e_type.get(endian);
        if type_ != elf::ET_EXEC {
            return Err(KernelError::Type(type_.0));
        }
        let entry = file.e_entry.get(endian);
        let mut end = 0;
        // Where the first instruction is in memory, whether the header has it virtual or physical.
        let mut physical_entry = None;
        let headers = file.program_headers(endian, &bytes[..]).map_err(error)?;
        for (index, segment) in headers.iter().enumerate() {
            if segment.p_type(endian) != elf::PT_LOAD {
                continue;
            }
            let size = segment.p_filesz(endian);
            let end_in_file = segment.p_offset(endian).saturating_add(size);
            let (len, memory) = (bytes.len() as u64, segment.p_memsz(endian));
            if end_in_file > len {
                return Err(KernelError::Truncated { index, end: end_in_file, len });
            }
            if size > memory {
                return Err(KernelError::Overfull { index, file: size, memory });
            }
            let start = segment.p_paddr(endian);
            if start < LOWEST {
                return Err(KernelError::TooLow { index, start, limit: LOWEST });
            }
            let is_inside = |begin: u64| entry.wrapping_sub(begin) < memory;
            if is_inside(segment.p_vaddr(endian)) {
                physical_entry =
                    Some(start.wrapping_add(entry.wrapping_sub(segment.p_vaddr(endian))));
            } else if is_inside(start) {
                physical_entry = physical_entry.or(Some(entry));
            }
            end = end.max(start.saturating_add(memory));
        }
        if end == 0 {
            return Err(KernelError::Empty);
        }
        let entry = physical_entry.ok_or(KernelError::Entry(entry))?;
        Ok(Self { elf: bytes, header: setup, entry, end })
    }
}

/// The setup header of a bzImage: it begins at 0x1f1, and says itself how long it is.
fn setup_header_of(file: &[u8]) -> Option<setup_header> {
    const BEGIN: usize = 0x1f1;
    let mut header = setup_header::default();
    let end = 0x202 + usize::from(*file.get(0x201)?);
    let len = end.checked_sub(BEGIN)?.min(size_of::<setup_header>());
    let bytes = file.get(BEGIN..BEGIN + len)?;
    header.as_mut_slice().get_mut(..len)?.copy_from_slice(bytes);
    Some(header)
}
