//! `stalemate compare`, and docs/findings.md, which is written from it.

mod figures;

use object::{Object, ObjectSection};
use stalemate::compare::{self, Comparison, WORKLOADS};
use stalemate::kernel::steps::Guest;
use stalemate::runner::Outcome;
use stalemate::scenario::Policy;
use std::process::Output;
use std::sync::OnceLock;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/findings.md");
const TEMPLATE: &str = include_str!("template.md");

/// Who compiled the guest, as its debug information says: instructions and branches depend on that.
fn compiler() -> String {
    let image = crate::common::guest_image();
    let file = object::File::parse(&image[..]).expect("an image");
    let strings = file.section_by_name(".debug_str").expect("debug information");
    let text = String::from_utf8_lossy(strings.data().expect("contents")).into_owned();
    let producer = text.split('\0').find_map(|one| one.split_once("(rustc version "));
    let (_, version) = producer.expect("a producer");
    format!("rustc {}", version.trim_end_matches(')').split_once(" (").expect("a commit").0)
}

fn fresh() -> Comparison {
    let workloads = compare::workloads().unwrap_or_else(|error| panic!("{error}"));
    let cpus = compare::default_cpus();
    compare::compare(&Guest::builtin(), &workloads, &cpus, &mut |_| {}).expect("it boots")
}

fn found() -> &'static Comparison {
    static FOUND: OnceLock<Comparison> = OnceLock::new();
    FOUND.get_or_init(fresh)
}

#[test]
fn the_findings_say_what_the_comparison_says() {
    let compiler = compiler();
    // The claims are checked whatever compiled the guest.
    let text =
        figures::fill(TEMPLATE, found(), &compiler).unwrap_or_else(|error| panic!("{error}"));
    if std::env::var_os("STALEMATE_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(FILE, &text).expect("docs can be written");
    }
    let committed = std::fs::read_to_string(FILE).unwrap_or_default();
    let words = committed.split_whitespace().collect::<Vec<_>>().join(" ");
    if !words.contains(&compiler) {
        crate::common::say(&format!(
            "SKIP: {compiler} compiled the guest, another wrote docs/findings.md"
        ));
        return;
    }
    assert!(
        committed == text,
        "docs/findings.md is out of date: STALEMATE_BLESS=1 cargo test -p stalemate --test it findings"
    );
}

#[test]
fn the_template_has_no_figure_of_its_own() {
    assert_eq!(figures::own_figures(TEMPLATE), Vec::<String>::new());
    assert_eq!(figures::own_figures("a {{b 1}} 26 of `c 3`, Six\n%% d 4 == 4"), ["26", "Six"]);
}

#[test]
fn a_false_claim_and_an_unknown_figure_are_refused() {
    for (template, why) in [
        ("%% all all split rows == 0\n", "does not hold"),
        ("%% 2 < 2\n", "does not hold"),
        ("%% all pcid split refills\n", "claims nothing"),
        ("{{all pcid split beauty}}", "is no figure"),
        ("{{all pcid splat refills}}", "selects no row"),
        ("{{all pcid split refills", "without"),
    ] {
        let error = figures::fill(template, found(), "rustc").expect_err(template);
        assert!(error.contains(why), "{template}: {error}");
    }
    let filled = figures::fill("a {{3 - 1}}\n%% 2 <= 2\n", found(), "rustc");
    assert_eq!(filled.as_deref(), Ok("a 2\n"));
}

#[test]
fn two_comparisons_are_the_same_bytes() {
    let other = fresh();
    assert!(compare::text(found()) == compare::text(&other));
    let json = |of| serde_json::to_vec(&compare::json(of)).expect("plain data");
    assert!(json(found()) == json(&other));
    assert!(compare::svg(found()) == compare::svg(&other));
}

#[test]
fn every_policy_is_clean_but_unsplit_where_kernel_pages_change_under_pcids() {
    assert_eq!(found().rows.len(), WORKLOADS.len() * 5 * Policy::all().len());
    for row in &found().rows {
        let broken = row.policy == Policy::Unsplit
            && row.workload == "kernel-churn"
            && row.cpu.features.pcid;
        let name = format!("{} on {} under {}", row.workload, row.cpu.name, row.policy);
        let expected = match row.workload.as_str() {
            _ if broken => Outcome::Violation,
            "syscalls" => Outcome::Vacuous,
            _ => Outcome::Clean,
        };
        assert_eq!(row.outcome, expected, "{name}");
        assert!(row.as_expected, "{name}");
    }
}

#[test]
fn eager_and_joined_never_set_a_mark() {
    for row in &found().rows {
        let marks = row.costs.marks_made;
        if matches!(row.policy, Policy::Eager | Policy::Joined) {
            assert_eq!(marks, 0, "{} on {} under {}", row.workload, row.cpu.name, row.policy);
        }
    }
    // The count can fail: the others mark.
    let marks = |policy| found().row("map-unmap", "pcid", policy).expect("a row").costs.marks_made;
    assert_eq!(marks(Policy::Split), 11);
    assert_eq!(marks(Policy::Eager), 0);
}

