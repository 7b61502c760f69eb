//! What an instruction leaves behind when it cannot complete, case by case, on every executor
//! that this host has.

use crate::common;
use crate::host;
use crate::rig::{
    CODE, DATA, ISLAND, LIMIT, MIXED, PAGE, READ_ONLY, Registers, STACK, STACK_MIDDLE, Side, State,
};
use stalemate::arch::vcpu::flags::ZF;
use stalemate::arch::vcpu::gpr::{RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};
use stalemate::executor::{Backend, Trap};

/// What a case ended with.
struct End {
    executor: &'static str,
    trap: Trap,
    registers: Registers,
    memory: State,
    /// The host hides #GP: [`host`].
    emulates: bool,
}

impl End {
    fn byte(&self, at: u64) -> u8 {
        self.memory.get(at)
    }
}

fn sides() -> Vec<Side> {
    let mut sides = vec![Side::new(&Backend::Interp { limit: LIMIT, flaw: None })];
    match common::kvm() {
        Ok(kvm) => sides.push(Side::new(&kvm)),
        Err(reason) => common::say(&reason),
    }
    sides
}

/// Runs `code` at `at` on each executor, with INT3 after it.
fn run(at: u64, code: &[u8], change: impl Fn(&mut State)) -> Vec<End> {
    let mut state = State::zero();
    state.put(CODE, &vec![0xcc; 3 * PAGE as usize]);
    state.put(at, code);
    change(&mut state);
    let each = sides().into_iter().map(|mut side| {
        let emulates = host::emulates(&mut side);
        side.load(&state);
        side.vcpu.rip = at;
        let trap = side.run();
        let mut memory = state.clone();
        side.read(&mut memory.memory);
        End { executor: side.name, trap, registers: side.registers(), memory, emulates }
    });
    each.collect()
}

fn fault(vector: u8, error: u32, address: u64) -> Trap {
    Trap::Exception { vector, error, address }
}

const BREAKPOINT: Trap = Trap::Exception { vector: 3, error: 0, address: 0 };
const UNDEFINED: Trap = Trap::Exception { vector: 6, error: 0, address: 0 };
const PROTECTION: Trap = Trap::Exception { vector: 13, error: 0, address: 0 };
const STACK_FAULT: Trap = Trap::Exception { vector: 12, error: 0, address: 0 };

#[test]
fn an_instruction_that_goes_on_in_a_page_that_is_not_there() {
    let at = CODE + 3 * PAGE - 3;
    // mov eax, 1, of which three bytes are there
    for end in run(at, &[0xb8, 1, 0], |_| {}) {
        assert_eq!(end.trap, fault(14, 0x14, CODE + 3 * PAGE), "{}", end.executor);
        assert_eq!(end.registers.rip, at, "{}", end.executor);
    }
}

#[test]
fn an_instruction_that_goes_on_in_a_page_that_is_not_executable() {
    let at = MIXED + PAGE - 3;
    for end in run(at, &[0xb8, 1, 0], |_| {}) {
        assert_eq!(end.trap, fault(14, 0x15, MIXED + PAGE), "{}", end.executor);
        assert_eq!(end.registers.rip, at, "{}", end.executor);
    }
}

#[test]
fn an_instruction_across_two_pages_of_code() {
    let at = CODE + PAGE - 3;
    for end in run(at, &[0xb8, 1, 2, 3, 4], |_| {}) {
        assert_eq!((end.trap, end.registers.gpr[RAX]), (BREAKPOINT, 0x0403_0201));
    }
}

