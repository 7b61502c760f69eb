//! The kernel option whose NMI handler flushes.

use crate::arch::{cpu, percpu};
use crate::config::config;
use crate::{entry, paging};
use stalemate_shared::boot::Policy;
use stalemate_shared::layout::{MM_COUNT, PAGE_SIZE, USER_PAGES};
use stalemate_shared::pcid::{PCID_MASK, ROOT_MASK, kernel_pcid};

/// What an NMI handler must not do: it changes the first user test page, where it can, and flushes
/// it by INVLPG and a mark. The address space is told by CR3, since `TlbState` may be halfway.
pub fn flush() {
    let split = matches!(config().policy, Policy::Split);
    if !(split && config().pti && config().pcid) {
        return;
    }
    let cr3 = cpu::read_cr3();
    let asid = (cr3 & PCID_MASK) as u16 - kernel_pcid(0);
    let number =
        (0..MM_COUNT).find(|&number| percpu::mm_state(number).kernel_root == cr3 & ROOT_MASK);
    let Some(number) = number else { return };
    let protect = |bits| entry::protected(bits, 0);
    if let Ok(token) = paging::change(number, USER_PAGES, protect) {
        cpu::invlpg(USER_PAGES);
        percpu::mark(asid);
        // The address space is loaded, so that INVLPG and the mark are all that is owed.
        let _ = token.discharge(Some(number), USER_PAGES, USER_PAGES + PAGE_SIZE);
    }
}
