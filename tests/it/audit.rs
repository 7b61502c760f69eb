//! `stalemate audit` of a small kernel of the tests' own: what it finds, and what it lets pass.

mod assembler;
mod elf;
mod kernel;
mod layout;
mod scripts;

use kernel::{Does, Task, User, kernel};
use layout::*;
use scripts::{LINES, Lacks, call, done, tasks};
use stalemate::arch::tlb::{Fill, TlbModel};
use stalemate::audit::{Audited, Subject, Verdict, audit};
use stalemate::inject::Fault;
use stalemate::kernel::free::{End, KernelImage, Settings};
use stalemate::scenario::CPUS;
use stalemate::symbols::Symbols;

const INSTRUCTIONS: u64 = 1_000_000;

/// What comes of a kernel with these tasks, and what it prints.
fn audited(tasks: &[Task], faults: &[&str]) -> (Audited, String) {
    let kernel = KernelImage::parse(&kernel(tasks)).expect("a kernel");
    let faults: Vec<Fault> =
        faults.iter().map(|fault| fault.parse().expect("a fault")).collect();
    let cpu = CPUS.iter().find(|cpu| cpu.name == "pcid-invpcid").expect("a named CPU");
    let subject = Subject {
        kernel: &kernel,
        initrd: &[],
        command_line: "",
        symbols: &Symbols::new(&kernel.elf),
        settings: Settings {
            features: cpu.features,
            model: TlbModel { fill: Fill::OnDemand, structure_caches: false, seed: 0 },
            ram: 32 << 20,
            ticks: 1,
            instructions: INSTRUCTIONS,
        },
        faults: &faults,
        until: None,
    };
    let mut console = Vec::new();
    let audited = audit(&subject, &mut |bytes| console.extend(bytes)).expect("it runs");
    (audited, String::from_utf8(console).expect("text"))
}

/// The rules that have spoken, in the order in which they did.
fn rules(audited: &Audited) -> Vec<&str> {
    audited.findings.iter().map(|finding| finding.key.rule.as_str()).collect()
}

#[test]
fn a_kernel_that_flushes_all_that_it_changes_is_clean() {
    let (audited, console) = audited(&tasks(Lacks::Nothing), &[]);
    assert_eq!(console, LINES.concat());
    assert_eq!(audited.verdict(), Verdict::Clean, "{:?} {:?}", audited.findings, audited.run.end);
    assert_eq!(audited.run.end, End::Reset);
    assert!(audited.isolated);
    let total = audited.coverage.total();
    println!("{total:?} {:?}", audited.flushes);
}
