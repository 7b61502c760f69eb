//! Two executors with the same memory at the same addresses.

use crate::entropy::Entropy;
use stalemate::arch::addr::{CpuId, Gpa, Gva};
use stalemate::arch::core::Memory;
use stalemate::arch::features::CpuFeatures;
use stalemate::arch::vcpu::{Vcpu, gpr};
use stalemate::executor::{Backend, Executor, Leaf, Space, Trap};
use stalemate::memory::GuestMemory;

pub const PAGE: u64 = 4096;

/// One page of the address space that sequences run in.
pub struct Page {
    pub at: u64,
    pub frame: u64,
    pub writable: bool,
    pub executable: bool,
}

const fn data(at: u64, frame: u64, writable: bool) -> Page {
    Page { at, frame: frame * PAGE, writable, executable: false }
}

const fn code(at: u64, frame: u64) -> Page {
    Page { at, frame: frame * PAGE, writable: false, executable: true }
}

/// Where sequences begin.
pub const CODE: u64 = 0x40_0000;
/// Bytes of code at most.
pub const CODE_LEN: u64 = 3 * PAGE;
/// Two writable pages whose frames do not follow each other, then a read-only one.
pub const DATA: u64 = 0x50_0000;
/// The read-only page; nothing is mapped after it.
pub const READ_ONLY: u64 = DATA + 2 * PAGE;
/// A writable page between two that are not mapped.
pub const ISLAND: u64 = DATA + 4 * PAGE;
/// Nothing is mapped here.
pub const UNMAPPED: u64 = DATA + 7 * PAGE;
/// Two pages of stack.
pub const STACK: u64 = 0x7fff_0000_0000;
/// RSP at the beginning.
pub const STACK_MIDDLE: u64 = STACK + PAGE;
/// A page that can be written and executed, then one that can only be read.
pub const MIXED: u64 = 0x60_0000;

pub const PAGES: [Page; 11] = [
    code(CODE, 9),
    code(CODE + PAGE, 4),
    code(CODE + 2 * PAGE, 10),
    data(DATA, 2, true),
    data(DATA + PAGE, 7, true),
    data(READ_ONLY, 5, false),
    data(ISLAND, 3, true),
    data(STACK, 8, true),
    data(STACK + PAGE, 1, true),
    Page { at: MIXED, frame: 6 * PAGE, writable: true, executable: true },
    data(MIXED + PAGE, 11, false),
];

const MEMORY: u64 = 16 * PAGE;
const MXCSR: usize = 6;
const XMM: usize = 40;
/// Instructions without a trap, for the interpreter.
pub const LIMIT: u64 = 1_000_000;

/// Everything that an instruction can change, but memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub flags: u64,
    pub mxcsr: u32,
    pub xmm: [u128; 16],
}

/// Where [`State::memory`] has the byte at `at`.
fn place(at: u64) -> usize {
    let page = PAGES.iter().position(|page| page.at == at & !(PAGE - 1));
    let page = page.unwrap_or_else(|| panic!("{at:#x} is not mapped"));
    page * PAGE as usize + (at % PAGE) as usize
}

/// What a sequence begins with.
#[derive(Clone, Debug)]
pub struct State {
    pub gpr: [u64; 16],
    pub flags: u64,
    /// Of FS and GS.
    pub bases: [u64; 2],
    pub user: bool,
    pub mxcsr: u32,
    pub xmm: [u128; 16],
    /// The contents of [`PAGES`], one after the other; code is put over it.
    pub memory: Vec<u8>,
}

impl State {
    /// Any state.
    pub fn any(e: &mut Entropy<'_>) -> Self {
        let mut gpr = [0; 16].map(|_: u64| e.integer());
        gpr[gpr::RSP] = STACK_MIDDLE;
        let memory = (0..PAGES.len() as u64 * PAGE / 8).flat_map(|_| e.data().to_le_bytes());
        let memory = memory.collect();
        Self {
            gpr,
            flags: 2 | e.bits() & 0x8d5,
            bases: [0; 2]
                .map(|_: u64| e.pick(&[0, DATA, DATA + 8, 0x10_0000_0000, 0x7ff0_0000_0000])),
            user: e.one_in(2),
            mxcsr: e.mxcsr(),
            xmm: [0; 16].map(|_: u128| u128::from(e.data()) << 64 | u128::from(e.data())),
            memory,
        }
    }

    /// Zeroes, flags clear.
    pub fn zero() -> Self {
        let mut gpr = [0; 16];
        gpr[gpr::RSP] = STACK_MIDDLE;
        let memory = vec![0; PAGES.len() * PAGE as usize];
        Self { gpr, flags: 2, bases: [0; 2], user: false, mxcsr: 0x1f80, xmm: [0; 16], memory }
    }

