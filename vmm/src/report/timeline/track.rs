//! The bars: what each TLB holds of the pages that are shown, followed from event to event.

use super::{Bar, MomentKind};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::tlb::{Entry, EntryId, Tag};
use crate::event::{Event, Kind};
use crate::oracle::Shadow;
use crate::scenario::Page;
use std::collections::{BTreeMap, BTreeSet};

/// A page as people call it.
pub fn page_name(page: Gva) -> String {
    Page::at(page.0).map_or_else(|| page.to_string(), |page| page.to_string())
}

/// The bars so far.
pub struct Tracks {
    /// Pages that are shown beside the test pages.
    also: BTreeSet<Gva>,
    /// The bars that have not ended, by what they are of.
    live: BTreeMap<(CpuId, Tag, Gva, EntryId), Bar>,
    ended: Vec<Bar>,
}

impl Tracks {
    /// No bars; `also` are pages to show beside the test pages.
    pub fn new(also: BTreeSet<Gva>) -> Self {
        Self { also, live: BTreeMap::new(), ended: Vec::new() }
    }

    /// Follows what the TLBs hold after an event; the pages whose bars it ended, with their CPUs
    /// and tags.
    pub fn follow(&mut self, event: &Event, shadow: &Shadow) -> Vec<(CpuId, Tag, String)> {
        if !changes_caches(&event.kind) {
            return Vec::new();
        }
        let mut held = BTreeSet::new();
        for (cpu, state) in shadow.numbered() {
            for tag in state.tlb.tags() {
                for entry in state.tlb.entries(tag).filter(|entry| shows(&self.also, entry)) {
                    let key = (cpu, tag, entry.translation.page, entry.id);
                    held.insert(key);
                    self.live.entry(key).or_insert_with(|| begun(event, shadow, cpu, tag, entry));
                }
            }
        }
        let gone: Vec<_> = self.live.keys().filter(|key| !held.contains(key)).copied().collect();
        let mut pages = Vec::new();
        for key in gone {
            let Some(mut bar) = self.live.remove(&key) else { continue };
            bar.to = Some(event.seq);
            pages.push((key.0, key.1, bar.page.clone()));
            self.ended.push(bar);
        }
        self.judge(event, shadow);
        pages
    }

    /// Notes which bars have turned stale, and which are right again.
    fn judge(&mut self, event: &Event, shadow: &Shadow) {
        for (&(cpu, tag, page, id), bar) in &mut self.live {
            let state = shadow.cpu(cpu);
            let Some(entry) = state.tlb.entry(tag, page, id) else { continue };
            let stale = state.tlb.stale_at(&shadow.tables, state.paging(), tag, entry);
            match (stale, bar.stale) {
                (Some(at), None) => {
                    bar.stale = Some(event.seq);
                    let root = state.tlb.root(tag).unwrap_or_default();
                    bar.today = Some(match shadow.walk_today(cpu, root, at).result {
                        Ok(today) => today.to_string(),
                        Err(failure) => failure.to_string(),
                    });
                }
                (None, Some(_)) => (bar.stale, bar.today) = (None, None),
                _ => {}
            }
        }
    }

    /// Every bar, by CPU, tag, page and time.
    pub fn bars(self) -> Vec<Bar> {
        let mut bars = self.ended;
        bars.extend(self.live.into_values());
        bars.sort_by(|a, b| {
            (a.cpu, &a.tag, &a.address, a.from).cmp(&(b.cpu, &b.tag, &b.address, b.from))
        });
        bars
    }
}

/// Whether the entry is of a test page, or of one of `also`.
fn shows(also: &BTreeSet<Gva>, entry: &Entry) -> bool {
    let page = entry.translation.page;
    Page::at(page.0).is_some() || also.iter().any(|also| entry.translation.contains(*also))
}

fn begun(event: &Event, shadow: &Shadow, cpu: CpuId, tag: Tag, entry: &Entry) -> Bar {
    let page = entry.translation.page;
    let walk = shadow.walk_today(cpu, entry.root, page);
    let level = |step: &crate::arch::walk::Step| {
        format!("L{} [{}] = {:#x}", step.level, step.slot, step.entry)
    };
    let root = format!("root {}", entry.root);
    Bar {
        cpu: cpu.0,
        tag: tag.to_string(),
        page: page_name(page),
        address: page.to_string(),
        translation: entry.translation.to_string(),
        walk: std::iter::once(root).chain(walk.path.iter().map(level)).collect(),
        from: event.seq,
        ..Bar::default()
    }
}

/// Whether entries may come, go or turn stale with such an event.
fn changes_caches(kind: &Kind) -> bool {
    match kind {
        Kind::Invlpg { .. }
        | Kind::InvlpgKeptGlobals { .. }
        | Kind::Invpcid { .. }
        | Kind::LoadCr3 { .. }
        | Kind::WriteCr0 { .. }
        | Kind::WriteCr4 { .. }
        | Kind::WriteEfer { .. }
        | Kind::PageFault { .. }
        | Kind::Evict { .. }
        | Kind::Fill { .. }
        | Kind::TableStore { .. }
        | Kind::AccessedDirty { .. }
        | Kind::TableLinked { .. }
        | Kind::TableUnlinked { .. }
        | Kind::RootLinked { .. }
        // What the first event meets.
        | Kind::StepBegin { .. } => true,
        Kind::StepEnd { .. }
        | Kind::StateStore { .. }
        | Kind::MmStore { .. }
        | Kind::Ipi { .. }
        | Kind::Other { .. }
        | Kind::Delivered { .. }
        | Kind::UserEntry
        | Kind::PrimitiveBegin(_)
        | Kind::PrimitiveEnd(_)
        | Kind::Deferred(_)
        | Kind::FrameFreed { .. }
        | Kind::Withheld { .. }
        | Kind::Note { .. }
        | Kind::End => false,
    }
}

/// The kind of moment that an event is, if it is shown.
pub fn moment_kind(kind: &Kind) -> Option<MomentKind> {
    use stalemate_shared::pcid::NOFLUSH;
    use stalemate_shared::tlb_state::{USER_PCID_FLUSH_MASK, WAITING};
    Some(match kind {
        Kind::LoadCr3 { value, .. } if value & NOFLUSH != 0 => MomentKind::Cr3Kept,
        Kind::LoadCr3 { .. } => MomentKind::Cr3,
        Kind::Invlpg { .. }
        | Kind::InvlpgKeptGlobals { .. }
        | Kind::Invpcid { .. }
        | Kind::WriteCr0 { .. }
        | Kind::WriteCr4 { .. }
        | Kind::WriteEfer { .. } => MomentKind::Invalidation,
        Kind::Evict { .. } => MomentKind::Evict,
        Kind::TableStore { .. } => MomentKind::Store,
        Kind::StateStore { offset: USER_PCID_FLUSH_MASK, old, new, .. } if old & !new == 0 => {
            MomentKind::Mark
        }
        Kind::StateStore { offset: USER_PCID_FLUSH_MASK, .. } => MomentKind::Consume,
        Kind::StateStore { offset: WAITING, old, new, .. } if old & !new != 0 => {
            MomentKind::Acknowledge
        }
        Kind::Ipi { .. } => MomentKind::Ipi,
        Kind::Delivered { .. } | Kind::PageFault { .. } => MomentKind::Interrupt,
        Kind::Withheld { .. } | Kind::Note { .. } => MomentKind::Fault,
        Kind::FrameFreed { .. } | Kind::Deferred(_) => MomentKind::Other,
        _ => return None,
    })
}
