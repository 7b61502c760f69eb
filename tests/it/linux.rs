//! Linux as Debian distributes it, audited. `STALEMATE_LINUX` names a directory with kernel images; where it
//! is not set these tests say SKIP. `STALEMATE_PROGRAM` is the program to use, one that was built to be fast.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn images() -> Vec<PathBuf> {
    let Some(directory) = std::env::var_os("STALEMATE_LINUX") else {
        eprintln!("SKIP: STALEMATE_LINUX names no directory with kernel images");
        return Vec::new();
    };
    let entries = std::fs::read_dir(&directory).expect("the directory that STALEMATE_LINUX names");
    let mut images: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    images.retain(|image| name(image).starts_with("vmlinuz-"));
    images.sort();
    assert!(!images.is_empty(), "{}: no vmlinuz-*", Path::new(&directory).display());
    images
}

fn name(image: &Path) -> String {
    image.file_name().expect("a file").to_string_lossy().into_owned()
}

fn audit(image: &Path, more: &[&str]) -> Output {
    let program = std::env::var_os("STALEMATE_PROGRAM")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_stalemate").into());
    let mut command = Command::new(program);
    command.args(["audit", "--format", "json", "--kernel"]).arg(image).args(more);
    command.output().expect("the program runs")
}

fn report(output: &Output) -> Value {
    let console = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {console}"))
}

/// The fault that withholds the last of these operations, in a function whose name has this in it, that
/// removed something stale.
fn site<'r>(report: &'r Value, operation: &str, function: &str) -> &'r str {
    let ledger = report["ledger"].as_array().expect("a ledger").iter();
    let mut most: Vec<&Value> = ledger
        .filter(|site| site["operation"] == operation)
        .filter(|site| site["function"].as_str().is_some_and(|name| name.contains(function)))
        .collect();
    most.sort_by_key(|site| site["removed_stale"].as_u64());
    most.last().expect("a site")["withheld_by"].as_str().expect("one removed something stale")
}

/// The sentences of docs/ledger.md.
fn what_the_page_on_the_ledger_says_is_true(name: &str, report: &Value) {
    let share_of = |what: &str, operation: &str, functions: &[&str]| {
        let sites = report["ledger"].as_array().expect("a ledger").iter();
        let is_meant = |site: &&Value| {
            let function = site["function"].as_str().expect("a name");
            site["operation"] == operation && functions.contains(&function)
        };
        let (mut executed, mut removed) = (0, 0);
        for site in sites.filter(is_meant) {
            executed += site["executed"].as_u64().expect("a number");
            removed += site[what].as_u64().expect("a number");
        }
        assert!(executed > 0, "{name}: no {operation} in {functions:?}");
        removed as f64 / executed as f64
    };
    let share = |operation, functions: &[&str]| share_of("removed_stale", operation, functions);
    let pages = &["native_flush_tlb_one_user"];
    for (operation, accessed) in [("INVLPG", 0.0..0.05), ("INVPCID of an address", 0.25..0.5)] {
        assert!(share(operation, pages) > 4.0 / 5.0, "{name}: {operation}");
        let share = share_of("removed_accessed", operation, pages);
        assert!(accessed.contains(&share), "{name}: {operation}: {share}");
    }
    let load = "CR3 load that flushes";
    let to_user = &["common_interrupt_return", "syscall_return_via_sysret"];
    assert!(share(load, to_user) > 1.0 / 2.0, "{name}");
    assert!(share(load, &["load_new_mm_cr3", "switch_mm_irqs_off"]) < 1.0 / 4.0, "{name}");
    let all = report["ledger"].as_array().expect("a ledger").iter();
    let mut keeping = all.filter(|site| site["operation"] == "CR3 load with NOFLUSH");
    assert!(keeping.all(|site| site["removed_stale"] == 0), "{name}");
}

