//! Paging-structure entries, and what is cached late through stale ones.

use super::*;
use crate::story::{KERNEL_PAGE, PTE, ROOT};
use stalemate_model::arch::happened::Happened;
use stalemate_model::arch::tlb::{Fill, Tag};

const PDE: Gpa = Gpa(0x3000);
const TABLE: u64 = PTE.0 | 0x67;

/// The page is unmapped and flushed, and the table that mapped it taken away: its entry is stale, and
/// leads to a table that maps nothing.
fn detached() -> Story {
    let mut story = Story::new(1);
    story.task_begins(0, 0).stores(0, RED, 0).flush_begins(0).invlpg(0).flush_returns(0);
    story.stores_to(0, PDE, TABLE, 0);
    story
}

#[test]
fn an_empty_table_that_is_still_cached_is_owed_and_does_no_harm() {
    let mut story = detached();
    assert_eq!(story.owed(), ["0 PCID 0x001 0x0 invlpg", "0 PCID 0x001 0x0 open"]);
    let owed = story.oracle.obligations();
    assert!(owed[0].structure.is_none() && owed[0].entry.is_some());
    assert!(owed[1].structure.is_some() && owed[1].entry.is_none());
    story.ends().is_clean();
    // Where an entry is stale as well, that is what is shown.
    let mut story = Story::new(1);
    story.stores_to(0, PDE, TABLE, 0);
    let owed = story.oracle.obligations();
    assert!(owed[0].structure.is_none() && owed[0].entry.is_some() && owed[0].held() == 2);
    // What is owed once is owed once: another store that leaves it stale makes no second obligation.
    let mut story = detached();
    story.stores_to(0, PDE, 0, 0x1000).stores_to(0, PDE, 0x1000, 0);
    assert_eq!(story.owed().len(), 2, "{:?}", story.owed());
    // INVLPG removes the paging-structure entries of its PCID, of whatever address; of an address that
    // is not canonical it does nothing.
    let mut story = detached();
    story.invlpg_of(0, Gva(1 << 50));
    assert_eq!(story.owed()[1], "0 PCID 0x001 0x0 open");
    story.invlpg_of(0, KERNEL_PAGE);
    assert_eq!(story.owed()[1], "0 PCID 0x001 0x0 invlpg");
    // INVPCID of an address removes those that are used for it, be it of another page or not.
    for (va, how) in [(0x1f_f000, "invpcid"), (0x20_0000, "open")] {
        let mut story = detached();
        story.invpcid(0, 0, 1, Gva(va));
        assert_eq!(story.owed()[1], format!("0 PCID 0x001 0x0 {how}"));
    }
    // So it does of one in the middle of what an upper level translates; those below stay.
    let mut story = detached();
    story.stores_to(0, Gpa(ROOT), 0x2067, 0);
    let through = |story: &Story| story.oracle.obligations().last().map(|owed| owed.held());
    assert_eq!(through(&story), Some(2));
    story.invpcid(0, 0, 1, Gva(0x1_0000_0000)).is_clean();
    assert_eq!(through(&story), Some(1));
    // The table comes back.
    let mut story = detached();
    story.stores_to(0, PDE, 0, TABLE);
    assert_eq!(story.owed()[1], "0 PCID 0x001 0x0 restored");
}

/// A claim and a task that end rely on no paging-structure entry that leads nowhere.
#[test]
fn a_claim_is_not_broken_by_what_does_no_harm() {
    let claimed = |late: bool| {
        let mut story = detached();
        story.flush_begins(0);
        generation(&mut story, 0, 7, 2);
        claims(&mut story, 0, 0, 7, 2);
        if late {
            story.stores(0, 0, RED);
        }
        story.task_ends(0, 0);
        story.rules()
    };
    assert!(claimed(false).is_empty());
    assert_eq!(claimed(true), ["generation"]);
}

/// What is cached late is owed like what it was cached through: an obligation of its own as long as no
/// rule has spoken, else the same one; a global has an obligation of its own.
#[test]
fn what_is_cached_late_belongs_to_the_store_that_made_its_path_stale() {
    let mut story = detached();
    story.stores(0, 0, BLUE);
    assert_eq!(story.owed()[1..], ["0 PCID 0x001 0x0 open", "0 PCID 0x001 0x0 open"]);
    let seq = |of: usize| story.oracle.obligations()[of].downgrade.seq;
    assert_eq!(seq(1), seq(2));
    story.says(0, Announcement::EditsOver).has_broken(&["never-flushed"]);
    // A second page, cached late once a rule has spoken.
    story.stores_to(0, after(PTE), 0, NEXT_RED);
    let broken = "0 PCID 0x001 0x0 never-flushed";
    assert_eq!(story.owed()[1..], [broken, broken]);
    // A global.
    story.stores_to(0, after(after(PTE)), 0, NEXT_RED | GLOBAL);
    assert_eq!(story.owed()[1..], [broken, broken, "0 global 0x2000 never-flushed"]);
    // And everything goes at once.
    story.invpcid(0, 2, 0, PAGE);
    assert_eq!(story.owed()[1..], [broken, broken, "0 global 0x2000 never-flushed"]);
    assert!(story.oracle.ledger().held().next().is_none());
}

