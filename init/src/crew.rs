//! Threads that read and write the memory that the workload changes.

use crate::area::belongs;
use crate::kind::Kind;
use crate::sys::{self, Area};
use crate::tally::{count, wrong};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

const WORKERS: usize = 2;
/// Accesses between two calls that let others run: a tick of the timer is too rare for hand-overs.
const BURST: u64 = 24;
/// Bursts of a thread after each [`Crew::work`]: schedulers differ in what they make of a thread
/// that lets others run, and the workload is to have its share.
const BURSTS: u32 = 100;
/// The first word of a page that workers write to, each to its own.
const WORD: u64 = 8;

/// A count of changes: even while the threads are to rest, odd while they work.
static STATE: AtomicU32 = AtomicU32::new(0);
const OVER: u32 = u32::MAX;

/// The state in which each of them last came to rest; an odd one where it never has.
static AT_REST: [AtomicU32; WORKERS] = [const { AtomicU32::new(1) }; WORKERS];
static ALIVE: [AtomicU32; WORKERS] = [const { AtomicU32::new(0) }; WORKERS];

/// Base and size in bytes of what they read, and of what they write to.
static READS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static WRITES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn aim(at: &[AtomicU64; 2], area: Option<Area>) {
    let (base, size) = area.map_or((0, 0), Area::range);
    at[0].store(base, SeqCst);
    at[1].store(size, SeqCst);
}

fn aimed(at: &[AtomicU64; 2]) -> Option<Area> {
    let range = (at[0].load(SeqCst), at[1].load(SeqCst));
    (range.1 != 0).then(|| Area::from_range(range))
}

/// The threads, while there are any.
pub struct Crew {
    workers: usize,
}

impl Crew {
    /// Begins the threads, at rest.
    pub fn begin() -> Self {
        STATE.store(0, SeqCst);
        let mut workers = 0;
        for (worker, alive) in ALIVE.iter().enumerate() {
            alive.store(1, SeqCst);
            AT_REST[worker].store(1, SeqCst);
            if count(Kind::Thread, sys::spawn(work, worker as u64, alive)).is_some() {
                workers += 1;
            } else {
                alive.store(0, SeqCst);
            }
        }
        Self { workers }
    }

    /// Has them read the one area, and write to the other, for a while, or until they are parked.
    /// What they read may lose its contents, not its mapping.
    pub fn work(&self, reads: Option<Area>, writes: Option<Area>) {
        self.park();
        aim(&READS, reads);
        aim(&WRITES, writes);
        STATE.fetch_add(1, SeqCst);
        sys::wake(&STATE);
        sys::pass();
    }

    /// Waits until none of them accesses an area any more.
    pub fn park(&self) {
        // Only this thread changes the state.
        let state = STATE.load(SeqCst).next_multiple_of(2);
        STATE.store(state, SeqCst);
        sys::wake(&STATE);
        for at_rest in &AT_REST[..self.workers] {
            while at_rest.load(SeqCst) != state {
                sys::pass();
            }
        }
    }

    /// Ends the threads.
    pub fn end(self) {
        self.park();
        STATE.store(OVER, SeqCst);
        sys::wake(&STATE);
        for alive in &ALIVE {
            while alive.load(SeqCst) != 0 {
                sys::wait_while(alive, 1);
            }
        }
    }
}

extern "C" fn work(worker: u64) {
    let mut random = worker * 7 + 1;
    let mut done = (0, 0);
    loop {
        let state = STATE.load(SeqCst);
        if state == OVER {
            return;
        }
        if state.is_multiple_of(2) {
            AT_REST[worker as usize].store(state, SeqCst);
            sys::wait_while(&STATE, state);
            continue;
        }
        if done.0 != state {
            done = (state, 0);
        }
        if done.1 < BURSTS {
            done.1 += 1;
            burst(worker, &mut random);
            sys::pass();
        } else {
            sys::wait_while(&STATE, state);
        }
    }
}

fn burst(worker: u64, random: &mut u64) {
    let reads = aimed(&READS);
    let writes = aimed(&WRITES);
    for _ in 0..BURST {
        *random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        if let Some(area) = reads {
            let page = (*random >> 33) % area.pages();
            let value = area.load(page, 0);
            if !belongs(value, page) {
                wrong(format_args!("thread: page {page} holds {value:#x}"));
            }
        }
        if let Some(area) = writes {
            let page = (*random >> 35) % area.pages();
            area.store(page, WORD + worker, *random);
        }
    }
}
