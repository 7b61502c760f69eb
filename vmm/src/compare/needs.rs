//! What a policy needs, read off the image: branches and words of state in its functions, and
//! what the mark adds to the return path.

use crate::arch::addr::Gva;
use crate::kernel::steps::{Guest, tlb_state_field};
use crate::scenario::Policy;
use crate::symbols::Symbols;
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};
use object::{Object, ObjectSection};
use stalemate_shared::tlb_state::POINTER_IN_GS;
use std::collections::{BTreeMap, BTreeSet};

/// The methods of a policy.
const METHODS: [&str; 5] = [
    "flush_tlb_one_user",
    "flush_tlb_one_kernel",
    "flush_tlb_mm",
    "flush_tlb_all",
    "switch_mm_flush",
];

/// What one policy's code has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Functions reached from its methods.
    pub functions: usize,
    /// Conditional branches in them; those that lead to a panic are left out.
    pub branches: usize,
    /// Words of `TlbState` that they name, by byte offset.
    pub words: BTreeMap<u64, &'static str>,
    /// Conditional branches on the return path: without those of the mark, where the policy makes
    /// no marks.
    pub return_branches: usize,
}

/// What the mark is on the return path: the test of it, and what the test alone needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Instructions that run at every return.
    pub instructions: usize,
    /// Conditional branches among them.
    pub branches: usize,
}

/// An image's code, by address.
pub struct Disassembly<'a> {
    sections: Vec<(u64, &'a [u8])>,
    symbols: &'a Symbols,
}

impl<'a> Disassembly<'a> {
    /// The code of a guest. What cannot be read is left out.
    #[must_use]
    pub fn new(guest: &'a Guest) -> Self {
        let sections = object::File::parse(guest.image().bytes()).map_or_else(
            |_| Vec::new(),
            |file| {
                let sections = file.sections();
                sections.filter_map(|one| Some((one.address(), one.data().ok()?))).collect()
            },
        );
        Self { sections, symbols: guest.symbols() }
    }

    fn instructions(&self, start: Gva, end: Gva) -> Vec<Instruction> {
        let within =
            |&&(at, bytes): &&(u64, &[u8])| at <= start.0 && end.0 <= at + bytes.len() as u64;
        let Some(&(at, bytes)) = self.sections.iter().find(within) else { return Vec::new() };
        let code = &bytes[(start.0 - at) as usize..(end.0 - at) as usize];
        Decoder::with_ip(64, code, start.0, DecoderOptions::NONE).into_iter().collect()
    }

    fn function(&self, at: u64) -> Option<(&str, Gva, Gva)> {
        self.symbols.function_at(Gva(at))
    }

    /// Whether the code at `at` does nothing but panic.
    fn panics(&self, at: u64) -> bool {
        let Some((_, _, end)) = self.function(at) else { return false };
        for instruction in self.instructions(Gva(at), end) {
            match instruction.flow_control() {
                FlowControl::Next => {}
                FlowControl::Call => {
                    let target = self.function(instruction.near_branch_target());
                    return target.is_some_and(|(name, ..)| name.starts_with("core::"));
                }
                _ => return false,
            }
        }
        false
    }

    fn is_choice(&self, instruction: &Instruction) -> bool {
        instruction.flow_control() == FlowControl::ConditionalBranch
            && !self.panics(instruction.near_branch_target())
            && !self.panics(instruction.next_ip())
    }

    /// The functions that `roots` reach by calls and jumps.
    fn reached(&self, roots: impl IntoIterator<Item = Gva>) -> BTreeSet<(Gva, Gva)> {
        let mut found = BTreeSet::new();
        let mut todo: Vec<u64> = roots.into_iter().map(|at| at.0).collect();
        while let Some(at) = todo.pop() {
            let Some((name, start, end)) = self.function(at) else { continue };
            if name.starts_with("core::") || !found.insert((start, end)) {
                continue;
            }
            for instruction in self.instructions(start, end) {
                let target = instruction.near_branch_target();
                if target != 0 && !(start.0..end.0).contains(&target) {
                    todo.push(target);
                }
            }
        }
        found
    }

    /// What `policy`'s code has.
    #[must_use]
    pub fn needs(&self, policy: Policy) -> Needs {
        // `split::Split` is the type of `split`.
        let module = policy.to_string();
        let name: String = module[..1].to_uppercase() + &module[1..];
        let roots = METHODS.iter().filter_map(|method| {
            self.symbols.address(&format!("stalemate_guest::policy::{module}::{name}::{method}"))
        });
        let functions = self.reached(roots);
        let code: Vec<Instruction> =
            functions.iter().flat_map(|&(start, end)| self.instructions(start, end)).collect();
        let words: BTreeMap<u64, &str> = functions
            .iter()
            .flat_map(|&(start, end)| state_words(&self.instructions(start, end)))
            .collect();
        let marks = words.values().any(|word| *word == "user_pcid_flush_mask");
        let (path, mark) = self.return_path();
        Needs {
            functions: functions.len(),
            branches: code.iter().filter(|instruction| self.is_choice(instruction)).count(),
            words,
            return_branches: path - if marks { 0 } else { mark.branches },
        }
    }

