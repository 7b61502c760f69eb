//! The projection follows the modelled TLB: what is not cached is not mapped.

use super::{Cpu, Halt, Machine};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::census::Census;
use crate::arch::core::Log;
use crate::arch::tlb::Scope;
use crate::boot::KernelInfo;
use crate::executor::{ExecutorError, Leaf, Space};

/// What decides on a leaf.
struct View<'a> {
    cpus: &'a [Cpu],
    census: &'a Census,
    info: Option<&'a KernelInfo>,
}

impl View<'_> {
    /// What `space` may use natively of `page` now.
    fn leaf(&self, space: Space, page: Gva) -> Option<Leaf> {
        let Cpu { vcpu, tlb, .. } = self.cpus.get(usize::from(space.cpu.0))?;
        let paging = vcpu.paging();
        let found = tlb.peek(space.pcid, page)?;
        if space.user && !found.user {
            return None;
        }
        let frame = found.at(page).page();
        let watched = self.info.is_some_and(|info| info.watched.contains(frame))
            || self.census.is_table(frame);
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

impl Machine {
    /// The leaf that the current space may use for `page`.
    pub(crate) fn current_leaf(&self, page: Gva) -> Option<Leaf> {
        self.view().leaf(self.space(), page)
    }

    /// The space that the guest runs in.
    pub(crate) fn space(&self) -> Space {
        Space::of(self.vcpu())
    }

    fn view(&self) -> View<'_> {
        View { cpus: &self.cpus, census: &self.census, info: self.info.as_ref() }
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
    fn protect(&mut self, frames: &[crate::arch::addr::Gpa]) -> Result<(), ExecutorError> {
        self.executor.revalidate(&|_| true, &mut |_, _, leaf| {
            let watched = frames.contains(&leaf.frame);
            Some(Leaf { writable: leaf.writable && !watched, ..leaf })
        })
    }

    /// Revalidates every leaf; after a reset of the TLB.
    pub(crate) fn revalidate_all(&mut self) -> Result<(), Halt> {
        let view = View { cpus: &self.cpus, census: &self.census, info: self.info.as_ref() };
        let keep = &mut |space: Space, page: Gva, _: Leaf| view.leaf(space, page);
        Ok(self.executor.revalidate(&|_| true, keep)?)
    }

    fn revalidate(&mut self, cpu: CpuId, scope: &Scope) -> Result<(), ExecutorError> {
        let view = View { cpus: &self.cpus, census: &self.census, info: self.info.as_ref() };
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
}
