//! Mappings made, changed, moved and taken away.

use crate::crew::Crew;
use crate::kind::Kind;
use crate::sys::{Area, File, Mapping, Move};
use crate::tally::{check, count, failed};

const PAGES: u64 = 64;

pub fn round(crew: &Crew, generation: u16) {
    protections(crew, generation);
    moves(crew, generation);
    files(crew, generation);
}

fn protections(crew: &Crew, generation: u16) {
    let Some(area) = count(Kind::Map, Area::map(PAGES, Mapping::Private)) else { return };
    area.fill(0..PAGES, generation);
    crew.work(Some(area), None);
    // Below and above the number of pages that kernels flush one at a time.
    for (first, pages) in [(0, 1), (3, 7), (20, 40), (0, PAGES)] {
        let part = area.part(first, pages);
        if count(Kind::Protect, part.protect(Area::READ)).is_none() {
            continue;
        }
        check(!part.is_writable(0), Kind::Protect, "a read-only page was written to");
        check(!part.is_writable(pages - 1), Kind::Protect, "a read-only page was written to");
        check(area.has(first..first + pages, generation), Kind::Protect, "contents");
        count(Kind::Protect, part.protect(Area::BOTH));
        area.fill(first..first + pages, generation);
    }
    if count(Kind::Lock, area.part(0, 16).lock()).is_some() {
        count(Kind::Lock, area.part(0, 16).unlock());
    }
    clear_references(area, generation);
    crew.park();
    // Nobody else touches it while nobody may.
    for (first, pages) in [(5, 2), (8, 48)] {
        let part = area.part(first, pages);
        if count(Kind::ProtectNone, part.protect(Area::NONE)).is_some() {
            check(!part.is_readable(1), Kind::ProtectNone, "a forbidden page was read");
            count(Kind::Protect, part.protect(Area::BOTH));
            check(area.has(first..first + pages, generation), Kind::ProtectNone, "contents");
        }
    }
    if count(Kind::MapFixed, area.part(0, 4).map_again(Mapping::Private)).is_some() {
        check(area.is_empty(0..4), Kind::MapFixed, "contents of what was there");
        area.fill(0..4, generation);
    }
    for (first, pages) in [(10, 1), (12, 9), (0, PAGES)] {
        let part = area.part(first, pages);
        if count(Kind::Unmap, part.unmap()).is_some() {
            check(!part.is_readable(0), Kind::Unmap, "an unmapped page was read");
            check(!part.is_writable(pages - 1), Kind::Unmap, "an unmapped page was written to");
        }
    }
}

/// The kernel forgets what was accessed and, for the second, what was written since.
fn clear_references(area: Area, generation: u16) {
    let file = match File::open(c"/proc/self/clear_refs", File::WRITE) {
        Ok(file) => file,
        Err(errno) => return failed(Kind::ClearRefs, errno),
    };
    for what in [b"1", b"4"] {
        if count(Kind::ClearRefs, file.write(what)).is_some() {
            area.fill(0..PAGES, generation);
            check(area.has(0..PAGES, generation), Kind::ClearRefs, "contents");
        }
    }
}

fn moves(crew: &Crew, generation: u16) {
    let Some(mut area) = count(Kind::Map, Area::map(24, Mapping::Private)) else { return };
    area.fill(0..24, generation);
    if let Some(grown) = count(Kind::RemapGrow, area.remap(48, Move::Anywhere)) {
        area = grown;
        check(area.has(0..24, generation), Kind::RemapGrow, "contents");
        check(area.is_empty(24..48), Kind::RemapGrow, "contents of new pages");
        area.fill(24..48, generation);
    }
    crew.work(Some(area.part(0, 16)), Some(area.part(0, 16)));
    if let Some(shrunk) = count(Kind::RemapShrink, area.remap(16, Move::Anywhere)) {
        if area.pages() > 16 {
            check(!area.is_readable(17), Kind::RemapShrink, "a page beyond the end was read");
        }
        area = shrunk;
        check(area.has(0..16, generation), Kind::RemapShrink, "contents");
    }
    crew.park();
    if let Some(target) = count(Kind::Map, Area::map(area.pages(), Mapping::Private)) {
        target.fill(0..target.pages(), generation + 1);
        if let Some(moved) = count(Kind::RemapMove, area.remap(area.pages(), Move::To(target))) {
            check(!area.is_readable(0), Kind::RemapMove, "a page was read where it had been");
            check(moved.has(0..16, generation), Kind::RemapMove, "contents");
            area = moved;
        }
    }
    crew.work(Some(area), Some(area));
    if let Some(moved) = count(Kind::RemapDontUnmap, area.remap(area.pages(), Move::DontUnmap)) {
        check(area.is_empty(0..16), Kind::RemapDontUnmap, "contents of what was left");
        check(moved.has(0..16, generation), Kind::RemapDontUnmap, "contents");
        area.fill(0..16, generation + 1);
        check(moved.has(0..16, generation), Kind::RemapDontUnmap, "contents after a store");
        count(Kind::Unmap, moved.unmap());
    }
    crew.park();
    count(Kind::Unmap, area.unmap());
}

fn files(crew: &Crew, generation: u16) {
    const PAGES: u64 = 32;
    let file = match File::memory(PAGES) {
        Ok(file) => file,
        Err(errno) => return failed(Kind::MapShared, errno),
    };
    let [Some(one), Some(other), Some(copy)] =
        [Mapping::Shared(&file), Mapping::Shared(&file), Mapping::PrivateFile(&file)]
            .map(|mapping| count(Kind::MapShared, Area::map(PAGES, mapping)))
    else {
        return;
    };
    one.fill(0..PAGES, generation);
    check(other.has(0..PAGES, generation), Kind::MapShared, "contents at other addresses");
    copy.fill(0..8, generation + 1);
    check(one.has(0..8, generation), Kind::MapShared, "contents after a store to a copy");
    check(copy.has(8..16, generation), Kind::MapShared, "contents of a copy");
    crew.work(Some(one.part(0, 16)), Some(other.part(0, 16)));
    count(Kind::Sync, one.sync());
    if count(Kind::PunchHole, file.punch(4, 4)).is_some() {
        check(one.is_empty(4..8), Kind::PunchHole, "contents of freed pages");
        other.fill(4..8, generation);
        check(one.has(4..8, generation), Kind::PunchHole, "contents");
        check(copy.has(0..8, generation + 1), Kind::PunchHole, "contents of a copy");
    }
    if count(Kind::Truncate, file.truncate(16)).is_some() {
        check(!one.is_readable(20), Kind::Truncate, "a page beyond the end was read");
        check(!copy.is_writable(21), Kind::Truncate, "a page beyond the end was written to");
        if count(Kind::Truncate, file.truncate(PAGES)).is_some() {
            check(one.is_empty(16..PAGES), Kind::Truncate, "contents of freed pages");
            other.fill(16..PAGES, generation);
            check(one.has(0..PAGES, generation), Kind::Truncate, "contents");
        }
    }
    crew.park();
    for area in [one, other, copy] {
        count(Kind::Unmap, area.unmap());
    }
}