#[test]
fn invalidations_of_kernel_churn_are_those_that_each_policy_is_defined_by() {
    // INVLPG, INVPCID by type, changes of CR4.PGE.
    for (cpu, policy, invlpg, invpcid, toggles) in [
        ("pcid", Policy::Split, 6, [0, 0, 0, 0], 0),
        ("pcid", Policy::Fallback, 0, [0, 0, 0, 0], 12),
        ("pcid-invpcid", Policy::Fallback, 0, [0, 0, 6, 0], 0),
        ("pcid-invpcid", Policy::Joined, 6, [6, 9, 0, 0], 0),
        ("pcid-invpcid", Policy::Eager, 6, [0, 9, 0, 0], 0),
        ("nopcid", Policy::Fallback, 6, [0, 0, 0, 0], 0),
    ] {
        let costs = &found().row("kernel-churn", cpu, policy).expect("a row").costs;
        let counted = (costs.invlpg, costs.invpcid, costs.cr4_toggles);
        assert_eq!(counted, (invlpg, invpcid, toggles), "{policy} on {cpu}");
    }
}

#[test]
fn what_a_policy_needs_is_read_off_the_image() {
    let words = |policy| {
        let need = found().need("pcid", policy).expect("a need");
        need.code.words.values().copied().collect::<Vec<_>>()
    };
    assert!(words(Policy::Split).contains(&"user_pcid_flush_mask"));
    assert!(words(Policy::Split).contains(&"invalidate_other"));
    for policy in [Policy::Eager, Policy::Joined] {
        assert!(!words(policy).contains(&"user_pcid_flush_mask"), "{policy}");
        assert!(words(policy).contains(&"invalidate_other"), "{policy}");
    }
    // MOV, AND, MOV, BT and the branch on it.
    assert_eq!((found().mark.instructions, found().mark.branches), (5, 1));
}

#[test]
fn the_audit_names_callers_in_the_step_loop() {
    let mut sites = 0;
    for site in found().rows.iter().flat_map(|row| row.audit.keys()) {
        // A step of the scenario, or what flushes for itself.
        let place = match site.caller.as_str() {
            "step" => "guest/src/steps.rs:",
            _ => "guest/src/operations.rs:",
        };
        assert!(site.line.contains(place), "{site:?}");
        sites += 1;
    }
    assert!(sites > 0);
}

#[test]
fn the_json_follows_its_schema() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/compare.schema.json")).expect("a schema");
    let json = compare::json(found());
    let errors = crate::common::schema::errors(&schema, &json);
    assert!(errors.is_empty(), "{errors:?}");
    let mut broken = json;
    broken["rows"][0]["costs"]["refills"] = "many".into();
    assert!(!crate::common::schema::errors(&schema, &broken).is_empty(), "the schema can refuse");
}

#[test]
fn the_chart_has_a_bar_for_every_row_and_a_cross_for_every_violation() {
    let svg = compare::svg(found());
    let rows = found().rows.len();
    let violated = found().rows.iter().filter(|row| !row.violated.is_empty()).count();
    // Two panels, and a title of the whole.
    assert_eq!(svg.matches("<title>").count(), 2 * rows + 1);
    // And one in the legend.
    assert_eq!(svg.matches('×').count(), 2 * violated + 1);
}

fn compare_command(arguments: &[&str]) -> Output {
    crate::common::stalemate(&[&["compare"], arguments].concat())
}

#[test]
fn the_command_prints_what_the_library_compares_and_writes_the_chart() {
    let chart = std::env::temp_dir().join(format!("stalemate-{}.svg", std::process::id()));
    let name = chart.to_str().expect("a plain path");
    let output = compare_command(&["--cpu", "pcid", "--format", "json", "--svg", name]);
    assert_eq!(output.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let whole = compare::json(found());
    let of_pcid = whole["rows"].as_array().expect("rows").iter().filter(|row| row["cpu"] == "pcid");
    assert!(json["rows"].as_array().expect("rows").iter().eq(of_pcid));
    assert!(std::fs::read_to_string(&chart).is_ok_and(|text| text.ends_with("</svg>\n")));
    std::fs::remove_file(&chart).expect("it is there");
}

#[test]
fn bad_usage_of_the_command_exits_with_2() {
    for (arguments, message) in [
        (&["--cpu", "z80"][..], "invalid value 'z80'"),
        (&["--format", "junit"], "invalid value 'junit'"),
        (&["--cpu", "pcid", "--svg", "/nowhere/c.svg"], "/nowhere/c.svg"),
    ] {
        let output = compare_command(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
}
