//! Flushes on every CPU that needs them: what is asked, who is asked, and what each does.
//!
//! A CPU that asks writes down its request, sets a bit for each CPU that must acknowledge, and
//! interrupts them. It waits with interrupts on: two CPUs may ask each other.

use crate::arch::memory::Word;
use crate::arch::{apic, hypercall, percpu};
use crate::config::config;
use crate::mm::{self, INIT};
use crate::policy::policy;
use crate::variant;
use stalemate_shared::layout::{MAX_CPUS, MM_COUNT, PAGE_SIZE};
use stalemate_shared::tlb_state::{SWITCHING, Slot};
use stalemate_shared::variant::Variant;

/// Pages above which a range is flushed as a whole address space, or as everything.
const CEILING: u64 = 8;

/// What is to be flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// User pages of an address space.
    User {
        /// Its number.
        number: usize,
        /// Its generation with this flush.
        tlb_gen: u64,
        /// Page tables go too: CPUs that only walk them must let go as well.
        frees_tables: bool,
    },
    /// Kernel pages.
    Kernel,
    /// Whatever address space a CPU has loaded.
    Loaded,
    /// Everything.
    Everything,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub what: What,
    /// First address.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
    /// Bytes from one page to the next: of the pages as they were cached, not as they are now.
    pub stride: u64,
    /// `loaded_mm` of the CPU that asks.
    pub asked_under: u64,
}

/// Words of a request as others read it.
const WORDS: usize = 8;

/// The request of each CPU.
static REQUESTS: [[Word; WORDS]; MAX_CPUS] = [const { [const { Word::new(0) }; WORDS] }; MAX_CPUS];

impl Request {
    /// A flush of `[start, end)`, whose pages are `stride` bytes apart.
    #[must_use]
    pub fn new(what: What, start: u64, end: u64, stride: u64) -> Self {
        Self { what, start, end, stride, asked_under: percpu::loaded_mm() }
    }

    fn publish(&self) {
        let [kind, number, tlb_gen, frees] = match self.what {
            What::User { number, tlb_gen, frees_tables } => {
                [0, number as u64, tlb_gen, u64::from(frees_tables)]
            }
            What::Kernel => [1, 0, 0, 0],
            What::Loaded => [2, 0, 0, 0],
            What::Everything => [3, 0, 0, 0],
        };
        let range = [self.start, self.end, self.stride, self.asked_under];
        let words = [kind, number, tlb_gen, frees].into_iter().chain(range);
        for (word, value) in REQUESTS[percpu::number() as usize].iter().zip(words) {
            word.set(value);
        }
    }

    fn of(cpu: u64) -> Self {
        let [kind, number, tlb_gen, frees, start, end, stride, asked_under] =
            core::array::from_fn(|word| REQUESTS[cpu as usize][word].get());
        let what = match kind {
            0 => What::User { number: number as usize, tlb_gen, frees_tables: frees != 0 },
            1 => What::Kernel,
            2 => What::Loaded,
            _ => What::Everything,
        };
        Self { what, start, end, stride, asked_under }
    }
}

/// Flushes here, and on all CPUs of `cpus` that must.
///
/// Promises: this CPU and each of those has done what [`flush_here`] does, and has said so.
///
/// Does not promise yet: anything of a CPU that is lazy, where no tables are freed, or has the
/// address space in a slot only: it looks at the generation before it goes on with it. The caller
/// has raised that first.
pub fn flush_on(cpus: u64, request: &Request) {
    if !variant::is(Variant::AllButSelf) {
        flush_here(request);
    }
    let me = percpu::number();
    let asked = (0..config().cpus)
        .filter(|&cpu| cpu != me && cpus >> cpu & 1 != 0 && must_flush(cpu, request))
        .fold(0, |asked, cpu| asked | 1 << cpu);
    if asked != 0 {
        ask(asked, request);
    }
}

/// All CPUs.
pub const EVERY_CPU: u64 = u64::MAX;

/// Whether `cpu`, which may have what is flushed, must be asked. A lazy CPU looks at generations
/// before it goes on; only where tables are freed it must not walk them until then.
fn must_flush(cpu: u64, request: &Request) -> bool {
    match request.what {
        What::User { frees_tables: true, .. }
            if variant::is(Variant::LazyKeepsTables) && percpu::is_lazy_of(cpu) =>
        {
            false
        }
        What::Kernel | What::Everything | What::User { frees_tables: true, .. } => true,
        What::Loaded => !percpu::is_lazy_of(cpu),
        What::User { number, .. } => {
            let loaded = percpu::loaded_mm_of(cpu);
            // In the middle of a switch it may have read the generation already.
            let switching = loaded == SWITCHING && !variant::is(Variant::SwitchingPassedOver);
            switching || loaded == mm::ctx_id(number) && !percpu::is_lazy_of(cpu)
        }
    }
}

