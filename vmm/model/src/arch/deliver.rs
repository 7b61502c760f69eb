//! Delivery of exceptions and NMIs through the guest's IDT, TSS and stacks, and the returns
//! from it. Every descriptor read and every frame word is an access through the modelled TLB.

use super::addr::Gva;
use super::core::{Core, IMPLICIT_READ, IMPLICIT_WRITE};
use super::fault::{Exception, Fault, Stop, vector};
use super::happened::Happened;
use super::vcpu::{DescriptorTable, flags, gpr};
use super::walk::AccessKind;

/// Bits of a code descriptor's high word.
const TYPE_CODE: u64 = 1 << 43;
const NON_SYSTEM: u64 = 1 << 44;
const PRESENT: u64 = 1 << 47;
const LONG: u64 = 1 << 53;
const INTERRUPT_GATE: u64 = 0xe;
const TRAP_GATE: u64 = 0xf;

/// Delivers `exception`; a fault during delivery makes a double fault, one during that the end.
///
/// # Errors
/// [`Stop::TripleFault`], or a stop met on the way.
pub fn deliver(core: &mut Core<'_>, exception: Exception) -> Result<(), Stop> {
    let mut current = exception;
    // Delivery faults at most once more after a double fault, so this ends.
    loop {
        match try_deliver(core, current) {
            Ok(()) => return Ok(()),
            Err(Fault::Stop(stop)) => return Err(stop),
            Err(Fault::Exception(second)) => {
                if current.vector == vector::DOUBLE_FAULT {
                    return Err(Stop::TripleFault { vector: exception.vector });
                }
                let page_fault = second.vector == vector::PAGE_FAULT;
                let first_counts =
                    current.is_contributory() || current.vector == vector::PAGE_FAULT;
                let doubles = match current.vector {
                    vector::PAGE_FAULT => second.is_contributory() || page_fault,
                    _ => first_counts && second.is_contributory(),
                };
                current = if doubles { Exception::DOUBLE_FAULT } else { second };
            }
        }
    }
}

fn try_deliver(core: &mut Core<'_>, exception: Exception) -> Result<(), Fault> {
    let from_cpl = core.vcpu.cpl;
    if let Some(address) = exception.address {
        core.vcpu.cr2 = address.0;
    }
    // SDM vol. 3, 6.13: the IDT bit of an error code for a bad gate.
    let bad_gate = Exception::general_protection(u32::from(exception.vector) * 8 + 2);
    let offset = u64::from(exception.vector) * 16;
    let (low, high) = descriptor16(core, core.vcpu.idt, offset, bad_gate)?;
    let kind = low >> 40 & 0x1f;
    if low & PRESENT == 0 || (kind != INTERRUPT_GATE && kind != TRAP_GATE) {
        return Err(bad_gate.into());
    }
    let selector = (low >> 16) as u16;
    let target = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
    let ist = (low >> 32 & 7) as u8;
    code_segment(core, selector, 0)?;
    let stack = if ist != 0 {
        tss_word(core, 0x24 + (u64::from(ist) - 1) * 8)?
    } else if from_cpl != 0 {
        tss_word(core, 4)?
    } else {
        core.vcpu.gpr[gpr::RSP]
    };
    let vcpu = &core.vcpu;
    // Faults push RF=1, so that a breakpoint on the restarted instruction does not repeat
    // (SDM vol. 3, 17.3.1.1); traps and interrupts push it as it is.
    let is_fault = !matches!(exception.vector, vector::NMI | vector::BREAKPOINT | 8 | 32..);
    let image = vcpu.rflags | if is_fault { flags::RF } else { 0 };
    let frame = [u64::from(vcpu.ss), vcpu.gpr[gpr::RSP], image, u64::from(vcpu.cs), vcpu.rip];
    let mut at = stack & !0xf;
    for word in frame.into_iter().chain(exception.error.map(u64::from)) {
        at = at.wrapping_sub(8);
        core.write(Gva(at), &word.to_le_bytes(), IMPLICIT_WRITE)?;
    }
    let vcpu = &mut core.vcpu;
    vcpu.gpr[gpr::RSP] = at;
    vcpu.rip = target;
    vcpu.cs = selector & !3;
    if from_cpl != 0 {
        // 64-bit mode loads a null SS on a change of privilege (SDM vol. 3, 6.14.2).
        vcpu.ss = 0;
        vcpu.cpl = 0;
    }
    vcpu.rflags &= !(flags::TF | flags::NT | flags::RF | flags::VM);
    if kind == INTERRUPT_GATE {
        vcpu.rflags &= !flags::IF;
    }
    if exception.vector == vector::NMI {
        vcpu.nmi_blocked = true;
    }
    core.emit(Happened::Delivered { vector: exception.vector, from_cpl });
    Ok(())
}

