//! A kernel that runs freely: nobody hands it steps, it announces nothing, halts its own CPUs, and ends
//! when it says so or when it is told to.

mod boot;
mod hooks;
mod image;
mod initramfs;
mod look;
mod payload;
mod percpu;
mod platform;
mod session;
mod startup;
mod stops;
mod task;
mod unwind;

pub use boot::Boot;
pub use hooks::{Descriptors, Does, Function, Hooks, MOST_FUNCTIONS, Value};
pub use image::{KernelError, KernelImage};
pub use initramfs::{READY, init, initramfs};
pub use payload::PayloadError;
pub use percpu::{LazyCpus, Marks, PerCpu};
pub use platform::Turns;
pub(crate) use session::Checkpoint;
pub use session::{End, Free, FreeError, FreeRun, Settings};
pub use unwind::{Stack, Unwinder, Unwound};

use crate::arch::addr::{CpuId, Gpa};
use crate::arch::happened::WordStore;
use crate::arch::vcpu::Vcpu;
use crate::event::Announcement;
use crate::machine::{Call, Kernel, Reached, Sent, Statement, Stop};
use crate::memory::GuestMemory;
use look::Look;
use platform::{Platform, Several, TSC_DEADLINE};
use std::collections::{BTreeMap, BTreeSet};
use stops::Stops;
use task::Tasks;

/// How Linux tells a user root, and a user PCID, from its kernel's (arch/x86/mm/tlb.c).
const USER_ROOT_BIT: u64 = 1 << 12;
const USER_PCID_BIT: u64 = 1 << 11;

/// The longest that the executor runs before the platform is looked at.
const SLICE: u64 = 10_000;

/// A kernel that runs freely, with the platform that it runs on. Time is the count of instructions, and of
/// those that idle CPUs would have completed.
#[derive(Clone, Debug)]
pub(crate) struct FreeKernel {
    platform: Platform,
    /// What idle CPUs have slept through.
    slept: u64,
    tasks: Tasks,
    watched: BTreeSet<Gpa>,
    /// Ports and registers that no board is known to have are answered as an empty bus does.
    lenient: bool,
    /// Registers that the processor has not, and how often they were used.
    absent_msrs: BTreeMap<u32, u64>,
    hooks: Hooks,
    /// Whoever drives it wants it back once so many instructions have completed.
    pause: Option<u64>,
    look: Option<Look>,
    stops: Stops,
}

impl FreeKernel {
    fn new(platform: Platform, lenient: bool, hooks: Hooks) -> Self {
        Self {
            platform,
            slept: 0,
            tasks: Tasks::new(hooks.current),
            watched: BTreeSet::new(),
            lenient,
            hooks,
            absent_msrs: BTreeMap::new(),
            pause: None,
            look: None,
            stops: Stops::default(),
        }
    }

    fn answers(&self, port: u16) -> bool {
        self.lenient || Platform::knows(port)
    }

    /// A register that nobody has is used; whether that is answered.
    fn absent_msr(&mut self, msr: u32) -> bool {
        *self.absent_msrs.entry(msr).or_default() += 1;
        self.lenient
    }

    fn now(&self, instructions: u64) -> u64 {
        instructions + self.slept
    }

    /// Every CPU has halted: time goes on to when a device has something to do. Whether one ever has.
    fn sleep(&mut self, instructions: u64) -> bool {
        let now = self.now(instructions);
        let Some(next) = self.platform.next() else { return false };
        self.slept += next.saturating_sub(now);
        true
    }
}

impl Kernel for FreeKernel {
    fn watched(&self) -> &BTreeSet<Gpa> {
        &self.watched
    }

    fn stored(&self, _: &GuestMemory, store: &WordStore) -> Statement {
        Statement::unknown(store)
    }

    fn state(&self, _: &GuestMemory) -> Vec<Announcement> {
        Vec::new()
    }

    fn store_for(&self, _: &GuestMemory, _: &Announcement) -> Option<WordStore> {
        None
    }

    fn output(
        &mut self,
        _: u8,
        _: &mut Vcpu,
        _: u64,
        _: &GuestMemory,
    ) -> Option<Result<Call, Stop>> {
        None
    }

