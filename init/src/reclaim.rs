//! Memory that the kernel takes back, or moves: lazily freed pages, swap, compaction.

use crate::advice::PAGE_OUT;
use crate::crew::Crew;
use crate::huge::counted;
use crate::kind::Kind;
use crate::options::number_of;
use crate::setting::set;
use crate::sys::{self, Area, Errno, File, Mapping, PAGE};
use crate::tally::{absent, check, count, failed, succeeded};
use core::ffi::CStr;

const FREE: u64 = 8;
const PAGES: u64 = 64;
/// Bytes of the swap device.
const SWAP: u64 = 8 << 20;
const DEVICE: &CStr = c"/dev/stalemate-swap";

/// Whether there is a swap device of the init's own.
pub struct Swap(bool);

impl Swap {
    /// Makes one of compressed memory, or of a RAM disk, where the kernel has them.
    pub fn begin() -> Self {
        let made = set(c"/sys/block/zram0/disksize", "8388608")
            .and_then(|()| device(c"/sys/block/zram0/dev"))
            .or_else(|_| device(c"/sys/block/ram0/dev"))
            .and_then(|()| header())
            .and_then(|()| sys::swap_on(DEVICE));
        if let Err(errno) = made {
            Self::lacks(errno);
        }
        Self(made.is_ok())
    }

    /// None: what belongs to an ordinary process alone.
    pub fn none() -> Self {
        Self::lacks(Errno(2));
        Self(false)
    }

    fn lacks(errno: Errno) {
        for kind in [Kind::SwapOut, Kind::SwapIn, Kind::SwapOff] {
            failed(kind, errno);
        }
    }

    pub fn end(self) {
        if self.0 {
            count(Kind::SwapOff, sys::swap_off(DEVICE));
        }
    }
}

/// Makes a file for the device whose numbers the kernel tells, as `major:minor`.
fn device(numbers: &CStr) -> Result<(), Errno> {
    let mut text = [0; 32];
    let len = File::open(numbers, File::READ)?.read(&mut text)?;
    let mut parts = text[..len].split(|byte| *byte == b':').map(number_of);
    let (Some(Some(major)), Some(Some(minor))) = (parts.next(), parts.next()) else {
        return Err(Errno(2));
    };
    sys::make_block_device(DEVICE, major, minor)
}

/// The first page of a swap area: version 1, its last page, and what says that it is one.
fn header() -> Result<(), Errno> {
    let mut page = [0; PAGE as usize];
    let last = (SWAP / PAGE - 1) as u32;
    page[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
    page[1028..1032].copy_from_slice(&last.to_le_bytes());
    page[4086..].copy_from_slice(b"SWAPSPACE2");
    File::open(DEVICE, File::BOTH)?.write(&page).map(drop)
}

pub fn round(crew: &Crew, swap: &Swap, generation: u16, is_here: bool) {
    let Some(area) = count(Kind::Map, Area::map(PAGES, Mapping::Private)) else { return };
    area.fill(0..PAGES, generation);
    lazily_freed(area, generation);
    if swap.0 {
        crew.work(Some(area), None);
        swapped(area, generation);
        crew.park();
    }
    if is_here {
        absent(Kind::Compact);
    } else if count(Kind::Compact, set(c"/proc/sys/vm/compact_memory", "1")).is_some() {
        check(area.has(0..PAGES, generation), Kind::Compact, "contents");
    }
    count(Kind::Unmap, area.unmap());
}

/// Pages that were freed lazily, and then reclaimed, which needs no swap.
fn lazily_freed(area: Area, generation: u16) {
    let freed = area.advise(FREE).and_then(|()| area.advise(PAGE_OUT));
    if let Err(errno) = freed {
        return failed(Kind::LazyFree, errno);
    }
    let (lost, is_right) = area.lost(0..PAGES, generation);
    check(is_right, Kind::LazyFree, "contents");
    if lost > 0 {
        succeeded(Kind::LazyFree);
    }
    area.fill(0..PAGES, generation);
    check(area.has(0..PAGES, generation), Kind::LazyFree, "contents after a store");
}

fn swapped(area: Area, generation: u16) {
    counted(Kind::SwapOut, "pswpout", || {
        let _ = area.advise(PAGE_OUT);
    });
    counted(Kind::SwapIn, "pswpin", || {
        check(area.has(0..PAGES, generation), Kind::SwapIn, "contents");
        area.fill(0..PAGES, generation);
    });
}
