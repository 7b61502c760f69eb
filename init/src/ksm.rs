//! Pages with the same contents, merged by the kernel.

use crate::crew::Crew;
use crate::kind::Kind;
use crate::setting::{number, set};
use crate::sys::{self, Area, Mapping};
use crate::tally::{check, count, failed, succeeded};

const MERGEABLE: u64 = 12;
const UNMERGEABLE: u64 = 13;
const PAGES: u64 = 32;
const SAME: u64 = 0x5a5a;

/// Has the kernel look for equal pages, often.
pub fn begin() {
    for (name, value) in [
        (c"/sys/kernel/mm/ksm/sleep_millisecs", "2"),
        (c"/sys/kernel/mm/ksm/pages_to_scan", "200"),
        (c"/sys/kernel/mm/ksm/run", "1"),
    ] {
        if let Err(errno) = set(name, value) {
            failed(Kind::KsmMerge, errno);
            failed(Kind::KsmUnmerge, errno);
        }
    }
}

pub fn round(crew: &Crew) {
    let Some(area) = count(Kind::Map, Area::map(PAGES, Mapping::Private)) else { return };
    let all = |value| (0..PAGES).all(|page| area.load(page, 1) == value);
    (0..PAGES).for_each(|page| area.store(page, 1, SAME));
    if let Err(errno) = area.advise(MERGEABLE) {
        failed(Kind::KsmMerge, errno);
        failed(Kind::KsmUnmerge, errno);
    } else {
        // The threads are at rest: the CPU is idle while the kernel's thread sleeps.
        for _ in 0..40 {
            let sharing = number(c"/sys/kernel/mm/ksm/pages_sharing");
            if sharing.is_none_or(|pages| u64::from(pages) >= PAGES / 2) {
                break;
            }
            sys::nap(5);
        }
        if number(c"/sys/kernel/mm/ksm/pages_sharing").is_some_and(|pages| pages > 0) {
            succeeded(Kind::KsmMerge);
        }
        check(all(SAME), Kind::KsmMerge, "contents");
        crew.work(Some(area), None);
        for page in (0..PAGES).step_by(3) {
            area.store(page, 1, page);
        }
        let is_right =
            (0..PAGES).all(|page| area.load(page, 1) == if page % 3 == 0 { page } else { SAME });
        check(is_right, Kind::KsmMerge, "contents after a store");
        count(Kind::KsmUnmerge, area.advise(UNMERGEABLE));
        (0..PAGES).for_each(|page| area.store(page, 1, SAME));
        check(all(SAME), Kind::KsmUnmerge, "contents");
        crew.park();
    }
    count(Kind::Unmap, area.unmap());
}
