//! The findings in words.

use super::kept::KINDS;
use super::replay::Findings;
use crate::arch::features::CpuFeatures;
use std::fmt::Write;

/// What was found on a machine that offers `features`, for people. Under a software KVM its TLB is
/// no silicon.
#[must_use]
pub fn text(findings: &Findings, features: CpuFeatures, software_kvm: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let Findings { programs, accesses, stale, outside, .. } = findings;
    let _ = writeln!(
        out,
        "witness: {programs} programs, {accesses} accesses at CPL 0 and 3 of a guest under no \
         model"
    );
    let _ = writeln!(
        out,
        "  {stale} came to something else than the page tables said at that moment; the model \
         holds {} of them",
        findings.explained()
    );
    let rows = KINDS.iter().zip(findings.kept);
    let shadow = if software_kvm { ", KVM's shadow of the page tables," } else { "" };
    let _ = writeln!(out, "this machine's TLB{shadow} was seen to keep");
    for ((_, words, _), count) in rows.clone().filter(|(_, count)| *count > 0) {
        let _ = writeln!(out, "  {words}: {count} times");
    }
    if findings.kept.iter().all(|count| *count == 0) {
        let _ = writeln!(out, "  nothing");
    }
    let never = |can: bool| {
        let rows = rows.clone().filter(|(_, count)| *count == 0);
        let rows = rows.filter(move |((.., offered), _)| offered(features) == can);
        rows.map(|((_, words, _), _)| *words).collect::<Vec<_>>()
    };
    for (heading, words) in [
        ("and never", never(true)),
        ("could not be asked, since KVM offers a guest no such thing", never(false)),
    ] {
        if !words.is_empty() {
            let _ = writeln!(out, "{heading}");
        }
        for words in words {
            let _ = writeln!(out, "  {words}");
        }
    }
    if findings.defect > 0 {
        let _ = writeln!(
            out,
            "against the manual, as is known of a software KVM\n  a translation over a page fault \
             that found no page: {} times",
            findings.defect
        );
    }
    if *outside > 0 {
        let _ = writeln!(out, "outside the model: {outside} accesses, of which the first");
    }
    for account in &findings.accounts {
        let _ = write!(out, "{account}");
        let seed = account.seed;
        let _ = writeln!(out, "  again: stalemate doctor --witness --seed {seed} --count 1");
    }
    out
}