    /// The return path from the read of CR3 to its load: conditional branches, and the mark's
    /// share.
    #[must_use]
    pub fn return_path(&self) -> (usize, Mark) {
        let window = self.window();
        let branches = |of: &[Instruction]| {
            of.iter().filter(|one| one.flow_control() == FlowControl::ConditionalBranch).count()
        };
        let mark = slice(&window);
        let share = Mark { instructions: mark.len(), branches: branches(&mark) };
        (branches(&window), share)
    }

    fn window(&self) -> Vec<Instruction> {
        let place = |name| self.symbols.address(name);
        let (Some(from), Some(to)) = (place("enter_user"), place("cr3_return")) else {
            return Vec::new();
        };
        let mut code = self.instructions(from, to);
        let read = code
            .iter()
            .position(|one| one.mnemonic() == Mnemonic::Mov && one.op1_register() == Register::CR3);
        code.drain(..read.unwrap_or(0));
        code
    }
}

/// The words of `TlbState` that a function's instructions reach by the pointer to it. Registers are
/// followed in the order of the code, and no further than the next call.
fn state_words(code: &[Instruction]) -> Vec<(u64, &'static str)> {
    let mut info = InstructionInfoFactory::new();
    let mut pointers: BTreeMap<Register, u64> = BTreeMap::new();
    let mut found = Vec::new();
    for instruction in code {
        let base = pointers.get(&instruction.memory_base()).copied();
        let reached = base.map(|base| base.wrapping_add(instruction.memory_displacement64()));
        found.extend(reached.and_then(|offset| Some((offset, tlb_state_field(offset)?))));
        let to = instruction.op0_register().full_register();
        let from = pointers.get(&instruction.op1_register()).copied();
        let pointer = match instruction.mnemonic() {
            Mnemonic::Mov if instruction.op1_kind() == OpKind::Memory => {
                let own = instruction.memory_segment() == Register::GS
                    && instruction.memory_displacement64() == POINTER_IN_GS;
                own.then_some(0)
            }
            Mnemonic::Mov => from,
            Mnemonic::Lea => reached,
            Mnemonic::Add if instruction.op1_kind() != OpKind::Register => {
                let immediate = || instruction.try_immediate(1).ok();
                pointers.get(&to).and_then(|base| Some(base.wrapping_add(immediate()?)))
            }
            _ => None,
        };
        if instruction.flow_control() == FlowControl::Call {
            pointers.clear();
        }
        for used in info.info(instruction).used_registers() {
            if matches!(used.access(), OpAccess::Write | OpAccess::ReadWrite) {
                pointers.remove(&used.register().full_register());
            }
        }
        pointers.extend(pointer.map(|offset| (to, offset)));
    }
    found
}

/// The backward slice of the test of the mark: the test, the branch on it, and what computes the
/// test's operands and nothing else. The read of CR3 itself is needed all the same.
fn slice(window: &[Instruction]) -> Vec<Instruction> {
    let Some(test) = window.iter().position(|one| one.mnemonic() == Mnemonic::Bt) else {
        return Vec::new();
    };
    let mut info = InstructionInfoFactory::new();
    let mut wanted: BTreeSet<Register> = BTreeSet::new();
    let mut found: Vec<Instruction> = window[test..].iter().take(2).copied().collect();
    for (index, instruction) in window[..=test].iter().enumerate().rev() {
        let used = info.info(instruction);
        let (mut reads, mut writes) = (BTreeSet::new(), BTreeSet::new());
        for register in used.used_registers() {
            let full = register.register().full_register();
            if !full.is_gpr64() {
                continue;
            }
            if matches!(
                register.access(),
                OpAccess::Read | OpAccess::ReadWrite | OpAccess::CondRead
            ) {
                reads.insert(full);
            }
            if matches!(register.access(), OpAccess::Write | OpAccess::ReadWrite) {
                writes.insert(full);
            }
        }
        let is_test = index == test;
        let reads_cr3 = instruction.op1_register() == Register::CR3;
        if is_test || !reads_cr3 && writes.iter().any(|register| wanted.contains(register)) {
            wanted.extend(reads);
            if !is_test {
                found.insert(0, *instruction);
            }
        }
    }
    found
}