/// Asks the CPUs of a set, and waits until all have acknowledged.
fn ask(cpus: u64, request: &Request) {
    request.publish();
    percpu::set_waiting(cpus);
    for cpu in (0..config().cpus).filter(|cpu| cpus >> cpu & 1 != 0) {
        percpu::ask(cpu);
        apic::send_shootdown(cpu);
    }
    while percpu::waiting() != 0 && !variant::is(Variant::NobodyWaits) {
        hypercall::wait_for_others();
    }
}

/// Does what others have asked for; called by the interrupt's handler.
pub fn answer() {
    for cpu in (0..config().cpus).filter(|cpu| percpu::pending() >> cpu & 1 != 0) {
        percpu::take_notice(cpu);
        if variant::is(Variant::AcknowledgesFirst) {
            percpu::acknowledge(cpu);
            flush_here(&Request::of(cpu));
            continue;
        }
        flush_here(&Request::of(cpu));
        percpu::acknowledge(cpu);
    }
}

/// Flushes on this CPU, where it has what is flushed.
///
/// Promises: the kernel PCID that is loaded holds nothing stale of it, and the slot says so. A CPU
/// that was lazy has left the address space whose user pages these are.
///
/// Does not promise yet: what the policy's methods do not promise yet.
#[inline(never)]
pub fn flush_here(request: &Request) {
    match request.what {
        What::Everything => policy().flush_tlb_all(),
        What::Kernel => kernel(request),
        What::Loaded => {
            if let Some(number) = (0..MM_COUNT).find(|&number| is_loaded(number)) {
                mm::catch_up(&percpu::mm_state(number));
            }
        }
        What::User { number, tlb_gen, .. } if is_loaded(number) => user(number, tlb_gen, request),
        What::User { .. } => {}
    }
}

fn is_loaded(number: usize) -> bool {
    percpu::loaded_mm() == mm::ctx_id(number)
}

fn kernel(request: &Request) {
    if variant::is(Variant::KernelFlushNeedsSameMm) && percpu::loaded_mm() != request.asked_under {
        return;
    }
    if (request.end - request.start) / PAGE_SIZE > CEILING {
        policy().flush_tlb_all();
        return;
    }
    let mut va = request.start;
    while va < request.end {
        if variant::is(Variant::KernelRangeAsUser) {
            policy().flush_tlb_one_user(va);
        } else {
            policy().flush_tlb_one_kernel(va);
        }
        va += PAGE_SIZE;
    }
}

/// User pages of the loaded address space. The little hammer will do only where this flush is the
/// one that the slot lacks; else others are on their way, and the whole address space is flushed
/// for all of them.
fn user(number: usize, asked: u64, request: &Request) {
    if percpu::is_lazy() != 0 {
        mm::switch_mm(INIT);
        return;
    }
    let asid = percpu::loaded_mm_asid() as u16;
    let (slot, mm) = (percpu::slot(asid), percpu::mm_state(number));
    let done = slot.tlb_gen + u64::from(variant::is(Variant::GenerationOffByOne));
    if done >= mm.tlb_gen {
        return;
    }
    if variant::is(Variant::SpeculationIgnored) && !mm::user_has_run() {
        percpu::set_slot(asid, Slot { ctx_id: mm.ctx_id, tlb_gen: mm.tlb_gen });
        return;
    }
    let few = (request.end - request.start) / request.stride <= CEILING;
    let last = asked == mm.tlb_gen || variant::is(Variant::LaterGenerationsForgotten);
    if few && asked == slot.tlb_gen + 1 && last {
        let mut va = request.start;
        while va < request.end {
            policy().flush_tlb_one_user(va);
            va += request.stride;
        }
    } else {
        policy().flush_tlb_mm();
    }
    let again = variant::is(Variant::GenerationReadAgain);
    let mm = if again { percpu::mm_state(number) } else { mm };
    // Not before: what the slot says has been flushed.
    percpu::set_slot(asid, Slot { ctx_id: mm.ctx_id, tlb_gen: mm.tlb_gen });
}
