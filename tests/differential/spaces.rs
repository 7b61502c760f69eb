//! What an executor lets each space use, and what it lets go of when it is told to.

use crate::common;
use stalemate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use stalemate::arch::core::Memory;
use stalemate::arch::features::CpuFeatures;
use stalemate::arch::vcpu::{Vcpu, cr4, gpr};
use stalemate::executor::{Executor, ExecutorError, Leaf, Space, Trap};
use stalemate::memory::GuestMemory;

const CODE: Gva = Gva(0x40_0000);
const DATA: Gva = Gva(0x50_0000);
const KERNEL: Space = Space { cpu: CpuId(0), pcid: Pcid::new(0), user: false };
const CODE_LEAF: Leaf = Leaf { frame: Gpa(0x1000), writable: false, executable: true };
const DATA_LEAF: Leaf = Leaf { frame: Gpa(0x2000), writable: true, executable: false };

/// MOV AL, \[RDI\]; INT3.
const LOAD: &[u8] = &[0x8a, 0x07, 0xcc];
/// MOV \[RDI\], AL; INT3.
const STORE: &[u8] = &[0x88, 0x07, 0xcc];
/// MOV AL, GS:\[0\]; INT3.
const LOAD_GS: &[u8] = &[0x65, 0x8a, 0x04, 0x25, 0, 0, 0, 0, 0xcc];
/// MOV AL, FS:\[0\]; INT3.
const LOAD_FS: &[u8] = &[0x64, 0x8a, 0x04, 0x25, 0, 0, 0, 0, 0xcc];

/// An executor with a page of code and a page of data in [`KERNEL`].
struct Rig {
    name: &'static str,
    memory: GuestMemory,
    executor: Box<dyn Executor>,
    vcpu: Vcpu,
}

/// One for each executor that this host has.
fn rigs() -> impl Iterator<Item = Rig> {
    common::backends().map(|backend| {
        let memory = GuestMemory::new(0x1_0000).expect("memory");
        let mut executor = backend.make(&memory).expect("an executor");
        for (page, leaf) in [(CODE, CODE_LEAF), (DATA, DATA_LEAF)] {
            executor.map(KERNEL, page, leaf).expect("room for tables");
        }
        let mut vcpu = Vcpu::long_mode(CpuId(0), CpuFeatures::default(), CODE.0, 0);
        vcpu.gpr[gpr::RDI] = DATA.0;
        Rig { name: backend.name(), memory, executor, vcpu }
    })
}

impl Rig {
    /// Runs `code`: AL at its INT3, or the address and error code of its page fault.
    fn run(&mut self, code: &[u8]) -> Result<u8, (u64, u32)> {
        let mut there = vec![0; code.len()];
        assert!(self.memory.read(CODE_LEAF.frame, &mut there));
        // A write would make the executor decode anew.
        if there != code {
            self.memory.write(CODE_LEAF.frame, code);
        }
        self.vcpu.rip = CODE.0;
        match self.executor.run(&mut self.vcpu).expect("the host works") {
            Trap::Exception { vector: 3, .. } => Ok(self.vcpu.gpr[gpr::RAX] as u8),
            Trap::Exception { vector: 14, error, address } => Err((address, error)),
            other => panic!("{}: {other:?}", self.name),
        }
    }

    /// Leaves `kept` of the leaf of `page`, by itself or in a look at all.
    fn narrow(&mut self, page: Gva, kept: Option<Leaf>, alone: bool) {
        let mut keep = |_, at, leaf| if at == page { kept } else { Some(leaf) };
        let done = if alone {
            self.executor.revalidate_page(&|_| true, page, &mut keep)
        } else {
            self.executor.revalidate(&|_| true, &mut keep)
        };
        done.expect("the host revokes");
    }
}

