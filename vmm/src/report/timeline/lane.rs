//! What one CPU does, followed from event to event.

use super::{Bar, Cpu, KERNEL, Mark, Moment, MomentKind, Span, USER};
use crate::arch::tlb::Tag;
use crate::event::{Event, Kind};
use crate::oracle::marked;
use std::collections::{BTreeMap, BTreeSet};

/// One CPU, as far as it has been followed.
pub struct Lane {
    number: u8,
    steps: Vec<Span>,
    step: Option<Span>,
    phases: Vec<Span>,
    /// Since when it is in the phase that it is in, and which that is.
    phase: (u64, &'static str),
    primitives: Vec<Span>,
    /// Primitives that have not returned; they nest.
    begun: Vec<Span>,
    marks: Vec<Mark>,
    /// Marks that have not been cleared: the store that made each.
    marked: BTreeMap<Tag, u64>,
}

impl Lane {
    /// The CPU `number` before the first event, with these marks.
    pub fn new(number: u8, marks: u64) -> Self {
        Self {
            number,
            steps: Vec::new(),
            step: None,
            phases: Vec::new(),
            phase: (0, KERNEL),
            primitives: Vec::new(),
            begun: Vec::new(),
            marks: Vec::new(),
            marked: marked(marks).map(|tag| (tag, 0)).collect(),
        }
    }

    /// Follows an event of this CPU; `step` tells a step's text by its index.
    pub fn follow(&mut self, event: &Event, step: impl Fn(usize) -> String) {
        let seq = event.seq;
        match &event.kind {
            Kind::StepBegin { index, .. } => {
                self.end_step(seq);
                self.step = Some(Span { from: seq, to: seq, text: step(*index) });
            }
            Kind::StepEnd { .. } => self.end_step(seq),
            Kind::UserEntry => self.enter(USER, seq),
            Kind::Delivered { from_cpl: 3, .. } => self.enter(KERNEL, seq),
            Kind::Other { mnemonic } if mnemonic == "SYSCALL" => self.enter(KERNEL, seq),
            Kind::PrimitiveBegin(primitive) => {
                let text = primitive.name().to_owned();
                self.begun.push(Span { from: seq, to: seq, text });
            }
            Kind::PrimitiveEnd(_) => {
                let ended = self.begun.pop();
                self.primitives.extend(ended.map(|span| Span { to: seq, ..span }));
            }
            _ => {}
        }
    }

    /// Follows its marks, which are these after event `seq`.
    pub fn follow_marks(&mut self, marks: u64, seq: u64) {
        let now: BTreeSet<Tag> = marked(marks).collect();
        let cleared: Vec<Tag> =
            self.marked.keys().filter(|tag| !now.contains(tag)).copied().collect();
        for tag in cleared {
            let from = self.marked.remove(&tag);
            self.marks.extend(from.map(|from| self.mark(tag, from, Some(seq))));
        }
        for tag in now {
            self.marked.entry(tag).or_insert(seq);
        }
    }

    fn mark(&self, tag: Tag, from: u64, to: Option<u64>) -> Mark {
        Mark { cpu: self.number, tag: tag.to_string(), from, to }
    }

    fn end_step(&mut self, seq: u64) {
        let ended = self.step.take();
        self.steps.extend(ended.map(|span| Span { to: seq, ..span }));
    }

    fn enter(&mut self, phase: &'static str, seq: u64) {
        let (from, text) = self.phase;
        if text != phase {
            self.phases.push(Span { from, to: seq, text: text.to_owned() });
            self.phase = (seq, phase);
        }
    }

    /// The run ended at `end`: the CPU, and its marks. It has a lane for each tag that `bars` or
    /// `moments` of its own are about.
    pub fn end(mut self, end: u64, bars: &[Bar], moments: &[Moment]) -> (Cpu, Vec<Mark>) {
        self.end_step(end);
        let (from, text) = self.phase;
        self.phases.push(Span { from, to: end, text: text.to_owned() });
        self.primitives.extend(self.begun.drain(..).map(|span| Span { to: end, ..span }));
        self.primitives.sort_by_key(|span| span.from);
        let open: Vec<Mark> =
            self.marked.iter().map(|(tag, from)| self.mark(*tag, *from, None)).collect();
        let number = self.number;
        // A mark is shown where there is a lane. That all slots are marked makes none.
        let tells = |moment: &&Moment| {
            moment.cpu == number && !matches!(moment.kind, MomentKind::Mark | MomentKind::Consume)
        };
        let told = moments.iter().filter(tells).filter_map(|moment| moment.tag.as_ref());
        let held = bars.iter().filter(|bar| bar.cpu == number).map(|bar| &bar.tag);
        let tags: BTreeSet<&String> = held.chain(told).collect();
        let cpu = Cpu {
            number,
            tags: tags.into_iter().cloned().collect(),
            steps: self.steps,
            primitives: self.primitives,
            phases: self.phases,
        };
        (cpu, self.marks.into_iter().chain(open).collect())
    }
}
