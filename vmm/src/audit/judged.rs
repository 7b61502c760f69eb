//! What each rule has judged. Of what was flushed in time that is the rule whose deadline came first after it:
//! the one that would have spoken without the flush.

use super::coverage::{Change, function};
use crate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use crate::arch::cr3::{self, ROOT_MASK};
use crate::arch::happened::Happened;
use crate::arch::tlb::Tag;
use crate::arch::vcpu::cr4;
use crate::arch::walk::entry::PRESENT;
use crate::event::{Announcement, Event, KernelAbout, TaskId};
use crate::oracle::{Deadline, Discharger, Obligation, Oracle, State};
use crate::symbols::Symbols;
use std::collections::BTreeMap;

/// The rules of an audit, and what they judge.
pub const RULES: [(&str, &str); 10] = [
    ("stale-user-entry", STALE),
    ("stale-other-asid", STALE),
    ("stale-kernel-entry", STALE),
    ("stale-remote-entry", STALE),
    ("va-reuse", STALE),
    ("reuse-before-flush", STALE),
    ("table-reuse", STALE),
    ("lost-mark", "marks that were cleared"),
    ("pcid-reuse", "loads of a PCID with another root than before"),
    ("cr3-pairing", "loads of CR3 with PCIDs on"),
];
const STALE: &str = "times that a store left something stale under a PCID";

/// How often each rule has judged what.
pub type Counts = BTreeMap<&'static str, u64>;

/// Something that was flushed, and that no deadline has come for yet.
#[derive(Clone, Debug)]
struct Ended {
    owed: Obligation,
    covered: bool,
}

/// Counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Judged {
    /// So many of the oracle's closed obligations have been looked at.
    seen: usize,
    /// By tag: those of addresses of user mode, and those of the kernel's.
    user: BTreeMap<Tag, Vec<Ended>>,
    kernel: BTreeMap<Tag, Vec<Ended>>,
    /// When each task's last operation was over.
    over: BTreeMap<TaskId, u64>,
    current: BTreeMap<CpuId, Pcid>,
    roots: BTreeMap<(CpuId, Pcid), Gpa>,
    pcide: bool,
    counts: Counts,
    by_store: BTreeMap<(Gva, Change, &'static str), u64>,
}

/// Where an operation stands when a deadline comes.
struct Now<'a> {
    event: &'a Event,
    task: Option<TaskId>,
    current: Tag,
    kernel: &'a KernelAbout,
}

impl Judged {
    /// Follows an event that the oracle has judged.
    pub(super) fn event(&mut self, event: &Event, oracle: &Oracle) {
        let Some(kernel) = oracle.kernel() else { return };
        self.registers(event);
        // A load that flushes a PCID is that one's deadline too.
        let closed = oracle.ledger().closed();
        for owed in &closed[self.seen..] {
            self.add(owed);
        }
        self.seen = closed.len();
        let current = Tag::Pcid(self.current.get(&event.cpu).copied().unwrap_or_default());
        let now = Now { event, task: oracle.doing(event.cpu).0, current, kernel };
        if let (Some(Happened::UserEntry), Some(task)) = (event.happened(), now.task) {
            self.over.insert(task, event.seq);
        }
        for announcement in event.announcements() {
            match *announcement {
                Announcement::TaskEnds { task, .. } => {
                    self.over.insert(task, event.seq);
                }
                Announcement::Unmarked { .. } => self.count("lost-mark"),
                Announcement::FrameFreed(frame) => self.freed(frame, &now),
                _ => {}
            }
        }
        if let Some(&Happened::TableStore { slot, old, new }) = event.happened()
            && old & PRESENT == 0
            && new & PRESENT != 0
        {
            self.mapped_anew(slot, new, &now);
        }
        for deadline in oracle.deadlines() {
            self.deadline(deadline, &now);
        }
    }

    fn count(&mut self, rule: &'static str) {
        *self.counts.entry(rule).or_default() += 1;
    }

    fn registers(&mut self, event: &Event) {
        match event.happened() {
            Some(Happened::WriteCr4 { new, .. }) => self.pcide = new & cr4::PCIDE != 0,
            Some(&Happened::LoadCr3 { value, .. }) if self.pcide => {
                let (pcid, root) = (Pcid::new(value as u16 & 0xfff), cr3::root(value));
                self.current.insert(event.cpu, pcid);
                self.count("cr3-pairing");
                let before = self.roots.insert((event.cpu, pcid), root);
                if before.is_some_and(|before| before != root) {
                    self.count("pcid-reuse");
                }
            }
            _ => {}
        }
    }

    /// Something was flushed before its deadline.
    fn add(&mut self, owed: &Obligation) {
        let is_flushed = matches!(
            owed.state,
            State::Discharged { by, .. } if by != Discharger::Restored && by != Discharger::Eviction
        );
        if is_flushed && owed.downgrade.cause.store().is_some() {
            let of = if owed.is_of_kernel() { &mut self.kernel } else { &mut self.user };
            let ended = Ended { owed: owed.clone(), covered: owed.covered.is_some() };
            of.entry(owed.tag).or_default().push(ended);
        }
    }

