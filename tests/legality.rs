//! When MOV CR0, MOV CR3, MOV CR4, INVPCID, INVLPG and walks fault, and that exceptions go through
//! the guest's own tables: on the processor model alone, without an executor.
#![allow(missing_docs)]

use stalemate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use stalemate::arch::census::Census;
use stalemate::arch::core::{Core, IMPLICIT_WRITE, Log, Memory};
use stalemate::arch::deliver::deliver;
use stalemate::arch::fault::{Exception, Fault, Stop};
use stalemate::arch::features::CpuFeatures;
use stalemate::arch::op::{ControlRegister, Op};
use stalemate::arch::sensitive::{Destination, Word};
use stalemate::arch::tlb::{Fill, Scope, Tlb, TlbModel};
use stalemate::arch::vcpu::{Vcpu, cr0, cr4, efer, flags, gpr};
use stalemate::arch::walk::{Access, AccessKind};
use stalemate::boot::GuestMemory;
use stalemate::inject::Injector;

const SIZE: u64 = 0x2_0000;
const GDT: u64 = 0x8000;
const IDT: u64 = 0x9000;
const TSS: u64 = 0xa000;
const DESCRIPTOR: u64 = 0xb000;

/// 128 KiB, identity-mapped by a PML4 at 0x1000, and a processor in its kernel.
struct World {
    memory: GuestMemory,
    vcpu: Vcpu,
    tlb: Tlb,
    census: Census,
    log: Log,
}

impl World {
    fn new(pcid: bool, invpcid: bool) -> Self {
        let others = CpuFeatures { pge: true, smep: true, ..CpuFeatures::default() };
        Self::with_features(CpuFeatures { pcid, invpcid, ..others })
    }

    fn with_features(features: CpuFeatures) -> Self {
        let memory = GuestMemory::new(SIZE).expect("memory");
        let put = |at: u64, value: u64| memory.write_word(Gpa(at), value);
        put(0x1000, 0x2063);
        put(0x2000, 0x3063);
        put(0x3000, 0x4063);
        for page in 0..SIZE / 4096 {
            put(0x4000 + page * 8, page << 12 | 0x63);
        }
        put(GDT + 0x80, 0x00af_9b00_0000_ffff);
        let mut vcpu = Vcpu::long_mode(CpuId(0), features, 0x5000, 0x1000);
        vcpu.gdt.base = GDT;
        vcpu.gdt.limit = 0xff;
        vcpu.idt.base = IDT;
        vcpu.idt.limit = 0xfff;
        vcpu.tss_base = TSS;
        vcpu.tss_limit = 0x67;
        let tlb = Tlb::new(TlbModel { fill: Fill::OnDemand, structure_caches: true, seed: 0 });
        let mut world = Self { memory, vcpu, tlb, census: Census::default(), log: Log::default() };
        world.stack(1, 0x1_0000);
        world.with(|core| core.load_cr3(0x1000)).expect("a legal load");
        world
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Core<'_>) -> T) -> T {
        work(&mut Core {
            vcpu: &mut self.vcpu,
            tlb: &mut self.tlb,
            census: &mut self.census,
            memory: &self.memory,
            state_page: None,
            hook: &mut Injector::default(),
            seq: 0,
            log: &mut self.log,
        })
    }

    fn execute(&mut self, op: Op) -> Result<(), Fault> {
        self.with(|core| core.execute(op, 0x5003))
    }

    fn write(&mut self, register: ControlRegister, value: u64) -> Result<(), Fault> {
        self.execute(Op::WriteCr { register, value })
    }

    /// How many translations are cached.
    fn held(&self) -> usize {
        self.tlb.tags().map(|tag| self.tlb.entries(tag).count()).sum()
    }

    /// INVPCID with this descriptor.
    fn invpcid(&mut self, kind: u64, first: u64, va: u64) -> Result<(), Fault> {
        self.memory.write_word(Gpa(DESCRIPTOR), first);
        self.memory.write_word(Gpa(DESCRIPTOR + 8), va);
        self.execute(Op::Invpcid { kind, descriptor: Gva(DESCRIPTOR) })
    }

    /// The top of IST stack `number`; its slot is not aligned.
    fn stack(&self, number: u64, top: u64) {
        self.memory.write(Gpa(TSS + 0x1c + number * 8), &top.to_le_bytes());
    }