#[test]
fn a_store_across_pages_happens_in_both_or_in_none() {
    // Stores and read-modify-writes of RAX, XMM0 to [rbx], with their widths.
    let stores: [(&[u8], u64); 8] = [
        (&[0x66, 0x89, 0x03], 2),
        (&[0x89, 0x03], 4),
        (&[0x48, 0x89, 0x03], 8),
        (&[0x0f, 0x11, 0x03], 16),
        (&[0x48, 0x01, 0x03], 8),
        (&[0x66, 0x01, 0x03], 2),
        (&[0x48, 0xc7, 0x03, 1, 1, 1, 1], 8),
        // xchg without LOCK's bus lock: sbb
        (&[0x48, 0x19, 0x03], 8),
    ];
    for (second, error) in [(READ_ONLY, 7), (ISLAND + PAGE, 6)] {
        for (store, width) in stores {
            for below in 1..width {
                let at = second - below;
                let ends = run(CODE, store, |state| {
                    state.gpr[RAX] = 0x1111_1111_1111_1111;
                    state.gpr[RBX] = at;
                    state.xmm[0] = 0x11 << 64 | 0x22;
                });
                for end in ends {
                    assert_eq!(end.trap, fault(14, error, second), "{} {store:x?}", end.executor);
                    assert_eq!(end.registers.rip, CODE);
                    assert!(
                        (at..second).all(|at| end.byte(at) == 0),
                        "{} {store:x?}",
                        end.executor
                    );
                }
            }
        }
    }
}

#[test]
fn a_push_and_a_call_that_fault_move_nothing() {
    // push rax; call $+5
    for code in [&[0x50][..], &[0xe8, 0, 0, 0, 0]] {
        for end in run(CODE, code, |state| state.gpr[RSP] = STACK) {
            assert_eq!(end.trap, fault(14, 6, STACK - 8), "{}", end.executor);
            assert_eq!((end.registers.gpr[RSP], end.registers.rip), (STACK, CODE));
        }
    }
}

#[test]
fn a_repeated_move_keeps_its_progress() {
    // rep movsb: five bytes to the end of the writable page, then the read-only one.
    let ends = run(CODE, &[0xf3, 0xa4], |state| {
        state.put(DATA, b"stalemate");
        (state.gpr[RSI], state.gpr[RDI], state.gpr[RCX]) = (DATA, READ_ONLY - 5, 9);
    });
    for end in ends {
        assert_eq!(end.trap, fault(14, 7, READ_ONLY), "{}", end.executor);
        let gpr = &end.registers.gpr;
        assert_eq!((gpr[RSI], gpr[RDI], gpr[RCX]), (DATA + 5, READ_ONLY, 4));
        assert_eq!(end.registers.rip, CODE);
        assert!((0..5).all(|at| end.byte(READ_ONLY - 5 + at) == b"stale"[at as usize]));
    }
    // std; rep movsw, downwards out of a page with nothing below it.
    let ends = run(CODE, &[0xfd, 0xf3, 0x66, 0xa5], |state| {
        (state.gpr[RSI], state.gpr[RDI], state.gpr[RCX]) = (ISLAND + 4, DATA + 100, 9);
    });
    for end in ends {
        assert_eq!(end.trap, fault(14, 4, ISLAND - 2), "{}", end.executor);
        let gpr = &end.registers.gpr;
        assert_eq!((gpr[RSI], gpr[RDI], gpr[RCX]), (ISLAND - 2, DATA + 94, 6));
    }
}

#[test]
fn a_repeated_store_over_its_own_code_goes_on() {
    // rep stosb, from its own first byte on.
    let count = 64;
    let ends = run(MIXED, &[0xf3, 0xaa], |state| {
        state.put(MIXED + count, &[0xcc]);
        (state.gpr[RDI], state.gpr[RCX], state.gpr[RAX]) = (MIXED, count, 0x90);
    });
    for end in ends {
        assert_eq!(end.trap, BREAKPOINT, "{}", end.executor);
        let gpr = &end.registers.gpr;
        assert_eq!((gpr[RDI], gpr[RCX]), (MIXED + count, 0), "{}", end.executor);
        assert!((0..count).all(|at| end.byte(MIXED + at) == 0x90), "{}", end.executor);
    }
}

