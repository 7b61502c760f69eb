//! What a real TLB shows, the model holds; and a model that held less would be found out.

use stalemate::arch::features::CpuFeatures;
use stalemate::arch::tlb::split_mix;
use stalemate::witness::{
    Action, Findings, KINDS, Kept, MUTATIONS, Mutation, Options, Program, Seen, replay, text,
    worst_case,
};

/// A processor that has all that programs may use.
const ALL: CpuFeatures =
    CpuFeatures { pcid: true, invpcid: true, pge: true, smep: false, gib_pages: false };
/// Programs that a modelled processor runs.
const SEEDS: std::ops::Range<u64> = 1..13;

/// Replays what a processor of the model's own does, which does not carry out what it does not
/// heed.
fn modelled(
    features: CpuFeatures,
    heeds: impl Fn(&Action) -> bool,
    mutation: Option<Mutation>,
) -> Findings {
    let options = Options { mutation, software_kvm: false };
    let mut findings = Findings::default();
    for seed in SEEDS {
        let program = Program::draw(seed, features);
        findings.add(replay(&program, &worst_case(&program, &heeds), options));
    }
    findings
}

#[test]
fn a_seed_says_the_program_and_programs_use_what_is_offered_only() {
    assert_eq!(Program::draw(7, ALL), Program::draw(7, ALL));
    assert_ne!(Program::draw(7, ALL).actions, Program::draw(8, ALL).actions);
    let none = CpuFeatures::default();
    for action in SEEDS.flat_map(|seed| Program::draw(seed, none).actions) {
        match action {
            Action::LoadCr3(value) => assert_eq!(value & !0xf000, 0, "no PCID, no NOFLUSH"),
            Action::Invpcid { .. } | Action::WriteCr4(_) => panic!("{action}"),
            _ => {}
        }
    }
}

#[test]
fn a_processor_that_keeps_all_it_may_shows_every_kind_and_the_model_holds_it() {
    let findings = modelled(ALL, |_| true, None);
    assert_eq!(findings.outside, 0, "{}", text(&findings, ALL, false));
    assert!(findings.stale > 1000, "{findings:?}");
    for (kind, words, _) in KINDS {
        assert!(findings.of(kind) > 0, "never seen: {words}");
    }
    let none = modelled(CpuFeatures::default(), |_| true, None);
    assert_eq!(none.outside, 0, "{}", text(&none, CpuFeatures::default(), false));
    let cannot = KINDS.iter().filter(|(.., offered)| !offered(CpuFeatures::default()));
    assert_eq!(cannot.map(|(kind, ..)| none.of(*kind)).sum::<u64>(), 0, "{none:?}");
}

#[test]
fn a_model_with_a_wrong_choice_is_found_out() {
    for mutation in MUTATIONS {
        let findings = modelled(ALL, |_| true, Some(mutation));
        assert!(findings.outside > 0, "{mutation:?}");
        assert!(!findings.accounts.is_empty(), "{mutation:?}");
    }
}

#[test]
fn a_processor_that_keeps_what_it_must_drop_is_found_out() {
    type Heeds = fn(&Action) -> bool;
    let ignored: [(&str, Heeds); 4] = [
        ("INVLPG", |action| !matches!(action, Action::Invlpg(_))),
        ("INVPCID", |action| !matches!(action, Action::Invpcid { .. })),
        ("CR4.PGE", |action| !matches!(action, Action::WriteCr4(_))),
        ("stores to PDEs", |action| !matches!(action, Action::Store { level: 2, .. })),
    ];
    for (what, heeds) in ignored {
        let findings = modelled(ALL, heeds, None);
        assert!(findings.outside > 0, "{what}");
    }
}

#[test]
fn the_known_defect_of_a_software_kvm_excuses_nothing_else() {
    let options = Options { mutation: None, software_kvm: true };
    let mut findings = Findings::default();
    for seed in SEEDS {
        let program = Program::draw(seed, ALL);
        let seen = worst_case(&program, |action| !matches!(action, Action::Invlpg(_)));
        findings.add(replay(&program, &seen, options));
    }
    assert!(findings.outside > 0, "{findings:?}");
}

