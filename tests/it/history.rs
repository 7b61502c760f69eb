//! The historical result: which design is right where, on the guest's own instructions.

use crate::common::{builtin, config, rigs, rules};
use stalemate::runner::Outcome;
use stalemate::scenario::{CPUS, Policy};

#[test]
fn unsplit_is_caught_iff_pcid_is_on_and_kernel_pages_are_not_global() {
    for rig in rigs() {
        let scenario = builtin("parked-kernel");
        for cpu in CPUS {
            for pti in [true, false] {
                let config = config(cpu.name, Policy::Unsplit, pti);
                let result = rig.run(&scenario, config, &[]);
                let broken = cpu.features.pcid && !config.kernel_global();
                if broken {
                    assert_eq!(rules(&result), ["stale-other-asid"], "{config}");
                    assert_eq!(result.mismatches.len(), 1, "{config}: the old frame was read");
                    assert_eq!(result.mismatches[0].got, "red", "{config}");
                } else {
                    assert_eq!(result.outcome, Outcome::Clean, "{config}");
                }
            }
        }
    }
}

#[test]
fn split_and_full_are_clean_everywhere() {
    for rig in rigs() {
        for name in ["parked-kernel", "two-spaces", "six-slots", "flush-all", "large-page"] {
            let scenario = builtin(name);
            for cpu in CPUS {
                for pti in [true, false] {
                    for policy in [Policy::Split, Policy::Full] {
                        let config = config(cpu.name, policy, pti);
                        let result = rig.run(&scenario, config, &[]);
                        assert_eq!(result.outcome, Outcome::Clean, "{name} on {config}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_dropped_mark_reads_the_old_frame() {
    for rig in rigs() {
        let scenario = builtin("user-flush-on-next-return");
        let config = config("pcid", Policy::Split, true);
        let result = rig.run(&scenario, config, &["drop mark#1"]);
        assert_eq!(rules(&result), ["stale-user-entry"]);
        assert_eq!(result.mismatches[0].got, "red");

        let [violation] = &result.violations[..] else { panic!("one violation") };
        assert!(violation.downgrade.is_some() && violation.walk.is_some());
        let why: Vec<&str> = violation.missed.iter().map(|missed| missed.why.as_str()).collect();
        assert_eq!(
            why,
            [
                "the entry is tagged PCID 0x801",
                "the fault kept it from happening",
                "NOFLUSH keeps what is tagged with it"
            ]
        );
    }
}

#[test]
fn without_the_fault_the_user_half_is_discharged_by_consume() {
    for rig in rigs() {
        let scenario = builtin("user-flush-on-next-return");
        let result = rig.run(&scenario, config("pcid", Policy::Split, true), &[]);
        assert_eq!(result.outcome, Outcome::Clean);
        let discharged: Vec<(String, &str)> = result
            .obligations
            .iter()
            .map(|owed| match owed.state {
                stalemate::oracle::State::Discharged { by, .. } => {
                    (owed.tag.to_string(), by.name())
                }
                state => panic!("{state:?}"),
            })
            .collect();
        assert_eq!(
            discharged,
            [("PCID 0x001".to_owned(), "invlpg"), ("PCID 0x801".to_owned(), "consume")]
        );
    }
}

#[test]
fn noflush_on_the_return_is_caught_and_a_cleared_mark_is_lost() {
    for rig in rigs() {
        let scenario = builtin("user-flush-on-next-return");
        let config = config("pcid", Policy::Split, true);
        for faults in
            [&["set noflush@return"][..], &["nmi@after-mark", "clear-mark@paranoid-exit"][..]]
        {
            let result = rig.run(&scenario, config, faults);
            assert_eq!(rules(&result), ["lost-mark", "stale-user-entry"], "{faults:?}");
        }
    }
}

#[test]
fn both_fills_agree_on_the_dropped_mark() {
    for rig in rigs() {
        let scenario = builtin("user-flush-on-next-return");
        let config = stalemate::scenario::RunConfig {
            fill: stalemate::arch::tlb::Fill::OnDemand,
            ..config("pcid", Policy::Split, true)
        };
        assert_eq!(rules(&rig.run(&scenario, config, &["drop mark#1"])), ["stale-user-entry"]);
        assert_eq!(rig.run(&scenario, config, &[]).outcome, Outcome::Clean);
    }
}
