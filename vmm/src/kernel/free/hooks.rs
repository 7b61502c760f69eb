//! Functions of a kernel that runs freely whose calls and returns mean something. Whoever knows that
//! kernel says which: a profile.

use super::percpu::{LazyCpus, Marks, PerCpu};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::core::Memory;
use crate::arch::vcpu::{Vcpu, gpr};
use crate::arch::walk::{Start, walk};
use crate::event::{Announcement, Flush, FlushId, FlushKind};
use crate::memory::GuestMemory;
use std::collections::BTreeMap;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// The most functions: the number of a flush has in it which one it is a call of.
pub const MOST_FUNCTIONS: usize = 256;
/// The most frames that are given back at once, as a power of two: Linux's MAX_PAGE_ORDER.
const LARGEST_ORDER: u64 = 10;
/// Where the half of the address space ends that user mode has.
const USER_END: u64 = 1 << 47;

/// A value at the moment of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A general-purpose register's, by its number in instructions.
    Register(usize),
    /// Of eight bytes in memory, so far from where that register points.
    Field {
        /// The register.
        register: usize,
        /// The distance in bytes.
        offset: u64,
    },
}

/// What a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// It flushes: what it is of is gone when it returns.
    Flush {
        /// What it is of.
        kind: FlushKind,
        /// Where the root of the address space is mapped; none for kernel addresses.
        space: Option<Value>,
        /// The first address; none for the lowest.
        start: Option<Value>,
        /// The end, exclusive; none for a page, or for the highest where there is no first either.
        end: Option<Value>,
    },
    /// It gives frames back.
    Frees {
        /// The descriptor of the first.
        page: Value,
        /// How many, as a power of two; none for one.
        order: Option<Value>,
    },
    /// What the task that calls it was in the middle of is over.
    OperationEnds,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it begins.
    pub at: Gva,
    /// What it does.
    pub does: Does,
    /// How often it was called.
    pub calls: u64,
    /// How often a call that is to return has returned.
    pub returns: u64,
    /// How often it could not be told what a call was of.
    pub unclear: u64,
}

/// The descriptors of all frames: an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The variable that holds its address.
    pub base: Gva,
    /// Bytes of each.
    pub size: u64,
}

/// A call that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    function: usize,
    id: FlushId,
    flush: Flush,
    /// RSP at the first instruction: the return address is there.
    stack: u64,
    returns_to: Gva,
}

/// All that is known of a kernel's functions, and which of them are under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    functions: Vec<Function>,
    by_address: BTreeMap<Gva, Vec<usize>>,
    /// Where the current task is.
    pub current: Option<PerCpu>,
    /// The user PCIDs that each CPU has marked.
    pub marks: Option<Marks>,
    /// The CPUs that are lazy.
    pub lazy: Option<LazyCpus>,
    /// Where descriptors of frames are.
    pub descriptors: Option<Descriptors>,
    /// Addresses whose flush waits until they are mapped anew: first and end.
    pub wait_for_reuse: Vec<(Gva, Gva)>,
    /// Where the kernel has all memory mapped for itself.
    pub direct_map: (Gva, Gva),
    open: Vec<Call>,
    /// Flushes so far.
    flushes: u64,
}

impl Hooks {
    /// Adds a function, one of [`MOST_FUNCTIONS`] at most; its number.
    pub fn add(&mut self, at: Gva, does: Does) -> usize {
        let number = self.functions.len();
        self.functions.push(Function { at, does, calls: 0, returns: 0, unclear: 0 });
        self.by_address.entry(at).or_default().push(number);
        number
    }

    /// The functions, by number.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The number of the function that a flush is a call of.
    #[must_use]
    pub fn function_of(&self, flush: FlushId) -> Option<usize> {
        let number = (flush.0 % MOST_FUNCTIONS as u64) as usize;
        (number < self.functions.len()).then_some(number)
    }

    pub(super) fn breakpoints(&self) -> impl Iterator<Item = Gva> {
        self.by_address.keys().copied()
    }