#[test]
fn an_account_names_seed_action_entries_and_what_should_have_removed_it() {
    let findings = modelled(ALL, |action| !matches!(action, Action::Invlpg(_)), None);
    let text = text(&findings, ALL, false);
    let account = findings.accounts.first().expect("INVLPG was ignored");
    let program = Program::draw(account.seed, ALL);
    assert_eq!(program.actions[account.index], account.action);
    for part in [
        "outside the model: ",
        &format!("seed {}, action {}: CPL ", account.seed, account.index),
        "  it came to the frame 0x2",
        "; a walk gives ",
        "  a walk last gave that before: ",
        ": INVLPG 0x",
        &format!("  again: stalemate doctor --witness --seed {} --count 1\n", account.seed),
    ] {
        assert!(text.contains(part), "no {part:?}:\n{text}");
    }
}

#[test]
fn a_word_of_no_frame_is_outside_whatever_is_held() {
    let program = Program::draw(1, ALL);
    let mut seen = worst_case(&program, |_| true);
    let mut state = 1;
    let at = split_mix(&mut state) as usize % seen.len();
    seen[at] = Seen::from_result(0x1234_5678);
    assert!(matches!(seen[at], Seen::Word(_)));
    assert_eq!(replay(&program, &seen, Options::default()).outside, 1);
}

#[test]
fn the_text_says_what_was_kept_what_never_and_what_could_not_be_asked() {
    let features = CpuFeatures { pge: true, ..CpuFeatures::default() };
    let mut findings = Findings { programs: 1, accesses: 9, stale: 2, ..Findings::default() };
    findings.kept[Kept::AfterStore as usize] = 2;
    let text = text(&findings, features, false);
    let lines: Vec<&str> = text.lines().collect();
    let at = |line: &str| lines.iter().position(|known| *known == line).expect(line);
    let kept = at("  a translation after a store to its page-table entry: 2 times");
    let never = at("  a global translation over a CR3 load");
    let cannot = at("  a translation over CR3 loads with NOFLUSH");
    assert!(at("this machine's TLB was seen to keep") < kept);
    assert!(kept < at("and never") && at("and never") < never);
    let heading = at("could not be asked, since KVM offers a guest no such thing");
    assert!(never < heading && heading < cannot);
}

#[cfg(feature = "kvm")]
mod on_this_host {
    use super::*;
    use stalemate::executor::kvm::Host;
    use stalemate::witness::{features, options, run};

    /// Programs that run here.
    const PROGRAMS: std::ops::Range<u64> = 1..21;

    #[test]
    fn what_its_tlb_shows_the_model_holds_and_models_that_hold_less_are_found_out() {
        let _ = kvm_or_skip!();
        let host = Host::open("/dev/kvm".as_ref()).expect("it was opened just now");
        let features = features(&host);
        let mut findings = Findings::default();
        let mut traces = Vec::new();
        for seed in PROGRAMS {
            let program = Program::draw(seed, features);
            let seen = run(&host, &program).unwrap_or_else(|error| panic!("{error}"));
            findings.add(replay(&program, &seen, options(&host)));
            traces.push((program, seen));
        }
        let shown = text(&findings, features, host.is_software());
        assert_eq!(findings.outside, 0, "{shown}");
        if !host.is_software() {
            return;
        }
        // Known of the software KVM: a translation stays after a store at CPL 3, until a flush.
        assert!(findings.stale > 300, "{shown}");
        for kind in [Kept::AfterStore, Kept::OtherFrame, Kept::Unmapped, Kept::Right] {
            assert!(findings.of(kind) > 10, "{kind:?}: {shown}");
        }
        assert!(findings.of(Kept::OverInvlpg) > 10, "{shown}");
        // And that a page fault which finds no page drops nothing, which no processor may do.
        assert!(findings.defect > 0, "{shown}");
        let strict = |(program, seen): &(Program, Vec<Seen>)| {
            replay(program, seen, Options::default()).outside
        };
        assert_eq!(traces.iter().map(strict).sum::<u64>(), findings.defect, "{shown}");
        for mutation in
            [Mutation::FillKeepsNothing, Mutation::StoreFlushes, Mutation::InvlpgDropsAllPages]
        {
            let outside = |(program, seen): &(Program, Vec<Seen>)| {
                replay(program, seen, Options { mutation: Some(mutation), ..options(&host) })
                    .outside
            };
            assert!(traces.iter().map(outside).sum::<u64>() > 0, "{mutation:?}");
        }
    }
}
