//! What a kernel can do, as its file says.

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, NoteIterator, SectionHeader};
use stalemate_shared::boot::options;
use stalemate_shared::layout::{
    KERNEL_PAGE_COUNT, PAGE_SIZE, USER_END, USER_LARGE_PAGE_COUNT, USER_PAGE_COUNT,
};
use stalemate_shared::layout::{LARGE_PAGE_SIZE, MAX_CPUS, MAX_MEMORY_SIZE, MEMORY_SIZE, MM_COUNT};
use stalemate_shared::note::{Description, KIND, SECTION, kernel, pages};
use stalemate_shared::page::{Page, PageAddresses};
use stalemate_shared::step::Op;
use stalemate_shared::{OLDEST_VERSION, VERSION};
use std::mem::offset_of;

/// Why a note is no description of a kernel for this VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is too short, or not where its section says.
    #[error("its section {SECTION} holds no note that describes a kernel; see docs/guest.md")]
    Malformed,
    /// It asks for memory that cannot be.
    #[error(
        "its note asks for {found:#x} bytes of memory: whole 2 MiB, from {MEMORY_SIZE:#x} to \
         {MAX_MEMORY_SIZE:#x}, or 0 for the least"
    )]
    Memory {
        /// So much.
        found: u64,
    },
    /// It has test pages where none can be.
    #[error("its note has {what} at {at:#x}: {needs}")]
    Pages {
        /// Which.
        what: &'static str,
        /// Where.
        at: u64,
        /// What would be right.
        needs: &'static str,
    },
    /// It was built with another version of the interface.
    #[error(
        "built with version {found} of the interface, and this Stalemate speaks {}: build it with this \
         Stalemate's include/stalemate.h, or its crate stalemate-shared",
        spoken()
    )]
    Version {
        /// That one.
        found: u32,
    },
}

/// The versions that are spoken.
fn spoken() -> String {
    match OLDEST_VERSION {
        VERSION => VERSION.to_string(),
        oldest => format!("{oldest} to {VERSION}"),
    }
}

/// What a kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    steps: u64,
    pages: u64,
    features: u64,
    /// The version of the interface that it was built with.
    pub version: u32,
    /// CPUs that it boots, at most.
    pub cpus: u8,
    /// Address spaces that it has, at most.
    pub spaces: usize,
    /// Bytes of memory that it needs.
    pub memory: u64,
    /// Where it has the test pages.
    pub addresses: PageAddresses,
}

impl Abilities {
    /// All that this project's guest can: what is supposed of a kernel that says nothing.
    pub const ALL: Self = Self {
        steps: u64::MAX,
        pages: u64::MAX,
        features: u64::MAX,
        version: VERSION,
        cpus: MAX_CPUS as u8,
        spaces: MM_COUNT,
        memory: MEMORY_SIZE,
        addresses: PageAddresses::USUAL,
    };

    /// All of that but for the policies: of a kernel that has one of its own.
    #[must_use]
    pub fn of_own_policy() -> Self {
        Self { features: !kernel::POLICIES, ..Self::ALL }
    }