#[test]
fn a_revoked_leaf_is_used_no_more() {
    for mut rig in rigs() {
        for alone in [true, false] {
            assert!(rig.run(STORE).is_ok() && rig.run(LOAD).is_ok(), "{}", rig.name);
            rig.narrow(DATA, None, alone);
            // The bits of user mode and of a store; P joins them where the leaf grants less.
            assert_eq!(rig.run(LOAD), Err((DATA.0, 4)), "{} {alone}", rig.name);
            assert_eq!(rig.run(STORE), Err((DATA.0, 6)), "{} {alone}", rig.name);
            rig.executor.map(KERNEL, DATA, DATA_LEAF).expect("room for tables");
            assert!(rig.run(STORE).is_ok() && rig.run(LOAD).is_ok(), "{}", rig.name);
            rig.narrow(DATA, Some(Leaf { writable: false, ..DATA_LEAF }), alone);
            assert!(rig.run(LOAD).is_ok(), "{} {alone}", rig.name);
            assert_eq!(rig.run(STORE), Err((DATA.0, 7)), "{} {alone}", rig.name);
            rig.executor.map(KERNEL, DATA, DATA_LEAF).expect("room for tables");
        }
    }
}

#[test]
fn code_that_was_run_is_not_run_when_its_leaf_is_revoked() {
    for mut rig in rigs() {
        for (kept, error) in [(None, 0x14), (Some(Leaf { executable: false, ..CODE_LEAF }), 0x15)] {
            for alone in [true, false] {
                assert!(rig.run(LOAD).is_ok(), "{}", rig.name);
                rig.narrow(CODE, kept, alone);
                assert_eq!(rig.run(LOAD), Err((CODE.0, error)), "{} {alone}", rig.name);
                rig.executor.map(KERNEL, CODE, CODE_LEAF).expect("room for tables");
            }
        }
    }
}

#[test]
fn each_space_has_leaves_of_its_own() {
    let spaces = [(0, false), (0, true), (1, false), (1, true), (2, true)];
    for mut rig in rigs() {
        rig.vcpu.cr4 |= cr4::PCIDE;
        for (number, (pcid, user)) in (2..).zip(spaces) {
            let space = Space { cpu: CpuId(0), pcid: Pcid::new(pcid), user };
            let frame = Gpa(number << 12);
            rig.memory.write(frame, &[number as u8]);
            rig.executor.map(space, CODE, CODE_LEAF).expect("room for tables");
            if space != KERNEL {
                rig.executor.map(space, DATA, Leaf { frame, ..DATA_LEAF }).expect("room");
            }
        }
        for _ in 0..2 {
            for (number, (pcid, user)) in (2..).zip(spaces) {
                rig.vcpu.cr3 = pcid.into();
                rig.vcpu.cpl = if user { 3 } else { 0 };
                assert_eq!(rig.run(LOAD), Ok(number), "{} {pcid} {user}", rig.name);
            }
        }
    }
}

#[test]
fn a_base_that_changes_alone_is_used() {
    for mut rig in rigs() {
        rig.memory.write(DATA_LEAF.frame, &[1, 2, 3]);
        for offset in [0, 2, 1] {
            rig.vcpu.gs_base = DATA.0 + offset;
            assert_eq!(rig.run(LOAD_GS), Ok(offset as u8 + 1), "{}", rig.name);
        }
        for offset in [1, 0, 2] {
            rig.vcpu.fs_base = DATA.0 + offset;
            assert_eq!(rig.run(LOAD_FS), Ok(offset as u8 + 1), "{}", rig.name);
        }
    }
}

#[test]
fn code_is_what_memory_holds_now() {
    for mut rig in rigs() {
        rig.executor.map(KERNEL, CODE, Leaf { writable: true, ..CODE_LEAF }).expect("room");
        for al in [1, 2] {
            // MOV AL, al; INT3, written by the VMM.
            assert_eq!(rig.run(&[0xb0, al, 0xcc]), Ok(al), "{}", rig.name);
        }
        // MOV BYTE [RDI], 7; two bytes that it changes; INT3.
        rig.vcpu.gpr[gpr::RDI] = CODE.0 + 4;
        assert_eq!(rig.run(&[0xc6, 0x07, 7, 0xb0, 0, 0xcc]), Ok(7), "{}", rig.name);
    }
}

/// PML4 slot 256: a software KVM answers it with a reserved-bit fault, whoever maps it.
const UNUSABLE_SLOT: u64 = 256;

/// The linear address of a page in PML4 slot `slot`.
fn in_slot(slot: u64, page: u64) -> Gva {
    let upper = if slot < 256 { 0 } else { 0xffff << 48 };
    Gva(upper | slot << 39 | (page & 0x7ff_ffff) << 12)
}

