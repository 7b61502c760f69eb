//! What the interpreter does in a second, with the goals; and, where Unicorn is installed, the
//! same loop there in the same run.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod explore;
mod unicorn;

use common::{Effort, Figures, Guests, inputs, median, ratio, steps, timed};
use object::{Object, ObjectSection, ObjectSymbol};
use stalemate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use stalemate::arch::core::Memory;
use stalemate::arch::features::CpuFeatures;
use stalemate::arch::vcpu::{Vcpu, gpr};
use stalemate::event::NullObserver;
use stalemate::executor::interp::InterpExecutor;
use stalemate::executor::{Backend, Executor, Leaf, Space, Trap};
use stalemate::inject::Injector;
use stalemate::kernel::steps::{Guest, Session};
use stalemate::memory::GuestMemory;
use stalemate::oracle::Oracle;
use stalemate::runner::Runner;
use stalemate::scenario::{Selection, parse};
use std::time::Duration;

/// Measurements of each figure; of a scenario's time, and of a restore.
const ROUNDS: u32 = 9;
const RUNS: u32 = 60;
/// Rounds of the loop of `user spin`.
const LOOPS: u64 = 1_000_000;

fn main() {
    let effort = Effort::from_args();
    let mut figures = Figures::expect(&[
        "guest instructions, full TLB model, M/s",
        "the same loop, no machine around it, M/s",
        "the same loop on Unicorn",
        "scenario, reset to outcome, mean",
        "restore, 12 pages stored to",
        "remap, flush, read: a round of many to one of 1,000",
        "explore, turns/s",
    ]);
    let guest = Guest::builtin();
    let backend = Backend::interp();
    let mut guests = Guests::new(&guest, |memory: &GuestMemory| backend.make(memory));
    let session = guests.with_cpus(1);
    let speeds = (0..effort.rounds(ROUNDS)).map(|_| instructions(session));
    let speed = median(speeds.collect());
    figures.print("guest instructions, full TLB model, M/s", &format!("{speed:.0}"), ">= 200");
    compare_with_unicorn(effort, &mut figures);

    println!("\nscenario (pcid, split, pti), reset to outcome, CPU us");
    let mut times = Vec::new();
    for scenario in common::scenarios() {
        let steps = inputs(&scenario);
        let session = guests.with_cpus(scenario.cpus());
        let mut primed = Oracle::default();
        session.initial_state().show(&mut primed);
        primed.ready();
        let time = typical(effort.rounds(RUNS), || {
            let mut oracle = primed.clone();
            timed(|| session.run_from_initial_state(&steps, Injector::default(), &mut oracle)).0
        });
        figures.detail(&scenario.name, &format!("{time:.0}"), "");
        times.push(time);
    }
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    figures.print("scenario, reset to outcome, mean", &format!("{mean:.0} us"), "<= 150");
    restores(effort, guests.with_cpus(1), &mut figures);
    rounds(effort, &guest, &mut figures);
    explore::explorations(effort, &guest, &mut figures);
    figures.finish();
}

/// The median of what `measure` gives, in microseconds.
fn typical(rounds: u32, mut measure: impl FnMut() -> Duration) -> f64 {
    median((0..rounds).map(|_| measure().as_secs_f64() * 1e6).collect())
}

/// The loop of `user spin`, alone: on the interpreter's executor, and on Unicorn.
fn compare_with_unicorn(effort: Effort, figures: &mut Figures) {
    let code = spin_loop();
    let mut alone = BareLoop::new(&code);
    alone.measure();
    let speeds =
        (0..effort.rounds(ROUNDS)).map(|_| alone.count as f64 / alone.measure().as_secs_f64());
    let speed = median(speeds.collect()) / 1e6;
    figures.print("the same loop, no machine around it, M/s", &format!("{speed:.0}"), "");
    match unicorn::Unicorn::load(&code) {
        Ok(mut other) => {
            let mut run = || timed(|| other.run(LOOPS).expect("Unicorn runs")).0;
            run();
            let ratio = ratio(effort.rounds(ROUNDS), || alone.measure(), run);
            let shown = format!("{:.0} M/s", speed / ratio);
            let goal = format!("interp is {ratio:.2} of it, goal >= 1.6");
            figures.print("the same loop on Unicorn", &shown, &goal);
        }
        Err(reason) => figures.print("the same loop on Unicorn", "SKIP", &reason),
    }
}

/// The loop from the guest image: from the label behind the program's dispatch to its SYSCALL.
fn spin_loop() -> Vec<u8> {
    let guest = Guest::builtin();
    let file = object::File::parse(guest.image().bytes()).expect("an ELF file");
    let section = file.section_by_name(".user_code").expect("user code");
    let text = section.data().expect("its bytes");
    let address = |name: &str| {
        let found = file.symbols().find(|symbol| symbol.name() == Ok(name));
        (found.expect("a label").address() - section.address()) as usize
    };
    text[address("user_spin")..address("user_spin_end")].to_vec()
}

