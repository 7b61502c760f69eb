//! Segment registers and descriptors as 64-bit mode knows them: what a load checks, and what the
//! instructions that only look at a descriptor say of it.

use super::addr::Gva;
use super::core::{Core, IMPLICIT_READ, IMPLICIT_WRITE};
use super::fault::{Exception, Fault};
use super::vcpu::flags;
use super::walk::AccessKind;

const ACCESSED: u64 = 1 << 40;
/// Readable, of code; writable, of data.
const READABLE: u64 = 1 << 41;
/// Conforming, of code.
const CONFORMING: u64 = 1 << 42;
const CODE: u64 = 1 << 43;
const NON_SYSTEM: u64 = 1 << 44;
const PRESENT: u64 = 1 << 47;
const GRANULAR: u64 = 1 << 55;
/// A selector's bits but for its RPL.
const INDEX_AND_TABLE: u16 = !3;
const TABLE_IS_LDT: u16 = 4;

/// The registers that MOV loads a selector into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SegmentRegister {
    Es,
    Ss,
    Ds,
    Fs,
    Gs,
}

/// What DS, ES, FS or GS holds, but for a base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DataSegment {
    /// The selector; 0 to 3 are null.
    pub selector: u16,
    /// The descriptor's privilege level; 3 for conforming code, which any level may use.
    pub dpl: u8,
}

/// Where an instruction finds a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The low half of a register's low half.
    Value(u16),
    /// Two bytes in memory.
    Memory(Gva),
}

/// What an instruction asks of a descriptor without loading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// VERR: ZF says whether it may be read.
    Readable,
    /// VERW: ZF says whether it may be written.
    Writable,
    /// LAR: its access rights.
    Rights,
    /// LSL: its limit in bytes.
    Limit,
}

fn is_null(selector: u16) -> bool {
    selector & INDEX_AND_TABLE == 0
}

fn dpl(descriptor: u64) -> u8 {
    (descriptor >> 45 & 3) as u8
}

fn is_conforming(descriptor: u64) -> bool {
    let conforming = NON_SYSTEM | CODE | CONFORMING;
    descriptor & conforming == conforming
}

