//! The privileged operations: legality, effect on registers and TLB, and their events.
//!
//! Legality is the manual's (SDM vol. 2, the instruction's page, and vol. 3, 4.10.4.1); what
//! must be invalidated is the TLB's business.

use super::addr::{Gpa, Gva, Pcid};
use super::core::{Core, IMPLICIT_READ};
use super::cr3::{self, NOFLUSH, PCID_MASK};
use super::deliver;
use super::fault::{Exception, Fault, Stop};
use super::features::MAX_PHYSICAL_BITS;
use super::happened::Happened;
use super::op::{ControlRegister, InvpcidDescriptor, Op};
use super::segment::Query;
use super::sensitive::{Destination, Word};
use super::vcpu::{DescriptorTable, cr0, cr4, efer, gpr};
use super::walk::AccessKind;
use std::collections::BTreeSet;

const GP: Exception = Exception::general_protection(0);

impl Core<'_> {
    /// Carries out `op`, whose instruction ends at `next`; RIP moves there unless the operation
    /// itself sets it or faults.
    ///
    /// # Errors
    /// The operation's exceptions, or a stop.
    pub fn execute(&mut self, op: Op, next: u64) -> Result<(), Fault> {
        if self.vcpu.cpl != 0 && op.is_privileged() {
            // INVPCID is #UD first where it does not exist.
            let missing = matches!(op, Op::Invpcid { .. }) && !self.vcpu.features.invpcid;
            return Err(if missing { Exception::INVALID_OPCODE } else { GP }.into());
        }
        match op {
            Op::ReadCr { register, to } => self.read_control(register, to),
            Op::WriteCr { register: ControlRegister::Cr3, value } => self.load_cr3(value)?,
            Op::WriteCr { register: ControlRegister::Cr4, value } => self.write_cr4(value)?,
            Op::WriteCr { register: ControlRegister::Cr0, value } => self.write_cr0(value)?,
            Op::WriteCr { register: ControlRegister::Cr2, value } => {
                self.vcpu.cr2 = value;
                self.other("MOV CR2");
            }
            Op::Invlpg(va) => self.invlpg(va),
            Op::Invpcid { .. } | Op::InvpcidOf { .. } if self.errata.invpcid_gp => {
                return Err(GP.into());
            }
            Op::Invpcid { kind, descriptor } => {
                let descriptor = self.invpcid_descriptor(kind, descriptor)?;
                self.invpcid(kind, descriptor);
            }
            Op::InvpcidOf { kind, descriptor } => self.invpcid(kind, descriptor),
            Op::Swapgs => {
                std::mem::swap(&mut self.vcpu.gs_base, &mut self.vcpu.kernel_gs_base);
                self.other("SWAPGS");
            }
            Op::Syscall => {
                if self.vcpu.efer & efer::SCE == 0 {
                    return Err(Exception::INVALID_OPCODE.into());
                }
                self.other("SYSCALL");
                deliver::syscall(self, next);
                return Ok(());
            }
            Op::Sysret => {
                if self.vcpu.efer & efer::SCE == 0 {
                    return Err(Exception::INVALID_OPCODE.into());
                }
                self.other("SYSRETQ");
                return deliver::sysret(self);
            }
            Op::Iret => {
                self.other("IRETQ");
                return deliver::iret(self);
            }
            Op::Lgdt(at) => {
                self.vcpu.gdt = self.descriptor_table(at)?;
                self.other("LGDT");
            }
            Op::Lidt(at) => {
                self.vcpu.idt = self.descriptor_table(at)?;
                self.other("LIDT");
            }
            Op::Ltr(selector) => {
                deliver::load_task_register(self, selector)?;
                self.other("LTR");
            }
            Op::Rdmsr(register) => self.rdmsr(register)?,
            Op::Wrmsr { msr, value } => self.wrmsr(msr, value)?,
            Op::Cpuid { leaf, subleaf } => {
                let [eax, ebx, ecx, edx] = self.vcpu.cpuid(leaf, subleaf);
                for (number, value) in
                    [(gpr::RAX, eax), (gpr::RBX, ebx), (gpr::RCX, ecx), (gpr::RDX, edx)]
                {
                    self.vcpu.gpr[number] = u64::from(value);
                }
                self.other("CPUID");
            }
            Op::Cli => {
                self.vcpu.rflags &= !super::vcpu::flags::IF;
                self.other("CLI");
            }
            Op::Sti => {
                self.vcpu.sti_shadow |= self.vcpu.rflags & super::vcpu::flags::IF == 0;
                self.vcpu.rflags |= super::vcpu::flags::IF;
                self.other("STI");
            }
            Op::Hlt => {
                self.vcpu.halted = true;
                self.other("HLT");
            }
            Op::PushFlags => {
                self.push_flags()?;
                self.other("PUSHFQ");
            }
            Op::PopFlags => {
                self.pop_flags()?;
                self.other("POPFQ");
            }
            Op::Sgdt(at) => {
                self.store_table(self.vcpu.gdt, at)?;
                self.other("SGDT");
            }
            Op::Sidt(at) => {
                self.store_table(self.vcpu.idt, at)?;
                self.other("SIDT");
            }
            Op::StoreWord { word, to } => {
                self.store_system_word(word, to)?;
                self.other(match word {
                    Word::Ldtr => "SLDT",
                    Word::Tr => "STR",
                    Word::Msw => "SMSW",
                    _ => "MOV r, Sreg",
                });
            }
            Op::LoadSegment { register, source } => {
                self.load_segment(register, source)?;
                self.other("MOV Sreg, r");
            }
            Op::Lldt(source) => {
                if !self.load_ldt(source)? {
                    let what = "LLDT of a selector that is not null".to_owned();
                    return Err(Stop::NotModelled(what).into());
                }
                self.other("LLDT");
            }
            Op::Retf { released } => {
                self.other("RETFQ");
                return deliver::far_return(self, released);
            }
            Op::Query { query, source, to } => {
                if let (Some(value), Some(Destination::Register { number, size })) =
                    (self.query(query, source)?, to)
                {
                    self.write_register(number, size, value);
                }
                self.other(match query {
                    Query::Readable => "VERR",
                    Query::Writable => "VERW",
                    Query::Rights => "LAR",
                    Query::Limit => "LSL",
                });
            }
            Op::ReadDr { number, to } => {
                self.vcpu.gpr[to] = self.vcpu.debug.get(number);
                self.other("MOV r, DR");
            }
            Op::WriteDr { number, value } => {
                self.write_debug(number, value)?;
                self.other("MOV DR, r");
            }
            // The machine answers these before they get here, where it can.
            Op::In { port, .. } => {
                let what = format!("IN from port {port:#x}, where no device is");
                return Err(Stop::NotModelled(what).into());
            }
            Op::Out { port, .. } => {
                let what = format!("OUT to port {port:#x}, where no device is");
                return Err(Stop::NotModelled(what).into());
            }
            Op::Rdtsc => {
                let what = "RDTSC on a machine that has no clock".to_owned();
                return Err(Stop::NotModelled(what).into());
            }
        }
        self.vcpu.rip = next;
        Ok(())
    }

    /// IN of `size` bytes, which finds `value` at the port.
    pub fn input(&mut self, size: u8, value: u32, next: u64) {
        self.write_register(gpr::RAX, size.into(), value.into());
        self.vcpu.rip = next;
        self.other("IN");
    }

    /// OUT to a port that something answers.
    pub fn output(&mut self, next: u64) {
        self.vcpu.rip = next;
        self.other("OUT");
    }

    /// RDTSC at time `now`.
    pub fn read_time(&mut self, now: u64, next: u64) {
        self.vcpu.gpr[gpr::RAX] = now & 0xffff_ffff;
        self.vcpu.gpr[gpr::RDX] = now >> 32;
        self.vcpu.rip = next;
        self.other("RDTSC");
    }

    pub(super) fn other(&mut self, mnemonic: &'static str) {
        self.emit(Happened::Other { mnemonic: mnemonic.into() });
    }

    fn read_control(&mut self, register: ControlRegister, to: usize) {
        let (value, name) = match register {
            ControlRegister::Cr0 => (self.vcpu.cr0, "MOV r, CR0"),
            ControlRegister::Cr2 => (self.vcpu.cr2, "MOV r, CR2"),
            ControlRegister::Cr3 => (self.vcpu.cr3, "MOV r, CR3"),
            ControlRegister::Cr4 => (self.vcpu.cr4, "MOV r, CR4"),
        };
        self.vcpu.gpr[to] = value;
        self.other(name);
    }

    /// MOV to CR3.
    ///
    /// # Errors
    /// #GP for reserved bits, bit 63 with CR4.PCIDE=0 among them; a stop for a root beyond
    /// memory.
    pub fn load_cr3(&mut self, value: u64) -> Result<(), Fault> {
        let pcide = self.vcpu.cr4 & cr4::PCIDE != 0;
        let physical = (1u64 << MAX_PHYSICAL_BITS) - 1;
        let reserved = !physical & !if pcide { NOFLUSH } else { 0 };
        if value & reserved != 0 {
            return Err(GP.into());
        }
        let root = cr3::root(value);
        if self.memory.entry(root).is_none() {
            return Err(Stop::BeyondMemory(root).into());
        }
        let old = self.vcpu.cr3;
        self.vcpu.cr3 = value & !NOFLUSH;
        let linked = self.census.add_root(self.memory.as_tables(), root);
        self.link(linked);
        self.emit(Happened::LoadCr3 { old, value });
        let pcid = cr3::pcid(value, pcide);
        let flush = !pcide || value & NOFLUSH == 0;
        let paging = self.vcpu.paging();
        let effect = self.tlb.load_cr3(self.memory.as_tables(), paging, pcid, root, flush);
        if self.forgets_roots {
            self.forget_roots();
        }
        self.flushed(effect);
        Ok(())
    }

    fn forget_roots(&mut self) {
        let mut kept: BTreeSet<Gpa> = self.tlb.roots().collect();
        kept.extend(self.remote.iter().flat_map(|remote| remote.tlb.roots()));
        self.tlb.keep_roots(&kept);
        self.remote.iter_mut().for_each(|remote| remote.tlb.keep_roots(&kept));
        let change = self.census.keep_roots(self.memory.as_tables(), &kept);
        self.link(change);
    }

    /// MOV to CR0.
    ///
    /// # Errors
    /// #GP for a bit above 31, PG without PE, NW without CD, and for clearing PG in 64-bit mode,
    /// whatever else (SDM vol. 2, MOV to control registers, 64-bit mode exceptions). A stop for
    /// EM and TS, whose exceptions no executor makes. AM counts once user mode sets AC.
    fn write_cr0(&mut self, value: u64) -> Result<(), Fault> {
        let bad = value >> 32 != 0
            || value & cr0::PG == 0
            || value & cr0::PE == 0
            || value & (cr0::NW | cr0::CD) == cr0::NW;
        if bad {
            return Err(GP.into());
        }
        if value & (cr0::EM | cr0::TS) != 0 {
            let what = format!("CR0 set to {value:#x}: EM and TS are not modelled");
            return Err(Stop::NotModelled(what).into());
        }
        let old = self.vcpu.cr0;
        self.vcpu.cr0 = value & cr0::DEFINED | cr0::ET;
        self.emit(Happened::WriteCr0 { old, new: self.vcpu.cr0 });
        if (old ^ self.vcpu.cr0) & cr0::WP != 0 {
            self.revalidate(super::tlb::Scope::Everything);
            self.speculate();
        }
        Ok(())
    }

    /// MOV to CR4.
    ///
    /// # Errors
    /// #GP for a bit the processor lacks, PAE cleared in long mode, or PCIDE set while
    /// CR3 bits 11:0 are not 0 (SDM vol. 3, 4.10.1).
    pub fn write_cr4(&mut self, value: u64) -> Result<(), Fault> {
        let old = self.vcpu.cr4;
        let features = self.vcpu.features;
        let mut allowed = cr4::PSE | cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        for (has, bit) in
            [(features.pge, cr4::PGE), (features.pcid, cr4::PCIDE), (features.smep, cr4::SMEP)]
        {
            allowed |= if has { bit } else { 0 };
        }
        let sets_pcide = value & !old & cr4::PCIDE != 0;
        let bad_pcide =
            sets_pcide && (self.vcpu.cr3 & PCID_MASK != 0 || self.vcpu.efer & efer::LMA == 0);
        if value & !allowed != 0 || value & cr4::PAE == 0 || bad_pcide {
            return Err(GP.into());
        }
        self.vcpu.cr4 = value;
        self.emit(Happened::WriteCr4 { old, new: value });
        let paging = self.vcpu.paging();
        let effect = self.tlb.write_cr4(self.memory.as_tables(), paging, old, value);
        self.flushed(effect);
        Ok(())
    }

    /// INVLPG: never faults at CPL 0; a non-canonical address is a NOP.
    pub fn invlpg(&mut self, va: Gva) {
        let keeps_globals = self.errata.invlpg_keeps_globals && self.vcpu.cr4 & cr4::PCIDE != 0;
        self.emit(Happened::Invlpg { va, keeps_globals });
        if !va.is_canonical() {
            return;
        }
        let (tables, paging) = (self.memory.as_tables(), self.vcpu.paging());
        let effect = self.tlb.invlpg(tables, paging, va, keeps_globals);
        self.flushed(effect);
    }

    /// Reads and checks an INVPCID descriptor.
    ///
    /// # Errors
    /// #UD where the processor lacks INVPCID; #GP for a type above 3, reserved descriptor bits,
    /// a non-canonical address with type 0, or a PCID with types 0 and 1 while CR4.PCIDE=0.
    pub fn invpcid_descriptor(&mut self, kind: u64, at: Gva) -> Result<InvpcidDescriptor, Fault> {
        if !self.vcpu.features.invpcid {
            return Err(Exception::INVALID_OPCODE.into());
        }
        let access = self.access(AccessKind::Read);
        let first = self.read_u64(at, access)?;
        let va = Gva(self.read_u64(Gva(at.0.wrapping_add(8)), access)?);
        let pcide = self.vcpu.cr4 & cr4::PCIDE != 0;
        let bad = kind > 3
            || first & !PCID_MASK != 0
            || kind == 0 && !va.is_canonical()
            || kind <= 1 && first != 0 && !pcide;
        if bad {
            return Err(GP.into());
        }
        Ok(InvpcidDescriptor { pcid: Pcid::new(first as u16), va })
    }

    /// INVPCID with a legal descriptor.
    pub fn invpcid(&mut self, kind: u64, InvpcidDescriptor { pcid, va }: InvpcidDescriptor) {
        self.emit(Happened::Invpcid { kind, pcid, va });
        let paging = self.vcpu.paging();
        let effect = self.tlb.invpcid(self.memory.as_tables(), paging, kind, pcid, va);
        self.flushed(effect);
    }

    fn descriptor_table(&mut self, at: Gva) -> Result<DescriptorTable, Fault> {
        let access = self.access(AccessKind::Read);
        let mut bytes = [0u8; 10];
        self.read(at, &mut bytes, access)?;
        let [l0, l1, base @ ..] = bytes;
        let base = u64::from_le_bytes(base);
        if !Gva(base).is_canonical() {
            return Err(GP.into());
        }
        Ok(DescriptorTable { base, limit: u16::from_le_bytes([l0, l1]) })
    }

    /// Reads 8 bytes as the processor does for itself.
    ///
    /// # Errors
    /// The access's fault.
    pub fn read_implicit(&mut self, va: Gva) -> Result<u64, Fault> {
        self.read_u64(va, IMPLICIT_READ)
    }
}
