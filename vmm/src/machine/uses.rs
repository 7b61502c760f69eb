//! Which translations are used, of some that somebody asks about: when one was accessed while the tables
//! granted it, and when an access went through it that they did not grant.

use super::{Interceptor, Kernel, Machine};
use crate::arch::addr::{CpuId, Gva, Pcid};
use crate::arch::core::{Accessed, Done, Log};
use crate::arch::happened::Happened;
use crate::arch::tlb::{Tag, Tlb};
use crate::arch::walk::{AccessKind, Start, Translation, walk};
use crate::executor::{ExecutorError, Space};

/// An access of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// Instructions that had completed.
    pub(crate) instructions: u64,
    /// The instruction.
    pub(crate) rip: Gva,
    /// The address.
    pub(crate) va: Gva,
    /// What kind of access.
    pub(crate) kind: AccessKind,
    /// By user mode.
    pub(crate) user: bool,
}

/// A cached translation whose uses are looked for.
#[derive(Clone, Debug)]
pub(crate) struct WatchedEntry {
    cpu: CpuId,
    tag: Tag,
    translation: Translation,
    /// The tables grant less: what they do not is taken back from the executor, so that it traps.
    stale: bool,
    /// The first access through it before, since it has been cached. Later ones may be native.
    pub(crate) accessed: Option<Use>,
    /// The first access through it since that the tables do not grant.
    pub(crate) used: Option<Use>,
    /// It is stale no more, because it is not cached.
    pub(crate) gone: bool,
}

impl WatchedEntry {
    /// What is cached so on a CPU.
    pub(crate) fn new(cpu: CpuId, tag: Tag, translation: Translation) -> Self {
        let (accessed, used) = (None, None);
        Self { cpu, tag, translation, stale: false, accessed, used, gone: false }
    }

    /// D may have been set in it since.
    fn is(&self, found: &Translation) -> bool {
        let same = Translation { dirty: found.dirty, ..self.translation } == *found;
        same && (found.dirty || !self.translation.dirty)
    }

    fn is_looked_at(&self) -> bool {
        self.stale && self.used.is_none() && !self.gone
    }

    /// Whether it is cached: of what is not stored, whether it was accessed since it was last flushed.
    fn is_held(&self, tlb: &Tlb) -> bool {
        let page = self.translation.page;
        let pcid = match self.tag {
            Tag::Pcid(pcid) => pcid,
            Tag::Global => tlb.current(),
        };
        let mut held = tlb.entries_in(self.tag, page, page);
        held.any(|entry| self.is(&entry.translation))
            || !self.stale && tlb.is_touched(pcid, &self.translation)
    }

    fn is_of(&self, pcid: Pcid) -> bool {
        self.tag == Tag::Global || self.tag == Tag::Pcid(pcid)
    }

    /// Whether a leaf that the executor has of it is to be no more than what tables grant.
    pub(super) fn takes_back(&self, space: Space, found: &Translation) -> bool {
        let here = self.cpu == space.cpu && self.is_of(space.pcid);
        self.is_looked_at() && here && self.is(found)
    }
}

impl<K: Kernel, I: Interceptor> Machine<K, I> {
    /// Tells the uses of these from now on.
    pub(crate) fn watch_entries(&mut self, watched_entries: Vec<WatchedEntry>) {
        self.watched_entries = watched_entries;
    }

    /// What has been seen of them.
    pub(crate) fn watched_entries(&self) -> &[WatchedEntry] {
        &self.watched_entries
    }

    /// One of them has become stale.
    pub(crate) fn is_stale_now(&mut self, number: usize) -> Result<(), ExecutorError> {
        self.watched_entries[number].stale = true;
        self.take_back()
    }

    /// Leaves of those that are stale, as tables are now.
    fn take_back(&mut self) -> Result<(), ExecutorError> {
        let looked_at = self.watched_entries.iter().filter(|entry| entry.is_looked_at());
        let pages = looked_at.map(|entry| (entry.cpu, entry.translation));
        for (cpu, translation) in pages.collect::<Vec<_>>() {
            self.narrow_within(cpu, translation)?;
        }
        Ok(())
    }

    /// Follows what the current CPU has done.
    pub(super) fn follow_uses(&mut self, rip: Gva, log: &Log) -> Result<(), ExecutorError> {
        if self.watched_entries.is_empty() {
            return Ok(());
        }
        let instructions = self.instructions();
        for accessed in &log.accesses {
            let Accessed { va, access, .. } = *accessed;
            let (kind, user) = (access.kind, access.user);
            let now = Some(Use { instructions, rip, va, kind, user });
            let granted = self.is_granted(accessed);
            let id = self.vcpu().id;
            let meant = self.watched_entries.iter_mut().filter(|entry| {
                entry.cpu == id && entry.is_of(accessed.pcid) && entry.is(&accessed.through)
            });
            for entry in meant {
                match entry.stale {
                    false => entry.accessed = entry.accessed.or(now),
                    true if granted => {}
                    true => entry.used = entry.used.or(now),
                }
            }
        }
        if !log.scopes.is_empty() {
            let cpus = &self.cpus;
            for entry in &mut self.watched_entries {
                let tlb = &cpus[Self::index(entry.cpu)].tlb;
                if !entry.is_held(tlb) {
                    entry.gone |= entry.stale;
                    entry.accessed = entry.accessed.filter(|_| entry.stale);
                }
            }
        }
        let is_store = |done: &Done| matches!(done, Done::Happened(Happened::TableStore { .. }));
        match log.entries.iter().any(|entry| is_store(&entry.what)) {
            true => self.take_back(),
            false => Ok(()),
        }
    }

    /// Whether the tables grant an access too, and it does there what it did.
    fn is_granted(&self, accessed: &Accessed) -> bool {
        let Accessed { pcid, va, access, through } = *accessed;
        let cpu = &self.cpus[self.current()];
        let Some(root) = cpu.tlb.root(Tag::Pcid(pcid)) else { return false };
        let paging = cpu.vcpu.paging();
        let walked = walk(&self.memory, Start::root(root), va, paging);
        walked.result.is_ok_and(|today| {
            today.at(va) == through.at(va)
                && today.check(access, paging).is_ok()
                && (access.kind != AccessKind::Write || today.dirty)
        })
    }
}
