//! The picture of a run: what it shows is what happened, the page works in a browser, and the
//! trace for other tools is well formed.

mod browser;
mod page;
mod perfetto;

use stalemate::executor::Backend;
use stalemate::report::{Recorded, Timeline, USER, timeline};
use stalemate::scenario::{Policy, Scenario};
use std::sync::Arc;

fn drawn(scenario: &Arc<Scenario>, cpu: &str, faults: &[&str]) -> Timeline {
    let rig = crate::common::Rig::new(Backend::interp());
    let config = stalemate::scenario::RunConfig {
        cpus: scenario.cpus(),
        ..crate::common::config(cpu, Policy::Split, true)
    };
    let (result, trace) = rig.record(scenario, config, faults);
    timeline(&Recorded {
        result: &result,
        trace: &trace,
        executor: "interp",
        symbols: rig.guest.symbols(),
        command: "stalemate run it",
    })
}

fn dropped_mark() -> Timeline {
    drawn(&crate::common::builtin("user-flush-on-next-return"), "pcid", &["drop mark#1"])
}

/// A run of about fifty thousand events.
fn long() -> Timeline {
    let mut steps = "A map u0 red\nB map u1 blue\n".to_owned();
    for _ in 0..320 {
        steps += "A remap u0 blue\nA flush_tlb_one_user u0\nA user read u0 -> blue\n\
                  B user read u1 -> blue\ncpu1 A user read u0 -> blue\n\
                  A remap u0 red\nA flush_tlb_one_user u0\nA user read u0 -> red\n\
                  B user read u1 -> blue\ncpu1 A user read u0 -> red\n";
    }
    drawn(&crate::common::scenario(&steps), "pcid", &[])
}

#[test]
fn a_stale_entry_is_red_from_its_store_to_the_violation() {
    let timeline = dropped_mark();
    let stale: Vec<_> = timeline.bars.iter().filter(|bar| bar.stale.is_some()).collect();
    let of = |tag: &str| *stale.iter().find(|bar| bar.tag == tag).expect("a stale entry");
    let (kernel, user) = (of("PCID 0x001"), of("PCID 0x801"));
    let store = timeline.moments.iter().find(|one| Some(one.seq) == user.stale).expect("a store");
    assert!(store.text.starts_with("store to the page tables"), "{}", store.text);
    assert_eq!((user.page.as_str(), kernel.stale), ("u0", user.stale));
    assert_ne!(user.today.as_deref(), Some(user.translation.as_str()));
    // INVLPG reached the kernel half and not the other, which was never flushed.
    let invlpg = timeline.moments.iter().find(|one| one.text == "INVLPG u0").expect("a flush");
    assert_eq!((kernel.to, user.to), (Some(invlpg.seq), None));
    assert_eq!(invlpg.pages, ["u0 of PCID 0x001"]);
    let [violation] = &timeline.violations[..] else { panic!("one violation") };
    let owed = timeline.obligations.iter().find(|owed| owed.violated).expect("it was owed");
    assert_eq!((owed.from, owed.to), (user.stale.expect("stale"), violation.seq));
    assert_eq!(violation.page.as_deref(), Some("u0"));
    let phases = &timeline.cpus[0].phases;
    assert!(phases.iter().any(|phase| phase.text == USER && phase.from == violation.seq));
    assert!(phases.windows(2).all(|two| two[0].to == two[1].from && two[0].text != two[1].text));
    assert_eq!((phases[0].from, phases.last().map(|last| last.to)), (0, Some(timeline.events)));
    assert!(timeline.marks.is_empty(), "the mark was dropped");
}

#[test]
fn what_a_fault_does_is_told_as_injected() {
    let timeline = drawn(&crate::common::builtin("shootdown"), "pcid", &["early ack#1"]);
    let told = |text: &str| timeline.moments.iter().filter(|one| one.text == text).count();
    assert_eq!(told("injected: acknowledges to CPU 0"), 1);
    assert!(told("acknowledges to CPU 0") > 0, "the others are the guest's own");
}

#[test]
fn a_clean_run_shows_the_mark_and_its_consumption() {
    let scenario = crate::common::builtin("user-flush-on-next-return");
    let timeline = drawn(&scenario, "pcid", &[]);
    assert!(timeline.violations.is_empty());
    let seq = |text: &str| {
        let one = timeline.moments.iter().find(|moment| moment.text.starts_with(text));
        one.unwrap_or_else(|| panic!("{text}")).seq
    };
    let (made, cleared) = (seq("mark made for PCID 0x801"), seq("mark cleared for PCID 0x801"));
    let user = timeline.obligations.iter().find(|owed| owed.tag == "PCID 0x801").expect("owed");
    assert_eq!(user.text, "discharged by consume");
    assert!(user.from < made && made < cleared && cleared < user.to);
    let [mark] = &timeline.marks[..] else { panic!("one mark: {:?}", timeline.marks) };
    assert_eq!((mark.cpu, &mark.tag[..]), (0, "PCID 0x801"));
    assert_eq!((mark.from, mark.to), (made, Some(cleared)));
    let gone = timeline.bars.iter().find(|bar| bar.to == Some(user.to)).expect("it went");
    assert_eq!(gone.stale, Some(user.from));
}

#[test]
fn what_a_bar_ends_with_removed_it() {
    let scenario = crate::common::builtin("shootdown");
    let timeline = drawn(&scenario, "pcid", &[]);
    assert!(timeline.cpus.len() == 2 && timeline.bars.iter().any(|bar| bar.cpu == 1));
    let ended = timeline.bars.iter().filter_map(|bar| Some((bar, bar.to?)));
    let mut count = 0;
    for (bar, seq) in ended {
        let by = timeline.moments.iter().find(|one| one.seq == seq).expect("a moment");
        let named = format!("{} of {}", bar.page, bar.tag);
        assert!(by.pages.contains(&named) && by.cpu == bar.cpu, "{by:?} and {bar:?}");
        count += 1;
    }
    assert!(count > 3, "{count} entries were removed");
}