    /// Makes the page at 0xc000 a user page.
    fn make_user_page(&self) {
        for slot in [0x1000, 0x2000, 0x3000, 0x4000 + 0xc * 8] {
            self.memory.write_word(Gpa(slot), self.memory.read_word(Gpa(slot)) | 4);
        }
    }

    /// A gate for `vector` to 0x5500, on IST 1.
    fn gate(&self, vector: u64) {
        self.memory.write_word(Gpa(IDT + vector * 16), 0x5500 | 0x80 << 16 | 0x8e01 << 32);
    }
}

fn gp() -> Result<(), Fault> {
    Err(Exception::general_protection(0).into())
}

fn ud() -> Result<(), Fault> {
    Err(Exception::INVALID_OPCODE.into())
}

const NOFLUSH: u64 = 1 << 63;

#[test]
fn bit_63_of_cr3_needs_pcide_and_is_never_stored() {
    let mut world = World::new(true, true);
    assert_eq!(world.write(ControlRegister::Cr3, 0x1000 | NOFLUSH), gp());
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::PCIDE).expect("legal");
    world.write(ControlRegister::Cr3, 0x1001 | NOFLUSH).expect("legal");
    assert_eq!(world.vcpu.cr3, 0x1001);
}

#[test]
fn reserved_bits_of_cr3_fault_and_roots_beyond_memory_stop() {
    let mut world = World::new(true, true);
    assert_eq!(world.write(ControlRegister::Cr3, 1 << 52), gp());
    assert_eq!(world.write(ControlRegister::Cr3, 1 << 40), gp());
    let beyond = world.write(ControlRegister::Cr3, 0x10_0000);
    assert_eq!(beyond, Err(Stop::BeyondMemory(Gpa(0x10_0000)).into()));
}

#[test]
fn pcide_needs_the_feature_and_a_cr3_whose_low_bits_are_0() {
    let with = cr4::PAE | cr4::PCIDE;
    assert_eq!(World::new(false, false).write(ControlRegister::Cr4, with), gp());
    let mut world = World::new(true, true);
    world.write(ControlRegister::Cr3, 0x1018).expect("PWT and PCD");
    assert_eq!(world.write(ControlRegister::Cr4, with), gp());
    world.write(ControlRegister::Cr3, 0x1000).expect("legal");
    assert_eq!(world.write(ControlRegister::Cr4, with), Ok(()));
}

#[test]
fn every_bit_of_cr4_that_the_processor_lacks_is_refused() {
    let basic = cr4::PSE | cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    let none = CpuFeatures::default();
    for (features, extra) in [
        (none, 0),
        (CpuFeatures { pge: true, ..none }, cr4::PGE),
        (CpuFeatures { pcid: true, ..none }, cr4::PCIDE),
        (CpuFeatures { smep: true, ..none }, cr4::SMEP),
    ] {
        for bit in (0..64).map(|bit| 1u64 << bit) {
            let legal = (basic | extra) & bit != 0;
            let mut world = World::with_features(features);
            let before = world.vcpu.clone();
            let got = world.write(ControlRegister::Cr4, cr4::PAE | bit);
            assert_eq!(got, if legal { Ok(()) } else { gp() }, "{features:?} {bit:#x}");
            if !legal {
                assert_eq!(world.vcpu, before, "{bit:#x} refused and yet changed something");
            }
        }
    }
}

#[test]
fn pae_cannot_be_cleared_in_long_mode() {
    let mut world = World::new(true, true);
    assert_eq!(world.write(ControlRegister::Cr4, 0), gp());
    assert_eq!(world.write(ControlRegister::Cr4, cr4::PGE), gp());
    assert_eq!(world.write(ControlRegister::Cr4, cr4::PAE | cr4::PGE), Ok(()));
}

#[test]
fn pcide_needs_long_mode_when_it_is_set_and_nothing_to_stay() {
    let with = cr4::PAE | cr4::PCIDE;
    let mut world = World::new(true, true);
    let long_mode = world.vcpu.efer;
    world.vcpu.efer &= !efer::LMA;
    assert_eq!(world.write(ControlRegister::Cr4, with), gp());
    world.vcpu.efer = long_mode;
    world.write(ControlRegister::Cr4, with).expect("legal");
    world.write(ControlRegister::Cr3, 0x1001).expect("legal");
    assert_eq!(world.write(ControlRegister::Cr4, with | cr4::PGE), Ok(()), "it does not change");
}

