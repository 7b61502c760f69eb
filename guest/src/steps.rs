//! The step loop: one step at a time from the VMM, and what it came to.

use crate::arch::{self, UserContext, UserExit, cpu::broken, hypercall, memory, percpu};
use crate::config::config;
use crate::operations::{self, Mended};
use crate::paging::{self, Downgrade, Refused, pool};
use crate::{entry, flush, mm};
use stalemate_shared::layout::{
    KERNEL_PAGE_COUNT, KERNEL_PAGES, MEMORY_SIZE, MM_COUNT, PAGE_SIZE, USER_CODE, USER_END,
    USER_LARGE_PAGE_COUNT, USER_PAGE_COUNT, USER_TABLE_PAGE_COUNT,
};
use stalemate_shared::step::{Misbehaviour, Op, Status, flags};

/// Downgrades whose flush is a later step: at most one for each test page.
const MAX_PENDING: usize = MM_COUNT
    * (USER_PAGE_COUNT + USER_LARGE_PAGE_COUNT + USER_TABLE_PAGE_COUNT) as usize
    + KERNEL_PAGE_COUNT as usize;

/// A step's report: status, value, second value.
type Report = (Status, u64, u64);

const DONE: Report = (Status::Done, 0, 0);

/// Tokens of edits, until a flush step covers them.
struct Pending([Option<Downgrade>; MAX_PENDING]);

impl Pending {
    fn add(&mut self, token: Downgrade) {
        // What is owed once for a page is not owed twice.
        if self.0.iter().flatten().any(|owed| *owed == token) {
            return;
        }
        let free = self.0.iter_mut().find(|slot| slot.is_none());
        *free.expect("a place for every page") = Some(token);
    }

    fn discharge(&mut self, mm: Option<usize>, start: u64, end: u64) {
        for slot in &mut self.0 {
            *slot = slot.take().and_then(|token| token.discharge(mm, start, end).err());
        }
    }
}

/// Runs steps for ever.
pub fn run() -> ! {
    let mut pending = Pending([const { None }; MAX_PENDING]);
    let mut report = (Status::None, 0, 0);
    loop {
        let (op, args) = hypercall::next_step(report, config().cpus > 1);
        report = step(&mut pending, op, args).unwrap_or((Status::Refused, 0, 0));
    }
}

fn step(pending: &mut Pending, op: u64, args: [u64; 4]) -> Result<Report, Refused> {
    let op = Op::try_from(op).map_err(|_| Refused)?;
    let [number, va, third, fourth] = args;
    let number = number as usize;
    if !matches!(op, Op::Misbehave | Op::FreeFrame) && number >= MM_COUNT {
        return Err(Refused);
    }
    match op {
        Op::Map => paging::map(number, va, third, fourth)?,
        Op::Remap => pending.add(paging::remap(number, va, third, fourth)?),
        Op::Unmap => pending.add(paging::unmap(number, va)?),
        Op::Protect => {
            let edit = |bits| entry::protected(bits, third);
            pending.add(paging::change(number, va, edit)?);
        }
        Op::Clean => pending.add(paging::change(number, va, entry::clean)?),
        Op::Age => pending.add(paging::change(number, va, entry::aged)?),
        Op::FlushOneUser => {
            flush::flush_tlb_one_user(number, va);
            pending.discharge(Some(number), va, va + 1);
        }
        Op::FlushOneKernel => {
            flush::flush_tlb_one_kernel(va);
            pending.discharge(None, va, va + 1);
        }
        Op::FlushRange => {
            if va >= third || third > USER_END {
                return Err(Refused);
            }
            flush::flush_tlb_range(number, va, third);
            pending.discharge(Some(number), va, third);
        }
        Op::FlushMm => {
            flush::flush_tlb_mm(number);
            pending.discharge(Some(number), 0, USER_END);
        }
        Op::FlushAll => {
            flush::flush_tlb_all();
            pending.discharge(None, 0, u64::MAX);
        }
        Op::FlushKernelRange => {
            if va >= third || va < USER_END {
                return Err(Refused);
            }
            flush::flush_tlb_kernel_range(va, third);
            pending.discharge(None, va, third);
        }
        Op::FlushBatched => flush::flush_tlb_batched(),
        Op::UnmapBatched => operations::unmap_batched(number, va)?,
        Op::UnmapLazily => {
            let until = third.try_into().map_err(|_| Refused)?;
            flush::defer_until_reuse(until, paging::unmap(number, va)?);
        }
        Op::FlushOneKernelHere => {
            flush::flush_tlb_one_kernel_here(va);
            pending.discharge(None, va, va + 1);
        }
        Op::Fork if va < MM_COUNT as u64 => operations::fork(number, va as usize)?,
        Op::SplitLarge => operations::split(number, va)?,
        Op::MergeLarge => operations::merge(number, va)?,
        Op::FreeTable => operations::free_table(number, va)?,
        Op::FreeFrame => pool::give_back(args[0]),
        Op::UnmapRange => operations::unmap_range(number, va, third)?,
        Op::MovePage => operations::move_page(number, va, third)?,
        Op::Migrate => operations::migrate(number, va, third)?,
        Op::MakeClean => operations::make_clean(number, va)?,
        Op::WriteProtect => operations::write_protect(number, va)?,
        Op::SwitchMm => mm::switch_mm(number),
        Op::Lazy => mm::enter_lazy_tlb(),
        Op::LeaveMm => mm::switch_mm(mm::INIT),
        Op::UserNop => return Ok(user(number, va, 0, third)),
        Op::UserRead => return Ok(user(number, va, 1, third)),
        Op::UserWrite => return Ok(user(number, va, 2, third)),
        Op::UserSpin => return Ok(user(number, va, 3, third.max(1))),
        Op::KernelRead => {
            load_for(number, va);
            return Ok(probed(arch::probe_read(va)));
        }
        Op::KernelWrite => {
            load_for(number, va);
            return Ok(probed(arch::probe_write(va, third)));
        }
        Op::Misbehave => misbehave(args[0].try_into().map_err(|_| Refused)?)?,
        Op::Stop | Op::Fork => return Err(Refused),
    }
    Ok(DONE)
}

