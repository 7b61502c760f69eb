//! When MOV CR3, MOV CR4, INVPCID and INVLPG fault, and that exceptions go through the guest's own
//! tables: on the processor model alone, without an executor.
#![allow(missing_docs)]

use stalemate::arch::addr::{CpuId, Gpa, Gva};
use stalemate::arch::census::Census;
use stalemate::arch::core::{Core, Log, Memory, StateHook};
use stalemate::arch::deliver::deliver;
use stalemate::arch::fault::{Exception, Fault, Stop};
use stalemate::arch::features::CpuFeatures;
use stalemate::arch::op::{ControlRegister, Op};
use stalemate::arch::sensitive::{Destination, Word};
use stalemate::arch::tlb::{Fill, Tlb, TlbModel};
use stalemate::arch::vcpu::{Vcpu, cr0, cr4, flags, gpr};
use stalemate::arch::walk::{Access, AccessKind, Tables};
use std::cell::RefCell;

const SIZE: usize = 0x2_0000;
const GDT: u64 = 0x8000;
const IDT: u64 = 0x9000;
const TSS: u64 = 0xa000;
const DESCRIPTOR: u64 = 0xb000;

/// 128 KiB, identity-mapped by a PML4 at 0x1000.
struct Ram(RefCell<Vec<u8>>);

