//! What a trap costs, as a ratio to the bare trap of the same run, and what a scenario takes.
//!
//! Times vary with the host; the ratios are what the goals are about.
#![allow(missing_docs, clippy::print_stdout)]

mod common;

use common::{Nobody, steps};
use stalemate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use stalemate::arch::core::Memory;
use stalemate::arch::features::CpuFeatures;
use stalemate::arch::vcpu::Vcpu;
use stalemate::boot::{GuestMemory, Image, guest_image};
use stalemate::executor::kvm::{Host, KvmExecutor};
use stalemate::executor::{Executor, ExecutorError, Leaf, Space, Trap, WATCHDOG};
use stalemate::inject::Injector;
use stalemate::machine::{Session, StepInput};
use stalemate::oracle::Oracle;
use stalemate::scenario::Scenario;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 2_000;

fn main() {
    let host = match Host::open("/dev/kvm".as_ref()) {
        Ok(host) => host,
        Err(error) => {
            println!("SKIP: {error}");
            return;
        }
    };
    let bare = bare_trap(&host);
    println!("bare trap (#BP, stub, IRETQ)          {:7.1} us", micros(bare));
    let image = Image::parse(guest_image()).expect("the built-in guest");
    let make = |memory: &GuestMemory| -> Result<Box<dyn Executor>, ExecutorError> {
        Ok(Box::new(KvmExecutor::new(&host, memory, WATCHDOG)?))
    };
    let start = Instant::now();
    let mut session = Session::boot(common::config(), &image, make).expect("the guest boots");
    let boot = start.elapsed();

    println!("\nby kind, with the full model on                 ratio   goal");
    for (kind, lines, goal) in [
        ("hypercall", "switch_mm", 1.25),
        ("store to a page table, nothing stale", "age u0", 1.25),
        ("user mode and back (MOV CR3, SWAPGS, SYSCALL, ...)", "user nop", 1.25),
        ("flush of one page (INVLPG and TlbState stores)", "flush_tlb_one_user u0", 1.25),
        (
            "remap, flush, read (revokes and refills)",
            "remap u0 blue\nflush_tlb_one_user u0\nuser read u0\n\
             remap u0 red\nflush_tlb_one_user u0\nuser read u0",
            1.6,
        ),
    ] {
        let each = per_trap(&mut session, lines);
        let ratio = each.as_secs_f64() / bare.as_secs_f64();
        println!("  {kind:52} {ratio:5.2}   {goal}");
    }

    println!("\nscenario (pcid, split, pti, clean)      traps   time ms  in KVM_RUN");
    for scenario in common::scenarios() {
        let (traps, time, share) = whole(&mut session, &scenario);
        println!(
            "  {:36} {traps:5}   {:7.2}      {:4.1} %",
            scenario.name,
            time.as_secs_f64() * 1e3,
            share * 100.0
        );
    }
    println!("  goal                                 <= 500               >= 95 %");
    println!("\nboot to first step                    {:7.1} ms", boot.as_secs_f64() * 1e3);
    println!(
        "guest image, loaded                   {:7.1} KiB, goal under 256",
        image.loaded_size() as f64 / 1024.0
    );
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A page of INT3: each one traps and is resumed with no model behind.
fn bare_trap(host: &Host) -> Duration {
    let memory = GuestMemory::new(1 << 20).expect("memory");
    assert!(memory.write(Gpa(0x1000), &[0xcc; 4096]));
    let mut executor = KvmExecutor::new(host, &memory, WATCHDOG).expect("a virtual machine");
    let mut vcpu = Vcpu::long_mode(CpuId(0), CpuFeatures::default(), 0x40_0000, 0);
    let space = Space { cpu: CpuId(0), pcid: Pcid::new(0), user: false };
    let leaf = Leaf { frame: Gpa(0x1000), writable: false, executable: true };
    executor.map(space, Gva(0x40_0000), leaf).expect("a table");
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            vcpu.rip = 0x40_0000;
            let trap = executor.run(&mut vcpu).expect("KVM runs");
            assert!(matches!(trap, Trap::Exception { vector: 3, .. }), "{trap:?}");
        }
        best = best.min(start.elapsed() / ROUNDS);
    }
    best
}

/// Time a trap in steady state: the difference of a long and a short run.
fn per_trap(session: &mut Session, lines: &str) -> Duration {
    let mut run = |count: usize| {
        let text = format!("map u0 red\nuser read u0\n{}", format!("{lines}\n").repeat(count));
        let steps = steps(&text);
        let start = Instant::now();
        let end = session.run(&steps, Injector::default(), &mut Nobody).expect("KVM runs");
        assert!(end.stop.is_none(), "{:?}", end.stop);
        (start.elapsed(), end.traps)
    };
    run(20);
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let ((short, few), (long, many)) = (run(20), run(220));
        best = best.min(long.saturating_sub(short) / (many - few) as u32);
    }
    best
}

fn whole(session: &mut Session, scenario: &Scenario) -> (u64, Duration, f64) {
    let steps: Vec<StepInput> = scenario.steps.iter().map(|step| step.input).collect();
    let mut oracle = Oracle::default();
    // Once to warm the projection up, as in a suite.
    session.run(&steps, Injector::default(), &mut oracle).expect("KVM runs");
    let before = session.time_in_executor();
    let start = Instant::now();
    let end = session.run(&steps, Injector::default(), &mut oracle).expect("KVM runs");
    let time = start.elapsed();
    let inside = session.time_in_executor() - before;
    (end.traps, time, inside.as_secs_f64() / time.as_secs_f64())
}