    fn port_in(&mut self, port: u16, _: u8, instructions: u64) -> Option<u32> {
        self.answers(port).then(|| self.platform.read(port, self.now(instructions)))
    }

    fn port_out(&mut self, port: u16, _: u8, value: u32, instructions: u64) -> Option<()> {
        let now = self.now(instructions);
        self.answers(port).then(|| self.platform.write(port, value, now))
    }

    fn read_msr(&mut self, cpu: CpuId, msr: u32) -> Option<u64> {
        match &self.platform.several {
            Some(several) if msr == TSC_DEADLINE => Some(several.deadline(cpu)),
            _ => self.absent_msr(msr).then_some(0),
        }
    }

    fn write_msr(&mut self, cpu: CpuId, msr: u32, value: u64) -> Option<()> {
        match &mut self.platform.several {
            Some(several) if msr == TSC_DEADLINE => {
                several.set_deadline(cpu, value);
                Some(())
            }
            _ => self.absent_msr(msr).then_some(()),
        }
    }

    fn takes_nmi(&mut self, cpu: CpuId) -> bool {
        self.platform.several.as_mut().is_some_and(|several| several.takes_nmi(cpu))
    }

    fn has_device(&self, at: Gpa) -> bool {
        self.platform.several.is_some() && Several::has_device(at)
    }

    fn load_device(&mut self, cpu: CpuId, at: Gpa, _: u64) -> u32 {
        self.platform.several.as_mut().map_or(u32::MAX, |several| several.load(cpu, at))
    }

    fn store_device(&mut self, cpu: CpuId, at: Gpa, value: u32, instructions: u64) -> Vec<Sent> {
        let several = self.platform.several.as_mut();
        several.map_or_else(Vec::new, |several| several.store(cpu, at, value, instructions))
    }

    fn frees_roots_in_silence(&self) -> bool {
        true
    }

    fn is_interrupting(&mut self, cpu: CpuId, instructions: u64) -> bool {
        let now = self.now(instructions);
        self.platform.advance(cpu, instructions, now)
    }

    fn acknowledge(&mut self, cpu: CpuId) -> Option<u8> {
        self.platform.acknowledge(cpu)
    }

    fn quiet(&self, instructions: u64) -> Option<u64> {
        if self.stops.is_at_one() {
            return Some(0);
        }
        let now = self.now(instructions);
        let next = match &self.platform.several {
            Some(several) => several.quiet(instructions, now),
            None => self.platform.next().map_or(SLICE, |next| next.saturating_sub(now).max(1)),
        };
        let pause = self.pause.and_then(|pause| pause.checked_sub(instructions));
        Some(next.min(SLICE).min(pause.filter(|pause| *pause > 0).unwrap_or(SLICE)))
    }

    fn at_trap(
        &mut self,
        vcpu: &Vcpu,
        memory: &GuestMemory,
        instructions: u64,
    ) -> Vec<Announcement> {
        if let Some(look) = &mut self.look {
            look.at_trap(vcpu, memory, instructions);
        }
        let task = self.tasks.at_trap(vcpu, memory).map(Announcement::TaskBegins);
        let mut says = Vec::from_iter(task);
        if let Some(marks) = &mut self.hooks.marks {
            says.extend(marks.changed(vcpu, memory, USER_PCID_BIT));
        }
        if let Some(lazy) = &mut self.hooks.lazy {
            says.extend(lazy.changed(vcpu, memory));
        }
        says
    }

    fn at_breakpoint(&mut self, vcpu: &Vcpu, memory: &GuestMemory, instructions: u64) -> Reached {
        self.stops.reached(vcpu.rip());
        let mut says = self.at_trap(vcpu, memory, instructions);
        let (said, more) = self.hooks.reached(vcpu, memory);
        says.extend(said);
        if let Some(task) = self.tasks.of(vcpu.id).filter(|_| self.hooks.ends_operation(vcpu.rip()))
        {
            says.push(Announcement::TaskEnds { task, status: 0, value: 0 });
        }
        Reached { says, more: Vec::from_iter(more) }
    }

    fn time(&self, instructions: u64) -> Option<u64> {
        Some(self.now(instructions))
    }
}