#[test]
fn a_near_branch_with_an_operand_size_prefix_has_32_bits() {
    // On a processor its vendor decides; the modelled one has none.
    let jumps: [&[u8]; 3] = [
        // jmp, call, and jz, each over an INC of EBX.
        &[0x66, 0xe9, 2, 0, 0, 0, 0xff, 0xc3],
        &[0x66, 0xe8, 2, 0, 0, 0, 0xff, 0xc3],
        &[0x66, 0x0f, 0x84, 2, 0, 0, 0, 0xff, 0xc3],
    ];
    for code in jumps {
        let ends = run(CODE, code, |state| {
            state.gpr[RSP] = STACK_MIDDLE;
            state.flags = ZF;
        });
        let end = ends.first().expect("the interpreter is always there");
        let after = CODE + code.len() as u64 + 1;
        assert_eq!((end.trap, end.registers.rip), (BREAKPOINT, after), "{code:x?}");
        assert_eq!(end.registers.gpr[RBX], 0, "{code:x?}");
    }
}

#[test]
fn a_repeated_store_keeps_its_progress() {
    // rep stosq; the element that faults lies across the end of the page.
    let ends = run(CODE, &[0xf3, 0x48, 0xab], |state| {
        state.gpr[RAX] = u64::MAX;
        (state.gpr[RDI], state.gpr[RCX]) = (ISLAND + PAGE - 20, 100);
    });
    for end in ends {
        assert_eq!(end.trap, fault(14, 6, ISLAND + PAGE), "{}", end.executor);
        let gpr = &end.registers.gpr;
        assert_eq!((gpr[RDI], gpr[RCX]), (ISLAND + PAGE - 4, 98));
        assert_eq!(end.byte(ISLAND + PAGE - 5), 0xff);
        assert_eq!(end.byte(ISLAND + PAGE - 4), 0);
    }
    // std; rep stosd, downwards.
    let ends = run(CODE, &[0xfd, 0xf3, 0xab], |state| {
        state.gpr[RAX] = u64::MAX;
        (state.gpr[RDI], state.gpr[RCX]) = (ISLAND + 9, 100);
    });
    for end in ends {
        assert_eq!(end.trap, fault(14, 6, ISLAND - 3), "{}", end.executor);
        let gpr = &end.registers.gpr;
        assert_eq!((gpr[RDI], gpr[RCX]), (ISLAND - 3, 97));
        assert_eq!((end.byte(ISLAND), end.byte(ISLAND + 1)), (0, 0xff));
    }
}

#[test]
fn a_store_to_the_next_instruction_is_seen() {
    // mov byte ptr [rip + 1], 2; mov eax, 1
    let code = [0xc6, 0x05, 1, 0, 0, 0, 2, 0xb8, 1, 0, 0, 0, 0xcc];
    for end in run(MIXED, &code, |_| {}) {
        assert_eq!((end.trap, end.registers.gpr[RAX]), (BREAKPOINT, 2), "{}", end.executor);
    }
    // rep stosb over the NOPs and the INC that follow it; what it stores is NOP.
    let code = [0xf3, 0xaa, 0x90, 0x90, 0xff, 0xc3, 0xcc];
    let ends = run(MIXED, &code, |state| {
        state.gpr[RAX] = 0x90;
        (state.gpr[RDI], state.gpr[RCX]) = (MIXED + 2, 4);
    });
    for end in ends {
        assert_eq!((end.trap, end.registers.gpr[RBX]), (BREAKPOINT, 0), "{}", end.executor);
    }
}

#[test]
fn a_store_to_an_instruction_that_ran_before_is_seen() {
    // again: add ebx, 1; xor byte ptr [rip - 8], 0x10 (its immediate); dec ecx; jnz again
    let code =
        [0x83, 0xc3, 1, 0x80, 0x35, 0xf8, 0xff, 0xff, 0xff, 0x10, 0xff, 0xc9, 0x75, 0xf2, 0xcc];
    for end in run(MIXED, &code, |state| state.gpr[RCX] = 4) {
        assert_eq!((end.trap, end.registers.gpr[RBX]), (BREAKPOINT, 0x24), "{}", end.executor);
    }
}

