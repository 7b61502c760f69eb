//! What a person sees at a terminal, and what a pipe gets instead.

use stalemate::oracle::rules;
use std::collections::BTreeSet;
use std::process::{Command, Output};

const ESCAPE: char = '\u{1b}';
const DROPPED: &str = "user-flush-on-next-return --executor interp --cpu pcid --policy split \
                       --inject \"drop mark#1\"";
/// What the end of every report speaks of.
const MODELLED: &str = "modelled: the TLB, CR3, PCID";

fn stalemate(line: &str) -> Output {
    let mut command = crate::common::command(&[]);
    command.args(crate::common::words(line)).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command.output().expect("it runs")
}

fn printed(line: &str) -> String {
    String::from_utf8(stalemate(line).stdout).expect("UTF-8")
}

/// What the program shows on a terminal: `script` gives it one. None where there is no `script`.
fn on_a_terminal(line: &str, variables: &str) -> Option<String> {
    if Command::new("script").arg("--version").output().is_err() {
        crate::common::say("SKIP: no `script` here, which makes a terminal");
        return None;
    }
    let program = env!("CARGO_BIN_EXE_stalemate");
    let command = format!("env -u NO_COLOR TERM=xterm {variables} {program} {line}");
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .output()
        .expect("it runs");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_violation_reads_like_a_compiler_s_diagnostic() {
    let text = printed(&format!("run {DROPPED}"));
    let (verdict, diagnostic) = text.split_once("\nerror[").expect("an error");
    let diagnostic = format!("error[{diagnostic}");
    // What was found comes first.
    let said = "user-flush-on-next-return: 1 run with a fault that you inject: violation in 1 \
                (stale-user-entry)";
    assert!(verdict.replace('\n', " ").contains(said), "{verdict}");
    let (diagnostic, after) = diagnostic.split_once("\n\n").expect("an end");
    let shown: Vec<&str> = diagnostic.lines().collect();
    // Where it was made stale, what should have removed it, where it was due, what was read.
    assert_eq!(
        shown[..9].join("\n"),
        "\
error[stale-user-entry]: user mode is entered while PCID 0x801 still holds a stale entry for 0x410000
  --> scenarios/user-flush-on-next-return.toml:10:1
   |
 8 | remap u0 blue
   | ------------- what is cached is stale from here on
 9 | flush_tlb_one_user u0
   | --------------------- this flush_tlb_one_user should have removed it
10 | user read u0 -> blue
   | ^^^^^^^^^^^^^^^^^^^^ still there at the deadline: the next entry to user mode; reads red, the old value"
    );
    for fact in ["seen", "entry", "walk", "store", "missed", "help"] {
        assert!(diagnostic.contains(&format!("   = {fact}: ")), "no {fact}:\n{diagnostic}");
    }
    assert!(after.contains("again: stalemate run user-flush-on-next-return"), "{after}");
}

#[test]
fn what_the_scenario_asks_for_is_caught_and_no_error() {
    let line = "run parked-kernel --executor interp --cpu pcid --policy unsplit";
    let short = printed(line);
    assert!(
        short.contains("\nparked-kernel  pcid           1       1  stale-other-asid in line 13\n"),
        "{short}"
    );
    assert!(
        short.contains("\nthe kernel's own bug: caught by stale-other-asid, as the file says"),
        "{short}"
    );
    assert!(!short.contains("ok") && !short.contains("caught["), "{short}");
    let text = printed(&format!("{line} -v"));
    assert!(text.contains("\ncaught[stale-other-asid]: "), "{text}");
    assert!(!text.contains("error") && !text.contains("= help: "), "{text}");
}

#[test]
fn every_rule_says_what_to_try_and_no_two_the_same() {
    let hints: BTreeSet<&str> = rules::abouts().map(|rule| rule.hint).collect();
    assert_eq!(hints.len(), rules::abouts().count());
    for rule in rules::abouts().filter(|rule| !rule.is_cost && !rule.is_of_audits()) {
        let text = printed(&format!("run -v --executor interp {}", rule.violated_by));
        let unexpected = text.contains(&format!("\nerror[{}]: ", rule.name));
        assert!(unexpected || text.contains(&format!("\ncaught[{}]: ", rule.name)), "{text}");
        // What a fault suppressed comes before what the rule knows of.
        let hint = text.contains(&format!(" = help: {}\n", rule.hint));
        let suppressed = text.contains(" = help: look at the injected fault first: it dropped ");
        assert_eq!(hint || suppressed, unexpected, "{text}");
        let missed = text.contains(": the fault kept it from happening\n");
        assert!(!suppressed || missed, "{text}");
    }
}

#[test]
fn a_pipe_gets_no_colours_unless_it_asks_for_them() {
    let plain = printed(&format!("run {DROPPED}"));
    assert!(!plain.contains(ESCAPE), "{plain}");
    let coloured = printed(&format!("run {DROPPED} --color always"));
    assert!(coloured.contains(ESCAPE));
    assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), plain);
    for format in ["json", "junit", "tap", "sarif"] {
        let text = printed(&format!("run {DROPPED} --color always --format {format}"));
        assert!(!text.contains(ESCAPE), "{format}");
    }
}

