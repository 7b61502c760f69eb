//! Large pages: faulted in, collapsed, split, copied, moved.

use crate::crew::Crew;
use crate::forks::child;
use crate::kind::Kind;
use crate::options::field;
use crate::setting::set;
use crate::sys::{Area, File, HUGE, Mapping, Move};
use crate::tally::{absent, check, count, failed, succeeded};

const DONT_NEED: u64 = 4;
const HUGE_PAGE: u64 = 14;
const NO_HUGE_PAGE: u64 = 15;
const COLLAPSE: u64 = 25;

/// Has the kernel count `field` of /proc/vmstat while `work` is done; succeeds where it went up.
pub fn counted(kind: Kind, name: &str, work: impl FnOnce()) {
    let before = statistic(name);
    work();
    match (before, statistic(name)) {
        (Some(before), Some(after)) if after > before => succeeded(kind),
        (Some(_), Some(_)) => {}
        _ => absent(kind),
    }
}

/// Has the kernel give large pages to those who advise it; small machines have that off.
pub fn begin() {
    for (name, value) in [
        (c"/sys/kernel/mm/transparent_hugepage/enabled", "madvise"),
        (c"/sys/kernel/mm/transparent_hugepage/defrag", "madvise"),
        (c"/sys/kernel/mm/transparent_hugepage/use_zero_page", "1"),
        // Some for hugetlbfs, where the kernel has it at all.
        (c"/proc/sys/vm/nr_hugepages", "2"),
    ] {
        // What is not there shows as a kind that is absent.
        let _ = set(name, value);
    }
}

/// A field of /proc/vmstat.
pub fn statistic(name: &str) -> Option<u32> {
    let file = File::open(c"/proc/vmstat", File::READ).ok()?;
    let mut text = [0; 8192];
    let mut len = 0;
    while let Ok(read @ 1..) = file.read(&mut text[len..]) {
        len += read;
    }
    field(&text[..len], name)
}

pub fn round(crew: &Crew, generation: u16) {
    transparent(crew, generation);
    zero();
    table(generation);
}

fn transparent(crew: &Crew, generation: u16) {
    const PAGES: u64 = 2 * HUGE;
    let Ok(area) = Area::map_large(2, Mapping::Private) else { return };
    if let Err(errno) = area.advise(HUGE_PAGE) {
        for kind in [
            Kind::HugeFault,
            Kind::HugeCollapse,
            Kind::HugeSplit,
            Kind::HugeCopy,
            Kind::HugeMove,
            Kind::HugeZero,
        ] {
            failed(kind, errno);
        }
        return;
    }
    counted(Kind::HugeFault, "thp_fault_alloc", || area.fill(0..PAGES, generation));
    crew.work(Some(area), Some(area));
    // The whole of one, then a part of it, which splits its mapping.
    count(Kind::Protect, area.part(HUGE, HUGE).protect(Area::BOTH));
    counted(Kind::HugeSplit, "thp_split_pmd", || {
        count(Kind::AdviseDontNeed, area.part(16, 20).advise(DONT_NEED));
    });
    check(area.is_empty(16..36), Kind::HugeSplit, "contents of freed pages");
    check(area.has(36..PAGES, generation), Kind::HugeSplit, "contents");
    area.fill(16..36, generation);
    counted(Kind::HugeCopy, "thp_split_pmd", || {
        child(Kind::HugeCopy, || {
            area.fill(HUGE + 3..HUGE + 9, generation + 1);
            area.has(HUGE + 9..HUGE + 100, generation)
        });
    });
    area.fill(HUGE + 3..HUGE + 7, generation);
    check(area.has(HUGE..PAGES, generation), Kind::HugeCopy, "contents of the parent");
    let mut is_large = false;
    // Written to first: a range without a writable page does not collapse.
    area.fill(0..PAGES, generation);
    for first in [0, HUGE] {
        if count(Kind::HugeCollapse, area.part(first, HUGE).advise(COLLAPSE)).is_some() {
            is_large |= first == 0;
            check(area.has(0..PAGES, generation), Kind::HugeCollapse, "contents");
            area.fill(first..first + 8, generation);
        }
    }
    crew.park();
    if let Ok(target) = Area::map_large(1, Mapping::Private) {
        let kind = if is_large { Kind::HugeMove } else { Kind::RemapMove };
        if let Some(moved) = count(kind, area.part(0, HUGE).remap(HUGE, Move::To(target))) {
            check(!area.is_readable(9), Kind::HugeMove, "a page was read where it had been");
            check(moved.has(0..HUGE, generation), Kind::HugeMove, "contents");
        }
        count(Kind::Unmap, target.unmap());
    }
    // A large page unmapped in part.
    count(Kind::Unmap, area.part(HUGE + 64, 64).unmap());
    check(!area.is_readable(HUGE + 70), Kind::HugeSplit, "an unmapped page was read");
    check(area.has(HUGE..HUGE + 64, generation), Kind::HugeSplit, "contents");
    let _ = area.part(HUGE, HUGE).advise(NO_HUGE_PAGE);
    count(Kind::Unmap, area.unmap());
}

/// A large page of zeros, shared until it is written to.
fn zero() {
    let Ok(area) = Area::map_large(1, Mapping::Private) else { return };
    if area.advise(HUGE_PAGE).is_ok() {
        check(area.is_empty(3..9), Kind::HugeZero, "contents");
        area.fill(5..6, 1);
        let is_right = area.is_empty(0..5) && area.has(5..6, 1) && area.is_empty(6..HUGE);
        check(is_right, Kind::HugeZero, "contents after a store");
        // The kernel makes it once.
        match statistic("thp_zero_page_alloc") {
            Some(1..) => succeeded(Kind::HugeZero),
            Some(0) => {}
            None => absent(Kind::HugeZero),
        }
    }
    count(Kind::Unmap, area.unmap());
}

/// Large pages of hugetlbfs, where the kernel sets some aside.
fn table(generation: u16) {
    let area = match Area::map(HUGE, Mapping::HugeTlb) {
        Ok(area) => area,
        // None set aside.
        Err(crate::sys::Errno(12)) => return absent(Kind::HugeTlb),
        Err(errno) => return failed(Kind::HugeTlb, errno),
    };
    area.fill(0..HUGE, generation);
    if area.protect(Area::READ).is_ok() {
        check(!area.is_writable(7), Kind::HugeTlb, "a read-only page was written to");
        let _ = area.protect(Area::BOTH);
    }
    area.fill(0..8, generation);
    check(area.has(0..HUGE, generation), Kind::HugeTlb, "contents");
    count(Kind::HugeTlb, area.unmap());
}