#[test]
fn a_store_to_its_own_page_that_faults_later_is_precise() {
    // mov byte ptr [rip + 7], 2; mov rax, [rbx] (nothing there); int3
    let code = [0xc6, 0x05, 7, 0, 0, 0, 2, 0x48, 0x8b, 0x03, 0xcc];
    for end in run(MIXED, &code, |state| state.gpr[RBX] = 0x1000) {
        assert_eq!(end.trap, fault(14, 4, 0x1000), "{}", end.executor);
        assert_eq!(end.registers.rip, MIXED + 7);
        assert_eq!(end.byte(MIXED + 14), 2);
    }
}

#[test]
fn addresses_that_are_not_canonical() {
    let cases: [(&[u8], usize, Trap); 8] = [
        // mov rax, [rbx]; mov [rbx], rax; add [rbx], al
        (&[0x48, 0x8b, 0x03], RBX, PROTECTION),
        (&[0x48, 0x89, 0x03], RBX, PROTECTION),
        (&[0x00, 0x03], RBX, PROTECTION),
        // mov rax, [rbp + 0]; mov rax, [rsp]
        (&[0x48, 0x8b, 0x45, 0], RBP, STACK_FAULT),
        (&[0x48, 0x8b, 0x04, 0x24], RSP, STACK_FAULT),
        // push rax; pop rax; ret
        (&[0x50], RSP, STACK_FAULT),
        (&[0x58], RSP, STACK_FAULT),
        (&[0xc3], RSP, STACK_FAULT),
    ];
    for (code, register, trap) in cases {
        for address in [0x8000_0000_0008, 1 << 63, 0xffff_7fff_ffff_fff0] {
            for end in run(CODE, code, |state| state.gpr[register] = address) {
                assert_eq!(end.trap, trap, "{} {code:x?} {address:#x}", end.executor);
                assert_eq!((end.registers.rip, end.registers.gpr[register]), (CODE, address));
            }
        }
    }
}

#[test]
fn a_segment_override_of_the_stack_pointer() {
    // mov rax, gs:[rsp]: with an override of GS it is no stack access (SDM vol. 1, 3.7.4).
    for end in run(CODE, &[0x65, 0x48, 0x8b, 0x04, 0x24], |state| state.gpr[RSP] = 1 << 63) {
        assert_eq!(end.trap, PROTECTION, "{}", end.executor);
    }
}

#[test]
fn lock_where_it_is_not_allowed() {
    let cases: [&[u8]; 6] = [
        // lock mov [rbx], eax; lock add eax, ebx; lock nop; lock cmp [rbx], eax;
        // lock bt [rbx], eax; lock shl dword ptr [rbx], 1
        &[0xf0, 0x89, 0x03],
        &[0xf0, 0x01, 0xd8],
        &[0xf0, 0x90],
        &[0xf0, 0x39, 0x03],
        &[0xf0, 0x0f, 0xa3, 0x03],
        &[0xf0, 0xd1, 0x23],
    ];
    for code in cases {
        for end in run(CODE, code, |state| state.gpr[RBX] = DATA) {
            assert_eq!(end.trap, UNDEFINED, "{} {code:x?}", end.executor);
            assert_eq!(end.registers.rip, CODE);
        }
    }
}

#[test]
fn the_clock_is_not_the_hosts() {
    for end in run(CODE, &[0x0f, 0x31], |_| {}) {
        if end.executor != "interp" && end.trap == BREAKPOINT {
            common::say("this host's KVM lets RDTSC run in spite of CR4.TSD");
            continue;
        }
        assert_eq!((end.trap, end.registers.rip), (PROTECTION, CODE), "{}", end.executor);
    }
}

#[test]
fn what_is_no_instruction() {
    let cases: [&[u8]; 5] = [&[0x0f, 0x0b], &[0x06], &[0x0f, 0xff], &[0x62, 0, 0, 0], &[0xd6]];
    for code in cases {
        for end in run(CODE, code, |_| {}) {
            assert_eq!(
                (end.trap, end.registers.rip),
                (UNDEFINED, CODE),
                "{} {code:x?}",
                end.executor
            );
        }
    }
}

