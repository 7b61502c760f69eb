//! Keeps the shadow pages within the modelled TLB: a page is mapped only while some entry grants it.

use super::{Accesses, Cpu, Halt, Interceptor, Kernel, Machine, Watch, WatchedEntry};
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::census::Census;
use crate::arch::core::Log;
use crate::arch::tlb::{Scope, Tag};
use crate::arch::walk::{PageSize, Start, Translation, walk};
use crate::executor::{ExecutorError, Leaf, Space};
use crate::memory::GuestMemory;
use std::collections::BTreeSet;

/// What decides on a leaf.
struct View<'a> {
    cpus: &'a [Cpu],
    memory: &'a GuestMemory,
    census: &'a Census,
    watched: &'a BTreeSet<Gpa>,
    watch: Option<Watch>,
    watched_entries: &'a [WatchedEntry],
}

/// The view of a machine whose executor may be lent at the same time.
macro_rules! view {
    ($machine:expr) => {
        View {
            cpus: &$machine.cpus,
            census: &$machine.census,
            watched: $machine.kernel.watched(),
            watch: $machine.watch,
            memory: &$machine.memory,
            watched_entries: &$machine.watched_entries,
        }
    };
}

impl View<'_> {
    /// What `space` may use natively of `page` now.
    fn leaf(&self, space: Space, page: Gva) -> Option<Leaf> {
        let Cpu { vcpu, tlb, .. } = self.cpus.get(usize::from(space.cpu.0))?;
        let found = tlb.peek(self.memory, space.pcid, page)?;
        let leaf = self.granted(space, page, &found)?;
        if !self.watched_entries.iter().any(|entry| entry.takes_back(space, &found)) {
            return Some(leaf);
        }
        let start = Start::root(tlb.root(Tag::Pcid(space.pcid))?);
        let today = walk(self.memory, start, page, vcpu.paging()).result.ok()?;
        let today = self.granted(space, page, &today)?;
        (today.frame == leaf.frame).then_some(Leaf {
            frame: leaf.frame,
            writable: leaf.writable && today.writable,
            executable: leaf.executable && today.executable,
        })
    }

    /// What a translation grants `space` of a page.
    fn granted(&self, space: Space, page: Gva, found: &Translation) -> Option<Leaf> {
        let paging = self.cpus.get(usize::from(space.cpu.0))?.vcpu.paging();
        if space.user && !found.user {
            return None;
        }
        let frame = found.at(page).page();
        let loads = Some(Watch { cpu: space.cpu, accesses: Accesses::Loads });
        if self.watch == loads && self.watched.contains(&frame) {
            return None;
        }
        let watched = self.watched.contains(&frame) || self.census.is_table(frame);
        let may_write = found.writable || (!space.user && !paging.wp);
        let may_execute = !found.no_execute && (space.user || !paging.smep || !found.user);
        Some(Leaf {
            frame,
            // A store through D=0 walks again, to set it.
            writable: may_write && found.dirty && !watched,
            executable: may_execute,
        })
    }
}

impl<K: Kernel, I: Interceptor> Machine<K, I> {
    /// Lets the guest have `page` of the space as the TLB grants it.
    pub(super) fn map_current(&mut self, space: Space, page: Gva) -> Result<(), ExecutorError> {
        let Some(leaf) = self.view().leaf(space, page) else { return Ok(()) };
        if leaf.writable {
            self.memory.touch(leaf.frame);
        }
        self.executor.map(space, page, leaf)
    }

    /// The space that the guest runs in.
    pub(crate) fn space(&self) -> Space {
        Space::of(self.vcpu())
    }

    fn view(&self) -> View<'_> {
        view!(self)
    }

    /// Revokes what the operations in `log` took away.
    pub(crate) fn follow(&mut self, log: &Log) -> Result<(), ExecutorError> {
        for (cpu, scope) in &log.scopes {
            self.revalidate(*cpu, scope)?;
        }
        if !log.linked.is_empty() {
            self.protect(&log.linked)?;
        }
        Ok(())
    }

    /// Makes frames read-only wherever they are mapped.
    fn protect(&mut self, frames: &[Gpa]) -> Result<(), ExecutorError> {
        self.executor.revalidate(&|_| true, &mut |_, _, leaf| {
            let watched = frames.contains(&leaf.frame);
            Some(Leaf { writable: leaf.writable && !watched, ..leaf })
        })
    }

    /// Revalidates every leaf; after a reset of the TLB.
    pub(crate) fn revalidate_all(&mut self) -> Result<(), Halt> {
        let view = view!(self);
        let keep = &mut |space: Space, page: Gva, _: Leaf| view.leaf(space, page);
        Ok(self.executor.revalidate(&|_| true, keep)?)
    }

    fn revalidate(&mut self, cpu: CpuId, scope: &Scope) -> Result<(), ExecutorError> {
        let view = view!(self);
        let keep = &mut |space: Space, page: Gva, _: Leaf| view.leaf(space, page);
        let of_cpu = |space: Space| space.cpu == cpu;
        match scope {
            Scope::Nothing => Ok(()),
            Scope::Everything => self.executor.revalidate(&of_cpu, keep),
            Scope::Pcid(pcid) => {
                self.executor.revalidate(&|space| of_cpu(space) && space.pcid == *pcid, keep)
            }
            Scope::Pages(pages) => {
                for page in pages {
                    self.executor.revalidate_page(&of_cpu, *page, keep)?;
                }
                Ok(())
            }
        }
    }

    /// Takes back what a CPU's executor has of a translation beyond what it may.
    pub(super) fn narrow_within(
        &mut self,
        cpu: CpuId,
        translation: Translation,
    ) -> Result<(), ExecutorError> {
        let view = view!(self);
        let of_cpu = |space: Space| space.cpu == cpu;
        let keep = &mut |space: Space, page: Gva, leaf: Leaf| match translation.contains(page) {
            true => view.leaf(space, page),
            false => Some(leaf),
        };
        match translation.size {
            PageSize::Small => self.executor.revalidate_page(&of_cpu, translation.page, keep),
            _ => self.executor.revalidate(&of_cpu, keep),
        }
    }

    /// Takes back what the executor grants of a page beyond what the TLB does.
    pub(super) fn narrow(&mut self, space: Space, page: Gva) -> Result<(), ExecutorError> {
        let view = view!(self);
        let keep = &mut |space: Space, page: Gva, _: Leaf| view.leaf(space, page);
        self.executor.revalidate_page(&|known| known == space, page, keep)
    }
}
