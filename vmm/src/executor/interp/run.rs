//! The interpreter's loop: decoded blocks, one after another, until a trap.

use super::code::{Block, CodeCache};
use super::engine::{ERROR_USER, Engine, Trapped};
use super::memory::FetchFault;
use crate::arch::fault::vector;
use crate::executor::Trap;

/// A page-fault error code's bit: the access was a fetch.
const ERROR_FETCH: u32 = 1 << 4;

/// Runs until a trap, or until `limit` instructions completed. None for the latter.
pub fn run(engine: &mut Engine, code: &mut CodeCache, limit: u64) -> Option<Trap> {
    engine.limit = limit;
    while engine.retired < limit {
        let rip = engine.rip();
        let block = match code.block(&mut engine.memory, rip) {
            Ok(block) => block,
            Err(fault) => return Some(trap_of(fault)),
        };
        if block.breakpoint && (engine.retired > 0 || engine.reported != Some(rip)) {
            engine.reported = Some(rip);
            return Some(Trap::Breakpoint);
        }
        let ended = run_block(engine, block, limit);
        let looks = engine.memory.code_written();
        if looks {
            code.drop_written(&mut engine.memory);
        }
        if ended.is_err() {
            return Some(engine.trap);
        }
        if looks && engine.memory.is_visible() {
            return Some(Trap::Visible);
        }
    }
    None
}

/// Runs `block`'s instructions while fewer than `limit` have completed.
#[inline(always)]
fn run_block(engine: &mut Engine, block: &Block, limit: u64) -> Result<(), Trapped> {
    let start = engine.rip();
    loop {
        let left = usize::try_from(limit - engine.retired).unwrap_or(usize::MAX);
        let most = left.min(block.uops.len());
        for (index, uop) in block.uops[..most].iter().enumerate() {
            let rip = engine.rip();
            engine.set_rip(rip.wrapping_add(u64::from(uop.len)));
            if (uop.run)(engine, uop).is_err() {
                if !engine.trap_after {
                    engine.set_rip(rip);
                }
                engine.trap_after = false;
                engine.retired += index as u64;
                return Err(Trapped);
            }
            if engine.memory.code_written() {
                engine.retired += index as u64 + 1;
                return Ok(());
            }
        }
        engine.retired += most as u64;
        // A loop of one block needs no look-up.
        if engine.rip() != start || engine.retired >= limit {
            return Ok(());
        }
    }
}

/// The exception that a fetch ends in.
fn trap_of(fault: FetchFault) -> Trap {
    match fault {
        FetchFault::NotCanonical => {
            Trap::Exception { vector: vector::GENERAL_PROTECTION, error: 0, address: 0 }
        }
        FetchFault::Page { address, present } => Trap::Exception {
            vector: vector::PAGE_FAULT,
            error: ERROR_USER | ERROR_FETCH | u32::from(present),
            address,
        },
    }
}