    fn deadline(&mut self, deadline: &Deadline, now: &Now<'_>) {
        match *deadline {
            Deadline::UserEntry { .. } => {
                for tag in [now.current, Tag::Global] {
                    self.judge("stale-user-entry", tag, now, |ended, over, _| {
                        (over || ended.covered) && ended.owed.user_may_use()
                    });
                }
            }
            Deadline::Current { tag, .. } => {
                self.judge("stale-other-asid", tag, now, |ended, over, _| match () {
                    () if ended.owed.is_of_kernel() => ended.covered,
                    () => over || ended.covered,
                });
            }
            Deadline::Returned(open) => {
                let pair = now.kernel.pairing.map_or(0, |pairing| pairing.root_bit);
                let meant = |ended: &Ended| {
                    let owed = &ended.owed;
                    let is_root = |root: Gpa| (root.0 ^ owed.root.0) & !pair == 0;
                    owed.downgrade.seq < open.since
                        && open.flush.root.is_none_or(is_root)
                        && open.flush.covers(owed.page)
                };
                for tag in [now.current, Tag::Global] {
                    self.judge("stale-kernel-entry", tag, now, |ended, _, _| meant(ended));
                }
                let mut others = self.current.clone();
                others.remove(&now.event.cpu);
                for (cpu, pcid) in others {
                    for tag in [Tag::Pcid(pcid), Tag::Global] {
                        self.judge_on("stale-remote-entry", cpu, tag, now, |ended, _, _| {
                            meant(ended)
                        });
                    }
                }
                // Under other PCIDs it is due from now on.
                let all = self.user.values_mut().chain(self.kernel.values_mut()).flatten();
                all.filter(|ended| meant(ended)).for_each(|ended| ended.covered = true);
            }
            _ => {}
        }
    }

    fn freed(&mut self, frame: Gpa, now: &Now<'_>) {
        let within = |(start, end): (Gva, Gva), va: Gva| start <= va && va < end;
        let leads = |ended: &Ended, kernel: &KernelAbout| {
            let entry = ended.owed.entry.as_ref();
            entry.is_some_and(|entry| {
                let page = entry.translation.page;
                let excepted = kernel.wait_for_reuse.iter().any(|&area| within(area, page));
                entry.translation.maps(frame) && !excepted && !within(kernel.direct_map, page)
            })
        };
        for tag in [now.current, Tag::Global] {
            self.judge("reuse-before-flush", tag, now, |ended, _, now| leads(ended, now.kernel));
        }
        self.judge("table-reuse", now.current, now, |ended, _, _| {
            ended.owed.structure.is_some_and(|structure| structure.table == frame)
        });
    }

    fn mapped_anew(&mut self, slot: Gpa, new: u64, now: &Now<'_>) {
        for tag in [now.current, Tag::Global] {
            self.judge("va-reuse", tag, now, |ended, over, now| {
                let Ended { owed, covered } = ended;
                let same_task = owed.downgrade.task.is_some() && owed.downgrade.task == now.task;
                let store = owed.downgrade.cause.store();
                store.is_some_and(|store| store.slot == slot && (store.old ^ new) & ROOT_MASK != 0)
                    && (owed.is_of_kernel() || *covered || over || same_task)
            });
        }
    }

    /// Of what was flushed under a tag this rule's deadline has come, where `is_due` says so.
    fn judge(
        &mut self,
        rule: &'static str,
        tag: Tag,
        now: &Now<'_>,
        is_due: impl Fn(&Ended, bool, &Now<'_>) -> bool,
    ) {
        self.judge_on(rule, now.event.cpu, tag, now, is_due);
    }

    /// The same of what was flushed on `cpu`.
    fn judge_on(
        &mut self,
        rule: &'static str,
        cpu: CpuId,
        tag: Tag,
        now: &Now<'_>,
        is_due: impl Fn(&Ended, bool, &Now<'_>) -> bool,
    ) {
        for of in [&mut self.user, &mut self.kernel] {
            let Some(ended) = of.get_mut(&tag) else { continue };
            ended.retain(|ended| {
                let owed = &ended.owed;
                let over = owed.over
                    || owed.downgrade.task.is_some_and(|task| {
                        self.over.get(&task).is_some_and(|&seq| seq > owed.downgrade.seq)
                    });
                let due = owed.cpu == cpu && is_due(ended, over, now);
                if due {
                    *self.counts.entry(rule).or_default() += 1;
                    let store = owed.downgrade.cause.store();
                    let change = store.and_then(|store| Change::of(store.old, store.new));
                    if let Some(change) = change {
                        let key = (owed.downgrade.rip, change, rule);
                        *self.by_store.entry(key).or_default() += 1;
                    }
                }
                !due
            });
        }
    }

    /// How often each rule has judged something, or has spoken of it.
    pub(super) fn counts(&self, oracle: &Oracle) -> Counts {
        let mut counts: Counts = RULES.iter().map(|(rule, _)| (*rule, 0)).collect();
        let spoken = oracle.obligations().into_iter().filter_map(|owed| match owed.state {
            State::Violated { rule, .. } => Some(rule.to_string()),
            _ => None,
        });
        let spoken: Vec<String> = spoken.collect();
        for (rule, count) in &mut counts {
            *count += self.counts.get(rule).copied().unwrap_or_default();
            *count += spoken.iter().filter(|spoken| spoken == rule).count() as u64;
        }
        counts
    }

    /// The same of what was flushed in time, by the function whose store it was.
    pub(super) fn by_store(&self, symbols: &Symbols) -> BTreeMap<(String, Change), Counts> {
        let mut found: BTreeMap<_, Counts> = BTreeMap::new();
        for (&(rip, change, rule), count) in &self.by_store {
            let row = found.entry((function(symbols, rip), change)).or_default();
            *row.entry(rule).or_default() += count;
        }
        found
    }
}
