//! What a violation says of the way to it: every invalidation since the store, and why it did not reach.

use super::*;
use crate::story::{KERNEL_PAGE, KERNEL_PTE, KERNEL_RED, NOFLUSH, USER};
use stalemate_model::arch::happened::Happened;
use stalemate_model::event::{Flush, Observer, TaskId};
use stalemate_model::oracle::rule::{Context, Finding, Rule};
use stalemate_model::oracle::{About, RuleId, Violation};

const PGE: u64 = 1 << 7;
const CR4: u64 = 0x20 | PGE | 1 << 17;

/// The user page of A is changed, something happens, and user mode is entered all the same.
fn after(between: &dyn Fn(&mut Story)) -> Violation {
    let mut story = edited(1);
    between(&mut story);
    story.runs_user(0, A, 0);
    let found = story.oracle.violations().iter().find(|found| found.rule.to_string() == STALE);
    found.unwrap_or_else(|| panic!("{:?}", story.rules())).clone()
}

const STALE: &str = "stale-user-entry";

/// What the violation says of one invalidation in between, but for the load that ends it.
fn said(between: &dyn Fn(&mut Story)) -> Vec<(String, String)> {
    let missed = after(between).missed;
    let all: Vec<_> = missed.into_iter().map(|missed| (missed.what, missed.why)).collect();
    let (last, others) = all.split_last().expect("the load of the user CR3");
    assert_eq!(last.0, "MOV CR3 of PCID 0x801 with NOFLUSH");
    assert_eq!(last.1, "NOFLUSH keeps what is tagged with it");
    others.to_vec()
}

