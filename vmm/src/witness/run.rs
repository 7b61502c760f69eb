//! Programs on this host's KVM.

use super::code;
use super::layout;
use super::processor::Seen;
use super::program::Program;
use super::replay::{Findings, Options, replay};
use crate::arch::features::CpuFeatures;
use crate::executor::kvm::Host;
use crate::executor::kvm::bare::{BareExit, Boot, run as run_bare};
use crate::executor::{ExecutorError, WATCHDOG};
use crate::memory::GuestMemory;

/// Why a program did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The host has no memory for it.
    #[error("the memory of program {seed}")]
    Memory {
        /// The program's seed.
        seed: u64,
        /// Why.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// KVM refused.
    #[error("program {seed}")]
    Kvm {
        /// The program's seed.
        seed: u64,
        /// Why.
        #[source]
        source: ExecutorError,
    },
    /// It ran, and did not end as it should.
    #[error("program {seed} did not end: {exit:?}")]
    Unfinished {
        /// The program's seed.
        seed: u64,
        /// How it ended.
        exit: BareExit,
    },
}

/// What programs may use on this host.
#[must_use]
pub fn features(host: &Host) -> CpuFeatures {
    let offered = |wanted: &str| host.offers().iter().any(|(name, has)| *name == wanted && *has);
    CpuFeatures {
        pcid: offered("PCID"),
        invpcid: offered("INVPCID"),
        pge: offered("PGE"),
        ..CpuFeatures::default()
    }
}

/// How what was seen on this host is judged.
#[must_use]
pub fn options(host: &Host) -> Options {
    Options { mutation: None, software_kvm: host.is_software() }
}

/// Runs a program: what each of its accesses came to.
///
/// # Errors
/// When the host fails, or the guest does not come to its end.
pub fn run(host: &Host, program: &Program) -> Result<Vec<Seen>, WitnessError> {
    let seed = program.seed;
    let memory =
        GuestMemory::new(layout::SIZE).map_err(|source| WitnessError::Memory { seed, source })?;
    layout::lay_out(&memory);
    code::write(program, &memory);
    let boot = Boot {
        cr3: layout::ROOTS[0].0,
        cr4: Program::cr4(program.features),
        rip: layout::PROGRAM,
        slot: layout::MONITOR_SLOT,
        monitor: layout::MONITOR,
        handlers: &code::HANDLERS,
        done: code::DONE,
    };
    let exit = run_bare(host, &memory, &boot, WATCHDOG)
        .map_err(|source| WitnessError::Kvm { seed, source })?;
    if exit != BareExit::Done {
        return Err(WitnessError::Unfinished { seed, exit });
    }
    Ok(code::results(program, &memory).into_iter().map(Seen::from_result).collect())
}

/// Runs and replays the programs of these seeds; `done` is called after each.
///
/// # Errors
/// As [`run`]'s.
pub fn examine(
    host: &Host,
    seeds: impl Iterator<Item = u64>,
    mut done: impl FnMut(),
) -> Result<Findings, WitnessError> {
    let features = features(host);
    let options = options(host);
    let mut findings = Findings::default();
    for seed in seeds {
        let program = Program::draw(seed, features);
        let seen = run(host, &program)?;
        findings.add(replay(&program, &seen, options));
        done();
    }
    Ok(findings)
}
