//! What makes a cached translation stale: it grants, under today's control bits, what a walk refuses or
//! gives otherwise. One that grants less is not stale.

use crate::memory::TestMemory;
use stalemate_model::arch::addr::{Gpa, Gva, Pcid};
use stalemate_model::arch::features::Paging;
use stalemate_model::arch::tlb::{Fill, Tlb, TlbModel};
use stalemate_model::arch::walk::entry::{
    CACHE_DISABLE, DIRTY, GLOBAL, LARGE_PAT, NO_EXECUTE, PAGE_SIZE, PAT, PRESENT, USER, WRITABLE,
    WRITE_THROUGH,
};
use stalemate_model::arch::walk::{PageSize, Rights, Start, Translation, leaf, walk};

const VA: Gva = Gva(0x20_0000);
const PAGING: Paging =
    Paging { pcide: true, pge: true, wp: true, smep: false, nxe: true, gib_pages: true };
const NO_WP: Paging = Paging { wp: false, ..PAGING };
const SMEP: Paging = Paging { smep: true, ..PAGING };

fn of(bits: u64, size: PageSize, paging: Paging) -> Translation {
    leaf(0x20_0000 | PRESENT | bits, size, VA, Rights::ALL, paging)
}

fn is_stale(held: u64, today: u64, paging: Paging) -> bool {
    let [held, today] = [held, today].map(|bits| of(bits, PageSize::Small, paging));
    held.grants_more(VA, Some(&today), paging)
}

#[test]
fn what_a_walk_gives_less_today_is_stale_and_what_it_gives_more_is_not() {
    for (more, less, paging) in [
        (WRITABLE, 0, PAGING),
        (USER, 0, PAGING),
        (0, NO_EXECUTE, PAGING),
        (GLOBAL, 0, PAGING),
        (WRITABLE | DIRTY, WRITABLE, PAGING),
        (DIRTY, 0, NO_WP),
        (USER | DIRTY, USER, NO_WP),
    ] {
        assert!(is_stale(more, less, paging), "{more:#x} where memory has {less:#x}");
        assert!(!is_stale(less, more, paging), "{less:#x} where memory has {more:#x}");
        assert!(!is_stale(more, more, paging));
    }
}

#[test]
fn a_read_only_page_that_was_cleaned_is_stale_where_a_supervisor_may_write_it() {
    for user in [0, USER] {
        assert!(!is_stale(user | DIRTY, user, PAGING), "with CR0.WP nobody stores to it");
        assert!(is_stale(user | DIRTY, user, NO_WP));
    }
}

/// U/S set where it was clear gives user mode more; under SMEP it takes the supervisor's fetch away.
#[test]
fn a_supervisors_page_that_becomes_the_users_is_stale_under_smep_where_it_may_be_executed() {
    assert!(is_stale(0, USER, SMEP));
    assert!(!is_stale(0, USER, PAGING), "without SMEP the supervisor still may");
    assert!(!is_stale(NO_EXECUTE, NO_EXECUTE | USER, SMEP), "nobody could fetch from it");
    assert!(!is_stale(USER, USER, SMEP), "it never granted that");
}

#[test]
fn another_memory_type_is_stale_either_way() {
    for size in [PageSize::Small, PageSize::Large, PageSize::Huge] {
        let small = size == PageSize::Small;
        let (pat, ps) = if small { (PAT, 0) } else { (LARGE_PAT, PAGE_SIZE) };
        let types = [0, WRITE_THROUGH, CACHE_DISABLE, pat, pat | CACHE_DISABLE | WRITE_THROUGH];
        for held in types {
            for today in types {
                let [one, other] = [held, today].map(|bits| of(bits | ps, size, PAGING));
                let stale = one.grants_more(VA, Some(&other), PAGING);
                assert_eq!(stale, held != today, "{size:?}: {held:#x} and {today:#x}");
                assert_eq!(one.frame, Gpa(0x20_0000 & !(size.bytes() - 1)), "PAT is no address");
            }
        }
    }
}

/// XD is ignored by no walk: without EFER.NXE it is reserved, and nothing is cached.
#[test]
fn what_a_walk_refuses_altogether_is_stale() {
    assert!(of(0, PageSize::Small, PAGING).grants_more(VA, None, PAGING));
    let executable = of(NO_EXECUTE, PageSize::Small, Paging { nxe: false, ..PAGING });
    let today = of(NO_EXECUTE, PageSize::Small, PAGING);
    assert!(executable.grants_more(VA, Some(&today), PAGING));
}

/// The same of the rights that a cached PDE gathers for what is below it.
#[test]
fn a_paging_structure_entry_is_stale_by_the_same_bits() {
    const SUPERVISOR: u64 = 0x4063;
    let is_stale = |held: u64, today: u64, paging: Paging| {
        let memory = TestMemory::new(0x1_0000);
        let entries = [(0x1000, 0x2067), (0x2000, 0x3067), (0x3008, held), (0x4000, 0x8067)];
        for (slot, entry) in entries {
            memory.write_word(Gpa(slot), entry);
        }
        let model = TlbModel { fill: Fill::OnDemand, structure_caches: true, seed: 0 };
        let mut tlb = Tlb::new(model);
        tlb.load_cr3(&memory, paging, Pcid::new(1), Gpa(0x1000), true);
        let walked = walk(&memory, Start::root(Gpa(0x1000)), VA, paging);
        tlb.fill(&memory, paging, &walked, &walked.result.expect("mapped"));
        memory.write_word(Gpa(0x3008), today);
        let mut held = tlb.structures(Pcid::new(1));
        let pde = held.find(|structure| structure.level == 2).expect("cached");
        tlb.structure_is_stale(&memory, paging, pde)
    };
    let user = SUPERVISOR | USER;
    assert!(is_stale(user, SUPERVISOR, PAGING));
    assert!(!is_stale(SUPERVISOR, user, PAGING));
    assert!(is_stale(SUPERVISOR, user, SMEP), "the supervisor's fetch");
    assert!(!is_stale(SUPERVISOR | NO_EXECUTE, user | NO_EXECUTE, SMEP));
    assert!(is_stale(SUPERVISOR, SUPERVISOR & !WRITABLE, PAGING));
    assert!(is_stale(SUPERVISOR, SUPERVISOR | NO_EXECUTE, PAGING));
    assert!(
        !is_stale(SUPERVISOR, SUPERVISOR | WRITE_THROUGH, PAGING),
        "of the table, not the page"
    );
}