/// A loop by itself, in an executor with two pages.
struct BareLoop {
    executor: InterpExecutor,
    vcpu: Vcpu,
    /// Instructions of the last measurement.
    count: u64,
    _memory: GuestMemory,
}

impl BareLoop {
    fn new(code: &[u8]) -> Self {
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
        let vcpu = Vcpu::long_mode(CpuId(0), CpuFeatures::default(), 0x40_0000, 0);
        Self { executor, vcpu, count: 0, _memory: memory }
    }

    fn measure(&mut self) -> Duration {
        let Self { executor, vcpu, .. } = self;
        vcpu.rip = 0x40_0000;
        vcpu.gpr[gpr::RDI] = 0x41_0000;
        vcpu.gpr[gpr::RDX] = LOOPS;
        let before = executor.instructions().unwrap_or(0);
        let (time, trap) = timed(|| executor.run(vcpu).expect("it runs"));
        assert!(matches!(trap, Trap::Exception { vector: 3, .. }), "{trap:?}");
        self.count = executor.instructions().unwrap_or(0) - before;
        time
    }
}

/// Going back to the booted state after runs that wrote more and more pages.
fn restores(effort: Effort, session: &mut Session, figures: &mut Figures) {
    println!("\nrestore, CPU us");
    for count in [0u64, 1, 2, 4, 8, 12] {
        let mut text = String::from("user nop\n");
        let colours = &stalemate_shared::layout::COLOURS[..count as usize];
        for (number, colour) in colours.iter().enumerate() {
            text += &format!("map u{number} {colour}\nuser write u{number}\n");
        }
        let steps = steps(&text);
        let mut pages = 0;
        let time = typical(effort.rounds(RUNS), || {
            session.run(&steps, Injector::default(), &mut NullObserver).expect("it runs");
            let (time, written) = timed(|| session.rewind().expect("it goes back"));
            pages = written;
            time
        });
        let shown = format!("{time:.1}");
        let name = format!("restore, {count} pages stored to");
        match count {
            12 => figures.print(&name, &shown, &format!("<= 5; {pages} written")),
            _ => figures.detail(&name, &shown, &format!("{pages} written")),
        }
    }
}

/// Rounds that are many.
const MANY: usize = 100_000;

/// A round of remap, flush and read, from the scenario's text to the verdict, when there are many of
/// them: what is over must cost nothing.
fn rounds(effort: Effort, guest: &Guest, figures: &mut Figures) {
    println!("\nremap, flush, read: CPU us a round, from text to verdict");
    let mut runner = Runner::new(guest, &Backend::interp());
    let many = effort.rounds_of(MANY);
    let of = |runner: &mut Runner, count: usize| {
        timed(|| {
            let text = rounds_of(count);
            let scenario = parse("rounds", "rounds.toml", &text).expect("a scenario");
            let runs = scenario.runs(&Selection::of(&["pcid".parse().expect("a CPU")]));
            let results = runner.run_all(&runs, &mut |_| ()).expect("the host works");
            assert!(results.iter().all(|result| result.as_expected));
        })
        .0
    };
    of(&mut runner, 1_000);
    for count in [1_000, 10_000, many] {
        let time = of(&mut runner, count).as_secs_f64() * 1e6 / count as f64;
        figures.detail(&format!("{count} rounds"), &format!("{time:.1}"), "");
    }
    let few = || (0..5).map(|_| of(&mut runner, 1_000)).sum::<Duration>() / 5;
    let ratio = ratio(effort.rounds(3), few, || {
        of(&mut Runner::new(guest, &Backend::interp()), many) * 1_000 / many as u32
    });
    let name = "remap, flush, read: a round of many to one of 1,000";
    figures.print(name, &format!("{ratio:.2}"), "<= 1.3");
}

/// The scenario of so many rounds.
fn rounds_of(count: usize) -> String {
    let mut text =
        String::from("summary = \"rounds\"\nkernel = { pti = true }\nsteps = \"\"\"\nmap u0 red\n");
    for round in 0..count {
        let colour = ["blue", "red"][round % 2];
        text += &format!("remap u0 {colour}\nflush_tlb_one_user u0\nuser read u0 -> {colour}\n");
    }
    text + "\"\"\"\n"
}

/// Millions of instructions a second of a program in user mode, while its kernel's tables are
/// watched.
fn instructions(session: &mut Session) -> f64 {
    let steps = steps("map u0 red\nuser spin u0 1000000\nunmap u0\nflush_tlb_one_user u0");
    let before = session.instructions().unwrap_or(0);
    let (time, end) = timed(|| session.run(&steps, Injector::default(), &mut NullObserver));
    end.expect("it runs");
    let done = session.instructions().unwrap_or(0) - before;
    done as f64 / time.as_secs_f64() / 1e6
}