#[test]
fn an_instruction_of_sixteen_bytes() {
    let mut code = [0x66; 16];
    code[15] = 0x90;
    for end in run(CODE, &code, |_| {}).into_iter().filter(|end| !end.emulates) {
        assert_eq!((end.trap, end.registers.rip), (PROTECTION, CODE), "{}", end.executor);
    }
    // Fifteen are not too many.
    for end in run(CODE, &code[1..], |_| {}) {
        assert_eq!(end.trap, BREAKPOINT, "{}", end.executor);
    }
}

#[test]
fn breakpoints_come_after_and_other_software_interrupts_before() {
    for code in [&[0xcc][..], &[0xcd, 3]] {
        for end in run(CODE, code, |_| {}) {
            let after = CODE + code.len() as u64;
            assert_eq!((end.trap, end.registers.rip), (BREAKPOINT, after), "{}", end.executor);
        }
    }
    for end in run(CODE, &[0xcd, 0x80], |_| {}).into_iter().filter(|end| !end.emulates) {
        assert_eq!((end.trap, end.registers.rip), (fault(13, 0x402, 0), CODE), "{}", end.executor);
    }
}

#[test]
fn divide_errors_change_nothing() {
    let error = fault(0, 0, 0);
    // div ecx by zero; idiv ecx of the smallest number by -1; div cl with a quotient of 256
    let cases: [(&[u8], [u64; 3]); 3] = [
        (&[0xf7, 0xf1], [1, 0, 5]),
        (&[0xf7, 0xf9], [0x8000_0000, u64::MAX, 0xffff_ffff]),
        (&[0xf6, 0xf1], [0x100, 1, 5]),
    ];
    for (code, [rax, rcx, rdx]) in cases {
        let ends = run(CODE, code, |state| {
            (state.gpr[RAX], state.gpr[RCX], state.gpr[RDX]) = (rax, rcx, rdx);
        });
        for end in ends {
            assert_eq!((end.trap, end.registers.rip), (error, CODE), "{} {code:x?}", end.executor);
            let gpr = &end.registers.gpr;
            assert_eq!((gpr[RAX], gpr[RCX], gpr[RDX]), (rax, rcx, rdx));
        }
    }
}

#[test]
fn a_misaligned_operand_of_sse() {
    // movaps xmm0, [rbx]; movaps [rbx], xmm0
    for code in [[0x0f, 0x28, 0x03], [0x0f, 0x29, 0x03]] {
        for end in run(CODE, &code, |state| state.gpr[RBX] = DATA + 8) {
            assert_eq!((end.trap, end.registers.rip), (PROTECTION, CODE), "{}", end.executor);
        }
    }
}

#[test]
fn an_unmasked_sse_exception() {
    // divss xmm0, xmm1: one by zero
    let ends = run(CODE, &[0xf3, 0x0f, 0x5e, 0xc1], |state| {
        state.mxcsr = 0x1d80;
        state.xmm[0] = 0x3f80_0000;
    });
    for end in ends {
        assert_eq!((end.trap, end.registers.rip), (fault(19, 0, 0), CODE), "{}", end.executor);
        assert_eq!((end.registers.mxcsr, end.registers.xmm[0]), (0x1d84, 0x3f80_0000));
    }
}

#[test]
fn a_jump_to_where_no_code_is() {
    // jmp rbx; call rbx
    for (code, pushed) in [([0xff, 0xe3], 0), ([0xff, 0xd3], 8)] {
        for (target, error) in [(0x1000, 0x14), (DATA + 1, 0x15)] {
            for end in run(CODE, &code, |state| state.gpr[RBX] = target) {
                assert_eq!(end.trap, fault(14, error, target), "{}", end.executor);
                let registers = &end.registers;
                assert_eq!((registers.rip, registers.gpr[RSP]), (target, STACK_MIDDLE - pushed));
            }
        }
    }
}
