//! What one CPU does, followed from event to event.

use super::{Bar, Cpu, KERNEL, Mark, Moment, MomentKind, Span, USER};
use crate::arch::addr::{CpuId, Pcid};
use crate::arch::happened::Happened;
use crate::arch::tlb::Tag;
use crate::event::{Announcement, Event, FlushId, TaskId};
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
    /// Flushes that have not returned.
    begun: BTreeMap<FlushId, Span>,
    marks: Vec<Mark>,
    /// Marks that have not been cleared: the store that made each.
    marked: BTreeMap<Tag, u64>,
}

impl Lane {
    /// A CPU before the first event, with marks of these user PCIDs.
    pub fn new(cpu: CpuId, marks: &BTreeSet<Pcid>) -> Self {
        Self {
            number: cpu.0,
            steps: Vec::new(),
            step: None,
            phases: Vec::new(),
            phase: (0, KERNEL),
            primitives: Vec::new(),
            begun: BTreeMap::new(),
            marks: Vec::new(),
            marked: marks.iter().map(|pcid| (Tag::Pcid(*pcid), 0)).collect(),
        }
    }

    /// Follows an event of this CPU; `step` gives a task's text.
    pub fn follow(&mut self, event: &Event, step: impl Fn(TaskId) -> String) {
        let seq = event.seq;
        match event.happened() {
            Some(Happened::UserEntry) => self.enter(USER, seq),
            Some(Happened::Delivered { from_cpl: 3, .. }) => self.enter(KERNEL, seq),
            Some(Happened::Other { mnemonic }) if mnemonic == "SYSCALL" => {
                self.enter(KERNEL, seq);
            }
            _ => {}
        }
        for said in event.announcements() {
            match said {
                Announcement::TaskBegins(task) => {
                    self.end_step(seq);
                    self.step = Some(Span { from: seq, to: seq, text: step(*task) });
                }
                Announcement::TaskEnds { .. } => self.end_step(seq),
                Announcement::FlushBegins { id, flush } => {
                    let text = flush.name().to_owned();
                    self.begun.insert(*id, Span { from: seq, to: seq, text });
                }
                Announcement::FlushReturns { id, .. } => {
                    let ended = self.begun.remove(id);
                    self.primitives.extend(ended.map(|span| Span { to: seq, ..span }));
                }
                _ => {}
            }
        }
    }

    /// Follows its marks, which are of these user PCIDs after event `seq`.
    pub fn follow_marks(&mut self, marks: &BTreeSet<Pcid>, seq: u64) {
        let is_made = |tag: &Tag| matches!(tag, Tag::Pcid(pcid) if marks.contains(pcid));
        let cleared: Vec<Tag> = self.marked.keys().filter(|tag| !is_made(tag)).copied().collect();
        for tag in cleared {
            let from = self.marked.remove(&tag);
            self.marks.extend(from.map(|from| self.mark(tag, from, Some(seq))));
        }
        for pcid in marks {
            self.marked.entry(Tag::Pcid(*pcid)).or_insert(seq);
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
        let begun = std::mem::take(&mut self.begun).into_values();
        self.primitives.extend(begun.map(|span| Span { to: end, ..span }));
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