/// A table of the second level is taken away: the stale entries below it, wherever they are, are owed.
#[test]
fn what_is_below_a_table_that_goes_is_owed_with_it() {
    const PDPTE: Gpa = Gpa(0x2000);
    let mut story = Story::new(1);
    // The first page's table maps nothing and is not linked; the second's is.
    story.stores(0, RED, 0).stores_to(0, PDE, TABLE, 0).invlpg(0);
    story.stores_to(0, after(PDE), 0, TABLE);
    let before = story.owed().len();
    story.task_begins(0, 0).stores_to(0, PDPTE, 0x3067, 0);
    let held = |story: &Story| {
        let all = story.oracle.obligations();
        all[before..].iter().map(|owed| owed.held()).sum::<usize>()
    };
    assert_eq!(held(&story), 2, "the PDPTE and the second PDE");
    let owed = story.owed();
    assert_eq!(owed[before..], ["0 PCID 0x001 0x0 open"]);
}

/// Only paging-structure entries are left of what was cached: harm is what can be reached through
/// them.
#[test]
fn a_cached_table_does_harm_where_it_leads_to_what_is_not_so() {
    let evicted = |maps: bool| {
        let mut story = Story::isolated_but(1, |header| header.model.fill = Fill::OnDemand);
        story.fills(0, PAGE);
        let tag = Tag::Pcid(Pcid::new(1));
        story.happens(0, Happened::Evict { tag, page: PAGE });
        if !maps {
            story.stores_to(0, A.1, RED, 0).stores_to(0, after(A.1), NEXT_RED, 0);
        }
        story.task_begins(0, 0).stores_to(0, Gpa(0x1_3000), 0x1_4067, 0);
        assert_eq!(story.owed(), ["0 PCID 0x001 0x0 open"]);
        story.says(0, Announcement::EditsOver);
        story.rules()
    };
    assert_eq!(evicted(true), ["never-flushed"]);
    assert!(evicted(false).is_empty());
    // One that does harm does not make another one do it.
    let mut story = Story::isolated(1);
    story.task_begins(0, 0).stores_to(0, Gpa(0x1_4000), RED, 0).stores_to(
        0,
        after(A.1),
        NEXT_RED,
        0,
    );
    story.invlpg(0).invlpg_of(0, NEXT).stores_to(0, Gpa(0x1_3000), 0x1_4067, 0);
    let harmless = story.owed().len();
    story.stores_to(0, Gpa(0x3000), 0x4063, 0).says(0, Announcement::EditsOver);
    let owed = story.owed();
    assert_eq!(owed[harmless - 1], "0 PCID 0x001 0x0 open", "{owed:?}");
    assert!(owed[harmless..].iter().all(|owed| owed.ends_with("never-flushed")), "{owed:?}");
}

/// Of a large page, what is left of it may be right.
#[test]
fn a_part_of_a_large_page_is_flushed_alone() {
    const LARGE_PDE: Gpa = Gpa(0x4008);
    const AT: Gva = Gva(KERNEL_PAGE.0 + 0x20_0000);
    let mut story = Story::isolated(1);
    story.stores_to(0, LARGE_PDE, 0, 0x40_0063 | LARGE);
    // The same translations but for one.
    let entries = (0..512).map(|part: u64| match part {
        5 => (5, KERNEL_BLUE),
        _ => (part as u16, 0x40_0063 + (part << 12)),
    });
    story.happens(0, Happened::TableLinked { table: Gpa(0xb000), entries: entries.collect() });
    story.task_begins(0, 0).stores_to(0, LARGE_PDE, 0x40_0063 | LARGE, 0xb063);
    let part = Gva(AT.0 + 0x5000);
    let of = |end: &str| vec![format!("0 PCID 0x001 {:#x} {end}", part.0)];
    assert_eq!(story.owed(), of("open"));
    story.invpcid(0, 0, 1, Gva(AT.0 + 0x6000));
    assert_eq!(story.owed(), of("open"));
    story.invpcid(0, 0, 1, part);
    assert_eq!(story.owed(), of("invpcid"));
}

