//! What a trap costs on KVM, as a ratio to the bare trap of the same run, and what a scenario takes.
//!
//! Times vary with the host; the ratios are what the goals are about.
#![allow(missing_docs, clippy::print_stdout)]

mod common;

use common::{Effort, Figures, Guests, inputs, ratio, steps, timed};
use stalemate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use stalemate::arch::core::Memory;
use stalemate::arch::features::CpuFeatures;
use stalemate::arch::vcpu::Vcpu;
use stalemate::event::NullObserver;
use stalemate::executor::kvm::{Host, KvmExecutor};
use stalemate::executor::{Executor, ExecutorError, Leaf, Space, Trap, WATCHDOG};
use stalemate::inject::Injector;
use stalemate::kernel::steps::{Guest, Session, StepInput};
use stalemate::memory::GuestMemory;
use stalemate::oracle::Oracle;
use std::time::Duration;

/// Traps of one measurement of the bare trap.
const TRAPS: u32 = 1_000;
/// Measurements of each ratio.
const ROUNDS: u32 = 9;

/// Steps by what most of their traps are, with the goal for the ratio.
const KINDS: [(&str, &str, &str); 5] = [
    ("hypercall", "switch_mm", "<= 1.15"),
    ("store to a page table, nothing stale", "age u0", "<= 1.15"),
    ("user mode and back (MOV CR3, SWAPGS, SYSCALL, ...)", "user nop", "<= 1.15"),
    ("flush of one page (INVLPG and TlbState stores)", "flush_tlb_one_user u0", "<= 1.15"),
    (
        "remap, flush, read (revokes and refills)",
        "remap u0 blue\nflush_tlb_one_user u0\nuser read u0\n\
         remap u0 red\nflush_tlb_one_user u0\nuser read u0",
        "<= 1.4",
    ),
];

fn main() {
    let host = match Host::open("/dev/kvm".as_ref()) {
        Ok(host) => host,
        Err(error) => {
            println!("SKIP: {error}");
            return;
        }
    };
    let effort = Effort::from_args();
    let mut figures = Figures::expect(&[
        "bare trap (#BP, stub, IRETQ)",
        KINDS[0].0,
        KINDS[1].0,
        KINDS[2].0,
        KINDS[3].0,
        KINDS[4].0,
        "share of KVM_RUN in a scenario, mean",
        "boot to first step",
        "guest image, loaded",
    ]);
    let mut bare = BareTrap::new(&host);
    let micros = bare.measure().as_secs_f64() * 1e6;
    figures.print("bare trap (#BP, stub, IRETQ)", &format!("{micros:.1} us"), "");
    let guest = Guest::builtin();
    let make = |memory: &GuestMemory| -> Result<Box<dyn Executor>, ExecutorError> {
        Ok(Box::new(KvmExecutor::new(&host, memory, WATCHDOG)?))
    };
    let mut guests = Guests::new(&guest, make);
    let (boot, _) = timed(|| guests.with_cpus(1).boot_traps);

    println!("\nby kind of trap, the full model on, in bare traps");
    for (kind, lines, goal) in KINDS {
        let steady = SteadyTrap::new(lines);
        let session = guests.with_cpus(1);
        steady.measure(session);
        let of_bare = ratio(effort.rounds(ROUNDS), || bare.measure(), || steady.measure(session));
        figures.print(kind, &format!("{of_bare:.2}"), goal);
    }

    println!("\nscenario (pcid, split, pti, clean)                           traps   CPU ms");
    let (mut shares, mut count) = (0.0, 0);
    for scenario in common::scenarios() {
        let session = guests.with_cpus(scenario.cpus());
        let (traps, time, share) = whole(session, &inputs(&scenario));
        let shown = format!("{traps:5}   {:6.2}", time.as_secs_f64() * 1e3);
        figures.detail(&scenario.name, &shown, &format!("{:.0} % in KVM_RUN", share * 100.0));
        (shares, count) = (shares + share, count + 1);
    }
    let share = shares / f64::from(count) * 100.0;
    figures.print("share of KVM_RUN in a scenario, mean", &format!("{share:.0} %"), "");
    figures.print("boot to first step", &format!("{:.1} ms", boot.as_secs_f64() * 1e3), "");
    let kib = guest.image().loaded_size() as f64 / 1024.0;
    figures.print("guest image, loaded", &format!("{kib:.1} KiB"), "< 256");
    figures.finish();
}

/// A page of INT3: each one traps and is resumed with no model behind.
struct BareTrap {
    // Before the memory, which its virtual machine maps: fields drop in order.
    executor: KvmExecutor,
    vcpu: Vcpu,
    _memory: GuestMemory,
}

impl BareTrap {
    fn new(host: &Host) -> Self {
        let memory = GuestMemory::new(1 << 20).expect("memory");
        assert!(memory.write(Gpa(0x1000), &[0xcc; 4096]));
        let mut executor = KvmExecutor::new(host, &memory, WATCHDOG).expect("a virtual machine");
        let vcpu = Vcpu::long_mode(CpuId(0), CpuFeatures::default(), 0x40_0000, 0);
        let space = Space { cpu: CpuId(0), pcid: Pcid::new(0), user: false };
        let leaf = Leaf { frame: Gpa(0x1000), writable: false, executable: true };
        executor.map(space, Gva(0x40_0000), leaf).expect("a table");
        Self { executor, vcpu, _memory: memory }
    }

    /// Time for each of some traps.
    fn measure(&mut self) -> Duration {
        let (time, ()) = timed(|| {
            for _ in 0..TRAPS {
                self.vcpu.rip = 0x40_0000;
                let trap = self.executor.run(&mut self.vcpu).expect("KVM runs");
                assert!(matches!(trap, Trap::Exception { vector: 3, .. }), "{trap:?}");
            }
        });
        time / TRAPS
    }
}

/// Steps whose traps are measured by the difference of a long and a short run.
struct SteadyTrap {
    short: Vec<StepInput>,
    long: Vec<StepInput>,
}

impl SteadyTrap {
    fn new(lines: &str) -> Self {
        let times = |count: usize| {
            let repeated = format!("{lines}\n").repeat(count);
            steps(&format!("map u0 red\nuser read u0\n{repeated}"))
        };
        Self { short: times(20), long: times(120) }
    }

    /// Time for each trap.
    fn measure(&self, session: &mut Session) -> Duration {
        let mut run = |steps: &[StepInput]| {
            let (time, end) = timed(|| session.run(steps, Injector::default(), &mut NullObserver));
            let end = end.expect("KVM runs");
            assert!(end.stop.is_none(), "{:?}", end.stop);
            (time, end.traps)
        };
        let ((short, few), (long, many)) = (run(&self.short), run(&self.long));
        long.saturating_sub(short) / (many - few) as u32
    }
}

/// Traps of a run, its CPU time, and the share of that in KVM_RUN.
fn whole(session: &mut Session, steps: &[StepInput]) -> (u64, Duration, f64) {
    let mut oracle = Oracle::default();
    // Once to warm the shadow pages up, as in a suite.
    session.run(steps, Injector::default(), &mut oracle).expect("KVM runs");
    let inside = session.time_in_executor();
    let (time, end) = timed(|| session.run(steps, Injector::default(), &mut oracle));
    let end = end.expect("KVM runs");
    let inside = session.time_in_executor() - inside;
    (end.traps, time, inside.as_secs_f64() / time.as_secs_f64())
}