/// IRETQ.
pub fn iret(core: &mut Core<'_>) -> Result<(), Fault> {
    let access = core.access(AccessKind::Read);
    let base = core.vcpu.gpr[gpr::RSP];
    let mut frame = [0u64; 5];
    for (index, word) in frame.iter_mut().enumerate() {
        *word = core.read_u64(Gva(base.wrapping_add(index as u64 * 8)), access)?;
    }
    let [rip, cs, rflags, rsp, ss] = frame;
    let (cs, ss) = (cs as u16, ss as u16);
    let cpl = returned_level(core, cs)?;
    stack_selector(ss, cpl)?;
    if !Gva(rip).is_canonical() {
        return Err(Exception::general_protection(0).into());
    }
    // IOPL changes at CPL 0 only, IF where CPL <= IOPL; user mode keeps its own.
    let keep = if core.vcpu.cpl == 0 { 0 } else { flags::IOPL | flags::IF };
    let loadable = flags::LOADABLE | flags::RF;
    core.vcpu.rflags =
        core.vcpu.rflags & (keep | !loadable) | rflags & loadable & !keep | flags::FIXED;
    core.vcpu.nmi_blocked = false;
    core.vcpu.gpr[gpr::RSP] = rsp;
    core.vcpu.ss = ss;
    core.vcpu.cs = cs;
    core.vcpu.rip = rip;
    return_to(core, cpl)
}

/// RETFQ, which releases `released` bytes of parameters on each stack.
pub fn far_return(core: &mut Core<'_>, released: u16) -> Result<(), Fault> {
    let access = core.access(AccessKind::Read);
    let base = core.vcpu.gpr[gpr::RSP];
    let word = |core: &mut Core<'_>, at: u64| core.read_u64(Gva(base.wrapping_add(at)), access);
    let (rip, cs) = (word(core, 0)?, word(core, 8)? as u16);
    let cpl = returned_level(core, cs)?;
    let released = u64::from(released);
    let (mut rsp, mut new_ss) = (base.wrapping_add(16 + released), core.vcpu.ss);
    if cpl != core.vcpu.cpl {
        let (outer, ss) = (word(core, 16 + released)?, word(core, 24 + released)? as u16);
        stack_selector(ss, cpl)?;
        rsp = outer.wrapping_add(released);
        new_ss = ss;
    }
    if !Gva(rip).is_canonical() {
        return Err(Exception::general_protection(0).into());
    }
    core.vcpu.ss = new_ss;
    core.vcpu.gpr[gpr::RSP] = rsp;
    core.vcpu.cs = cs;
    core.vcpu.rip = rip;
    return_to(core, cpl)
}

/// The privilege level that a return to `cs` goes to: this one, or user mode's.
fn returned_level(core: &mut Core<'_>, cs: u16) -> Result<u8, Fault> {
    let cpl = (cs & 3) as u8;
    if cpl < core.vcpu.cpl || !matches!(cpl, 0 | 3) {
        return Err(Exception::general_protection(u32::from(cs & !3)).into());
    }
    code_segment(core, cs, cpl)?;
    Ok(cpl)
}

/// Checks the SS of a return to `cpl`.
fn stack_selector(ss: u16, cpl: u8) -> Result<(), Fault> {
    // A null SS is fine at CPL 0 in 64-bit mode only (SDM vol. 2, IRET).
    if ss & !3 == 0 && cpl == 3 {
        return Err(Exception::general_protection(0).into());
    }
    if ss & 3 != u16::from(cpl) {
        return Err(Exception::general_protection(u32::from(ss & !3)).into());
    }
    Ok(())
}

fn return_to(core: &mut Core<'_>, cpl: u8) -> Result<(), Fault> {
    let outer = cpl > core.vcpu.cpl;
    enter(core, cpl);
    if outer {
        core.drop_inner_segments();
    }
    core.check_alignment()
}

/// SYSCALL (SDM vol. 2): no stack, no descriptor is read.
pub fn syscall(core: &mut Core<'_>, next: u64) {
    let vcpu = &mut core.vcpu;
    vcpu.gpr[gpr::RCX] = next;
    vcpu.gpr[gpr::R11] = vcpu.rflags & !flags::RF;
    vcpu.rip = vcpu.lstar;
    vcpu.rflags = vcpu.rflags & !(vcpu.sfmask | flags::RF) | flags::FIXED;
    vcpu.cs = (vcpu.star >> 32) as u16 & !3;
    vcpu.ss = vcpu.cs.wrapping_add(8);
    vcpu.cpl = 0;
}

