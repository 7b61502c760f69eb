//! Runs a sequence on both sides, compares, and finds the first instruction that differs.

use crate::host;
use crate::rig::{PAGE, PAGES, Registers, Side, State};
use crate::sequence::{Sequence, Step};
use iced_x86::{Formatter, Instruction, IntelFormatter};
use stalemate::executor::{Backend, Trap};
use std::fmt::Write;

const BREAKPOINT: u8 = 3;

/// Two executors that must agree.
pub struct Duel {
    pub right: Side,
    pub tested: Side,
    /// The right side has the defect that [`host`] describes.
    right_emulates: bool,
    memories: [Vec<u8>; 2],
    /// Traps compared.
    pub traps: u64,
    /// Items that completed, at least.
    pub completed: u64,
}

/// Where the two were when they stopped.
#[derive(Clone, Debug)]
struct Stop {
    traps: [Trap; 2],
    registers: [Registers; 2],
    /// Flags that count for nothing.
    undefined: u64,
    /// Linear addresses of bytes that differ, with both values.
    memory: Vec<(u64, u8, u8)>,
}

impl Stop {
    fn differs(&self) -> bool {
        let [a, b] = &self.registers;
        let same = a.gpr == b.gpr
            && a.rip == b.rip
            && (a.flags ^ b.flags) & !self.undefined == 0
            && a.mxcsr == b.mxcsr
            && a.xmm == b.xmm;
        !same || self.traps[0] != self.traps[1] || !self.memory.is_empty()
    }
}

/// A difference, and what came before it.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The instructions of the item that differs; the last but for those that tidy up is it.
    pub steps: Vec<Step>,
    pub subject: iced_x86::Code,
    /// The state before, and after on both sides, for people.
    pub report: String,
}

impl Duel {
    pub fn new(right: &Backend, tested: &Backend) -> Self {
        let mut right = Side::new(right);
        let right_emulates = host::emulates(&mut right);
        let tested = Side::new(tested);
        Self { right, tested, right_emulates, memories: Default::default(), traps: 0, completed: 0 }
    }

    /// Runs `sequence` from `state`; None when both agree at each trap and at the end.
    pub fn fight(&mut self, state: &State, sequence: &Sequence) -> Option<Box<Difference>> {
        let count = sequence.items.len();
        let before = self.traps;
        let end = self.play(state, sequence, count);
        if !end.differs() {
            // All but those that a jump may leave out, or that a trap was in.
            if end.registers[0].rip == sequence.end() + 1 {
                let certain = sequence.items.iter().filter(|item| !item.skipped).count() as u64;
                self.completed += certain.saturating_sub(self.traps - before - 1);
            }
            return None;
        }
        // Each prefix ends with its last item: the first that differs names it.
        let mut before = self.play(state, sequence, 0);
        for count in 1..=count {
            let after = self.play(state, sequence, count);
            if after.differs() {
                return Some(Box::new(difference(sequence, count - 1, &before, &after)));
            }
            before = after;
        }
        let item = count - 1;
        let after = self.play(state, sequence, count);
        let mut found = difference(sequence, item, &before, &after);
        found.report.insert_str(0, "this does not happen each time, or with no prefix\n");
        Some(Box::new(found))
    }

    /// Runs the first `count` items, going on after each that faults, to their end or to the
    /// first difference.
    fn play(&mut self, state: &State, sequence: &Sequence, count: usize) -> Stop {
        let mut state = state.clone();
        state.put(sequence.begin, &sequence.prefix(count));
        let (begin, end) = (sequence.begin, sequence.end());
        for side in [&mut self.right, &mut self.tested] {
            side.load(&state);
            side.vcpu.rip = begin;
        }
        loop {
            let mut traps = [self.right.run(), self.tested.run()];
            self.traps += 1;
            let rip = self.right.vcpu.rip;
            let breakpoint = matches!(traps[0], Trap::Exception { vector: BREAKPOINT, .. });
            let at = if breakpoint { rip.wrapping_sub(1) } else { rip };
            let step = sequence.step(at);
            let undefined = match step {
                Some(step) if breakpoint => step.undefined,
                Some(step) => step.undefined_at_fault(),
                None if at == end => sequence.undefined,
                // A jump to somewhere else.
                None => 0x8d5,
            };
            if let Some(step) = step {
                traps[0] = host::either(traps, step, &self.tested.vcpu);
                if self.right_emulates {
                    traps[0] = host::repaired(traps, step, &self.tested.vcpu);
                }
            }
            let ends = breakpoint || step.is_none();
            let stop = self.stop(traps, undefined, ends);
            let Some(step) = step.filter(|_| !ends && !stop.differs()) else { return stop };
            // What is undefined is from now on the same.
            self.tested.vcpu.rflags = self.right.vcpu.rflags;
            self.right.vcpu.rip = step.end();
            self.tested.vcpu.rip = step.end();
        }
    }

