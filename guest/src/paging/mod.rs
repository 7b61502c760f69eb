//! Page tables: built at boot, edited by steps. An edit that takes something away returns a
//! token that only a flush consumes. Nothing here flushes.

mod build;
pub mod pool;
pub mod tables;
mod token;

pub use build::init;
pub use token::{Downgrade, Refused};

use crate::arch::{hypercall, memory};
use crate::config::config;
use crate::{entry, variant};
use stalemate_shared::layout::{
    KERNEL_PAGE_COUNT, KERNEL_PAGES, LARGE_PAGE_SIZE, MM_COUNT, PAGE_SIZE, USER_END,
};
use stalemate_shared::step::flags;
use stalemate_shared::variant::Variant;

/// The leaf slot of a test page.
#[derive(Debug)]
struct Leaf {
    slot: u64,
    user: bool,
    large: bool,
    token: Downgrade,
}

fn leaf(mm: usize, va: u64) -> Result<Leaf, Refused> {
    if mm >= MM_COUNT {
        return Err(Refused);
    }
    let kernel_end = KERNEL_PAGES + KERNEL_PAGE_COUNT * PAGE_SIZE;
    let user = va < USER_END;
    if !user && !(KERNEL_PAGES..kernel_end).contains(&va) {
        return Err(Refused);
    }
    let large = tables::large_pages().contains(&va);
    let slot = tables::slot_at(mm, va, if large { 2 } else { 1 })?;
    let token = Downgrade { page: va, mm: user.then_some(mm) };
    Ok(Leaf { slot, user, large, token })
}

impl Leaf {
    fn get(&self) -> u64 {
        memory::read_physical(self.slot)
    }

    /// The one store of an edit of an entry that is not present: no processor changes that.
    fn set(&self, bits: u64) {
        memory::write_physical(self.slot, bits);
    }

    /// The one store of an edit of a present entry, in which a processor may set A or D at any time
    /// (SDM vol. 3, 4.8): what is written is made of what is there at that moment, or a D that was
    /// set meanwhile is lost. What was there.
    #[inline(always)]
    fn change(&self, edit: impl Fn(u64) -> u64) -> u64 {
        loop {
            let old = self.get();
            if variant::is(Variant::PlainEdits) {
                hypercall::entry_read(self.slot, old);
                self.set(edit(old));
                return old;
            }
            if memory::replace_physical(self.slot, old, edit(old)) {
                return old;
            }
        }
    }

    /// The same, where what is written does not depend on what is there.
    #[inline(always)]
    fn exchange(&self, bits: u64) -> u64 {
        if variant::is(Variant::PlainEdits) {
            return self.change(|_| bits);
        }
        memory::exchange_physical(self.slot, bits)
    }

    fn bits(&self, frame: u64, step_flags: u64) -> Result<u64, Refused> {
        let large = step_flags & flags::LARGE != 0;
        let size = if large { LARGE_PAGE_SIZE } else { PAGE_SIZE };
        if large != self.large || !frame.is_multiple_of(size) {
            return Err(Refused);
        }
        let global = config().kernel_global;
        Ok(entry::test_page(frame, step_flags, self.user, global))
    }

    fn present(self) -> Result<(Self, u64), Refused> {
        let bits = self.get();
        // Where a large page was split there is a table, which no edit of a page may overwrite.
        let fits = entry::is_large(bits) == self.large;
        if entry::is_present(bits) && fits { Ok((self, bits)) } else { Err(Refused) }
    }
}

/// The entry of a page that is present.
///
/// # Errors
/// Where it is not.
pub fn get(mm: usize, va: u64) -> Result<u64, Refused> {
    leaf(mm, va)?.present().map(|(_, bits)| bits)
}

/// Makes a page present with this entry.
///
/// # Errors
/// Where it is present already.
pub fn put(mm: usize, va: u64, bits: u64) -> Result<(), Refused> {
    let leaf = leaf(mm, va)?;
    if entry::is_present(leaf.get()) {
        return Err(Refused);
    }
    leaf.set(bits);
    Ok(())
}

/// Makes a page present. Nothing can be cached of it: negative results are not.
///
/// # Errors
/// Where it is present already, or there is no such page.
pub fn map(mm: usize, va: u64, frame: u64, step_flags: u64) -> Result<(), Refused> {
    tables::provide(mm, va)?;
    let leaf = leaf(mm, va)?;
    if entry::is_present(leaf.get()) {
        return Err(Refused);
    }
    leaf.set(leaf.bits(frame, step_flags)?);
    Ok(())
}

/// Points a present page at another frame.
///
/// # Errors
/// Where it is not present.
pub fn remap(mm: usize, va: u64, frame: u64, step_flags: u64) -> Result<Downgrade, Refused> {
    let (leaf, _) = leaf(mm, va)?.present()?;
    leaf.exchange(leaf.bits(frame, step_flags)?);
    Ok(leaf.token)
}

/// Makes a page not present; its entry as it was, with the A and D that processors set until then.
///
/// # Errors
/// Where it is not present.
pub fn take(mm: usize, va: u64) -> Result<(u64, Downgrade), Refused> {
    let (leaf, _) = leaf(mm, va)?.present()?;
    Ok((leaf.exchange(0), leaf.token))
}

/// Makes a page not present.
///
/// # Errors
/// Where it is not present.
pub fn unmap(mm: usize, va: u64) -> Result<Downgrade, Refused> {
    take(mm, va).map(|(_, token)| token)
}

/// Changes one present page's entry by `edit`; what it is then.
///
/// # Errors
/// Where it is not present.
pub fn edit(mm: usize, va: u64, edit: impl Fn(u64) -> u64) -> Result<(u64, Downgrade), Refused> {
    let (leaf, _) = leaf(mm, va)?.present()?;
    Ok((edit(leaf.change(&edit)), leaf.token))
}

/// Changes one present page's entry by `edit`.
///
/// # Errors
/// Where it is not present.
pub fn change(mm: usize, va: u64, edit: impl Fn(u64) -> u64) -> Result<Downgrade, Refused> {
    self::edit(mm, va, edit).map(|(_, token)| token)
}