#[test]
fn a_terminal_gets_colours_and_progress_but_not_against_its_will() {
    let suite = "run unmap --executor interp --cpu all";
    let Some(shown) = on_a_terminal(suite, "") else { return };
    assert!(shown.contains("\u{1b}[32m") && shown.contains(" of 63 runs, "), "{shown}");
    let calm = on_a_terminal(&format!("{suite} --quiet"), "").unwrap_or_default();
    assert_eq!(calm, "", "all is as expected: nothing is to be said");
    let no_color = on_a_terminal(&format!("run {DROPPED}"), "NO_COLOR=1").unwrap_or_default();
    assert!(no_color.contains("error[stale-user-entry]") && !no_color.contains(ESCAPE));
    let never = on_a_terminal(&format!("run {DROPPED} --color never"), "").unwrap_or_default();
    assert!(never.contains("error[stale-user-entry]") && !never.contains(ESCAPE));
}

#[test]
fn quiet_shows_what_is_not_as_expected_and_the_exit_code_says_the_rest() {
    let output = stalemate(&format!("run {DROPPED} --quiet"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("error[stale-user-entry]") && !text.contains("possible runs"), "{text}");
    for line in [
        "run unmap --cpu pcid --executor interp -q",
        "faults unmap --cpu pcid --policy split --inject \"drop mark#1\" -q",
        "fuzz --count 2 --policy split --cpu pcid --executor interp -q",
    ] {
        let output = stalemate(line);
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{line}");
    }
}

#[test]
fn the_fallback_to_the_interpreter_is_never_silent() {
    let output = stalemate("run unmap --cpu pcid --quiet --kvm-device /nonexistent");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("warning: ") && said.contains("running on the interpreter"), "{said}");
}

/// The end of a report, which is about what was real, without its line ends.
fn end(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.iter().rposition(|line| !line.starts_with(' ')).unwrap_or(0);
    lines[from..].iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

#[test]
fn nothing_is_wider_than_the_terminal_and_tables_fit_a_pipe() {
    let wider = |text: &str, columns: usize| -> Vec<String> {
        let wide = text.lines().filter(|line| line.chars().count() > columns);
        wide.map(str::to_owned).collect()
    };
    let lines = [
        format!("run {DROPPED}"),
        "run --executor interp --cpu pcid".to_owned(),
        "run zoo --executor interp --cpu pcid".to_owned(),
        "run parked-kernel --executor interp --policy unsplit --cpu all -v".to_owned(),
        "run shootdown --executor interp --cpu pcid --inject \"drop ipi#1\"".to_owned(),
        "faults unmap --cpu pcid --policy split".to_owned(),
        "compare --cpu nopcid".to_owned(),
    ];
    for columns in [60, 80, 132] {
        for line in &lines {
            let mut command = crate::common::command(&[]);
            command.args(crate::common::words(line)).env("COLUMNS", columns.to_string());
            let text = command.output().expect("it runs").stdout;
            let text = String::from_utf8(text).expect("UTF-8");
            assert!(text.lines().count() > 5, "{line}: {text}");
            assert_eq!(wider(&text, columns), [""; 0], "{line} in {columns} columns");
        }
    }
    // In a pipe a line of a diagnostic is as long as it is; what is said of all runs is not.
    for line in &lines[1..3] {
        assert_eq!(wider(&printed(line), 80), [""; 0], "{line}");
    }
}

#[test]
fn the_whole_suite_is_one_screen_and_v_shows_the_rest() {
    let text = printed("run --executor interp --cpu pcid,pcid-nopge");
    assert!(text.lines().count() <= 24, "{text}");
    assert!(text.contains("\nstale-user-entry ") && text.contains("caught in "), "{text}");
    let rows = printed("run --executor interp --cpu pcid,pcid-nopge -v");
    assert!(
        rows.contains("\nforgotten-flush ") && rows.contains("never-flushed in line "),
        "{rows}"
    );
}

#[test]
fn the_end_of_every_report_says_what_was_real() {
    let recording = format!("{}/terminal.json", env!("CARGO_TARGET_TMPDIR"));
    for line in [
        format!("run {DROPPED} --record {recording}"),
        format!("replay {recording} --executor interp"),
        "faults unmap --cpu pcid --policy split --inject \"drop mark#1\"".to_owned(),
        "fuzz --count 1 --policy split --cpu pcid --executor interp".to_owned(),
        "fuzz --zoo --count 1 --cpu pcid".to_owned(),
        "compare --cpu nopcid".to_owned(),
    ] {
        let text = printed(&line);
        let last = end(&text);
        assert!(last.starts_with("interpreted: ") && last.contains(MODELLED), "{line}: {last}");
    }
    let kvm = kvm_or_skip!();
    drop(kvm);
    let text = printed("run unmap --cpu pcid --executor kvm");
    let last = end(&text);
    assert!(last.starts_with("real: ") && last.contains(MODELLED), "{last}");
}

#[test]
fn an_error_in_a_file_is_shown_and_a_file_cannot_command_the_terminal() {
    let path = format!("{}/terminal.toml", env!("CARGO_TARGET_TMPDIR"));
    let text = "summary = \"s\"\nsteps = \"\"\"\nmap u0 red\nfrob\u{7f} u0\n\"\"\"\n";
    std::fs::write(&path, text.replace('\u{7f}', "\u{9b}31m")).expect("ours");
    let error = |more: &str| {
        let output = stalemate(&format!("run {path}{more}"));
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let plain = error("");
    assert!(plain.starts_with("error: ") && plain.contains(":4:1\n"), "{plain}");
    assert!(plain.contains("^^^^") && plain.contains("= help: "), "{plain}");
    assert!(!plain.contains('\u{9b}'), "a control character of the file reaches the terminal");
    assert!(error(" --color always").contains("\u{1b}[1m"));
}