#[test]
fn clearing_pcide_makes_pcid_0_current_and_empties_the_tlb() {
    let mut world = World::new(true, true);
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::PCIDE).expect("legal");
    world.write(ControlRegister::Cr3, 0x1001).expect("legal");
    world.with(|core| core.read_implicit(Gva(IDT))).expect("mapped");
    world.write(ControlRegister::Cr4, cr4::PAE).expect("legal");
    assert_eq!((world.vcpu.pcid(), world.tlb.current()), (Pcid::new(0), Pcid::new(0)));
    assert_eq!(world.held(), 0);
    world.with(|core| core.read_implicit(Gva(IDT))).expect("mapped");
    assert!(world.tlb.peek(Pcid::new(0), Gva(IDT)).is_some(), "filled under PCID 0");
}

#[test]
fn bits_63_to_32_of_cr0_fault() {
    for bit in 32..64 {
        let mut world = World::new(true, true);
        let value = world.vcpu.cr0 | 1 << bit;
        assert_eq!(world.write(ControlRegister::Cr0, value), gp(), "bit {bit}");
    }
}

#[test]
fn other_reserved_bits_of_cr0_stay_clear_and_et_stays_set() {
    let mut world = World::new(true, true);
    let before = world.vcpu.cr0;
    let reserved = !cr0::DEFINED & 0xffff_ffff;
    assert_eq!(reserved, 0x1ffa_ffc0);
    assert_eq!(world.write(ControlRegister::Cr0, (before | reserved) & !cr0::ET), Ok(()));
    assert_eq!(world.vcpu.cr0, before);
}

#[test]
fn every_defined_bit_of_cr0_that_may_change_does() {
    for bit in [cr0::MP, cr0::NE, cr0::WP, cr0::CD] {
        let mut world = World::new(true, true);
        let value = world.vcpu.cr0 ^ bit;
        assert_eq!(world.write(ControlRegister::Cr0, value), Ok(()), "{bit:#x}");
        assert_eq!(world.vcpu.cr0, value);
    }
}

#[test]
fn paging_needs_protection() {
    let mut world = World::new(true, true);
    let value = world.vcpu.cr0 & !cr0::PE;
    assert_eq!(world.write(ControlRegister::Cr0, value), gp());
}

#[test]
fn nw_needs_cd() {
    let mut world = World::new(true, true);
    let value = world.vcpu.cr0;
    assert_eq!(world.write(ControlRegister::Cr0, value | cr0::NW), gp());
    assert_eq!(world.write(ControlRegister::Cr0, value | cr0::CD), Ok(()));
    assert_eq!(world.write(ControlRegister::Cr0, value | cr0::CD | cr0::NW), Ok(()));
}

#[test]
fn paging_cannot_be_cleared_in_64_bit_mode_with_or_without_pcide() {
    let mut world = World::new(true, true);
    let (before, without) = (world.vcpu.cr0, world.vcpu.cr0 & !cr0::PG);
    assert_eq!(world.write(ControlRegister::Cr0, without), gp());
    assert_eq!(world.write(ControlRegister::Cr0, without & !cr0::PE), gp());
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::PCIDE).expect("legal");
    assert_eq!(world.write(ControlRegister::Cr0, without), gp());
    assert_eq!(world.vcpu.cr0, before);
}

#[test]
fn user_mode_writes_no_control_register() {
    let mut world = World::new(true, true);
    world.vcpu.cpl = 3;
    for (register, value) in [
        (ControlRegister::Cr0, world.vcpu.cr0),
        (ControlRegister::Cr2, 0),
        (ControlRegister::Cr3, world.vcpu.cr3),
        (ControlRegister::Cr4, world.vcpu.cr4),
    ] {
        assert_eq!(world.write(register, value), gp(), "{register:?}");
    }
}

#[test]
fn wp_judges_cached_rights_at_once_and_invalidates_nothing() {
    let mut world = World::new(true, true);
    world.memory.write_word(Gpa(0x4000 + 0xc * 8), 0xc061);
    let store =
        |world: &mut World| world.with(|core| core.write(Gva(0xc000), &[1], IMPLICIT_WRITE));
    let read_only: Result<(), Fault> = Err(Exception::page_fault(Gva(0xc000), 3).into());
    assert_eq!(store(&mut world), read_only);
    let (with, held) = (world.vcpu.cr0, world.held());
    world.write(ControlRegister::Cr0, with & !cr0::WP).expect("legal");
    assert_eq!(store(&mut world), Ok(()));
    let filled = world.held();
    assert!(filled > held);
    world.log.scopes.clear();
    world.write(ControlRegister::Cr0, with).expect("legal");
    assert_eq!(world.held(), filled);
    assert_eq!(world.log.scopes, [Scope::Everything], "what runs natively is looked at again");
    assert_eq!(store(&mut world), read_only);
}