    /// Puts `bytes` at `at`, which is mapped.
    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            self.memory[place(at)] = *byte;
        }
    }

    /// The byte at `at`, which is mapped.
    pub fn get(&self, at: u64) -> u8 {
        self.memory[place(at)]
    }
}

/// One executor, its memory, and the virtual CPU on it.
pub struct Side {
    pub name: &'static str,
    memory: GuestMemory,
    executor: Box<dyn Executor>,
    fpu: Vec<u32>,
    pub vcpu: Vcpu,
}

impl Side {
    pub fn new(backend: &Backend) -> Self {
        let memory = GuestMemory::new(MEMORY).expect("memory");
        let mut executor = backend.make(&memory).expect("an executor");
        let vcpu = Vcpu::long_mode(CpuId(0), CpuFeatures::default(), CODE, 0);
        for user in [false, true] {
            let space = Space { cpu: vcpu.id, pcid: vcpu.pcid(), user };
            for page in &PAGES {
                let (writable, executable) = (page.writable, page.executable);
                let leaf = Leaf { frame: Gpa(page.frame), writable, executable };
                executor.map(space, Gva(page.at), leaf).expect("room for tables");
            }
        }
        let fpu = executor.save_fpu().expect("the host works");
        Self { name: backend.name(), memory, executor, fpu, vcpu }
    }

    /// Puts everything to `state`.
    pub fn load(&mut self, state: &State) {
        for (page, bytes) in PAGES.iter().zip(state.memory.chunks(PAGE as usize)) {
            self.memory.write(Gpa(page.frame), bytes);
        }
        let mut fpu = self.fpu.clone();
        fpu[MXCSR] = state.mxcsr;
        for (index, xmm) in state.xmm.iter().enumerate() {
            for word in 0..4 {
                fpu[XMM + index * 4 + word] = (xmm >> (32 * word)) as u32;
            }
        }
        // XSTATE_BV: x87 and SSE state are in the image.
        fpu[128] |= 3;
        self.restore_fpu(&fpu);
        let cpl = if state.user { 3 } else { 0 };
        let vcpu = Vcpu::long_mode(CpuId(0), CpuFeatures::default(), CODE, 0);
        let (gpr, rflags, [fs_base, gs_base]) = (state.gpr, state.flags, state.bases);
        self.vcpu = Vcpu { gpr, rflags, fs_base, gs_base, cpl, ..vcpu };
    }

    /// Puts `bytes` at `at`, which is mapped.
    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let place = place(at) as u64;
            let page = &PAGES[(place / PAGE) as usize];
            self.memory.write(Gpa(page.frame + place % PAGE), &[*byte]);
        }
    }

    /// The `len` bytes at `at`, which are in one page.
    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let place = place(at) as u64;
        let page = &PAGES[(place / PAGE) as usize];
        let mut bytes = vec![0; len];
        assert!(self.memory.read(Gpa(page.frame + place % PAGE), &mut bytes));
        bytes
    }

    /// The x87 and SSE state, as the executor gives it.
    pub fn save_fpu(&mut self) -> Vec<u32> {
        self.executor.save_fpu().expect("the host works")
    }

    /// Puts the x87 and SSE state back.
    pub fn restore_fpu(&mut self, image: &[u32]) {
        self.executor.restore_fpu(image).expect("the host works");
    }

    /// Runs to the next trap.
    pub fn run(&mut self) -> Trap {
        self.executor.run(&mut self.vcpu).expect("the host works")
    }

    pub fn registers(&mut self) -> Registers {
        let fpu = self.save_fpu();
        let word = |index: usize| u128::from(fpu[index]);
        let xmm = |index: usize| (0..4).fold(0, |a, i| a | word(XMM + index * 4 + i) << (32 * i));
        Registers {
            gpr: self.vcpu.gpr,
            rip: self.vcpu.rip,
            flags: self.vcpu.rflags,
            mxcsr: fpu[MXCSR],
            xmm: std::array::from_fn(xmm),
        }
    }

    /// Reads what is mapped, one page of [`PAGES`] after the other.
    pub fn read(&self, into: &mut Vec<u8>) {
        into.resize(PAGES.len() * PAGE as usize, 0);
        for (page, bytes) in PAGES.iter().zip(into.chunks_mut(PAGE as usize)) {
            assert!(self.memory.read(Gpa(page.frame), bytes));
        }
    }

    /// Instructions completed, where the executor counts.
    pub fn instructions(&self) -> Option<u64> {
        self.executor.instructions()
    }
}
