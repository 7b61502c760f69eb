//! The step loop: one step at a time from the VMM, and what it came to.

use crate::arch::{self, UserContext, UserExit, cpu::broken, hypercall, memory, percpu};
use crate::config::config;
use crate::paging::{self, Downgrade, Refused, pool};
use crate::{entry, flush, mm, operations};
use stalemate_shared::layout::{
    KERNEL_PAGE_COUNT, KERNEL_PAGES, MEMORY_SIZE, MM_COUNT, PAGE_SIZE, USER_CODE, USER_END,
    USER_LARGE_PAGE_COUNT, USER_PAGE_COUNT, USER_TABLE_PAGE_COUNT,
};
use stalemate_shared::step::{flags, misbehaviour, op, status};

/// Downgrades whose flush is a later step: at most one for each test page.
const MAX_PENDING: usize = MM_COUNT
    * (USER_PAGE_COUNT + USER_LARGE_PAGE_COUNT + USER_TABLE_PAGE_COUNT) as usize
    + KERNEL_PAGE_COUNT as usize;

/// A step's report: status, value, second value.
type Report = [u64; 3];

const DONE: Report = [status::DONE, 0, 0];

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
    let mut report = [status::NONE, 0, 0];
    loop {
        let (opcode, args) = hypercall::next_step(report, config().cpus > 1);
        report = step(&mut pending, opcode, args).unwrap_or([status::REFUSED, 0, 0]);
    }
}

fn step(pending: &mut Pending, opcode: u64, args: [u64; 4]) -> Result<Report, Refused> {
    let [number, va, third, fourth] = args;
    let number = number as usize;
    if !matches!(opcode, op::MISBEHAVE | op::FREE_FRAME) && number >= MM_COUNT {
        return Err(Refused);
    }
    match opcode {
        op::MAP => paging::map(number, va, third, fourth)?,
        op::REMAP => pending.add(paging::remap(number, va, third, fourth)?),
        op::UNMAP => pending.add(paging::unmap(number, va)?),
        op::PROTECT => {
            let edit = |bits| entry::protected(bits, third);
            pending.add(paging::change(number, va, edit)?);
        }
        op::CLEAN => pending.add(paging::change(number, va, entry::clean)?),
        op::AGE => pending.add(paging::change(number, va, entry::aged)?),
        op::FLUSH_ONE_USER => {
            flush::flush_tlb_one_user(number, va);
            pending.discharge(Some(number), va, va + 1);
        }
        op::FLUSH_ONE_KERNEL => {
            flush::flush_tlb_one_kernel(va);
            pending.discharge(None, va, va + 1);
        }
        op::FLUSH_RANGE => {
            if va >= third || third > USER_END {
                return Err(Refused);
            }
            flush::flush_tlb_range(number, va, third);
            pending.discharge(Some(number), va, third);
        }
        op::FLUSH_MM => {
            flush::flush_tlb_mm(number);
            pending.discharge(Some(number), 0, USER_END);
        }
        op::FLUSH_ALL => {
            flush::flush_tlb_all();
            pending.discharge(None, 0, u64::MAX);
        }
        op::FLUSH_KERNEL_RANGE => {
            if va >= third || va < USER_END {
                return Err(Refused);
            }
            flush::flush_tlb_kernel_range(va, third);
            pending.discharge(None, va, third);
        }
        op::FLUSH_BATCHED => flush::flush_tlb_batched(),
        op::UNMAP_BATCHED => flush::defer(number, paging::unmap(number, va)?),
        op::FORK if va < MM_COUNT as u64 => operations::fork(number, va as usize)?,
        op::SPLIT_LARGE => operations::split(number, va)?,
        op::MERGE_LARGE => operations::merge(number, va)?,
        op::FREE_TABLE => operations::free_table(number, va)?,
        op::FREE_FRAME => pool::give_back(args[0]),
        op::UNMAP_RANGE => operations::unmap_range(number, va, third)?,
        op::MOVE_PAGE => operations::move_page(number, va, third)?,
        op::MIGRATE => operations::migrate(number, va, third)?,
        op::MAKE_CLEAN => operations::make_clean(number, va)?,
        op::WRITE_PROTECT => operations::write_protect(number, va)?,
        op::SWITCH_MM => mm::switch_mm(number),
        op::LAZY => mm::enter_lazy_tlb(),
        op::LEAVE_MM => mm::switch_mm(mm::INIT),
        op::USER_NOP => return Ok(user(number, va, 0, third)),
        op::USER_READ => return Ok(user(number, va, 1, third)),
        op::USER_WRITE => return Ok(user(number, va, 2, third)),
        op::USER_SPIN => return Ok(user(number, va, 3, third.max(1))),
        op::KERNEL_READ => {
            load_for(number, va);
            return Ok(probed(arch::probe_read(va)));
        }
        op::KERNEL_WRITE => {
            load_for(number, va);
            return Ok(probed(arch::probe_write(va, third)));
        }
        op::MISBEHAVE => misbehave(args[0])?,
        _ => return Err(Refused),
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
        Ok(value) => [status::DONE, value, 0],
        Err((error, address)) => [status::FAULT, error, address],
    }
}

fn user(number: usize, address: u64, operation: u64, value: u64) -> Report {
    mm::switch_mm(number);
    let context = UserContext { rip: USER_CODE, rsp: 0, address, operation, value };
    loop {
        mm::user_runs();
        match arch::enter_user(&context) {
            UserExit::Syscall(value) => return [status::DONE, value, 0],
            // A store to a page that is shared: once it is copied, the store is tried again.
            UserExit::Fault { error, address, .. }
                if error == STORE_TO_PRESENT && operations::copy(number, address).is_ok() => {}
            UserExit::Fault { error, address, .. } => return [status::FAULT, error, address],
        }
    }
}

/// The page-fault error code of a user's store to a page that is present: P, W and U.
const STORE_TO_PRESENT: u64 = 7;

fn misbehave(how: u64) -> Result<(), Refused> {
    match how {
        misbehaviour::TRIPLE_FAULT => broken::triple_fault(),
        misbehaviour::LOOP => broken::spin(),
        misbehaviour::TRAP_LOOP => loop {
            crate::arch::cpu::invlpg(0);
        },
        misbehaviour::BEYOND_MEMORY => {
            let va = KERNEL_PAGES + (KERNEL_PAGE_COUNT - 1) * PAGE_SIZE;
            paging::map(0, va, MEMORY_SIZE, flags::WRITABLE)?;
            // The VMM stops the machine at this access; its result is nobody's.
            let _ = arch::probe_read(va);
        }
        misbehaviour::WBINVD => broken::wbinvd(),
        misbehaviour::PANIC => panic!("asked to"),
        misbehaviour::ZERO_IDT => arch::segments::break_idt(),
        misbehaviour::STORE_TO_CODE => broken::store_to_code(),
        misbehaviour::ZERO_ROOT => {
            let root = crate::arch::percpu::mm_state(0).kernel_root;
            memory::write_physical(root + 511 * 8, 0);
            crate::arch::cpu::load_cr3(crate::arch::cpu::read_cr3());
        }
        _ => return Err(Refused),
    }
    Ok(())
}