/// A world whose page at 0xc000 is a user page.
fn with_a_user_page() -> World {
    let world = World::new(true, true);
    world.make_user_page();
    world
}

fn fetch(world: &mut World, user: bool) -> Result<(), Fault> {
    let access = Access { kind: AccessKind::Execute, user };
    world.with(|core| core.translate(Gva(0xc000), access)).map(|_| ())
}

#[test]
fn smep_keeps_the_kernel_from_executing_user_pages() {
    let mut world = with_a_user_page();
    assert_eq!(fetch(&mut world, false), Ok(()));
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::SMEP).expect("legal");
    // P and I/D.
    let refused: Result<(), Fault> = Err(Exception::page_fault(Gva(0xc000), 0x11).into());
    assert_eq!(fetch(&mut world, false), refused);
    assert_eq!(fetch(&mut world, true), Ok(()), "user mode may");
    assert_eq!(fetch(&mut world, false), refused, "nor by what user mode has cached");
    assert!(world.with(|core| core.read_implicit(Gva(0xc000))).is_ok(), "reading is SMAP's");
    world.write(ControlRegister::Cr4, cr4::PAE).expect("legal");
    assert_eq!(fetch(&mut world, false), Ok(()));
}

#[test]
fn a_fetch_says_so_in_its_error_code_with_smep_or_nxe_only() {
    let absent = |world: &mut World| {
        let access = Access { kind: AccessKind::Execute, user: false };
        world.with(|core| core.translate(Gva(0x30_0000), access))
    };
    for (nxe, smep, error) in
        [(true, false, 0x10), (false, true, 0x10), (true, true, 0x10), (false, false, 0)]
    {
        let mut world = World::new(true, true);
        if !nxe {
            world.vcpu.efer &= !efer::NXE;
        }
        if smep {
            world.write(ControlRegister::Cr4, cr4::PAE | cr4::SMEP).expect("legal");
        }
        let expected = Exception::page_fault(Gva(0x30_0000), error);
        assert_eq!(absent(&mut world), Err(expected.into()), "NXE {nxe} SMEP {smep}");
    }
}

#[test]
fn setting_smep_empties_the_current_pcid_and_clearing_it_nothing() {
    let mut world = with_a_user_page();
    fetch(&mut world, false).expect("mapped");
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::SMEP).expect("legal");
    assert_eq!(world.held(), 0);
    fetch(&mut world, true).expect("mapped");
    let held = world.held();
    world.write(ControlRegister::Cr4, cr4::PAE).expect("legal");
    assert_eq!(world.held(), held);
}

const GIB: u64 = 1 << 30;

/// Reads the first word of the GDT through the second gibibyte, mapped by this PDPTE.
fn read_through_pdpte(features: CpuFeatures, entry: u64) -> Result<u64, Fault> {
    let mut world = World::with_features(features);
    world.memory.write_word(Gpa(0x2008), entry);
    world.with(|core| core.read_implicit(Gva(GIB + GDT + 0x80)))
}

#[test]
fn a_pdpte_maps_a_1_gib_page_where_the_processor_has_them() {
    let has = CpuFeatures { gib_pages: true, ..CpuFeatures::default() };
    let segment = 0x00af_9b00_0000_ffff;
    assert_eq!(read_through_pdpte(has, 0xe3), Ok(segment));
    assert_eq!(read_through_pdpte(has, 0x10e3), Ok(segment), "bit 12 is PAT");
    // P and RSVD.
    let reserved: Result<u64, Fault> = Err(Exception::page_fault(Gva(GIB + GDT + 0x80), 9).into());
    assert_eq!(read_through_pdpte(CpuFeatures::default(), 0xe3), reserved);
    for bit in 13..30 {
        assert_eq!(read_through_pdpte(has, 0xe3 | 1 << bit), reserved, "bit {bit}");
    }
    assert_eq!([has, CpuFeatures::default()].map(|f| f.cpuid(0x8000_0001, 0)[3] >> 26 & 1), [1, 0]);
}

