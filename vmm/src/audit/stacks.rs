//! Who called whom, at the moments that a finding is about.

use super::finding::Finding;
use super::moments::meant;
use crate::arch::addr::Gva;
use crate::kernel::free::{Free, Stack, Unwound};
use crate::symbols::Symbols;
use serde::Serialize;
use std::fmt;

/// The stack at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(inline)]
pub struct Calls {
    /// Which moment: `store`, `flush` (the last one that should have covered what is stale), `deadline`,
    /// `use`.
    pub of: &'static str,
    /// Instructions that had completed.
    pub at: u64,
    /// How the stack was read.
    pub by: Unwound,
    /// The functions, innermost first. What DWARF knows to be inlined is among them.
    pub frames: Vec<Called>,
}

/// A function in a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(inline)]
pub struct Called {
    /// Its name with the distance and its size, as kernels print it; an address where it has no name.
    pub function: String,
    /// Whether it is inlined into the next one.
    pub inlined: bool,
    /// File and line, where the image has them.
    pub line: Option<String>,
}

impl Calls {
    /// What stands above it.
    pub(super) fn title(&self) -> String {
        let by = match self.by {
            Unwound::Orc => "",
            Unwound::FramePointers => ", by frame pointers",
        };
        format!("Call Trace at the {}{by}", self.of)
    }
}

impl fmt::Display for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, inlined, line } = self;
        write!(f, "{function}{}", if *inlined { " [inlined]" } else { "" })?;
        line.as_ref().map_or(Ok(()), |line| write!(f, " {line}"))
    }
}

/// The moments of a finding's first violation at which its stack is wanted.
pub(super) fn moments(finding: &Finding) -> Vec<(&'static str, u64, Gva)> {
    let Finding { first, noted, .. } = finding;
    let store = noted.stored.zip(first.downgrade.as_ref());
    let store = store.map(|(at, downgrade)| ("store", at, downgrade.rip));
    let flush = noted.missed.zip(meant(first));
    let flush = flush.map(|(at, number)| ("flush", at, first.missed[number].rip));
    let due = Some(("deadline", noted.found, first.rip));
    [store, flush, due].into_iter().flatten().collect()
}

/// What was kept at those moments.
pub(super) fn kept(finding: &Finding, free: &Free, symbols: &Symbols) -> Vec<Calls> {
    let stacks = moments(finding).into_iter().filter_map(|(of, at, rip)| {
        free.stack_at(at, rip).map(|stack| calls(of, at, stack, symbols))
    });
    stacks.collect()
}

/// A stack with names.
pub(super) fn calls(of: &'static str, at: u64, stack: &Stack, symbols: &Symbols) -> Calls {
    let frames = stack.frames.iter().flat_map(|&(ip, returns)| called(ip, returns, symbols));
    Calls { of, at, by: stack.by, frames: frames.collect() }
}

fn called(ip: Gva, returns: bool, symbols: &Symbols) -> Vec<Called> {
    // The call may be a function's last instruction.
    let inside = Gva(ip.0 - u64::from(returns));
    let function = match symbols.function_at(inside) {
        Some((name, begin, end)) => {
            format!("{name}+{:#x}/{:#x}", ip.0 - begin.0, end.0 - begin.0)
        }
        None => ip.to_string(),
    };
    let mut lines = symbols.inlined(inside);
    let own = lines.pop().map(|(_, line)| line).filter(|line| !line.is_empty());
    let inlined = lines.into_iter().map(|(function, line)| Called {
        function,
        inlined: true,
        line: Some(line).filter(|line| !line.is_empty()),
    });
    inlined.chain([Called { function, inlined: false, line: own }]).collect()
}
