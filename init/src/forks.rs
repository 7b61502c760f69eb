//! Processes: fork with copy-on-write, exec, exit.

use crate::crew::Crew;
use crate::kind::Kind;
use crate::sys::{self, Area, Child, Mapping};
use crate::tally::{check, count, succeeded, wrong};

const PAGES: u64 = 48;
/// What the program that `exec` began exits with.
pub const EXECUTED: i32 = 42;

/// Has a child do `work`, which says whether all was right.
pub fn child(kind: Kind, work: impl FnOnce() -> bool) {
    if let Some(child) = count(Kind::Fork, sys::fork(work)) {
        end(kind, child, 0);
    }
}

fn end(kind: Kind, child: Child, status: i32) {
    match child.wait() {
        Ok(ended) if ended == (status as u32) << 8 => succeeded(Kind::Exit),
        Ok(ended) => wrong(format_args!("{}: a child ended with {ended:#x}", kind.name())),
        Err(errno) => wrong(format_args!("{}: wait failed, errno {}", kind.name(), errno.0)),
    }
}

pub fn round(crew: &Crew, generation: u16) {
    let Some(area) = count(Kind::Map, Area::map(PAGES, Mapping::Private)) else { return };
    area.fill(0..PAGES, generation);
    crew.work(Some(area), Some(area));
    for step in 1..3 {
        copy(area, generation + step);
    }
    crew.park();
    count(Kind::Unmap, area.unmap());
    execute();
}

/// A child, its child and the parent store to the same pages; each sees its own.
fn copy(area: Area, generation: u16) {
    area.fill(0..PAGES, generation);
    let forked = sys::fork(|| {
        area.fill(0..24, generation + 100);
        let grandchild = sys::fork(|| {
            area.fill(8..32, generation + 200);
            area.has(0..8, generation + 100) && area.has(8..32, generation + 200)
        });
        area.fill(16..24, generation + 300);
        let is_right = area.has(0..16, generation + 100)
            && area.has(16..24, generation + 300)
            && area.has(24..PAGES, generation);
        is_right && grandchild.and_then(Child::wait) == Ok(0)
    });
    let Some(forked) = count(Kind::Fork, forked) else { return };
    area.fill(4..40, generation + 400);
    sys::pass();
    let is_right = area.has(0..4, generation)
        && area.has(4..40, generation + 400)
        && area.has(40..PAGES, generation);
    check(is_right, Kind::CopyOnWrite, "contents of the parent");
    end(Kind::CopyOnWrite, forked, 0);
    succeeded(Kind::CopyOnWrite);
}

fn execute() {
    let begin = |name| sys::execute(name, c"--child");
    let forked = sys::fork(|| {
        let errno = begin(c"/proc/self/exe");
        sys::exit(if begin(c"/init") == errno { 1 } else { 2 })
    });
    if let Some(forked) = count(Kind::Fork, forked) {
        end(Kind::Exec, forked, EXECUTED);
        succeeded(Kind::Exec);
    }
}

/// The life of the program that `exec` began.
pub fn executed() -> ! {
    let is_right = Area::map(24, Mapping::Private).is_ok_and(|area| {
        area.fill(0..24, 1);
        area.has(0..24, 1) && area.unmap().is_ok()
    });
    sys::exit(if is_right { EXECUTED } else { 1 })
}
