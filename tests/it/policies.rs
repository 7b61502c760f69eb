//! The policies beside `split`: each is right on every built-in scenario and every named CPU.

use crate::common::{Rig, builtin, config, rigs, scenario};
use stalemate::executor::Backend;
use stalemate::runner::Outcome;
use stalemate::scenario::{self, CPUS, Policy, Selection};

fn is_as_expected_everywhere(policy: Policy) {
    let rig = Rig::new(Backend::interp());
    let scenarios = scenario::suite().unwrap_or_else(|error| panic!("{error}"));
    // What a mistake of the code comes to under it, each file says for the policies that it is about.
    let (policy, variant) = (Some(policy), Some(None));
    let selection = Selection { policy, variant, ..Selection::of(&CPUS) };
    let runs: Vec<_> = scenarios.iter().flat_map(|one| one.runs(&selection)).collect();
    let results = rig.runner().run_all(&runs, &mut |_| {}).expect("the host works");
    assert!(results.len() > 300);
    for result in results {
        let name = &result.run.scenario.name;
        // A step may wait for an operation that this policy does without.
        let unreached = result.outcome == Outcome::Unreached;
        assert!(
            result.as_expected || unreached,
            "{name} on {}: {}",
            result.run.config,
            result.outcome
        );
    }
}

#[test]
fn fallback_is_right_everywhere() {
    is_as_expected_everywhere(Policy::Fallback);
}

#[test]
fn joined_is_right_everywhere() {
    is_as_expected_everywhere(Policy::Joined);
}

#[test]
fn eager_is_right_everywhere() {
    is_as_expected_everywhere(Policy::Eager);
}

#[test]
fn no_correct_policy_but_unsplit_lets_a_parked_kernel_page_go_stale() {
    for rig in rigs() {
        for policy in [Policy::Fallback, Policy::Joined, Policy::Eager] {
            for cpu in ["pcid", "pcid-invpcid", "pcid-nopge", "nopcid"] {
                let config = config(cpu, policy, true);
                let result = rig.run(&builtin("parked-kernel"), config, &[]);
                assert_eq!(result.outcome, Outcome::Clean, "{config}");
            }
        }
    }
}

#[test]
fn eager_and_joined_mark_nothing() {
    for rig in rigs() {
        for cpu in ["pcid", "pcid-invpcid", "pcid-nopge"] {
            let marks = |policy| {
                rig.run(&builtin("flush-all"), config(cpu, policy, true), &[]).counts.marks_made
            };
            assert_eq!((marks(Policy::Eager), marks(Policy::Joined)), (0, 0), "{cpu}");
            assert!(marks(Policy::Split) > 0, "{cpu}");
        }
    }
}

#[test]
fn a_hop_whose_invlpg_is_lost_is_caught() {
    for rig in rigs() {
        // The first INVLPG is the kernel PCID's, the second the hop's.
        let config = config("pcid", Policy::Eager, true);
        let result = rig.run(&builtin("user-flush-on-next-return"), config, &["drop invlpg#2"]);
        assert_eq!(crate::common::rules(&result), ["stale-user-entry"]);
        let result = rig.run(&builtin("user-flush-on-next-return"), config, &["drop invlpg#1"]);
        assert_eq!(crate::common::rules(&result), ["stale-kernel-entry"]);
    }
}

#[test]
fn unmapping_a_range_flushes_what_is_pending_even_if_no_cpu_need_be_asked() {
    // Nobody has the first address space loaded when its page joins the batch.
    let steps = "A map u0 blue\nA user read u0 -> blue\nB switch_mm\nA unmap_batched u0\n\
                 A unmap_range u1..u2";
    for rig in rigs() {
        for policy in stalemate::fuzz::correct_policies() {
            let result = rig.run(&scenario(steps), config("pcid", policy, true), &[]);
            assert_eq!(result.outcome, Outcome::Clean, "{policy}: {:?}", result.violations);
            assert!(!result.obligations.is_empty());
        }
    }
}
