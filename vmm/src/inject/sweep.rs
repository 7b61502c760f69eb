//! `nmi@each`, `irq@each` and `preempt@each`: not one fault but as many runs as there are boundaries.

use super::Fault;
use super::fault::{Action, Occurrence, Point, Target};

/// What comes at each boundary of a [`Sweep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// An NMI.
    Nmi,
    /// An interrupt.
    Irq,
    /// The first CPU that is held back.
    Preempt,
}

/// `nmi@each`, `irq@each` or `preempt@each`: not one fault but as many runs as there are boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// As it was asked for.
    fault: Fault,
    /// What comes.
    pub interrupt: Interrupt,
    /// The first and the last step, from 1; none means all.
    steps: Option<(u32, u32)>,
    /// One boundary in so many is tried.
    stride: usize,
}

impl Sweep {
    /// The first sweep among `faults`, and the rest of them. A second one never fires: it would
    /// be a run for each pair of boundaries.
    #[must_use]
    pub fn split(faults: &[Fault]) -> (Option<Self>, Vec<Fault>) {
        let is_each = |fault: &Fault| fault.target == Target::Point(Point::Each);
        let mut rest = faults.to_vec();
        let first = rest.iter().position(is_each).map(|at| rest.remove(at));
        let sweep = first.map(|fault| Self {
            fault,
            interrupt: match fault.action {
                Action::Irq => Interrupt::Irq,
                Action::Preempt => Interrupt::Preempt,
                _ => Interrupt::Nmi,
            },
            steps: match fault.occurrence {
                Occurrence::Steps(first, last) => Some((first, last)),
                _ => None,
            },
            stride: 1,
        });
        (sweep, rest)
    }

    /// The fault that asked for it.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// The same, of the first `steps` steps at most.
    #[must_use]
    pub fn within(self, steps: usize) -> Self {
        let (first, last) = self.steps.unwrap_or((1, u32::MAX));
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        Self { steps: Some((first, last.min(steps))), ..self }
    }

    /// The same, at one boundary in `stride`.
    #[must_use]
    pub fn every(self, stride: usize) -> Self {
        Self { stride: stride.max(1), ..self }
    }

    /// Whether the boundary with this number is tried.
    #[must_use]
    pub fn tries(&self, number: usize) -> bool {
        number.is_multiple_of(self.stride)
    }

    /// Whether boundaries of the step with this index are meant.
    #[must_use]
    pub fn contains(&self, index: usize) -> bool {
        let number = index + 1;
        self.steps.is_none_or(|(first, last)| (first as usize..=last as usize).contains(&number))
    }
}