/// SYSRETQ.
pub fn sysret(core: &mut Core<'_>) -> Result<(), Fault> {
    let vcpu = &mut core.vcpu;
    let rip = vcpu.gpr[gpr::RCX];
    if !Gva(rip).is_canonical() {
        // On Intel at CPL 0, before anything is loaded (SDM vol. 2, SYSRET).
        return Err(Exception::general_protection(0).into());
    }
    vcpu.rip = rip;
    vcpu.rflags = vcpu.gpr[gpr::R11] & flags::LOADABLE | flags::FIXED;
    let base = (vcpu.star >> 48) as u16;
    vcpu.cs = base.wrapping_add(16) | 3;
    vcpu.ss = base.wrapping_add(8) | 3;
    enter(core, 3);
    core.check_alignment()
}

fn enter(core: &mut Core<'_>, cpl: u8) {
    let entered = core.vcpu.cpl != 3 && cpl == 3;
    core.vcpu.cpl = cpl;
    if entered {
        core.emit(Happened::UserEntry);
    }
}

/// LTR: loads the base and limit, and marks the descriptor busy.
pub fn load_task_register(core: &mut Core<'_>, selector: u16) -> Result<(), Fault> {
    let bad = Exception::general_protection(u32::from(selector & !3));
    let offset = u64::from(selector & !7);
    let (low, high) = descriptor16(core, core.vcpu.gdt, offset, bad)?;
    // An available 64-bit TSS (type 9), present.
    if low >> 40 & 0x1f != 9 || low & PRESENT == 0 || selector & !3 == 0 {
        return Err(bad.into());
    }
    let busy = low | 2 << 40;
    let at = Gva(core.vcpu.gdt.base.wrapping_add(offset));
    core.write(at, &busy.to_le_bytes(), IMPLICIT_WRITE)?;
    let vcpu = &mut core.vcpu;
    vcpu.tr = selector;
    vcpu.tss_base = low >> 16 & 0xff_ffff | low >> 32 & 0xff00_0000 | high << 32;
    vcpu.tss_limit = (low & 0xffff | low >> 32 & 0xf_0000) as u32;
    Ok(())
}

fn tss_word(core: &mut Core<'_>, offset: u64) -> Result<u64, Fault> {
    if offset + 7 > u64::from(core.vcpu.tss_limit) {
        // #TS(current TSS) (SDM vol. 3, 6.14.5).
        let error = Some(u32::from(core.vcpu.tr & !3));
        return Err(Exception { vector: 10, error, address: None }.into());
    }
    core.read_u64(Gva(core.vcpu.tss_base.wrapping_add(offset)), IMPLICIT_READ)
}

/// Checks that `selector` names a present 64-bit code segment of privilege `dpl`.
fn code_segment(core: &mut Core<'_>, selector: u16, dpl: u8) -> Result<(), Fault> {
    let bad = Exception::general_protection(u32::from(selector & !3));
    let offset = u64::from(selector & !7);
    let table = core.vcpu.gdt;
    if selector & !3 == 0 || selector & 4 != 0 || offset + 7 > u64::from(table.limit) {
        return Err(bad.into());
    }
    let descriptor = core.read_u64(Gva(table.base.wrapping_add(offset)), IMPLICIT_READ)?;
    let needed = NON_SYSTEM | TYPE_CODE | LONG;
    if descriptor & needed != needed || descriptor >> 45 & 3 != u64::from(dpl) {
        return Err(bad.into());
    }
    if descriptor & PRESENT == 0 {
        return Err(Exception { error: bad.error, ..Exception::NOT_PRESENT }.into());
    }
    Ok(())
}

/// Reads a 16-byte descriptor at `offset` of a table.
fn descriptor16(
    core: &mut Core<'_>,
    table: DescriptorTable,
    offset: u64,
    outside: Exception,
) -> Result<(u64, u64), Fault> {
    if offset + 15 > u64::from(table.limit) {
        return Err(outside.into());
    }
    let at = table.base.wrapping_add(offset);
    let low = core.read_u64(Gva(at), IMPLICIT_READ)?;
    let high = core.read_u64(Gva(at.wrapping_add(8)), IMPLICIT_READ)?;
    Ok((low, high))
}
