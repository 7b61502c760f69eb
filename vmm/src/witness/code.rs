//! A program as machine code.
//!
//! It runs at CPL 3, one block an action. What needs CPL 0 is a *service*: RAX holds its address,
//! and INT3 leads to a handler that jumps there; an IRETQ leads back. Each access is an instruction
//! of four bytes, which the handler of page faults skips, with the error code for a result. So a
//! whole program is one entry into the guest, and nothing but what it does itself comes between its
//! actions.
//!
//! Only instructions that every KVM can carry out at CPL 0 are used, where a software KVM
//! interprets.

use super::layout;
use super::program::{Action, Program};
use crate::arch::addr::Gpa;
use crate::arch::core::Memory;
use crate::arch::walk::{Access, AccessKind};
use crate::memory::GuestMemory;

/// Bytes of memory for each service.
const SPAN: u64 = 16;
/// The port of the OUT that ends a program.
pub const DONE: u8 = 0x40;

/// Code that runs at CPL 0, at `SPAN` bytes each.
#[derive(Clone, Copy, Debug)]
enum Service {
    /// The handler of INT3.
    Dispatch,
    /// The handler of page faults.
    PageFault,
    Load,
    Xadd,
    Store,
    Invlpg,
    LoadCr3,
    WriteCr4,
    Invpcid,
    Done,
}

/// Each service with its code.
const SERVICES: [(Service, &[u8]); 10] = [
    // jmp rax
    (Service::Dispatch, &[0xff, 0xe0]),
    // pop rax; add qword [rsp], 4; iretq
    (Service::PageFault, &[0x58, 0x48, 0x83, 0x04, 0x24, 4, 0x48, 0xcf]),
    // LOAD; iretq
    (Service::Load, &[0x48, 0x8b, 0x47, 0, 0x48, 0xcf]),
    // xor eax, eax; XADD; iretq
    (Service::Xadd, &[0x31, 0xc0, 0x48, 0x0f, 0xc1, 0x07, 0x48, 0xcf]),
    // mov [rdi], rsi; iretq
    (Service::Store, &[0x48, 0x89, 0x37, 0x48, 0xcf]),
    // invlpg [rdi]; iretq
    (Service::Invlpg, &[0x0f, 0x01, 0x3f, 0x48, 0xcf]),
    // mov cr3, rdi; iretq
    (Service::LoadCr3, &[0x0f, 0x22, 0xdf, 0x48, 0xcf]),
    // mov cr4, rdi; iretq
    (Service::WriteCr4, &[0x0f, 0x22, 0xe7, 0x48, 0xcf]),
    // push rdi; push rsi; invpcid rdx, [rsp]; pop rsi; pop rdi; iretq
    (Service::Invpcid, &[0x57, 0x56, 0x66, 0x0f, 0x38, 0x82, 0x14, 0x24, 0x5e, 0x5f, 0x48, 0xcf]),
    // out DONE, al
    (Service::Done, &[0xe6, DONE]),
];

/// mov rax, [rdi + 0]: four bytes.
const LOAD: [u8; 4] = [0x48, 0x8b, 0x47, 0];
/// xadd [rdi], rax: four bytes. Of 0, it loads, and needs the right to store.
const XADD: [u8; 4] = [0x48, 0x0f, 0xc1, 0x07];

const fn address(service: Service) -> u64 {
    layout::SERVICES + service as u64 * SPAN
}

/// Where INT3 and page faults lead, by vector.
pub const HANDLERS: [(u8, u64); 2] =
    [(3, address(Service::Dispatch)), (14, address(Service::PageFault))];

/// Writes the program's code, and that of the services.
///
/// # Panics
/// When the program is longer than any that is drawn.
pub fn write(program: &Program, memory: &GuestMemory) {
    for (service, bytes) in SERVICES {
        memory.write(Gpa(address(service)), bytes);
    }
    let mut code = Code::default();
    // mov ebx, RESULTS
    code.bytes.push(0xbb);
    code.bytes.extend((layout::RESULTS as u32).to_le_bytes());
    for action in &program.actions {
        code.action(*action);
    }
    code.call(Service::Done);
    assert!(code.bytes.len() as u64 <= layout::PROGRAM_BYTES, "{} bytes", code.bytes.len());
    assert!(program.accesses() as u64 <= layout::MOST_ACCESSES);
    memory.write(Gpa(layout::PROGRAM), &code.bytes);
}

/// The results that the program left.
#[must_use]
pub fn results(program: &Program, memory: &GuestMemory) -> Vec<u64> {
    let result = |index: usize| memory.read_word(Gpa(layout::RESULTS + index as u64 * 8));
    (0..program.accesses()).map(result).collect()
}

/// Code at CPL 3.
#[derive(Debug, Default)]
struct Code {
    bytes: Vec<u8>,
}

impl Code {
    fn action(&mut self, action: Action) {
        match action {
            Action::Store { slot, entry, user, .. } => {
                self.rdi(slot.0);
                self.rsi(entry);
                match user {
                    // mov [rdi], rsi
                    true => self.bytes.extend([0x48, 0x89, 0x37]),
                    false => self.call(Service::Store),
                }
            }
            Action::Access { page, access } => {
                self.rdi(page.0);
                self.access(access);
                // mov [rbx], rax; add rbx, 8
                self.bytes.extend([0x48, 0x89, 0x03, 0x48, 0x83, 0xc3, 8]);
            }
            Action::Invlpg(va) => {
                self.rdi(va.0);
                self.call(Service::Invlpg);
            }
            Action::LoadCr3(value) => {
                self.rdi(value);
                self.call(Service::LoadCr3);
            }
            Action::WriteCr4(value) => {
                self.rdi(value);
                self.call(Service::WriteCr4);
            }
            Action::Invpcid { kind, pcid, va } => {
                self.rdi(va.0);
                self.rsi(u64::from(pcid.value()));
                // mov edx, kind
                self.bytes.push(0xba);
                self.bytes.extend((kind as u32).to_le_bytes());
                self.call(Service::Invpcid);
            }
        }
    }

    fn access(&mut self, access: Access) {
        match (access.kind == AccessKind::Write, access.user) {
            (false, true) => self.bytes.extend(LOAD),
            (true, true) => {
                // xor eax, eax
                self.bytes.extend([0x31, 0xc0]);
                self.bytes.extend(XADD);
            }
            (false, false) => self.call(Service::Load),
            (true, false) => self.call(Service::Xadd),
        }
    }

    /// mov rdi, value
    fn rdi(&mut self, value: u64) {
        self.bytes.extend([0x48, 0xbf]);
        self.bytes.extend(value.to_le_bytes());
    }

    /// mov rsi, value
    fn rsi(&mut self, value: u64) {
        self.bytes.extend([0x48, 0xbe]);
        self.bytes.extend(value.to_le_bytes());
    }

    /// mov eax, the service; int3
    fn call(&mut self, service: Service) {
        self.bytes.push(0xb8);
        self.bytes.extend((address(service) as u32).to_le_bytes());
        self.bytes.push(0xcc);
    }
}