/// Loads the address space for an access to `va`. A kernel thread's own pages are in all of them:
/// it stays lazy.
fn load_for(number: usize, va: u64) {
    if va < USER_END || percpu::is_lazy() == 0 {
        mm::switch_mm(number);
    }
}

fn probed(result: Result<u64, (u64, u64)>) -> Report {
    match result {
        Ok(value) => (Status::Done, value, 0),
        Err((error, address)) => (Status::Fault, error, address),
    }
}

fn user(number: usize, address: u64, operation: u64, value: u64) -> Report {
    mm::switch_mm(number);
    let context = UserContext { rip: USER_CODE, rsp: 0, address, operation, value };
    let mut tries = 0;
    loop {
        mm::user_runs();
        let (error, address) = match arch::enter_user(&context) {
            UserExit::Syscall(value) => return (Status::Done, value, 0),
            UserExit::Fault { error, address, .. } => (error, address),
        };
        match operations::mend_fault(number, address, error) {
            Ok(Mended::Copied) => {}
            Ok(Mended::Already) if tries < MOST_TRIES => tries += 1,
            _ => return (Status::Fault, error, address),
        }
    }
}

/// How often an access is tried again on a page that allows it already.
const MOST_TRIES: u64 = 4;

fn misbehave(how: Misbehaviour) -> Result<(), Refused> {
    match how {
        Misbehaviour::TripleFault => broken::triple_fault(),
        Misbehaviour::Loop => broken::spin(),
        Misbehaviour::TrapLoop => loop {
            crate::arch::cpu::invlpg(0);
        },
        Misbehaviour::BeyondMemory => {
            let va = KERNEL_PAGES + (KERNEL_PAGE_COUNT - 1) * PAGE_SIZE;
            paging::map(0, va, MEMORY_SIZE, flags::WRITABLE)?;
            // The VMM stops the machine at this access; its result is nobody's.
            let _ = arch::probe_read(va);
        }
        Misbehaviour::Wbinvd => broken::wbinvd(),
        Misbehaviour::Panic => panic!("asked to"),
        Misbehaviour::ZeroIdt => arch::segments::break_idt(),
        Misbehaviour::StoreToCode => broken::store_to_code(),
        Misbehaviour::ZeroRoot => {
            let root = crate::arch::percpu::mm_state(0).kernel_root;
            memory::write_physical(root + 511 * 8, 0);
            crate::arch::cpu::load_cr3(crate::arch::cpu::read_cr3());
        }
    }
    Ok(())
}