#[test]
fn the_page_size_bit_of_a_pml4e_is_reserved() {
    let mut world = World::new(true, true);
    world.memory.write_word(Gpa(0x1008), 0x20e3);
    let va = Gva(1 << 39);
    let expected = Exception::page_fault(va, 9);
    assert_eq!(world.with(|core| core.read_implicit(va)), Err(expected.into()));
}

#[test]
fn invpcid_is_undefined_where_it_does_not_exist() {
    assert_eq!(World::new(true, false).invpcid(2, 0, 0), ud());
    assert_eq!(World::new(true, true).invpcid(2, 0, 0), Ok(()));
}

#[test]
fn invpcid_refuses_bad_types_descriptors_and_addresses() {
    let mut world = World::new(true, true);
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::PCIDE).expect("legal");
    assert_eq!(world.invpcid(4, 0, 0), gp());
    assert_eq!(world.invpcid(1, 0x1000, 0), gp());
    // XSA-279.
    assert_eq!(world.invpcid(0, 1, 0x8000_0000_0000_0000), gp());
    assert_eq!(world.invpcid(1, 1, 0x8000_0000_0000_0000), Ok(()));
}

#[test]
fn invpcid_of_a_pcid_needs_pcide() {
    let mut world = World::new(true, true);
    assert_eq!(world.invpcid(0, 1, 0x1000), gp());
    assert_eq!(world.invpcid(1, 1, 0), gp());
    assert_eq!(world.invpcid(1, 0, 0), Ok(()));
    assert_eq!(world.invpcid(3, 1, 0), Ok(()));
}

#[test]
fn invlpg_never_faults_at_cpl_0_and_always_at_cpl_3() {
    let mut world = World::new(true, true);
    assert_eq!(world.execute(Op::Invlpg(Gva(0x8000_0000_0000_0000))), Ok(()));
    world.vcpu.cpl = 3;
    assert_eq!(world.execute(Op::Invlpg(Gva(0x1000))), gp());
    let read = Op::ReadCr { register: ControlRegister::Cr3, to: 0 };
    assert_eq!(world.execute(read), gp());
}

#[test]
fn an_exception_pushes_its_frame_on_its_ist_stack() {
    let mut world = World::new(true, true);
    world.gate(14);
    world.vcpu.gpr[gpr::RSP] = 0x7000;
    let delivered = world.with(|core| deliver(core, Exception::page_fault(Gva(0xdead000), 2)));
    assert_eq!(delivered, Ok(()));
    assert_eq!((world.vcpu.rip, world.vcpu.cr2), (0x5500, 0xdead000));
    assert_eq!(world.vcpu.gpr[gpr::RSP], 0x1_0000 - 48);
    let word = |index: u64| world.memory.read_word(Gpa(0x1_0000 - 48 + index * 8));
    assert_eq!((word(0), word(1), word(4)), (2, 0x5000, 0x7000));
}

#[test]
fn a_stack_that_is_not_mapped_makes_a_double_and_then_a_triple_fault() {
    let mut world = World::new(true, true);
    world.gate(14);
    // The IST stack's page is unmapped.
    world.memory.write_word(Gpa(0x4000 + 0xf * 8), 0);
    let fault = Exception::page_fault(Gva(0x30_0000), 0);
    let triple = world.with(|core| deliver(core, fault));
    assert_eq!(triple, Err(Stop::TripleFault { vector: 14 }));
    // With a double fault gate on a stack that is mapped, the guest gets vector 8.
    world.stack(2, 0x1_1000);
    world.gate(8);
    world.memory.write(Gpa(IDT + 8 * 16 + 4), &[2]);
    assert_eq!(world.with(|core| deliver(core, fault)), Ok(()));
    assert_eq!(world.vcpu.gpr[gpr::RSP], 0x1_1000 - 48);
}

#[test]
fn delivery_goes_through_the_tlb_stale_entries_included() {
    let mut world = World::new(true, true);
    world.gate(14);
    world.with(|core| core.read_implicit(Gva(IDT + 14 * 16))).expect("mapped");
    // The IDT's page is unmapped in memory; the cached translation still serves.
    world.memory.write_word(Gpa(0x4000 + 9 * 8), 0);
    let fault = Exception::page_fault(Gva(0x30_0000), 0);
    assert_eq!(world.with(|core| deliver(core, fault)), Ok(()));
    world.execute(Op::Invlpg(Gva(IDT))).expect("legal");
    assert!(world.with(|core| deliver(core, fault)).is_err());
}

