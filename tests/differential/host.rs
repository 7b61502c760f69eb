//! A defect of software-only KVMs, and what makes up for it: they emulate an instruction that got
//! #GP or #SS from the processor, and what their emulator does not know becomes #UD.

use crate::rig::{CODE, DATA, PAGE, PAGES, Side, State};
use crate::sequence::Step;
use iced_x86::{Mnemonic, OpKind};
use stalemate::arch::addr::Gva;
use stalemate::arch::vcpu::Vcpu;
use stalemate::executor::Trap;

const INVALID_OPCODE: u8 = 6;
const STACK_FAULT: u8 = 12;
const GENERAL_PROTECTION: u8 = 13;

const UNDEFINED: Trap = Trap::Exception { vector: INVALID_OPCODE, error: 0, address: 0 };

/// Whether a misaligned PADDD, which is #GP on every processor (SDM vol. 2, table 2-21), is #UD
/// on `side`.
pub fn emulates(side: &mut Side) -> bool {
    let mut state = State::zero();
    // paddd xmm0, [rax]
    state.put(CODE, &[0x66, 0x0f, 0xfe, 0x00]);
    state.gpr[0] = DATA + 1;
    side.load(&state);
    side.run() == UNDEFINED
}

/// The first side's trap, or the other one's where both are right: in the address that a fault of
/// FXSAVE and FXRSTOR gives, in which of CMPS's operands faults first, and in which of two pages
/// when an operand lies in both and neither allows the access.
pub fn either([right, tested]: [Trap; 2], step: &Step, vcpu: &Vcpu) -> Trap {
    let mnemonic = step.instruction.mnemonic();
    let agree = match mnemonic {
        Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => {
            let (Some(a), Some(b), Some(begin)) =
                (page_fault(right), page_fault(tested), address(step, vcpu))
            else {
                return right;
            };
            a.0 == b.0 && [a.1, b.1].iter().all(|at| (begin..begin + 512).contains(at))
        }
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq
            if step.instruction.op_count() == 2 =>
        {
            [0, 1].iter().all(|operand| cannot_be_read(step, *operand, vcpu))
        }
        _ => one_of_two_pages([right, tested], step, vcpu),
    };
    let both = |trap| matches!(trap, Trap::Exception { vector: 13 | 14, .. });
    if agree && both(right) && both(tested) { tested } else { right }
}

/// Each trap is a fault of one of the pages of the memory operand, as that page is.
fn one_of_two_pages(traps: [Trap; 2], step: &Step, vcpu: &Vcpu) -> bool {
    let size = step.instruction.memory_size().size() as u64;
    let Some(begin) = address(step, vcpu) else { return false };
    let second = (begin | (PAGE - 1)).wrapping_add(1);
    traps.iter().all(|trap| {
        let Some((error, at)) = page_fault(*trap) else { return false };
        let page = PAGES.iter().find(|page| page.at == at & !(PAGE - 1));
        let refuses = match page {
            None => error & 1 == 0,
            Some(page) => !page.writable && error & 3 == 3,
        };
        refuses && (at == begin || at == second && at < begin.saturating_add(size))
    })
}

fn page_fault(trap: Trap) -> Option<(u32, u64)> {
    match trap {
        Trap::Exception { vector: 14, error, address } => Some((error, address)),
        _ => None,
    }
}

fn cannot_be_read(step: &Step, operand: u32, vcpu: &Vcpu) -> bool {
    let size = step.instruction.memory_size().size() as u64;
    linear(step, operand, vcpu).is_some_and(|at| {
        let mapped = |at: u64| PAGES.iter().any(|page| page.at == at & !(PAGE - 1));
        !mapped(at) || !mapped(at.wrapping_add(size - 1))
    })
}

/// The trap that the first side would have given at `step` without the defect: the other one's,
/// where the state that both have got asks for it.
pub fn repaired([right, tested]: [Trap; 2], step: &Step, vcpu: &Vcpu) -> Trap {
    let Trap::Exception { vector, error, .. } = tested else { return right };
    let asked = match vector {
        GENERAL_PROTECTION => protects(step, error, vcpu),
        STACK_FAULT => error == 0 && address(step, vcpu).is_some_and(|at| !Gva(at).is_canonical()),
        _ => false,
    };
    if right == UNDEFINED && asked { tested } else { right }
}

fn protects(step: &Step, error: u32, vcpu: &Vcpu) -> bool {
    let instruction = &step.instruction;
    match instruction.mnemonic() {
        // The value may be at fault, which is gone by now.
        Mnemonic::Ldmxcsr => error == 0,
        _ => {
            let wrong = |at: u64| !Gva(at).is_canonical() || !at.is_multiple_of(16);
            error == 0 && address(step, vcpu).is_some_and(wrong)
        }
    }
}

/// The linear address of the memory operand.
fn address(step: &Step, vcpu: &Vcpu) -> Option<u64> {
    let instruction = &step.instruction;
    let memory = (0..instruction.op_count())
        .find(|operand| instruction.op_kind(*operand) == OpKind::Memory)?;
    linear(step, memory, vcpu)
}

fn linear(step: &Step, operand: u32, vcpu: &Vcpu) -> Option<u64> {
    step.instruction.virtual_address(operand, 0, |register, _, _| {
        Some(match register {
            iced_x86::Register::FS => vcpu.fs_base,
            iced_x86::Register::GS => vcpu.gs_base,
            _ if register.is_segment_register() => 0,
            _ if register.is_gpr32() => vcpu.gpr[register.number()] & 0xffff_ffff,
            _ if register.is_gpr() => vcpu.gpr[register.number()],
            _ => return None,
        })
    })
}
