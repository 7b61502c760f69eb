//! What the interpreter does in a second, with the goals; and, where Unicorn is installed, the
//! same loop there in the same run.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod unicorn;

use common::{Nobody, steps};
use object::{Object, ObjectSection, ObjectSymbol};
use stalemate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use stalemate::arch::core::Memory;
use stalemate::arch::features::CpuFeatures;
use stalemate::arch::vcpu::{Vcpu, gpr};
use stalemate::boot::{GuestMemory, Image, guest_image};
use stalemate::executor::interp::InterpExecutor;
use stalemate::executor::{Backend, Executor, Leaf, Space, Trap};
use stalemate::inject::Injector;
use stalemate::machine::{Session, StepInput};
use stalemate::oracle::Oracle;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 200;

fn main() {
    let image = Image::parse(guest_image()).expect("the built-in guest");
    let backend = Backend::interp();
    let mut session = Session::boot(common::config(), &image, |memory| backend.make(memory))
        .expect("the guest boots");
    let speed = instructions(&mut session);
    println!("guest instructions, full TLB model    {:8.1} M/s    goal >= 60", speed / 1e6);
    compare_with_unicorn();
    println!("\nscenario (pcid, split, pti)          reset to outcome us   a second");
    let mut total = Duration::ZERO;
    let mut count = 0;
    for scenario in common::scenarios() {
        let steps: Vec<StepInput> = scenario.steps.iter().map(|step| step.input).collect();
        let mut primed = Oracle::default();
        session.opening().tell(&mut primed);
        primed.ready();
        let time = best(|| {
            let mut oracle = primed.clone();
            session.run_told(&steps, Injector::default(), &mut oracle).expect("it runs");
        });
        println!(
            "  {:36} {:12.0} {:12.0}",
            scenario.name,
            time.as_secs_f64() * 1e6,
            1.0 / time.as_secs_f64()
        );
        total += time;
        count += 1;
    }
    println!("  mean {:44.0}   goal <= 200", total.as_secs_f64() * 1e6 / f64::from(count));
    restores(&mut session);
}

/// The loop of `user spin`, alone: on the interpreter's executor, and on Unicorn.
fn compare_with_unicorn() {
    let code = spin_loop();
    let rounds = 1_000_000;
    let (bare, instructions) = bare_loop(&code, rounds);
    println!("the same loop, no machine around it   {:8.1} M/s", bare / 1e6);
    match unicorn::run(&code, rounds, instructions) {
        Ok(other) => println!(
            "the same loop on Unicorn              {:8.1} M/s    interp is {:.2} of it",
            other / 1e6,
            bare / other
        ),
        Err(reason) => println!("the same loop on Unicorn              SKIP: {reason}"),
    }
}

/// The loop from the guest image: from the label behind the program's dispatch to its SYSCALL.
fn spin_loop() -> Vec<u8> {
    let file = object::File::parse(guest_image()).expect("an ELF file");
    let section = file.section_by_name(".user_code").expect("user code");
    let text = section.data().expect("its bytes");
    let address = |name: &str| {
        let found = file.symbols().find(|symbol| symbol.name() == Ok(name));
        (found.expect("a label").address() - section.address()) as usize
    };
    text[address("user_spin")..address("user_spin_end")].to_vec()
}

/// Instructions a second of `code` by itself, and how many they are.
fn bare_loop(code: &[u8], rounds: u64) -> (f64, u64) {
    let memory = GuestMemory::new(1 << 20).expect("memory");
    assert!(memory.write(Gpa(0x1000), code));
    assert!(memory.write(Gpa(0x1000 + code.len() as u64), &[0xcc]));
    let mut executor = InterpExecutor::new(&memory, u64::MAX);
    let space = Space { cpu: CpuId(0), pcid: Pcid::new(0), user: false };
    let mut map = |page, frame, writable| {
        let leaf = Leaf { frame: Gpa(frame), writable, executable: !writable };
        executor.map(space, Gva(page), leaf).expect("a leaf");
    };
    map(0x40_0000, 0x1000, false);
    map(0x41_0000, 0x2000, true);
    let mut vcpu = Vcpu::long_mode(CpuId(0), CpuFeatures::default(), 0x40_0000, 0);
    let mut best = 0.0f64;
    let mut count = 0;
    for _ in 0..5 {
        vcpu.rip = 0x40_0000;
        vcpu.gpr[gpr::RDI] = 0x41_0000;
        vcpu.gpr[gpr::RDX] = rounds;
        let before = executor.instructions().unwrap_or(0);
        let start = Instant::now();
        let trap = executor.run(&mut vcpu).expect("it runs");
        let time = start.elapsed().as_secs_f64();
        assert!(matches!(trap, Trap::Exception { vector: 3, .. }), "{trap:?}");
        count = executor.instructions().unwrap_or(0) - before;
        best = best.max(count as f64 / time);
    }
    (best, count)
}

/// Going back to the booted state after runs that wrote more and more pages.
fn restores(session: &mut Session) {
    println!("\nrestore                                pages written       us");
    for count in [0u64, 1, 2, 4, 8, 12] {
        let mut text = String::from("user nop\n");
        let colours = &stalemate_shared::layout::COLOURS[..count as usize];
        for (number, colour) in colours.iter().enumerate() {
            text += &format!("map u{number} {colour}\nuser write u{number}\n");
        }
        let steps = steps(&text);
        let (mut best, mut pages) = (Duration::MAX, 0);
        for _ in 0..ROUNDS {
            session.run(&steps, Injector::default(), &mut Nobody).expect("it runs");
            let start = Instant::now();
            pages = session.rewind().expect("it goes back");
            best = best.min(start.elapsed());
        }
        println!("  {count:2} pages stored to {pages:31} {:8.1}", best.as_secs_f64() * 1e6);
    }
    println!("  goal, for a typical scenario                          <= 20");
}

fn best(mut work: impl FnMut()) -> Duration {
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}

/// Instructions a second of a program in user mode, while its kernel's tables are watched.
fn instructions(session: &mut Session) -> f64 {
    let steps = steps("map u0 red\nuser spin u0 1000000\nunmap u0\nflush_tlb_one_user u0");
    let mut best = 0.0f64;
    for _ in 0..5 {
        let before = session.instructions().unwrap_or(0);
        let start = Instant::now();
        session.run(&steps, Injector::default(), &mut Nobody).expect("it runs");
        let time = start.elapsed().as_secs_f64();
        let done = session.instructions().unwrap_or(0) - before;
        best = best.max(done as f64 / time);
    }
    best
}
