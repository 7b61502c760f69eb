//! Which native accesses to memory other CPUs can tell, learnt from the accesses themselves.
//!
//! A word is shared once one CPU has written it and another one has accessed it; an address is contested
//! once a store to a page table may have changed its translation. Accesses to either are visible: the
//! executor comes back after an instruction that makes one. An access that was made before its word or
//! address was known to be one of these was not visible, and whoever explores begins anew.

use crate::arch::addr::{Gpa, Gva};
use std::collections::BTreeSet;

const PAGE: u64 = 4096;
/// Pages that were used last, of which no look-up is needed; a power of two.
const RECENT: usize = 64;

/// Who has accessed a word, a bit for each CPU.
#[derive(Clone, Copy, Debug, Default)]
struct WordUse {
    readers: u8,
    writers: u8,
}

/// What has been learnt of accesses to memory.
#[derive(Clone, Debug)]
pub struct Sharing {
    words: Vec<WordUse>,
    /// A bit for each word that is shared.
    shared: Vec<u64>,
    /// First and last addresses whose translation page-table stores may have changed.
    contested: BTreeSet<(Gva, Gva)>,
    /// Pages that data was accessed in, invisibly.
    used: BTreeSet<u64>,
    recent: [u64; RECENT],
    /// Pages that code was fetched from.
    fetched: BTreeSet<u64>,
    learnt: bool,
    code_contested: bool,
    /// Visible accesses so far, and those of them that write.
    accesses: u64,
    writes: u64,
}

impl Sharing {
    /// Nothing is known yet of `len` bytes of memory.
    #[must_use]
    pub fn new(len: u64) -> Self {
        let words = (len / 8) as usize;
        Self {
            words: vec![WordUse::default(); words],
            shared: vec![0; words.div_ceil(64)],
            contested: BTreeSet::new(),
            used: BTreeSet::new(),
            recent: [u64::MAX; RECENT],
            fetched: BTreeSet::new(),
            learnt: false,
            code_contested: false,
            accesses: 0,
            writes: 0,
        }
    }

    /// Whether more is known than when this was asked last: what was explored until now has missed
    /// visible accesses.
    pub fn has_learnt(&mut self) -> bool {
        std::mem::take(&mut self.learnt)
    }

    /// Whether page-table stores may have changed where code is fetched from, which is no visible access.
    #[must_use]
    pub fn is_code_contested(&self) -> bool {
        self.code_contested
    }

    /// Visible accesses so far, and those of them that write.
    #[must_use]
    pub fn visible(&self) -> (u64, u64) {
        (self.accesses, self.writes)
    }

    /// Words that are shared.
    #[must_use]
    pub fn shared_words(&self) -> u64 {
        self.shared.iter().map(|bits| u64::from(bits.count_ones())).sum()
    }

    /// Forgets who has accessed what, and keeps what is known to be shared or contested: the same program
    /// begins anew.
    pub fn restart(&mut self) {
        self.words.fill(WordUse::default());
        self.used.clear();
        self.fetched.clear();
        self.recent = [u64::MAX; RECENT];
        self.learnt = false;
    }

    /// The translation of addresses from `first` to `last` may change.
    pub fn contest(&mut self, first: Gva, last: Gva) {
        let known = self.contested.iter().any(|&(from, to)| from <= first && last <= to);
        if known {
            return;
        }
        self.contested.insert((first, last));
        self.recent = [u64::MAX; RECENT];
        let pages = first.page().0..=last.page().0;
        self.learnt |= self.used.range(pages.clone()).next().is_some();
        self.code_contested |= self.fetched.range(pages).next().is_some();
    }

    fn is_contested(&self, page: u64) -> bool {
        self.contested.iter().any(|&(first, last)| first.0 <= page && page <= last.0)
    }

    /// `cpu` accesses `size` bytes at `address`, which are at `at` in memory; whether that is visible.
    pub(super) fn access(
        &mut self,
        cpu: u8,
        address: u64,
        at: Gpa,
        size: u64,
        write: bool,
    ) -> bool {
        let mut visible = false;
        let page = address & !(PAGE - 1);
        let recent = (page / PAGE) as usize % RECENT;
        if self.recent[recent] != page {
            match self.is_contested(page) {
                true => visible = true,
                false => {
                    self.used.insert(page);
                    self.recent[recent] = page;
                }
            }
        }
        let mask = 1u8.wrapping_shl(u32::from(cpu));
        for word in at.0 / 8..(at.0 + size).div_ceil(8) {
            let word = word as usize;
            let Some(of) = self.words.get_mut(word) else { break };
            if write {
                of.writers |= mask;
            } else {
                of.readers |= mask;
            }
            let (index, bit) = (word / 64, 1 << (word % 64));
            if self.shared[index] & bit != 0 {
                visible = true;
            } else if of.writers != 0 && (of.readers | of.writers).count_ones() > 1 {
                self.shared[index] |= bit;
                self.learnt = true;
                visible = true;
            }
        }
        self.accesses += u64::from(visible);
        self.writes += u64::from(visible && write);
        visible
    }

    /// Code is fetched from the page at `address`.
    pub(super) fn fetch(&mut self, address: u64) {
        let page = address & !(PAGE - 1);
        if self.fetched.insert(page) {
            self.code_contested |= self.is_contested(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(sharing: &mut Sharing, cpu: u8, at: u64, write: bool) -> bool {
        sharing.access(cpu, 0x7000_0000 + at, Gpa(at), 8, write)
    }

    #[test]
    fn a_word_that_one_cpu_writes_and_another_one_reads_is_shared() {
        let mut sharing = Sharing::new(0x4000);
        assert!(!access(&mut sharing, 0, 0x100, true) && !access(&mut sharing, 1, 0x108, true));
        assert!(!sharing.has_learnt());
        assert!(access(&mut sharing, 1, 0x100, false) && sharing.has_learnt());
        assert!(access(&mut sharing, 0, 0x100, false) && !sharing.has_learnt());
        assert_eq!(sharing.shared_words(), 1);
    }

    #[test]
    fn a_word_that_all_read_is_not() {
        let mut sharing = Sharing::new(0x4000);
        assert!(!access(&mut sharing, 0, 0x100, false) && !access(&mut sharing, 1, 0x100, false));
        assert!(!sharing.has_learnt());
    }

    #[test]
    fn what_is_shared_stays_so_where_the_program_begins_anew() {
        let mut sharing = Sharing::new(0x4000);
        access(&mut sharing, 0, 0x100, true);
        access(&mut sharing, 1, 0x100, true);
        sharing.restart();
        assert!(!sharing.has_learnt() && access(&mut sharing, 0, 0x100, true));
    }

    #[test]
    fn an_access_whose_translation_may_change_is_visible() {
        let mut sharing = Sharing::new(0x4000);
        assert!(!sharing.access(0, 0x41_0008, Gpa(0x1008), 8, false));
        sharing.contest(Gva(0x41_0000), Gva(0x41_0fff));
        assert!(sharing.has_learnt(), "it was accessed before");
        assert!(sharing.access(0, 0x41_0010, Gpa(0x1010), 8, false));
        assert!(!sharing.access(0, 0x42_0000, Gpa(0x1010), 8, false));
        sharing.contest(Gva(0x41_0000), Gva(0x41_0fff));
        assert!(!sharing.has_learnt());
        sharing.fetch(0x40_0000);
        assert!(!sharing.is_code_contested());
        sharing.contest(Gva(0x40_0000), Gva(0x5f_ffff));
        assert!(sharing.is_code_contested());
    }
}