/// What a correct kernel may come to, and what is seen when a flush of it is withheld.
#[test]
fn a_kernel_as_it_is_distributed_is_clean_and_without_one_flush_it_is_not() {
    for image in images() {
        let output = audit(&image, &[]);
        let clean = report(&output);
        let name = name(&image);
        assert_eq!(clean["verdict"], "clean", "{name}: {}", clean["findings"]);
        assert_eq!((output.status.code(), &clean["end"]), (Some(0), &"reset".into()), "{name}");
        assert_eq!(clean["isolated"], true, "{name}");
        let [stores, flushed, unjudged] =
            ["stores", "flushed", "unjudged"].map(|key| clean["total"][key].as_u64().expect(key));
        assert!(stores > 40_000 && flushed > 20_000, "{name}: {}", clean["total"]);
        assert!(unjudged * 100 <= stores, "{name}: {}", clean["total"]);
        every_kind_that_there_is_was_done(&name, &output);
        each_rule_has_judged_something(&name, &clean);
        what_the_page_on_the_ledger_says_is_true(&name, &clean);
        // The user half of one page, and a whole user PCID.
        for (operation, function) in
            [("INVPCID of an address", ""), ("CR3 load that flushes", "via_sysret")]
        {
            let fault = site(&clean, operation, function);
            let broken = report(&audit(&image, &["--inject", fault]));
            assert_ne!(broken["not_fired"], serde_json::json!([fault]), "{name}: {fault}");
            assert_eq!(broken["verdict"], "violation", "{name}: {fault}: {}", broken["total"]);
            let key = broken["findings"][0]["key"].as_str().expect("a key");
            let rules = ["stale-user-entry:", "stale-other-asid:", "pcid-reuse:", "lost-mark:"];
            assert!(rules.iter().any(|rule| key.starts_with(rule)), "{name}: {fault}: {key}");
            assert!(!key.contains("0x"), "{name}: {fault}: the function has no name: {key}");
            what_a_finding_says_of_itself(&name, &broken["findings"][0]);
        }
    }
}

/// What one CPU asks of another is judged, and a flush that either of them leaves out is found.
#[test]
fn on_two_cpus_it_is_clean_and_its_shootdowns_are_judged() {
    for image in images() {
        let two = ["--cpus", "2", "--seed", "1"];
        let output = audit(&image, &two);
        let clean = report(&output);
        let name = name(&image);
        assert_eq!(clean["verdict"], "clean", "{name}: {}", clean["findings"]);
        every_kind_that_there_is_was_done(&name, &output);
        let remote = clean["judged"]["stale-remote-entry"].as_u64().expect("a count");
        assert!(remote > 5_000, "{name}: {}", clean["judged"]);
        let unjudged = clean["total"]["unjudged"].as_u64();
        assert!(unjudged.is_some_and(|unjudged| unjudged < 1_000), "{name}: {}", clean["total"]);
        let fault = site(&clean, "INVPCID of an address", "");
        let broken = report(&audit(&image, &[&two[..], &["--inject", fault]].concat()));
        assert_eq!(broken["verdict"], "violation", "{name}: {fault}: {}", broken["total"]);
    }
}

/// Each rule's deadline has come for something. That of three never is the first: with PTI a frame or a table is
/// given back, and an address of user mode used again, after the primitive has returned. There is no other CPU.
fn each_rule_has_judged_something(name: &str, report: &Value) {
    let judged = report["judged"].as_object().expect("counts");
    assert_eq!(judged.len(), 10, "{name}: {judged:?}");
    for (rule, count) in judged {
        match rule.as_str() {
            "reuse-before-flush" | "table-reuse" | "va-reuse" => {}
            "stale-remote-entry" => assert_eq!(*count, 0, "{name}: {judged:?}"),
            _ => assert_ne!(*count, 0, "{name}: {rule}: {judged:?}"),
        }
    }
}

/// How sure it is, and who called whom. What the processor caches, it has accessed.
fn what_a_finding_says_of_itself(name: &str, finding: &Value) {
    let grade = finding["grade"].as_str().expect("a grade");
    assert!(["held", "used"].contains(&grade), "{name}: {finding:#}");
    let stored = finding["stored_at"].as_u64();
    let Some(stored) = stored.filter(|_| finding["store"] != Value::Null) else { return };
    assert!(stored < finding["found_after"].as_u64().expect("a moment"), "{name}: {finding:#}");
    let stacks = finding["stacks"].as_array().expect("stacks");
    let store = stacks.iter().find(|calls| calls["of"] == "store").expect("the store's");
    assert_eq!(store["by"], "orc", "{name}");
    let functions: Vec<&str> = store["frames"]
        .as_array()
        .expect("frames")
        .iter()
        .map(|frame| {
            let function = frame["function"].as_str().expect("a name");
            function.split('+').next().expect("a part")
        })
        .collect();
    // From the function that made it stale to where user mode has come in, or a kernel thread begins.
    assert_eq!(functions[0], finding["function"].as_str().expect("a name"), "{name}");
    let last = functions[functions.len() - 1];
    assert!(
        last.starts_with("entry_SYSCALL_64")
            || last.contains("asm_")
            || last.contains("ret_from_fork"),
        "{name}: {functions:?}"
    );
}