#[test]
fn each_invalidation_that_did_not_reach_says_why() {
    let kernel = A.0 | 1;
    let tagged = "the entry is tagged PCID 0x801";
    let other_page = "the entry is of page 0x0";
    type Between<'a> = &'a dyn Fn(&mut Story);
    let cases: [(Between<'_>, &str, &str); 10] = [
        (&|story| _ = story.invlpg_of(0, PAGE), "INVLPG 0x0 under PCID 0x001", tagged),
        (
            &|story| _ = story.invpcid(0, 0, 0x801, NEXT),
            "INVPCID address 0x1000 in PCID 0x801",
            other_page,
        ),
        (&|story| _ = story.invpcid(0, 1, 0x802, PAGE), "INVPCID all of PCID 0x802", tagged),
        (
            &|story| _ = story.loads(0, NOFLUSH | kernel),
            "MOV CR3 of PCID 0x001 with NOFLUSH",
            tagged,
        ),
        (&|story| _ = story.loads(0, kernel), "MOV CR3 flushing PCID 0x001", tagged),
        (
            &|story| _ = story.happens(0, Happened::WriteCr4 { old: CR4, new: CR4 | 1 << 9 }),
            "MOV CR4 0x200a0 to 0x202a0",
            "nothing that flushes changed",
        ),
        (
            &|story| _ = story.happens(0, Happened::PageFault { va: NEXT, error: 0 }),
            "page fault at 0x1000",
            other_page,
        ),
        (
            &|story| _ = marks(story, 0, 0x801),
            "mark for PCID 0x801",
            "it is of no effect before its PCID is loaded without NOFLUSH",
        ),
        (&|story| _ = marks(story, 0, 0x802), "mark for PCID 0x802", tagged),
        (
            &|story| _ = story.suppressed(0, "drop mark"),
            "drop mark",
            "the fault kept it from happening",
        ),
    ];
    for (between, what, why) in cases {
        assert_eq!(said(between), [(what.to_owned(), why.to_owned())]);
    }
    assert_eq!(said(&|_| ()), []);
    let others = said(&|story| {
        _ = story.says(0, Announcement::TaskEnds { task: TaskId(0), status: 0, value: 0 })
    });
    assert_eq!(others, [], "what could invalidate nothing");
}

#[test]
fn of_a_global_entry_invlpg_says_the_page_or_the_erratum() {
    let global = KERNEL_RED | GLOBAL;
    let missed = |between: &dyn Fn(&mut Story)| {
        let mut story = Story::isolated(1);
        story.stores_to(0, KERNEL_PTE, KERNEL_RED, global).invlpg_of(0, KERNEL_PAGE);
        story.runs_user(0, A, 0).runs_kernel(0, A, 0);
        story.task_begins(0, 0).stores_to(0, KERNEL_PTE, global, KERNEL_BLUE | GLOBAL);
        story.begins(0, FlushKind::OneKernel, None, KERNEL_PAGE);
        between(&mut story);
        story.returns(0);
        let violation = story
            .oracle
            .violations()
            .iter()
            .find(|found| found.rule.to_string() == "stale-kernel-entry");
        let violation = violation.unwrap_or_else(|| panic!("{:?}", story.rules()));
        violation.missed.iter().map(|missed| missed.why.clone()).collect::<Vec<_>>()
    };
    let next = Gva(KERNEL_PAGE.0 + 0x1000);
    assert_eq!(
        missed(&|story| _ = story.invlpg_of(0, next)),
        ["the entry is of page 0xffff800000000000"]
    );
    let keeps = |va| Happened::Invlpg { va, keeps_globals: true };
    let erratum = missed(&|story| _ = story.happens(0, keeps(KERNEL_PAGE)));
    assert_eq!(erratum, ["an erratum keeps global entries"]);
}

/// Only what came after the store, and all of it.
#[test]
fn invalidations_before_the_store_are_none_of_it() {
    let mut story = running(1);
    story.invlpg_of(0, NEXT);
    // Something else is owed before, so that what follows is remembered.
    story.task_begins(0, 0).stores_to(0, super::after(A.1), NEXT_RED, 0).invlpg_of(0, NEXT);
    story.stores_to(0, A.1, RED, BLUE).invlpg_of(0, PAGE).runs_user(0, A, 0);
    let violations = story.oracle.violations();
    let of = |page: Gva| {
        let of_page = |found: &&Violation| {
            found.entry.as_ref().is_some_and(|(_, entry)| entry.translation.page == page)
        };
        let found = violations.iter().filter(|found| found.rule.to_string() == STALE).find(of_page);
        let missed = &found.unwrap_or_else(|| panic!("{page}")).missed;
        missed.iter().map(|missed| missed.what.clone()).collect::<Vec<_>>()
    };
    let (next, page, load) = (
        "INVLPG 0x1000 under PCID 0x001".to_owned(),
        "INVLPG 0x0 under PCID 0x001".to_owned(),
        "MOV CR3 of PCID 0x801 with NOFLUSH".to_owned(),
    );
    assert_eq!(of(NEXT), [next, page.clone(), load.clone()]);
    assert_eq!(of(PAGE), [page, load]);
}

/// And on another CPU what that one did.
#[test]
fn invalidations_of_other_cpus_reach_nobody_here() {
    let mut story = edited(2);
    story.invlpg_of(1, NEXT).runs_user(0, A, 0);
    let missed = &story.oracle.violations()[0].missed;
    let said: Vec<_> = missed.iter().map(|missed| missed.what.as_str()).collect();
    assert_eq!(said, ["MOV CR3 of PCID 0x801 with NOFLUSH"]);
}

#[test]
fn the_walk_contradicts_the_entry_and_begins_at_its_root() {
    let violation = after(&|_| ());
    let walk = violation.walk.expect("of an entry");
    assert_eq!(walk.root, Gpa(A.0 | USER));
    assert_eq!(walk.path.last().map(|step| step.entry), Some(BLUE));
    assert!(walk.result.contains("0x9000"), "{}", walk.result);
    let (tag, entry) = violation.entry.expect("an entry");
    assert_eq!((tag.to_string().as_str(), entry.translation.page), ("PCID 0x801", PAGE));
    assert_eq!(violation.cpu, CpuId(0));
    assert_eq!(violation.task, Some(TaskId(0)));
}

/// What the oracle is asked beside its verdict.
#[test]
fn one_rule_can_be_left_out_and_another_one_added() {
    let stale: RuleId = STALE.parse().expect("a rule");
    let spoken = |left_out: Option<RuleId>| {
        let mut story = Story::isolated(1);
        story.oracle.disable_rule(left_out);
        story.runs_user(0, A, 0).runs_kernel(0, A, 0).task_begins(0, 0);
        story.stores_to(0, A.1, RED, BLUE).runs_user(0, A, 0);
        story.rules().contains(&STALE.to_owned())
    };
    assert!(spoken(None) && !spoken(Some(stale)));
    // One of somebody's own speaks in each trace that begins after it was added.
    let mut story = Story::isolated(1);
    story.oracle.add_rule(Box::new(EntersUserMode));
    let own =
        |story: &Story| story.rules().iter().filter(|rule| *rule == "enters-user-mode").count();
    story.enters_user_mode(0);
    assert_eq!(own(&story), 1);
    story.oracle.begin(&crate::story::header_of_isolated(1));
    story.enters_user_mode(0);
    assert_eq!(own(&story), 1);
}

#[derive(Clone)]
struct EntersUserMode;

static ENTERS_USER_MODE: About = About {
    name: "enters-user-mode",
    statement: "User mode is never entered.",
    source: "this test",
    violated_by: "",
    near_miss: "",
    hint: "",
    is_cost: false,
};

impl Rule for EntersUserMode {
    fn about(&self) -> &'static About {
        &ENTERS_USER_MODE
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let enters = matches!(context.event.happened(), Some(Happened::UserEntry));
        enters.then(|| Finding::new("it is entered".to_owned())).into_iter().collect()
    }
}

#[test]
fn what_a_cpu_does_is_its_task_and_the_flush_that_it_is_in() {
    let mut story = running(2);
    assert_eq!(story.oracle.doing(CpuId(0)), (None, None));
    story.task_begins(1, 4);
    begins(&mut story);
    let flush = Flush {
        kind: FlushKind::OneUser,
        root: Some(Gpa(A.0)),
        start: PAGE,
        end: Gva(PAGE.0 + 0x1000),
    };
    assert_eq!(story.oracle.doing(CpuId(0)), (None, Some(flush)));
    assert_eq!(story.oracle.doing(CpuId(1)), (Some(TaskId(4)), None));
    story.returns(0);
    assert_eq!(story.oracle.doing(CpuId(0)), (None, None));
}