/// The oracle's check of itself speaks where a ledger knows nothing, of entries and of tables.
#[test]
fn the_check_of_the_ledger_finds_what_is_in_no_obligation() {
    use stalemate_model::event::{Event, Kind};
    use stalemate_model::oracle::rule::Context;
    use stalemate_model::oracle::{Deadline, Ledger, Replica, self_check};
    let header = crate::story::header_of_isolated(1);
    let mut seq = 0;
    let mut event = |kind: Kind| {
        seq += 1;
        Event { seq, cpu: CpuId(0), rip: Gva(0), injected: false, kind }
    };
    let judge = |replica: &Replica, event: &Event, deadlines: &[Deadline]| {
        let (ledger, effect) = (Ledger::default(), Default::default());
        let (header, ledger, effect) = (&header, &ledger, &effect);
        self_check().observe(&Context { header, event, deadlines, replica, ledger, effect }).len()
    };
    let mut replica = Replica::new(&header);
    for happened in crate::story::tables_of_isolated() {
        replica.apply(&event(Kind::Cpu(happened)));
    }
    let store = |slot, old, new| Kind::Cpu(Happened::TableStore { slot, old, new });
    let right = event(store(after(after(A.1)), 0, NEXT_RED));
    replica.apply(&right);
    assert_eq!(judge(&replica, &right, &[]), 0, "nothing is stale");
    let wrong = event(store(A.1, RED, 0));
    replica.apply(&wrong);
    assert_eq!(judge(&replica, &wrong, &[]), 1);
    // What changes nothing and is no deadline is not looked at.
    let quiet = event(Kind::Cpu(Happened::UserEntry));
    assert_eq!(judge(&replica, &quiet, &[]), 0);
    assert_eq!(judge(&replica, &quiet, &[Deadline::UserEntry { cpu: CpuId(0) }]), 1);
    assert_eq!(judge(&replica, &event(Kind::End), &[]), 0);
    // A table that is reached by nothing but a cached entry.
    let mut on_demand = header.clone();
    on_demand.model.fill = Fill::OnDemand;
    let mut replica = Replica::new(&on_demand);
    for happened in crate::story::tables_of_isolated() {
        replica.apply(&event(Kind::Cpu(happened)));
    }
    replica.start();
    let walked = replica.walk_today(CpuId(0), Gpa(A.0), PAGE);
    let translation = walked.result.expect("mapped");
    replica.apply(&event(Kind::Cpu(Happened::Fill { page: PAGE, translation })));
    let tag = Tag::Pcid(Pcid::new(1));
    replica.apply(&event(Kind::Cpu(Happened::Evict { tag, page: PAGE })));
    let wrong = event(store(Gpa(0x1_3000), 0x1_4067, 0));
    replica.apply(&wrong);
    assert_eq!(judge(&replica, &wrong, &[]), 1);
}

/// It speaks where something is owed that is cached no longer as well.
#[test]
fn the_check_of_the_ledger_finds_what_is_owed_and_not_cached() {
    use stalemate_model::event::{Event, Kind};
    use stalemate_model::oracle::rule::Context;
    use stalemate_model::oracle::{Replica, self_check};
    let detach = Happened::TableStore { slot: Gpa(A.1.0 - 0x1000), old: A.1.0 | 0x67, new: 0 };
    let found = |removes: Option<Happened>| {
        let mut story = Story::isolated(1);
        story.happens(0, detach.clone());
        let header = crate::story::header_of_isolated(1);
        let mut replica = Replica::new(&header);
        let mut apply = |seq: u64, happened: Happened| {
            let kind = Kind::Cpu(happened);
            let event = Event { seq, cpu: CpuId(0), rip: Gva(0), injected: false, kind };
            replica.apply(&event);
            event
        };
        for happened in crate::story::tables_of_isolated() {
            apply(0, happened);
        }
        let event = apply(1, detach.clone());
        if let Some(happened) = removes {
            apply(2, happened);
        }
        let (event, header, replica) = (&event, &header, &replica);
        let (ledger, effect) = (story.oracle.ledger(), &Default::default());
        let context = Context { header, event, deadlines: &[], replica, ledger, effect };
        self_check().observe(&context).len()
    };
    assert_eq!(found(None), 0);
    let tag = Tag::Pcid(Pcid::new(1));
    assert_eq!(found(Some(Happened::Evict { tag, page: PAGE })), 1, "an entry");
    let invlpg = |va| Some(Happened::Invlpg { va, keeps_globals: false });
    assert_eq!(found(invlpg(KERNEL_PAGE)), 1, "the table");
    assert_eq!(found(invlpg(PAGE)), 1, "both");
    let other = Happened::Evict { tag, page: KERNEL_PAGE };
    assert_eq!(found(Some(other)), 0, "what is not owed");
}

/// A table that only a cached entry reaches is one until that is flushed.
#[test]
fn what_is_cached_keeps_its_table_one() {
    use stalemate_model::event::{Event, Kind};
    use stalemate_model::oracle::Replica;
    let mut replica = Replica::new(&crate::story::header_of_isolated(1));
    let mut seq = 0;
    let mut apply = |replica: &mut Replica, happened: Happened| {
        seq += 1;
        let kind = Kind::Cpu(happened);
        replica.apply(&Event { seq, cpu: CpuId(0), rip: Gva(0), injected: false, kind });
    };
    for happened in crate::story::tables_of_isolated() {
        apply(&mut replica, happened);
    }
    let pde = Gpa(A.1.0 - 0x1000);
    apply(&mut replica, Happened::TableStore { slot: pde, old: A.1.0 | 0x67, new: 0 });
    assert!(replica.census.is_table(A.1));
    apply(&mut replica, Happened::Invlpg { va: KERNEL_PAGE, keeps_globals: false });
    assert!(!replica.census.is_table(A.1));
}
