//! The bars: what each TLB holds of the pages that are shown, followed from event to event.

use super::{Bar, MomentKind};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::cr3::NOFLUSH;
use crate::arch::happened::Happened;
use crate::arch::tlb::{Entry, Tag, Tlb};
use crate::arch::walk::Translation;
use crate::event::{Announcement, Event, Kind};
use crate::oracle::Replica;
use stalemate_shared::page::Page;
use std::collections::{BTreeMap, BTreeSet};

/// A page as people call it.
pub fn page_name(page: Gva) -> String {
    Page::at(page.0).map_or_else(|| page.to_string(), |page| page.to_string())
}

/// What a bar is of: a translation, whatever its D, under a tag of a CPU. So it goes on where it is flushed
/// and filled again at once.
type Key = (CpuId, Tag, Gva, String);

/// The bars so far.
pub struct Tracks {
    /// Pages that are shown beside the test pages.
    also: BTreeSet<Gva>,
    /// The bars that have not ended, by what they are of.
    live: BTreeMap<Key, Bar>,
    ended: Vec<Bar>,
}

impl Tracks {
    /// No bars; `also` are pages to show beside the test pages.
    pub fn new(also: BTreeSet<Gva>) -> Self {
        Self { also, live: BTreeMap::new(), ended: Vec::new() }
    }

    /// Follows what the TLBs hold after an event; the pages whose bars it ended, with their CPUs
    /// and tags.
    pub fn follow(&mut self, event: &Event, replica: &Replica) -> Vec<(CpuId, Tag, String)> {
        if !changes_caches(event) {
            return Vec::new();
        }
        let mut held: BTreeMap<Key, Entry> = BTreeMap::new();
        for (cpu, state) in replica.numbered() {
            for tag in state.tlb.tags() {
                for entry in self.shown(replica, &state.tlb, tag) {
                    let of = Translation { dirty: true, ..entry.translation };
                    let key = (cpu, tag, of.page, format!("{of} of {}", entry.root));
                    let bar = || begun(event, replica, cpu, tag, &entry);
                    self.live.entry(key.clone()).or_insert_with(bar);
                    held.entry(key).or_insert(entry);
                }
            }
        }
        let gone: Vec<Key> =
            self.live.keys().filter(|key| !held.contains_key(key)).cloned().collect();
        let mut pages = Vec::new();
        for key in gone {
            let Some(mut bar) = self.live.remove(&key) else { continue };
            bar.to = Some(event.seq);
            pages.push((key.0, key.1, bar.page.clone()));
            self.ended.push(bar);
        }
        self.judge(event, replica, &held);
        pages
    }

    /// What is held under `tag` of the pages that are shown.
    fn shown(&self, replica: &Replica, tlb: &Tlb, tag: Tag) -> Vec<Entry> {
        let held = tlb.held_in(&replica.tables, tag, Gva(0), Gva(u64::MAX)).into_iter();
        held.filter(|entry| shows(&self.also, entry)).collect()
    }

    /// Notes which bars have turned stale, and which are right again.
    fn judge(&mut self, event: &Event, replica: &Replica, held: &BTreeMap<Key, Entry>) {
        for (key, bar) in &mut self.live {
            let &(cpu, tag, ..) = key;
            let state = replica.cpu(cpu);
            let Some(entry) = held.get(key) else { continue };
            let stale = state.tlb.stale_at(&replica.tables, state.paging(), tag, entry);
            match (stale, bar.stale) {
                (Some(at), None) => {
                    bar.stale = Some(event.seq);
                    let root = state.tlb.root(tag).unwrap_or_default();
                    bar.today = Some(match replica.walk_today(cpu, root, at).result {
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

fn begun(event: &Event, replica: &Replica, cpu: CpuId, tag: Tag, entry: &Entry) -> Bar {
    let page = entry.translation.page;
    let walk = replica.walk_today(cpu, entry.root, page);
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

/// Whether entries may be cached, removed or turn stale with such an event.
fn changes_caches(event: &Event) -> bool {
    match &event.kind {
        Kind::Cpu(happened) => !matches!(
            happened,
            Happened::Ipi { .. }
                | Happened::Other { .. }
                | Happened::Delivered { .. }
                | Happened::UserEntry
        ),
        // What the first event meets.
        Kind::Announced { announcements, .. } => {
            announcements.iter().any(|said| matches!(said, Announcement::TaskBegins(_)))
        }
        Kind::Suppressed { .. } | Kind::Note { .. } | Kind::End => false,
    }
}

/// The kind of moment that an event is, if it is shown.
pub fn moment_kind(event: &Event) -> Option<MomentKind> {
    match &event.kind {
        Kind::Cpu(happened) => happened_kind(happened),
        Kind::Announced { announcements, .. } => announcements.iter().find_map(said_kind),
        Kind::Suppressed { .. } | Kind::Note { .. } => Some(MomentKind::Fault),
        Kind::End => None,
    }
}

fn happened_kind(happened: &Happened) -> Option<MomentKind> {
    Some(match happened {
        Happened::LoadCr3 { value, .. } if value & NOFLUSH != 0 => MomentKind::Cr3Kept,
        Happened::LoadCr3 { .. } => MomentKind::Cr3,
        Happened::Invlpg { .. }
        | Happened::Invpcid { .. }
        | Happened::WriteCr0 { .. }
        | Happened::WriteCr4 { .. }
        | Happened::WriteEfer { .. } => MomentKind::Invalidation,
        Happened::Evict { .. } => MomentKind::Evict,
        Happened::TableStore { .. } => MomentKind::Store,
        Happened::Ipi { .. } => MomentKind::Ipi,
        Happened::Delivered { .. } | Happened::PageFault { .. } => MomentKind::Interrupt,
        _ => return None,
    })
}

fn said_kind(said: &Announcement) -> Option<MomentKind> {
    Some(match said {
        Announcement::Marked { .. } => MomentKind::Mark,
        Announcement::Unmarked { .. } => MomentKind::Consume,
        Announcement::Acknowledged { .. } => MomentKind::Acknowledge,
        Announcement::FrameFreed(_)
        | Announcement::ContentsTaken(_)
        | Announcement::EntryRead { .. }
        | Announcement::Deferred { .. } => MomentKind::Other,
        _ => return None,
    })
}
