//! What an audit costs: of the small kernel of the tests, and, where STALEMATE_LINUX names a directory with
//! kernel images (vmlinuz-*), of these.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "../../../tests/it/audit/assembler.rs"]
#[allow(dead_code)]
mod assembler;
#[path = "../common/mod.rs"]
mod common;
#[path = "../../../tests/it/audit/elf.rs"]
#[allow(dead_code)]
mod elf;
#[path = "../../../tests/it/audit/kernel.rs"]
#[allow(dead_code)]
mod kernel;
#[path = "../../../tests/it/audit/layout.rs"]
#[allow(dead_code)]
mod layout;
#[path = "../../../tests/it/audit/scripts.rs"]
#[allow(dead_code)]
mod scripts;

use common::{Effort, Figures, median};
use cpu_time::ProcessTime;
use kernel::{Does, User, kernel};
use layout::{A, PAGE, data};
use scripts::{call, done};
use stalemate::arch::happened::Happened;
use stalemate::arch::tlb::{Fill, TlbModel};
use stalemate::audit::{
    Audited, COMMAND_LINE, Kinds, Plan, Profile, Subject, Verdict, audit, campaign, observed,
};
use stalemate::event::{Event, Kind, Observer, TraceHeader};
use stalemate::kernel::free::{KernelImage, READY, Settings, Turns, init, initramfs};
use stalemate::oracle::Oracle;
use stalemate::scenario::CPUS;
use stalemate::symbols::{Symbols, kallsyms};
use std::time::Duration;

/// Measurements of each figure.
const ROUNDS: u32 = 9;
/// Pages that the small kernel unmaps, flushes and maps again.
const PAGES: usize = 200;
/// Events between two counts of what is stale.
const STRIDE: u64 = 64;

fn main() {
    let effort = Effort::from_args();
    let mut figures = Figures::expect(&[
        "small kernel, audit, CPU ms",
        "small kernel, stores to tables for a million instructions",
        "small kernel, stale records at most",
        "small kernel, a run of a campaign, CPU ms",
        "Linux",
    ]);
    let image = KernelImage::parse(&small()).expect("a kernel");
    let symbols = Symbols::new(&image.elf);
    let subject = subject(&image, &symbols, &[], "", None);
    let cost = Cost::of(&subject, effort.rounds(ROUNDS), None);
    figures.print("small kernel, audit, CPU ms", &cost.audit(), "");
    let name = "small kernel, stores to tables for a million instructions";
    figures.print(name, &cost.stores(), "");
    figures.print("small kernel, stale records at most", &cost.most.to_string(), "");
    figures.print("small kernel, a run of a campaign, CPU ms", &cost.run(), "");
    match std::env::var_os("STALEMATE_LINUX") {
        None => figures.print("Linux", "SKIP", "STALEMATE_LINUX names no directory"),
        Some(directory) => {
            let entries = std::fs::read_dir(&directory).expect("the directory");
            let mut images: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
            images.retain(|image| image.to_string_lossy().contains("/vmlinuz-"));
            images.sort();
            figures.print("Linux", &format!("{} images", images.len()), "");
            images.iter().for_each(|image| linux(image, effort, &figures));
        }
    }
    figures.finish();
}

/// A kernel that unmaps pages, flushes them, and maps them again.
fn small() -> Vec<u8> {
    let page = data(0);
    let mut script = Vec::new();
    for _ in 0..PAGES {
        script.push(User::Read(page));
        let does = [
            Does::Read(page),
            Does::Store(A.slot(0), 0),
            Does::Invlpg(page),
            Does::InvpcidAddress(A.user_pcid(), page),
            Does::Store(A.slot(0), A.frame(0) | PAGE),
        ];
        script.push(call(does.map(Some)));
    }
    script.push(done());
    kernel(&[(A, script)])
}

fn subject<'a>(
    kernel: &'a KernelImage,
    symbols: &'a Symbols,
    initrd: &'a [u8],
    command_line: &'a str,
    profile: Option<&'a Profile>,
) -> Subject<'a> {
    let cpu = CPUS.iter().find(|cpu| cpu.name == "pcid-invpcid").expect("a named CPU");
    Subject {
        kernel,
        initrd,
        command_line,
        symbols,
        profile,
        settings: Settings {
            features: cpu.features,
            model: TlbModel { fill: Fill::LazyA, structure_caches: true, seed: 0 },
            ram: 256 << 20,
            ticks: 1,
            cpus: 1,
            turns: Turns::default(),
            instructions: 10_000_000_000,
            lenient: false,
        },
        faults: &[],
        until: None,
    }
}

