//! `--baseline` and `--bisect`, on a kernel with a bug put in and taken out.

use super::command_line::Files;
use super::kernel::kernel;
use super::scripts::{Lacks, tasks};
use crate::common::text;
use serde_json::Value;

/// The keys of what is found in a kernel.
fn keys(files: &Files, kernel: &[u8]) -> Vec<String> {
    let output = files.audit(kernel, &["--format", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings").iter();
    findings.map(|finding| finding["key"].as_str().expect("a key").to_owned()).collect()
}

fn known(key: &str, more: &str) -> String {
    format!("[[known]]\nkey = \"{key}\"\nreason = \"seen before\"\n{more}\n")
}

#[test]
fn what_is_known_is_no_failure_until_its_day_has_passed() {
    let files = Files::new("baseline");
    let (mended, broken) = (kernel(&tasks(Lacks::Nothing)), kernel(&tasks(Lacks::Flush)));
    let [first, second] = &keys(&files, &broken)[..] else { panic!("two findings") };
    let both = |more: &str| known(first, more) + &known(second, "");
    for (kernel, baseline, code, said) in [
        (&broken, both(""), 0, vec![format!("known    {first}: seen before")]),
        (&broken, both("until = \"9999-12-31\""), 0, vec![format!("known    {first}: seen")]),
        (&broken, both("until = \"2026-01-31\""), 1, vec![format!("expired  {first}")]),
        (
            &broken,
            known(first, ""),
            1,
            vec![format!("new      {second}"), format!("known    {first}")],
        ),
        (
            &broken,
            String::new(),
            1,
            vec![format!("new      {first}"), format!("new      {second}")],
        ),
        (&mended, both(""), 0, vec![format!("gone     {first}"), format!("gone     {second}")]),
        (&mended, String::new(), 0, vec!["nothing was found, and nothing is known".to_owned()]),
    ] {
        let path = files.put("known.toml", baseline.as_bytes());
        let output = files.audit(kernel, &["--baseline", &path]);
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{baseline}: {out}");
        let (_, compared) = out.split_once("Against the baseline\n").expect("a comparison");
        for line in said {
            assert!(compared.contains(&format!("  {line}")), "no `{line}` in {compared}");
        }
    }
    // A run that judged nothing is no success, whatever is known.
    let path = files.put("known.toml", both("").as_bytes());
    let output = files.audit(&broken, &["--baseline", &path, "--instructions", "20"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_baseline_that_is_wrong_says_where_and_what_would_be_right() {
    let files = Files::new("baseline-wrong");
    let kernel = kernel(&tasks(Lacks::Nothing));
    let key = "va-reuse:unmap:kernel";
    for (baseline, sentence) in [
        ("[[known]\n".to_owned(), "line 1"),
        (format!("[[known]]\nkey = \"{key}\"\n"), "missing field `reason`"),
        (known(key, "since = \"6.1\""), "unknown field `since`"),
        (known(key, "until = \"2026-02-30\""), "line 1: `until` is a day, as in 2027-01-31"),
        (
            known(key, "") + &known("stale-usr-entry:unmap:f", ""),
            "line 5: `stale-usr-entry` is no rule, did you mean `stale-user-entry`?",
        ),
        (known("va-reuse:unmapped:f", ""), "`unmapped` is no change"),
        (known("va-reuse", ""), "`va-reuse` is no key: rule:change:function, as reports print it"),
        (known(key, "") + &known(key, ""), "line 5: this key is known already"),
        (known(key, "").replace("seen before", " "), "line 1: it has no reason"),
    ] {
        let path = files.put("known.toml", baseline.as_bytes());
        let output = files.audit(&kernel, &["--baseline", &path]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{baseline}: {said}");
        assert!(
            said.contains(sentence) && said.contains("known.toml"),
            "no `{sentence}` in {said}"
        );
    }
}

/// What `git bisect run` takes: 0 good, 1 bad, 125 skip, and from 128 on it stops.
#[test]
fn a_bisection_is_told_good_bad_or_neither() {
    let files = Files::new("bisect");
    let (mended, broken) = (kernel(&tasks(Lacks::Nothing)), kernel(&tasks(Lacks::UserHalf)));
    let [key] = &keys(&files, &broken)[..] else { panic!("one finding") };
    let other = key.replace("stale-user-entry", "va-reuse");
    for (kernel, key, more, code) in [
        (&broken[..], &**key, &[][..], 1),
        (&mended, key, &[], 0),
        // Another bug is not the one that is sought.
        (&broken, &other, &[], 0),
        (&mended, key, &["--instructions", "20"], 125),
        (&mended, key, &["--inject", "drop invlpg#99"], 125),
        // What does not build cannot be judged.
        (b"no kernel", key, &[], 125),
        (&broken, "stale-usr-entry:unmap:f", &[], 128),
    ] {
        let output = files.audit(kernel, &[&["--bisect", key], more].concat());
        assert_eq!(output.status.code(), Some(code), "{key} {more:?}: {}", text(&output.stderr));
    }
}
