//! The projection follows the modelled TLB: what is not cached is not mapped.

use super::{Halt, Machine};
use crate::arch::addr::Gva;
use crate::arch::census::Census;
use crate::arch::core::Log;
use crate::arch::features::Paging;
use crate::arch::tlb::{Scope, Tlb};
use crate::boot::KernelInfo;
use crate::executor::{ExecutorError, Leaf, Space};

/// What decides on a leaf.
struct View<'a> {
    tlb: &'a Tlb,
    census: &'a Census,
    info: Option<&'a KernelInfo>,
    paging: Paging,
}

impl View<'_> {
    /// What `space` may use natively of `page` now.
    fn leaf(&self, space: Space, page: Gva) -> Option<Leaf> {
        let found = self.tlb.peek(space.pcid, page)?;
        if space.user && !found.user {
            return None;
        }
        let frame = found.at(page).page();
        let watched =
            self.info.is_some_and(|info| info.tlb_state == frame) || self.census.is_table(frame);
        let may_write = found.writable || (!space.user && !self.paging.wp);
        let may_execute = !found.no_execute && (space.user || !self.paging.smep || !found.user);
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
        Space { pcid: self.vcpu.pcid(), user: self.vcpu.cpl == 3 }
    }

    fn view(&self) -> View<'_> {
        View {
            tlb: &self.tlb,
            census: &self.census,
            info: self.info.as_ref(),
            paging: self.vcpu.paging(),
        }
    }

    /// Revokes what the operations in `log` took away.
    pub(crate) fn follow(&mut self, log: &Log) -> Result<(), ExecutorError> {
        for scope in &log.scopes {
            self.revalidate(scope)?;
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
        Ok(self.revalidate(&Scope::Everything)?)
    }

    fn revalidate(&mut self, scope: &Scope) -> Result<(), ExecutorError> {
        let view = View {
            tlb: &self.tlb,
            census: &self.census,
            info: self.info.as_ref(),
            paging: self.vcpu.paging(),
        };
        let keep = &mut |space: Space, page: Gva, _: Leaf| view.leaf(space, page);
        match scope {
            Scope::Nothing => Ok(()),
            Scope::Everything => self.executor.revalidate(&|_| true, keep),
            Scope::Pcid(pcid) => self.executor.revalidate(&|space| space.pcid == *pcid, keep),
            Scope::Pages(pages) => {
                for page in pages {
                    self.executor.revalidate_page(&|_| true, *page, keep)?;
                }
                Ok(())
            }
        }
    }
}