    /// What the note of an ELF file says; nothing where it has none.
    ///
    /// # Errors
    /// Where it has one that cannot be read, or is of another version.
    pub fn of(image: &[u8]) -> Result<Option<Self>, NoteError> {
        let Some(note) = note(image) else { return Ok(None) };
        let word = |at: usize| {
            let bytes = note.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        let long = |at: usize| {
            let bytes = note.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        let version = word(offset_of!(Description, version)).ok_or(NoteError::Malformed)?;
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(NoteError::Version { found: version });
        }
        // What came with version 4.
        let memory = match long(offset_of!(Description, memory)) {
            None | Some(0) => MEMORY_SIZE,
            Some(size) => size,
        };
        let is_possible = (MEMORY_SIZE..=MAX_MEMORY_SIZE).contains(&memory);
        if !is_possible || !memory.is_multiple_of(LARGE_PAGE_SIZE) {
            return Err(NoteError::Memory { found: memory });
        }
        // What came with version 5.
        let usual = PageAddresses::USUAL;
        let or = |at: usize, usual: u64| long(at).filter(|at| *at != 0).unwrap_or(usual);
        let addresses = PageAddresses {
            user: or(offset_of!(Description, user_pages), usual.user),
            large: or(offset_of!(Description, large_pages), usual.large),
            table: or(offset_of!(Description, table_pages), usual.table),
            kernel: or(offset_of!(Description, kernel_pages), usual.kernel),
        };
        check(&addresses)?;
        let read = || {
            Some(Self {
                version,
                memory,
                addresses,
                steps: long(offset_of!(Description, steps))?,
                pages: long(offset_of!(Description, pages))?,
                features: long(offset_of!(Description, features))?,
                cpus: word(offset_of!(Description, cpus))?.clamp(1, MAX_CPUS as u32) as u8,
                spaces: long(offset_of!(Description, spaces))?.clamp(1, MM_COUNT as u64) as usize,
            })
        };
        read().map(Some).ok_or(NoteError::Malformed)
    }

    /// Whether it does a step.
    #[must_use]
    pub fn does(&self, op: Op) -> bool {
        self.steps >> op as u64 & 1 != 0
    }

    /// Whether it maps pages of this kind.
    #[must_use]
    pub fn maps(&self, page: Page) -> bool {
        let bit = match page {
            Page::User(_) => pages::USER,
            Page::Large(_) => pages::LARGE,
            Page::Table(_) => pages::TABLE,
            Page::Kernel(_) => pages::KERNEL,
        };
        self.pages & bit != 0
    }

    /// Whether it has this bit of `shared::note::kernel`.
    #[must_use]
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Whether it has flush policies to choose among; else it has one of its own.
    #[must_use]
    pub fn has_policies(&self) -> bool {
        self.has(kernel::POLICIES)
    }

    /// Whether it does what these `shared::boot::options` say.
    #[must_use]
    pub fn obeys(&self, asked: u32) -> bool {
        let pti = if asked & options::PTI != 0 { kernel::PTI } else { kernel::NO_PTI };
        let others = asked & !options::PTI == 0 || self.has(kernel::MISTAKES);
        self.has(pti) && others
    }
}

/// Whether test pages can be there: in their half, aligned, and away from each other.
fn check(of: &PageAddresses) -> Result<(), NoteError> {
    let user = [
        ("u0", of.user, USER_PAGE_COUNT * PAGE_SIZE, PAGE_SIZE),
        ("h0", of.large, USER_LARGE_PAGE_COUNT * LARGE_PAGE_SIZE, LARGE_PAGE_SIZE),
        ("v0", of.table, LARGE_PAGE_SIZE, LARGE_PAGE_SIZE),
    ];
    let end = |at: u64, size: u64| at.saturating_add(size);
    for (number, (what, at, size, aligned)) in user.into_iter().enumerate() {
        let wrong = |needs| Err(NoteError::Pages { what, at, needs });
        if at == 0 || end(at, size) > USER_END {
            return wrong("user pages are below 0x800000000000, and not at 0");
        }
        if !at.is_multiple_of(aligned) {
            return wrong("u pages begin at a multiple of 4 KiB, h and v pages at one of 2 MiB");
        }
        let meets = |&(_, other, other_size, _): &(&str, u64, u64, u64)| {
            at < end(other, other_size) && other < end(at, size)
        };
        if user[..number].iter().any(meets) {
            return wrong("it overlaps another kind; the 2 MiB from v0 on are v pages' alone");
        }
    }
    let last = KERNEL_PAGE_COUNT * PAGE_SIZE - 1;
    let is_high = |at: u64| at >= 0xffff_8000_0000_0000;
    match of.kernel {
        at if at.is_multiple_of(PAGE_SIZE) && is_high(at) && at.checked_add(last).is_some() => {
            Ok(())
        }
        at => Err(NoteError::Pages {
            what: "k0",
            at,
            needs: "kernel pages are above 0xffff800000000000, at a multiple of 4 KiB",
        }),
    }
}

/// What the note of an image describes it with: nothing of one that is no note of ours.
fn note(image: &[u8]) -> Option<&[u8]> {
    let file = FileHeader64::<Endianness>::parse(image).ok()?;
    let endian = file.endian().ok()?;
    let sections = file.sections(endian, image).ok()?;
    let (_, section) = sections.section_by_name(endian, SECTION.as_bytes())?;
    // By its name: a compiler may have called it plain data, in which there are no notes.
    let data = section.data(endian, image).ok()?;
    let mut notes = NoteIterator::<FileHeader64<Endianness>>::new(endian, 8, data).ok()?;
    let note = notes.next().ok().flatten().filter(|note| note.n_type(endian).0 == KIND);
    Some(note.map_or(&[], |note| note.desc()))
}