    /// Compares the two; SSE registers and memory at the end only.
    fn stop(&mut self, traps: [Trap; 2], undefined: u64, ends: bool) -> Stop {
        let mut memory = Vec::new();
        let registers = if ends {
            let [right, tested] = &mut self.memories;
            self.right.read(right);
            self.tested.read(tested);
            if right != tested {
                let pairs = right.iter().zip(tested.iter()).enumerate();
                memory.extend(pairs.filter(|(_, (a, b))| a != b).map(|(offset, (a, b))| {
                    let offset = offset as u64;
                    (PAGES[(offset / PAGE) as usize].at + offset % PAGE, *a, *b)
                }));
            }
            [self.right.registers(), self.tested.registers()]
        } else {
            [&self.right, &self.tested].map(|side| Registers {
                gpr: side.vcpu.gpr,
                rip: side.vcpu.rip,
                flags: side.vcpu.rflags,
                mxcsr: 0,
                xmm: [0; 16],
            })
        };
        Stop { traps, registers, undefined, memory }
    }
}

/// The instruction as an assembler has it.
pub fn text(instruction: &Instruction) -> String {
    let mut text = String::new();
    IntelFormatter::new().format(instruction, &mut text);
    text
}

fn difference(sequence: &Sequence, item: usize, before: &Stop, after: &Stop) -> Difference {
    let begin = sequence.items[item].at;
    let end = sequence.items.get(item + 1).map_or(sequence.end(), |next| next.at);
    let steps = sequence.steps.iter().filter(|step| (begin..end).contains(&step.at));
    let steps: Vec<_> = steps.cloned().collect();
    let mut report = String::new();
    for step in &steps {
        let at = (step.at - sequence.begin) as usize;
        let bytes: Vec<_> = sequence.bytes[at..at + step.instruction.len()]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let _ =
            writeln!(report, "{:#x}  {:<32} {}", step.at, bytes.join(" "), text(&step.instruction));
    }
    let _ = writeln!(report, "traps: {:x?} and {:x?}", after.traps[0], after.traps[1]);
    let _ = writeln!(report, "{:>6} {:>34} {:>34} {:>34}", "", "before", "right", "tested");
    let [was, right, tested] = [&before.registers[0], &after.registers[0], &after.registers[1]];
    let mut row = |name: &str, values: [u128; 3], mask: u128| {
        let mark = if (values[1] ^ values[2]) & mask != 0 { "  <" } else { "" };
        if values[0] != values[1] || values[1] != values[2] || name.len() == 3 {
            let [a, b, c] = values;
            let _ = writeln!(report, "{name:>6} {a:#34x} {b:#34x} {c:#34x}{mark}");
        }
    };
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    for (index, name) in NAMES.into_iter().enumerate() {
        row(name, [was, right, tested].map(|r| r.gpr[index].into()), u128::MAX);
    }
    row("rip", [was, right, tested].map(|r| r.rip.into()), u128::MAX);
    let defined = u128::from(!after.undefined);
    row("flags", [was, right, tested].map(|r| r.flags.into()), defined);
    row("mxcsr", [was, right, tested].map(|r| r.mxcsr.into()), u128::MAX);
    for index in 0..16 {
        row(&format!("xmm{index}"), [was, right, tested].map(|r| r.xmm[index]), u128::MAX);
    }
    let _ = writeln!(report, "undefined flags: {:#x}", after.undefined);
    for (at, right, tested) in after.memory.iter().take(16) {
        let _ = writeln!(report, "memory at {at:#x}: {right:#04x} and {tested:#04x}");
    }
    Difference { steps, subject: sequence.items[item].subject, report }
}