/// CPU time of all threads.
fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = ProcessTime::now();
    let done = work();
    (start.elapsed(), done)
}

/// Counts what the audit's events have.
#[derive(Default)]
struct Counting {
    oracle: Oracle,
    stores: u64,
    most: usize,
}

impl Observer for Counting {
    fn begin(&mut self, header: &TraceHeader) {
        self.oracle.begin(header);
    }

    fn event(&mut self, event: &Event) {
        match event.kind {
            Kind::Cpu(Happened::Other { .. } | Happened::Delivered { .. }) => return,
            Kind::Cpu(Happened::TableStore { .. }) => self.stores += 1,
            _ => {}
        }
        self.oracle.event(event);
        if event.seq.is_multiple_of(STRIDE) {
            self.most = self.most.max(self.oracle.ledger().held().count());
        }
    }
}

/// What an audit took, and what it had to do.
struct Cost {
    audit: Duration,
    audited: Audited,
    stores: u64,
    /// Obligations whose translations were cached at one time.
    most: usize,
    /// Of a campaign beyond its first two runs, for each operation that was withheld.
    run: Duration,
}

impl Cost {
    fn of(subject: &Subject<'_>, rounds: u32, begins: Option<&str>) -> Self {
        let mut times = Vec::new();
        let mut last = None;
        for _ in 0..rounds {
            let (time, audited) = timed(|| audit(subject, &mut |_| {}).expect("it runs"));
            times.push(time.as_secs_f64());
            last = Some(audited);
        }
        let audited = last.expect("a round");
        assert_eq!(audited.verdict(), Verdict::Clean, "{:?}", audited.findings);
        let audit = Duration::from_secs_f64(median(times));
        let mut counting = Counting::default();
        observed(subject, &mut |_| {}, &mut counting).expect("it runs");
        let plan = Plan { kinds: Kinds::Invpcid, begins, jobs: 1 };
        let (time, (_, found)) =
            timed(|| campaign(subject, plan, &mut |_| {}, &|_, _| {}).expect("it runs"));
        assert!(!found.dropped.is_empty(), "nothing was withheld");
        let runs = u32::try_from(found.dropped.len()).expect("not so many");
        let run = time.saturating_sub(audit * 2) / runs;
        Self { audit, audited, stores: counting.stores, most: counting.most, run }
    }

    fn audit(&self) -> String {
        format!("{:.1}", self.audit.as_secs_f64() * 1e3)
    }

    fn stores(&self) -> String {
        format!("{:.0}", self.stores as f64 * 1e6 / self.audited.run.instructions as f64)
    }

    fn run(&self) -> String {
        format!("{:.2}", self.run.as_secs_f64() * 1e3)
    }
}

/// The same of a Linux, with the default init.
fn linux(image: &std::path::Path, effort: Effort, figures: &Figures) {
    let kernel = KernelImage::parse(&std::fs::read(image).expect("an image")).expect("a kernel");
    let symbols = kallsyms::read(&kernel.elf).map(|own| Symbols::of_kernel(&own));
    let symbols = symbols.unwrap_or_else(|| Symbols::new(&kernel.elf));
    let profile = Profile::built_in().expect("it is right");
    let initrd = initramfs(init());
    let subject = subject(&kernel, &symbols, &initrd, COMMAND_LINE, Some(&profile));
    let cost = Cost::of(&subject, effort.rounds(3), Some(READY));
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    println!("\n{name}");
    let instructions = cost.audited.run.instructions as f64;
    let speed = instructions / cost.audit.as_secs_f64() / 1e6;
    figures.detail("audited, everything on, M/s", &format!("{speed:.0}"), ">= 120");
    figures.detail("audit, CPU ms", &cost.audit(), "");
    figures.detail("stores to tables for a million instructions", &cost.stores(), "");
    figures.detail("stale records at most", &cost.most.to_string(), "");
    figures.detail("a run of a campaign, CPU ms", &cost.run(), "<= 500");
}