impl Tables for Ram {
    fn entry(&self, slot: Gpa) -> Option<u64> {
        let at = slot.0 as usize;
        let bytes = self.0.borrow().get(at..at.checked_add(8)?)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

impl Memory for Ram {
    fn as_tables(&self) -> &dyn Tables {
        self
    }

    fn read(&self, at: Gpa, bytes: &mut [u8]) -> bool {
        let ram = self.0.borrow();
        let range = ram.get(at.0 as usize..).and_then(|rest| rest.get(..bytes.len()));
        range.map(|range| bytes.copy_from_slice(range)).is_some()
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> bool {
        let mut ram = self.0.borrow_mut();
        let range = ram.get_mut(at.0 as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
        range.map(|range| range.copy_from_slice(bytes)).is_some()
    }
}

struct NoHook;

impl StateHook for NoHook {
    fn state_store(&mut self, _: Gva, _: u64, _: u64, new: u64) -> Vec<u64> {
        vec![new]
    }
}

struct World {
    ram: Ram,
    vcpu: Vcpu,
    tlb: Tlb,
    census: Census,
    log: Log,
}

impl World {
    fn new(pcid: bool, invpcid: bool) -> Self {
        let ram = Ram(RefCell::new(vec![0; SIZE]));
        let put = |at: u64, value: u64| assert!(ram.write(Gpa(at), &value.to_le_bytes()));
        put(0x1000, 0x2063);
        put(0x2000, 0x3063);
        put(0x3000, 0x4063);
        for page in 0..SIZE as u64 / 4096 {
            put(0x4000 + page * 8, page << 12 | 0x63);
        }
        put(GDT + 0x80, 0x00af_9b00_0000_ffff);
        put(TSS + 0x24, 0x1_0000);
        let features = CpuFeatures { pcid, invpcid, pge: true, smep: false, gib_pages: true };
        let mut vcpu = Vcpu::long_mode(CpuId(0), features, 0x5000, 0x1000);
        vcpu.gdt.base = GDT;
        vcpu.gdt.limit = 0xff;
        vcpu.idt.base = IDT;
        vcpu.idt.limit = 0xfff;
        vcpu.tss_base = TSS;
        vcpu.tss_limit = 0x67;
        let tlb = Tlb::new(TlbModel { fill: Fill::OnDemand, structure_caches: true });
        let mut world = Self { ram, vcpu, tlb, census: Census::default(), log: Log::default() };
        world.with(|core| core.load_cr3(0x1000)).expect("a legal load");
        world
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Core<'_>) -> T) -> T {
        work(&mut Core {
            vcpu: &mut self.vcpu,
            tlb: &mut self.tlb,
            census: &mut self.census,
            memory: &self.ram,
            state_page: None,
            hook: &mut NoHook,
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

    /// INVPCID with this descriptor.
    fn invpcid(&mut self, kind: u64, first: u64, va: u64) -> Result<(), Fault> {
        self.ram.write(Gpa(DESCRIPTOR), &first.to_le_bytes());
        self.ram.write(Gpa(DESCRIPTOR + 8), &va.to_le_bytes());
        self.execute(Op::Invpcid { kind, descriptor: Gva(DESCRIPTOR) })
    }

    /// A gate for `vector` to 0x5500, on IST 1.
    fn gate(&self, vector: u64) {
        self.ram
            .write(Gpa(IDT + vector * 16), &(0x5500u64 | 0x80 << 16 | 0x8e01 << 32).to_le_bytes());
    }
}

impl World {
    /// Maps page `number` to its frame with these bits.
    fn map(&self, number: u64, bits: u64) {
        self.ram.write(Gpa(0x4000 + number * 8), &(number << 12 | bits).to_le_bytes());
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
fn cr4_refuses_what_the_processor_lacks_and_long_mode_needs() {
    let mut world = World::new(true, true);
    assert_eq!(world.write(ControlRegister::Cr4, cr4::PAE | cr4::SMEP), gp());
    assert_eq!(world.write(ControlRegister::Cr4, 0), gp());
    assert_eq!(world.write(ControlRegister::Cr4, cr4::PAE | cr4::PGE), Ok(()));
}

#[test]
fn paging_cannot_be_cleared_while_pcide_is_set() {
    let mut world = World::new(true, true);
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::PCIDE).expect("legal");
    assert_eq!(world.write(ControlRegister::Cr0, 0x11), gp());
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
    let word = |index: u64| world.ram.entry(Gpa(0x1_0000 - 48 + index * 8));
    assert_eq!((word(0), word(1), word(4)), (Some(2), Some(0x5000), Some(0x7000)));
}

#[test]
fn a_stack_that_is_not_mapped_makes_a_double_and_then_a_triple_fault() {
    let mut world = World::new(true, true);
    world.gate(14);
    // The IST stack's page is unmapped.
    world.ram.write(Gpa(0x4000 + 0xf * 8), &0u64.to_le_bytes());
    let fault = Exception::page_fault(Gva(0x30_0000), 0);
    let triple = world.with(|core| deliver(core, fault));
    assert_eq!(triple, Err(Stop::TripleFault { vector: 14 }));
    // With a double fault gate on a stack that is mapped, the guest gets vector 8.
    world.ram.write(Gpa(TSS + 0x2c), &0x1_1000u64.to_le_bytes());
    world.gate(8);
    world.ram.write(Gpa(IDT + 8 * 16 + 4), &[2]);
    assert_eq!(world.with(|core| deliver(core, fault)), Ok(()));
    assert_eq!(world.vcpu.gpr[gpr::RSP], 0x1_1000 - 48);
}

#[test]
fn delivery_goes_through_the_tlb_stale_entries_included() {
    let mut world = World::new(true, true);
    world.gate(14);
    world.with(|core| core.read_implicit(Gva(IDT + 14 * 16))).expect("mapped");
    // The IDT's page is unmapped in memory; the cached translation still serves.
    world.ram.write(Gpa(0x4000 + 9 * 8), &0u64.to_le_bytes());
    let fault = Exception::page_fault(Gva(0x30_0000), 0);
    assert_eq!(world.with(|core| deliver(core, fault)), Ok(()));
    world.execute(Op::Invlpg(Gva(IDT))).expect("legal");
    assert!(world.with(|core| deliver(core, fault)).is_err());
}

#[test]
fn cr0_refuses_what_the_manual_says() {
    let mut world = World::new(true, true);
    let now = world.vcpu.cr0;
    for (value, why) in [
        (now | 1 << 32, "a bit above 31"),
        (now & !cr0::PE, "PG without PE"),
        (now & !cr0::PG, "PG cleared in 64-bit mode"),
        (now & !(cr0::PG | cr0::PE), "PG and PE cleared"),
        (now | cr0::NW, "NW without CD"),
    ] {
        assert_eq!(world.write(ControlRegister::Cr0, value), gp(), "{why}");
        assert_eq!(world.vcpu.cr0, now, "{why}");
    }
    for (value, stored) in [
        (now & !cr0::WP, now & !cr0::WP),
        (now | cr0::CD, now | cr0::CD),
        (now | cr0::CD | cr0::NW, now | cr0::CD | cr0::NW),
        // ET is 1, and what is not defined is 0, whatever is written.
        (now & !cr0::ET | 1 << 6 | 1 << 28, now),
    ] {
        assert_eq!(world.write(ControlRegister::Cr0, value), Ok(()));
        assert_eq!(world.vcpu.cr0, stored);
    }
    for bit in [cr0::EM, cr0::TS, cr0::AM] {
        let stop = world.write(ControlRegister::Cr0, now | bit);
        assert!(matches!(stop, Err(Fault::Stop(Stop::Interface(_)))), "{bit:#x}: {stop:?}");
    }
    world.vcpu.cpl = 3;
    assert_eq!(world.write(ControlRegister::Cr0, now), gp(), "CPL 3");
}

#[test]
fn a_change_of_wp_invalidates_nothing_and_counts_at_once() {
    let mut world = World::new(true, true);
    world.map(0xc, 0x61);
    let write = Access { kind: AccessKind::Write, user: false };
    let read = Access { kind: AccessKind::Read, user: false };
    world.with(|core| core.translate(Gva(0xc000), read)).expect("readable");
    let held = world.tlb.clone();
    let denied = world.with(|core| core.translate(Gva(0xc000), write));
    assert!(matches!(denied, Err(Fault::Exception(fault)) if fault.error == Some(3)), "{denied:?}");
    // The page fault dropped the entry: here it is again.
    world.tlb = held.clone();
    let without = world.vcpu.cr0 & !cr0::WP;
    assert_eq!(world.write(ControlRegister::Cr0, without), Ok(()));
    assert_eq!(world.tlb, held, "nothing went");
    assert_eq!(world.with(|core| core.translate(Gva(0xc000), write)), Ok(Gpa(0xc000)));
}

#[test]
fn smep_forbids_the_kernel_to_execute_user_pages_and_nothing_else() {
    let mut world = World::new(true, true);
    world.vcpu.features.smep = true;
    for table in [0x1000, 0x2000, 0x3000] {
        let entry = world.ram.entry(Gpa(table)).expect("mapped") | 4;
        world.ram.write(Gpa(table), &entry.to_le_bytes());
    }
    world.map(0xc, 0x67);
    let fetch = |user| Access { kind: AccessKind::Execute, user };
    assert!(world.with(|core| core.translate(Gva(0xc000), fetch(false))).is_ok());
    let set = world.vcpu.cr4 | cr4::SMEP;
    assert_eq!(world.write(ControlRegister::Cr4, set), Ok(()));
    let denied = world.with(|core| core.translate(Gva(0xc000), fetch(false)));
    // P, and I/D since SMEP is on (SDM vol. 3, 4.7).
    assert!(matches!(denied, Err(Fault::Exception(e)) if e.error == Some(0x11)), "{denied:?}");
    let read = Access { kind: AccessKind::Read, user: false };
    assert!(world.with(|core| core.translate(Gva(0xc000), read)).is_ok(), "SMEP is not SMAP");
    assert!(world.with(|core| core.translate(Gva(0xd000), fetch(false))).is_ok());
    world.vcpu.cpl = 3;
    assert!(world.with(|core| core.translate(Gva(0xc000), fetch(true))).is_ok());
}

#[test]
fn wrmsr_and_swapgs_invalidate_nothing() {
    const EFER: u32 = 0xc000_0080;
    let mut world = World::new(true, true);
    world.with(|core| core.read_implicit(Gva(IDT))).expect("mapped");
    let held =
        |world: &World| world.tlb.tags().map(|tag| world.tlb.entries(tag).count()).sum::<usize>();
    let before = held(&world);
    assert!(before > 0);
    let value = world.vcpu.efer | 1;
    world.execute(Op::Wrmsr { msr: EFER, value }).expect("SCE may be set");
    world.execute(Op::Swapgs).expect("legal");
    assert_eq!(held(&world), before);
}

#[test]
fn an_unknown_msr_and_a_user_mode_return_to_the_kernel_fault() {
    let mut world = World::new(true, true);
    assert_eq!(world.execute(Op::Rdmsr(0x1234_5678)), gp());
    world.vcpu.cpl = 3;
    world.vcpu.gpr[gpr::RSP] = 0xc000;
    // CS 0x80 has RPL 0.
    world.ram.write(Gpa(0xc008), &0x80u64.to_le_bytes());
    world.ram.write(Gpa(0x4000 + 0xc * 8), &0xc067u64.to_le_bytes());
    for table in [0x1000, 0x2000, 0x3000] {
        let entry = world.ram.entry(Gpa(table)).expect("in memory") | 4;
        world.ram.write(Gpa(table), &entry.to_le_bytes());
    }
    let expected = Exception::general_protection(0x80);
    assert_eq!(world.execute(Op::Iret), Err(expected.into()));
}

#[test]
fn pushf_and_popf_show_and_change_the_virtual_flags() {
    let mut world = World::new(true, true);
    world.vcpu.gpr[gpr::RSP] = 0xc008;
    world.vcpu.rflags = 0x2 | flags::IF | flags::CF;
    world.execute(Op::PushFlags).expect("no fault");
    assert_eq!(world.ram.entry(Gpa(0xc000)), Some(0x2 | flags::IF | flags::CF));
    world.ram.write(Gpa(0xc000), &(flags::IOPL | flags::ZF).to_le_bytes());
    world.execute(Op::PopFlags).expect("no fault");
    assert_eq!(world.vcpu.rflags, 0x2 | flags::IOPL | flags::ZF);
    // At CPL 3 with IOPL 0 neither IF nor IOPL changes; that is no fault.
    world.vcpu.cpl = 3;
    world.vcpu.rflags = 0x2 | flags::IF;
    let user = world.execute(Op::PopFlags);
    assert!(matches!(user, Err(Fault::Exception(fault)) if fault.vector == 14), "{user:?}");
    world.vcpu.cpl = 0;
    world.vcpu.gpr[gpr::RSP] = 0xc000;
    let user_page = world.ram.entry(Gpa(0x4000 + 0xc * 8)).expect("mapped") | 4;
    world.ram.write(Gpa(0x4000 + 0xc * 8), &user_page.to_le_bytes());
    for table in [0x1000, 0x2000, 0x3000] {
        let entry = world.ram.entry(Gpa(table)).expect("mapped") | 4;
        world.ram.write(Gpa(table), &entry.to_le_bytes());
    }
    world.with(|core| core.load_cr3(0x1000)).expect("a legal load");
    world.vcpu.cpl = 3;
    world.execute(Op::PopFlags).expect("no fault");
    assert_eq!(world.vcpu.rflags, 0x2 | flags::IF | flags::ZF);
}

#[test]
fn sgdt_smsw_and_selectors_show_the_virtual_processor() {
    let mut world = World::new(true, true);
    world.execute(Op::Sgdt(Gva(0xc000))).expect("no fault");
    assert_eq!(world.ram.entry(Gpa(0xc000)), Some(0xff | GDT << 16));
    world.execute(Op::Sidt(Gva(0xc006))).expect("no fault");
    assert_eq!(world.ram.entry(Gpa(0xc008)), Some(IDT));
    let to = |size| Destination::Register { number: gpr::RAX, size };
    world.vcpu.gpr[gpr::RAX] = u64::MAX;
    world.execute(Op::StoreWord { word: Word::Msw, to: to(2) }).expect("no fault");
    assert_eq!(world.vcpu.gpr[gpr::RAX], !0xffff | world.vcpu.cr0 & 0xffff);
    world.execute(Op::StoreWord { word: Word::Msw, to: to(4) }).expect("no fault");
    assert_eq!(world.vcpu.gpr[gpr::RAX], world.vcpu.cr0);
    world.execute(Op::StoreWord { word: Word::Cs, to: to(8) }).expect("no fault");
    assert_eq!(world.vcpu.gpr[gpr::RAX], 0x80);
}