/// A run of the code and of a load at a page of data, as a machine does it: what is not mapped, or
/// was dropped, is mapped again. The loaded byte.
fn load_at(rig: &mut Rig, code: Gva, data: Gva) -> u8 {
    rig.vcpu.rip = code.0;
    rig.vcpu.gpr[gpr::RDI] = data.0;
    for _ in 0..16 {
        match rig.executor.run(&mut rig.vcpu).expect("the host works") {
            Trap::Exception { vector: 3, .. } => return rig.vcpu.gpr[gpr::RAX] as u8,
            Trap::Exception { vector: 14, address, .. } => {
                let page = Gva(address).page();
                let leaf = match page == code {
                    true => CODE_LEAF,
                    false => DATA_LEAF,
                };
                assert!(page == code || page == data, "{}: {page:?}", rig.name);
                rig.executor.map(KERNEL, page, leaf).expect("room for tables");
            }
            other => panic!("{}: {other:?}", rig.name),
        }
    }
    panic!("{}: {code:?} and {data:?} are never mapped together", rig.name);
}

#[test]
fn any_page_of_the_canonical_range_is_mapped() {
    for mut rig in rigs() {
        rig.memory.write(CODE_LEAF.frame, LOAD);
        let mut entropy = crate::entropy::Entropy::new(1);
        // Each slot, then any: whoever has used all of them uses the monitor's again.
        let each = (0..512).rev();
        let any: Vec<u64> = (0..256).map(|_| entropy.bits() % 512).collect();
        for slot in each.chain(any).filter(|slot| *slot != UNUSABLE_SLOT) {
            let page = if entropy.one_in(4) { 0 } else { entropy.bits() };
            let (data, code) = (in_slot(slot, page), in_slot(slot, page.wrapping_add(1)));
            let byte = entropy.bits() as u8;
            rig.memory.write(DATA_LEAF.frame, &[byte]);
            assert_eq!(load_at(&mut rig, code, data), byte, "{} {data:?}", rig.name);
        }
    }
}

#[test]
fn the_pages_of_the_monitors_first_place_are_the_guests() {
    for mut rig in rigs() {
        rig.memory.write(CODE_LEAF.frame, LOAD);
        for slot in [510, 509, 508, 510] {
            for page in [0, 1, 2, 3, 0x100] {
                let byte = (slot + page) as u8;
                rig.memory.write(DATA_LEAF.frame, &[byte]);
                let data = in_slot(slot, page);
                assert_eq!(load_at(&mut rig, CODE, data), byte, "{} {data:?}", rig.name);
            }
        }
    }
}

#[test]
fn shadow_tables_are_made_anew_when_the_pool_is_used_up() {
    for mut rig in rigs() {
        rig.memory.write(CODE_LEAF.frame, LOAD);
        // Two tables for each page; the pool has 4096.
        for page in 0..4500 {
            let byte = page as u8;
            rig.memory.write(DATA_LEAF.frame, &[byte]);
            let data = in_slot(1 + page / 512, page << 18);
            assert_eq!(load_at(&mut rig, CODE, data), byte, "{} {page}", rig.name);
        }
    }
}

#[test]
fn frames_beyond_memory_are_refused() {
    for mut rig in rigs() {
        for frame in [0x1_0000, 0x4000_0000, 0x4000_4000, u64::MAX - 4095] {
            let leaf = Leaf { frame: Gpa(frame), ..DATA_LEAF };
            let refused = rig.executor.map(KERNEL, DATA, leaf);
            let named = matches!(refused, Err(ExecutorError::BeyondMemory { .. }));
            assert!(named, "{}: {frame:#x} is {refused:?}", rig.name);
        }
    }
}

#[test]
fn a_guest_may_use_more_spaces_than_an_executor_keeps() {
    for mut rig in rigs() {
        rig.memory.write(CODE_LEAF.frame, LOAD);
        rig.memory.write(DATA_LEAF.frame, &[7]);
        rig.vcpu.cr4 |= cr4::PCIDE;
        for pcid in (0..4096).chain([0, 1]) {
            for user in [false, true] {
                let space = Space { cpu: CpuId(0), pcid: Pcid::new(pcid), user };
                for (page, leaf) in [(CODE, CODE_LEAF), (DATA, DATA_LEAF)] {
                    rig.executor.map(space, page, leaf).expect("room");
                }
            }
        }
        assert_eq!(rig.run(LOAD), Ok(7), "{}", rig.name);
    }
}
