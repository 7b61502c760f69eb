//! `madvise` in its kinds, but for those about large and merged pages.

use crate::crew::Crew;
use crate::forks::child;
use crate::kind::Kind;
use crate::sys::{self, Area, Errno, File, Mapping};
use crate::tally::{absent, check, count, failed, succeeded};

const PAGES: u64 = 48;

const NORMAL: u64 = 0;
const RANDOM: u64 = 1;
const SEQUENTIAL: u64 = 2;
const WILL_NEED: u64 = 3;
const DONT_NEED: u64 = 4;
const FREE: u64 = 8;
const REMOVE: u64 = 9;
const DONT_FORK: u64 = 10;
const DO_FORK: u64 = 11;
const DONT_DUMP: u64 = 16;
const DO_DUMP: u64 = 17;
const WIPE_ON_FORK: u64 = 18;
const KEEP_ON_FORK: u64 = 19;
pub const COLD: u64 = 20;
pub const PAGE_OUT: u64 = 21;
const POPULATE_READ: u64 = 22;
const POPULATE_WRITE: u64 = 23;
const DONT_NEED_LOCKED: u64 = 24;
const HW_POISON: u64 = 100;
const SOFT_OFFLINE: u64 = 101;
const GUARD_INSTALL: u64 = 102;
const GUARD_REMOVE: u64 = 103;
const SIGBUS: u32 = 7;

/// `is_here` spares the machine what would take frames from it.
pub fn round(crew: &Crew, generation: u16, is_here: bool) {
    let Some(area) = count(Kind::Map, Area::map(PAGES, Mapping::Private)) else { return };
    area.fill(0..PAGES, generation);
    crew.work(Some(area), Some(area));
    keep(area, generation);
    lose(area, generation);
    crew.park();
    guard(area, generation);
    fork(area, generation);
    if is_here {
        absent(Kind::AdviseSoftOffline);
        absent(Kind::AdviseHwPoison);
    } else {
        poison(area, generation);
    }
    count(Kind::Unmap, area.unmap());
    remove(generation);
}

/// After these the contents are what they were.
fn keep(area: Area, generation: u16) {
    let part = area.part(2, 40);
    for (kind, advice) in [
        (Kind::AdviseAccess, RANDOM),
        (Kind::AdviseAccess, SEQUENTIAL),
        (Kind::AdviseAccess, NORMAL),
        (Kind::AdviseWillNeed, WILL_NEED),
        (Kind::AdviseDump, DONT_DUMP),
        (Kind::AdviseDump, DO_DUMP),
        (Kind::AdvisePopulate, POPULATE_READ),
        (Kind::AdvisePopulate, POPULATE_WRITE),
        (Kind::AdviseCold, COLD),
        (Kind::AdvisePageOut, PAGE_OUT),
    ] {
        count(kind, part.advise(advice));
        check(area.has(0..PAGES, generation), kind, "contents");
    }
    if count(Kind::ProcessAdvise, File::this_process().and_then(|this| this.advise(part, COLD)))
        .is_some()
    {
        check(area.has(0..PAGES, generation), Kind::ProcessAdvise, "contents");
    }
}

/// After these pages are empty, or may be.
fn lose(area: Area, generation: u16) {
    for (first, pages) in [(0, 1), (4, 20), (0, PAGES)] {
        if count(Kind::AdviseDontNeed, area.part(first, pages).advise(DONT_NEED)).is_some() {
            let range = first..first + pages;
            check(area.is_empty(range), Kind::AdviseDontNeed, "contents of freed pages");
        }
        area.fill(0..PAGES, generation);
    }
    let part = area.part(8, 24);
    if count(Kind::AdviseFree, part.advise(FREE)).is_some() {
        let (_, is_right) = area.lost(8..32, generation);
        check(is_right, Kind::AdviseFree, "contents");
        // A store takes the page back.
        area.fill(8..32, generation + 1);
        check(area.has(8..32, generation + 1), Kind::AdviseFree, "contents after a store");
        area.fill(8..32, generation);
    }
    if part.lock().is_ok() {
        if count(Kind::AdviseLocked, part.advise(DONT_NEED_LOCKED)).is_some() {
            check(area.is_empty(8..32), Kind::AdviseLocked, "contents of freed pages");
        }
        let _ = part.unlock();
        area.fill(8..32, generation);
    }
}

fn guard(area: Area, generation: u16) {
    let part = area.part(6, 5);
    if count(Kind::AdviseGuard, part.advise(GUARD_INSTALL)).is_some() {
        check(!part.is_readable(2), Kind::AdviseGuard, "a guard page was read");
        count(Kind::AdviseGuard, part.advise(GUARD_REMOVE));
        check(area.is_empty(6..11), Kind::AdviseGuard, "contents of freed pages");
        area.fill(6..11, generation);
    }
}

/// What a child gets, and gets not.
fn fork(area: Area, generation: u16) {
    let part = area.part(16, 8);
    if count(Kind::AdviseDontFork, part.advise(DONT_FORK)).is_some() {
        child(Kind::AdviseDontFork, || !part.is_readable(0) && area.has(0..16, generation));
        count(Kind::AdviseDontFork, part.advise(DO_FORK));
    }
    if count(Kind::AdviseWipeOnFork, part.advise(WIPE_ON_FORK)).is_some() {
        child(Kind::AdviseWipeOnFork, || area.is_empty(16..24) && area.has(24..PAGES, generation));
        count(Kind::AdviseWipeOnFork, part.advise(KEEP_ON_FORK));
    }
    check(area.has(0..PAGES, generation), Kind::AdviseWipeOnFork, "contents");
}

/// Frames that are taken out of use: one whose contents move, one whose contents are lost.
fn poison(area: Area, generation: u16) {
    if count(Kind::AdviseSoftOffline, area.part(30, 1).advise(SOFT_OFFLINE)).is_some() {
        check(area.has(30..31, generation), Kind::AdviseSoftOffline, "contents");
    }
    // Whoever poisons a page of its own is killed by SIGBUS.
    let poisoned = sys::fork(|| {
        let part = Area::map(4, Mapping::Private).map(|own| {
            own.fill(0..4, generation);
            own.part(2, 1)
        });
        match part.and_then(|part| part.advise(HW_POISON)) {
            Ok(()) => true,
            Err(errno) => sys::exit(errno.0.into()),
        }
    });
    let Some(poisoned) = count(Kind::Fork, poisoned) else { return };
    match poisoned.wait() {
        Ok(status) if status & 0x7f == SIGBUS || status == 0 => succeeded(Kind::AdviseHwPoison),
        Ok(status) => failed(Kind::AdviseHwPoison, Errno((status >> 8) as u16)),
        Err(errno) => failed(Kind::AdviseHwPoison, errno),
    }
}

/// Frees pages of a file behind a shared mapping.
fn remove(generation: u16) {
    let Ok(file) = File::memory(16) else { return };
    let Some(area) = count(Kind::MapShared, Area::map(16, Mapping::Shared(&file))) else { return };
    area.fill(0..16, generation);
    if count(Kind::AdviseRemove, area.part(4, 6).advise(REMOVE)).is_some() {
        check(area.is_empty(4..10), Kind::AdviseRemove, "contents of freed pages");
        check(area.has(10..16, generation), Kind::AdviseRemove, "contents");
    }
    count(Kind::Unmap, area.unmap());
}
