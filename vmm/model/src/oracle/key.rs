//! What of the oracle later verdicts depend on.
//!
//! Its replica's tables and TLBs are the machine's (`tests/model/replica.rs`), and who asks has added
//! those. Obligations that are closed, what was counted, and what only a report shows are left out.

use super::ledger::Ledger;
use super::obligation::Obligation;
use super::replica::{Replica, ReplicaCpu};
use super::rule::Memory;
use super::{Oracle, State};
use crate::arch::key::StateKey;
use crate::arch::tlb::Tag;

impl Oracle {
    /// Adds what later verdicts depend on. Whether that was all: a rule of somebody else's may not say
    /// what it remembers, and then no two states are the same.
    #[must_use]
    pub fn put(&self, key: &mut StateKey) -> bool {
        let Some(replica) = &self.replica else { return true };
        // Flushes and claims are compared with what was made stale before them, and with the last moment
        // at which a CPU was lazy.
        let stale = self.ledger.held().map(|owed| owed.downgrade.seq);
        let lazy = replica.numbered().filter_map(|(_, cpu)| cpu.lazy.until());
        key.set_moments(stale.chain(lazy).collect());
        replica.put(key);
        self.ledger.put(replica, key);
        let mut all = true;
        for rule in &self.rules {
            all &= rule.put(key) == Memory::Whole;
        }
        all
    }
}

impl Replica {
    fn put(&self, key: &mut StateKey) {
        key.put((self.kernel.isolated, self.spaces_in_order(), self.flushes().len()));
        for open in self.flushes() {
            key.put((open.id, open.cpu, open.flush));
            key.put_event(open.since);
        }
        for (_, cpu) in self.numbered() {
            cpu.put(key);
        }
    }
}

impl ReplicaCpu {
    fn put(&self, key: &mut StateKey) {
        key.put((self.cr0, self.cr3, self.cr4, self.efer));
        key.put((&self.marks, &self.unmarked, &self.waits_for, &self.slots));
        key.put((self.task, self.in_task, self.was_user));
        self.lazy.put(key);
    }
}

impl Ledger {
    fn put(&self, replica: &Replica, key: &mut StateKey) {
        key.put_unordered(self.held(), |key, owed| owed.put(replica, key));
    }
}

impl Obligation {
    fn put(&self, replica: &Replica, key: &mut StateKey) {
        let tlb = &replica.cpu(self.cpu).tlb;
        key.put((self.cpu, self.tag, self.root, self.page, self.covered.is_some()));
        key.put((self.deferred, self.by_task, self.over, &self.taken_over, self.generation));
        key.put((self.downgrade.cpu, self.downgrade.task, self.downgrade.cause));
        key.put_event(self.downgrade.seq);
        key.put((matches!(self.state, State::Open), &self.frames));
        key.put(self.entry.as_ref().map(|entry| entry.translation));
        let of_structure =
            |held: &crate::arch::tlb::StructureEntry| (held.level, held.base, held.table);
        key.put(self.structure.as_ref().map(of_structure));
        key.put(self.entries.len());
        for &(page, id) in &self.entries {
            tlb.put_held(self.tag, page, id, key);
        }
        key.put(self.structures.len());
        if let Tag::Pcid(pcid) = self.tag {
            for &of in &self.structures {
                tlb.put_structure(pcid, of, key);
            }
        }
    }
}