#[test]
fn wrmsr_and_swapgs_invalidate_nothing() {
    const EFER: u32 = 0xc000_0080;
    let mut world = World::new(true, true);
    world.with(|core| core.read_implicit(Gva(IDT))).expect("mapped");
    let before = world.held();
    assert!(before > 0);
    let value = world.vcpu.efer | 1;
    world.execute(Op::Wrmsr { msr: EFER, value }).expect("SCE may be set");
    world.execute(Op::Swapgs).expect("legal");
    assert_eq!(world.held(), before);
}

#[test]
fn an_unknown_msr_and_a_user_mode_return_to_the_kernel_fault() {
    let mut world = World::new(true, true);
    assert_eq!(world.execute(Op::Rdmsr(0x1234_5678)), gp());
    world.vcpu.cpl = 3;
    world.vcpu.gpr[gpr::RSP] = 0xc000;
    // CS 0x80 has RPL 0.
    world.memory.write_word(Gpa(0xc008), 0x80);
    world.make_user_page();
    let expected = Exception::general_protection(0x80);
    assert_eq!(world.execute(Op::Iret), Err(expected.into()));
}

#[test]
fn pushf_and_popf_show_and_change_the_virtual_flags() {
    let mut world = World::new(true, true);
    world.vcpu.gpr[gpr::RSP] = 0xc008;
    world.vcpu.rflags = 0x2 | flags::IF | flags::CF;
    world.execute(Op::PushFlags).expect("no fault");
    assert_eq!(world.memory.read_word(Gpa(0xc000)), 0x2 | flags::IF | flags::CF);
    world.memory.write_word(Gpa(0xc000), flags::IOPL | flags::ZF);
    world.execute(Op::PopFlags).expect("no fault");
    assert_eq!(world.vcpu.rflags, 0x2 | flags::IOPL | flags::ZF);
    // At CPL 3 with IOPL 0 neither IF nor IOPL changes; that is no fault.
    world.vcpu.cpl = 3;
    world.vcpu.rflags = 0x2 | flags::IF;
    let user = world.execute(Op::PopFlags);
    assert!(matches!(user, Err(Fault::Exception(fault)) if fault.vector == 14), "{user:?}");
    world.vcpu.cpl = 0;
    world.vcpu.gpr[gpr::RSP] = 0xc000;
    world.make_user_page();
    world.with(|core| core.load_cr3(0x1000)).expect("a legal load");
    world.vcpu.cpl = 3;
    world.execute(Op::PopFlags).expect("no fault");
    assert_eq!(world.vcpu.rflags, 0x2 | flags::IF | flags::ZF);
}

#[test]
fn sgdt_smsw_and_selectors_show_the_virtual_processor() {
    let mut world = World::new(true, true);
    world.execute(Op::Sgdt(Gva(0xc000))).expect("no fault");
    assert_eq!(world.memory.read_word(Gpa(0xc000)), 0xff | GDT << 16);
    world.execute(Op::Sidt(Gva(0xc006))).expect("no fault");
    assert_eq!(world.memory.read_word(Gpa(0xc008)), IDT);
    let to = |size| Destination::Register { number: gpr::RAX, size };
    world.vcpu.gpr[gpr::RAX] = u64::MAX;
    world.execute(Op::StoreWord { word: Word::Msw, to: to(2) }).expect("no fault");
    assert_eq!(world.vcpu.gpr[gpr::RAX], !0xffff | world.vcpu.cr0 & 0xffff);
    world.execute(Op::StoreWord { word: Word::Msw, to: to(4) }).expect("no fault");
    assert_eq!(world.vcpu.gpr[gpr::RAX], world.vcpu.cr0);
    world.execute(Op::StoreWord { word: Word::Cs, to: to(8) }).expect("no fault");
    assert_eq!(world.vcpu.gpr[gpr::RAX], 0x80);
}

#[test]
fn em_ts_and_am_are_stops() {
    let mut world = World::new(true, true);
    let now = world.vcpu.cr0;
    for bit in [cr0::EM, cr0::TS, cr0::AM] {
        let stop = world.write(ControlRegister::Cr0, now | bit);
        assert!(matches!(stop, Err(Fault::Stop(Stop::Interface(_)))), "{bit:#x}: {stop:?}");
    }
}