/// What the built-in profile says is there in each kernel, and was seen to happen.
#[test]
fn all_that_the_profile_of_linux_says_is_seen_in_a_run() {
    for image in images() {
        let clean = report(&audit(&image, &[]));
        let name = name(&image);
        assert_eq!(clean["profile"]["unused"], Value::Null, "{name}");
        let lines = clean["profile"]["lines"].as_array().expect("lines");
        let missing = lines.iter().filter(|line| line["missing"] != Value::Null);
        let missing: Vec<_> =
            missing.map(|line| line["symbol"].as_str().expect("a name")).collect();
        // Only what can be frozen calls it.
        assert_eq!(missing, ["kthread_freezable_should_stop"], "{name}: {lines:?}");
        let of = |symbol: &str, key: &str| {
            let line = lines.iter().find(|line| line["symbol"] == symbol);
            line.and_then(|line| line[key].as_u64()).expect(symbol)
        };
        for primitive in ["flush_tlb_mm_range", "flush_tlb_kernel_range", "flush_tlb_all"] {
            assert_eq!(of(primitive, "calls"), of(primitive, "returns"), "{name}: {primitive}");
        }
        assert!(of("flush_tlb_mm_range", "calls") > 5_000, "{name}");
        assert!(of("free_unref_page_commit", "calls") > 5_000, "{name}");
        // What only a promise makes due: a page of the kernel's that was made read-only, or not executable.
        let fault = site(&clean, "INVPCID of everything", "");
        let blamed = report(&audit(&image, &["--inject", fault]));
        let first = &blamed["findings"][0];
        assert_eq!(first["rule"], "stale-kernel-entry", "{name}: {fault}: {}", blamed["verdict"]);
        let due = first["due"].as_str().expect("why");
        assert!(due.contains("flush_tlb_all`, line "), "{name}: {due}");
        let without = report(&audit(&image, &["--inject", fault, "--profile", "none"]));
        assert_eq!(without["verdict"], "clean", "{name}: {fault}");
        assert_eq!(without["instructions"], blamed["instructions"], "{name}");
    }
}

/// Of each load of CR3 that flushes in the workload, withheld, it is known what comes of that. Of every flush,
/// `just audit-drops`.
#[test]
fn each_flushing_load_of_a_workload_that_is_withheld_is_caught_or_covered() {
    for image in images() {
        // Some minutes in a build for tests.
        if std::env::var_os("STALEMATE_PROGRAM").is_none() {
            eprintln!("SKIP: STALEMATE_PROGRAM names no program that was built to be fast");
            return;
        }
        let name = name(&image);
        let campaign = report(&audit(&image, &["--drop", "cr3"]))["campaign"].take();
        let count = |word: &str| campaign["counts"][word].as_u64().expect(word);
        let tried = campaign["tried"].as_u64().expect("a number");
        assert!(tried > 200, "{name}: {tried}");
        assert_eq!(count("caught") + count("covered"), tried, "{name}: {}", campaign["counts"]);
        assert!(count("covered") * 20 < tried, "{name}: {}", campaign["counts"]);
    }
}

/// Each kind of call that the init makes has succeeded, or the kernel does not offer it.
fn every_kind_that_there_is_was_done(name: &str, output: &Output) {
    let console = String::from_utf8_lossy(&output.stderr);
    assert!(console.contains("stalemate-init: done"), "{name}: {console}");
    assert!(!console.contains("WRONG"), "{name}: {console}");
    let lines = console.lines().filter_map(|line| line.trim().strip_prefix("stalemate-init: "));
    let kinds: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(' ')).collect();
    assert!(kinds.len() > 40, "{name}: {console}");
    for (kind, count) in kinds {
        let done = count.parse::<u64>().is_ok_and(|count| count > 0);
        assert!(done || count == "absent", "{name}: {kind} {count}");
    }
}