impl Core<'_> {
    /// The descriptor that `selector` names, and its address; none beyond the GDT, and in the LDT,
    /// which is empty.
    fn descriptor(&mut self, selector: u16) -> Result<Option<(Gva, u64)>, Fault> {
        let offset = u64::from(selector & !7);
        if selector & TABLE_IS_LDT != 0 || offset + 7 > u64::from(self.vcpu.gdt.limit) {
            return Ok(None);
        }
        let at = Gva(self.vcpu.gdt.base.wrapping_add(offset));
        Ok(Some((at, self.read_u64(at, IMPLICIT_READ)?)))
    }

    pub(super) fn selector(&mut self, source: Source) -> Result<u16, Fault> {
        match source {
            Source::Value(value) => Ok(value),
            Source::Memory(at) => {
                let mut bytes = [0; 2];
                let access = self.access(AccessKind::Read);
                self.read(at, &mut bytes, access)?;
                Ok(u16::from_le_bytes(bytes))
            }
        }
    }

    /// MOV to a segment register (SDM vol. 2, MOV).
    pub(super) fn load_segment(
        &mut self,
        register: SegmentRegister,
        source: Source,
    ) -> Result<(), Fault> {
        let selector = self.selector(source)?;
        if register == SegmentRegister::Ss {
            self.load_stack_segment(selector)?;
            // Interrupts wait for one more instruction, which loads RSP.
            self.vcpu.sti_shadow = true;
            return Ok(());
        }
        let (loaded, base) = if is_null(selector) {
            (DataSegment { selector, dpl: 0 }, 0)
        } else {
            self.data_segment(selector)?
        };
        let vcpu = &mut self.vcpu;
        match register {
            SegmentRegister::Es => vcpu.es = loaded,
            SegmentRegister::Fs => (vcpu.fs, vcpu.fs_base) = (loaded, base),
            SegmentRegister::Gs => (vcpu.gs, vcpu.gs_base) = (loaded, base),
            SegmentRegister::Ds | SegmentRegister::Ss => vcpu.ds = loaded,
        }
        Ok(())
    }

    fn data_segment(&mut self, selector: u16) -> Result<(DataSegment, u64), Fault> {
        let error = u32::from(selector & INDEX_AND_TABLE);
        let refused = Exception::general_protection(error);
        let (at, descriptor) = self.descriptor(selector)?.ok_or(refused)?;
        let readable = descriptor & NON_SYSTEM != 0 && descriptor & (CODE | READABLE) != CODE;
        let rpl = (selector & 3) as u8;
        let allowed = is_conforming(descriptor) || dpl(descriptor) >= rpl.max(self.vcpu.cpl);
        if !readable || !allowed {
            return Err(refused.into());
        }
        if descriptor & PRESENT == 0 {
            return Err(Exception { error: Some(error), ..Exception::NOT_PRESENT }.into());
        }
        self.mark_accessed(at, descriptor)?;
        let dpl = if is_conforming(descriptor) { 3 } else { dpl(descriptor) };
        let base = descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000;
        Ok((DataSegment { selector, dpl }, base))
    }

    fn load_stack_segment(&mut self, selector: u16) -> Result<(), Fault> {
        let cpl = self.vcpu.cpl;
        let rpl = (selector & 3) as u8;
        if is_null(selector) {
            if cpl == 3 || rpl != cpl {
                return Err(Exception::general_protection(0).into());
            }
        } else {
            let error = u32::from(selector & INDEX_AND_TABLE);
            let refused = Exception::general_protection(error);
            let (at, descriptor) = self.descriptor(selector)?.ok_or(refused)?;
            let writable = descriptor & (NON_SYSTEM | CODE | READABLE) == NON_SYSTEM | READABLE;
            if rpl != cpl || !writable || dpl(descriptor) != cpl {
                return Err(refused.into());
            }
            if descriptor & PRESENT == 0 {
                return Err(Exception { error: Some(error), ..Exception::STACK_FAULT }.into());
            }
            self.mark_accessed(at, descriptor)?;
        }
        self.vcpu.ss = selector;
        Ok(())
    }

    /// The processor notes in the descriptor that it is in use.
    fn mark_accessed(&mut self, at: Gva, descriptor: u64) -> Result<(), Fault> {
        if descriptor & ACCESSED == 0 {
            self.write(at, &(descriptor | ACCESSED).to_le_bytes(), IMPLICIT_WRITE)?;
        }
        Ok(())
    }

    /// A return to an outer level takes away what that may not use (SDM vol. 2, IRET and RET).
    pub(super) fn drop_inner_segments(&mut self) {
        let Core { vcpu, .. } = self;
        let cpl = vcpu.cpl;
        for segment in [&mut vcpu.ds, &mut vcpu.es, &mut vcpu.fs, &mut vcpu.gs] {
            if segment.dpl < cpl {
                *segment = DataSegment::default();
            }
        }
    }

    /// VERR, VERW, LAR and LSL: what they say of the descriptor, where ZF is set; none where it is
    /// clear, since there is none that this level may ask about.
    pub(super) fn query(&mut self, query: Query, source: Source) -> Result<Option<u64>, Fault> {
        let selector = self.selector(source)?;
        let found = if is_null(selector) { None } else { self.descriptor(selector)? };
        let answer = found.and_then(|(_, descriptor)| {
            let rpl = (selector & 3) as u8;
            let visible = is_conforming(descriptor) || dpl(descriptor) >= rpl.max(self.vcpu.cpl);
            answer(query, descriptor).filter(|_| visible)
        });
        let vcpu = &mut self.vcpu;
        vcpu.rflags &= !flags::ZF;
        vcpu.rflags |= if answer.is_some() { flags::ZF } else { 0 };
        Ok(answer)
    }

    /// LLDT: there is no LDT to load.
    pub(super) fn load_ldt(&mut self, source: Source) -> Result<bool, Fault> {
        Ok(is_null(self.selector(source)?))
    }
}

fn answer(query: Query, descriptor: u64) -> Option<u64> {
    let system = descriptor & NON_SYSTEM == 0;
    let kind = descriptor >> 40 & 0xf;
    match query {
        Query::Readable => {
            (!system && descriptor & (CODE | READABLE) != CODE).then_some(descriptor)
        }
        Query::Writable => {
            (!system && descriptor & (CODE | READABLE) == READABLE).then_some(descriptor)
        }
        // Of the system's: LDT, TSS and, for LAR, call gate (SDM vol. 2, tables of LAR and LSL).
        Query::Rights if !system || matches!(kind, 2 | 9 | 0xb | 0xc) => {
            Some(descriptor >> 32 & 0x00ff_ff00)
        }
        Query::Limit if !system || matches!(kind, 2 | 9 | 0xb) => {
            let limit = descriptor & 0xffff | descriptor >> 32 & 0xf_0000;
            Some(if descriptor & GRANULAR == 0 { limit } else { limit << 12 | 0xfff })
        }
        Query::Rights | Query::Limit => None,
    }
}