    /// What it means that `vcpu` is at an instruction, and where it will be notable next.
    pub(super) fn reached(
        &mut self,
        vcpu: &Vcpu,
        memory: &GuestMemory,
    ) -> (Vec<Announcement>, Option<Gva>) {
        let (at, stack) = (vcpu.rip(), vcpu.gpr[gpr::RSP]);
        let mut says = Vec::new();
        let mut next = None;
        if vcpu.cpl != 0 {
            return (says, next);
        }
        let returning = |call: &Call| call.returns_to == at && call.stack + 8 == stack;
        while let Some(index) = self.open.iter().rposition(returning) {
            let call = self.open.remove(index);
            self.functions[call.function].returns += 1;
            says.push(Announcement::FlushReturns { id: call.id, flush: call.flush });
        }
        for number in self.by_address.get(&at).cloned().unwrap_or_default() {
            let guest = Guest { vcpu, memory };
            // An exception may have come before the first instruction: that is no second call.
            let again = |call: &Call| (call.function, call.stack) == (number, stack);
            if self.open.iter().any(again) {
                continue;
            }
            self.functions[number].calls += 1;
            match self.called(number, &guest) {
                Some((said, returns_to)) => {
                    says.extend(said);
                    next = next.or(returns_to);
                }
                None => self.functions[number].unclear += 1,
            }
        }
        (says, next)
    }

    /// A function is called: what that says, and where it returns to, if that matters.
    fn called(
        &mut self,
        number: usize,
        guest: &Guest<'_>,
    ) -> Option<(Vec<Announcement>, Option<Gva>)> {
        match self.functions[number].does {
            Does::Flush { kind, space, start, end } => {
                let flush = guest.flush(kind, space, start, end)?;
                let stack = guest.vcpu.gpr[gpr::RSP];
                let returns_to = Gva(guest.word(stack)?);
                // What is deeper in this stack, or here, was left without a return.
                self.open.retain(|call| call.stack > stack || call.stack >> 14 != stack >> 14);
                let id = FlushId(self.flushes * MOST_FUNCTIONS as u64 + number as u64);
                self.flushes += 1;
                self.open.push(Call { function: number, id, flush, stack, returns_to });
                Some((vec![Announcement::FlushBegins { id, flush }], Some(returns_to)))
            }
            Does::Frees { page, order } => {
                let Descriptors { base, size } = self.descriptors?;
                let offset = guest.value(page)?.checked_sub(guest.word(base.0)?)?;
                // An order is 32 bits.
                let order = order.map_or(Some(0), |order| guest.value(order))? & 0xffff_ffff;
                if order > LARGEST_ORDER {
                    return None;
                }
                let first = offset / size;
                let frames = first..first + (1 << order);
                Some((
                    frames.map(|frame| Announcement::FrameFreed(Gpa(frame * PAGE))).collect(),
                    None,
                ))
            }
            Does::OperationEnds => Some((Vec::new(), None)),
        }
    }

    /// Whether the function at `at` ends what its task was in the middle of.
    pub(super) fn ends_operation(&self, at: Gva) -> bool {
        let here = self.by_address.get(&at).into_iter().flatten();
        here.copied().any(|number| self.functions[number].does == Does::OperationEnds)
    }
}

/// A kernel at the moment of a call.
struct Guest<'a> {
    vcpu: &'a Vcpu,
    memory: &'a GuestMemory,
}

impl Guest<'_> {
    fn physical(&self, va: u64) -> Option<Gpa> {
        let walked = walk(self.memory, Start::root(self.vcpu.root()), Gva(va), self.vcpu.paging());
        Some(walked.result.ok()?.at(Gva(va)))
    }

    /// Eight bytes that do not go on in another page.
    fn word(&self, va: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        let inside = va % PAGE <= PAGE - 8;
        (inside && self.memory.read(self.physical(va)?, &mut bytes))
            .then(|| u64::from_le_bytes(bytes))
    }

    fn value(&self, value: Value) -> Option<u64> {
        match value {
            Value::Register(register) => self.vcpu.gpr.get(register).copied(),
            Value::Field { register, offset } => {
                self.word(self.vcpu.gpr.get(register)?.wrapping_add(offset))
            }
        }
    }

    fn flush(
        &self,
        kind: FlushKind,
        space: Option<Value>,
        start: Option<Value>,
        end: Option<Value>,
    ) -> Option<Flush> {
        let root = match space {
            Some(space) => Some(self.physical(self.value(space)?)?.page()),
            None => None,
        };
        let first = start.map_or(Some(0), |start| self.value(start))?;
        let last = match (start, end) {
            (_, Some(end)) => self.value(end)?,
            (Some(_), None) => (first & !(PAGE - 1)).saturating_add(PAGE),
            (None, None) => u64::MAX,
        };
        // An address space has the lower half; the upper one is the kernel's, in all of them.
        let last = if root.is_some() { last.min(USER_END) } else { last };
        Some(Flush { kind, root, start: Gva(first & !(PAGE - 1)), end: Gva(last) })
    }
}
