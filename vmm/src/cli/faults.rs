//! `stalemate faults`: the detection score.

use super::{EXIT_OK, EXIT_UNEXPECTED, ExecutorKind, Failure, FaultsArgs, Format, input, write};
use crate::boot::{self, Image, Symbols};
use crate::executor::Backend;
use crate::report::{score_json, score_text};
use crate::runner::Runner;
use crate::scenario::CPUS;
use crate::score::{Class, Wanted, cases, score};
use std::io::Write;
use std::path::Path;

/// Scores what `args` select.
pub fn run(args: &FaultsArgs, device: &Path, out: &mut dyn Write) -> Result<u8, Failure> {
    let scenarios = input::scenarios(&args.scenarios)?;
    let wanted = Wanted {
        cpus: input::cpus(args.cpu.as_deref())?,
        policy: input::policy(args.policy.as_deref())?,
        inject: input::faults(&args.inject)?,
    };
    let without = input::rule(args.without.as_deref())?;
    let cases = cases(&scenarios, &wanted);
    if cases.is_empty() {
        let message = "no selected CPU fits any selected scenario; see the `cpu` line of the \
                       scenario and `stalemate list cpus`";
        return Err(Failure::usage(message));
    }
    let possible = crate::score::cases(&scenarios, &Wanted { cpus: CPUS.to_vec(), ..wanted }).len();
    let bytes = boot::guest_image();
    let image = Image::parse(bytes).map_err(|error| Failure::usage(error.to_string()))?;
    let symbols = Symbols::new(bytes);
    let backend = match args.executor {
        ExecutorKind::Interp => Backend::interp(),
        ExecutorKind::Kvm => Backend::kvm(device).map_err(|error| Failure::host(&error))?,
        ExecutorKind::Both => {
            let message = "a score is made on one executor; use `--executor kvm` or `interp`";
            return Err(Failure::usage(message));
        }
    };
    let mut runner = Runner::new(&image, &symbols, &backend);
    runner.leave_out(without);
    runner.stride(args.stride);
    let mut progress = progress(cases.len());
    let scored = score(&mut runner, &scenarios, &cases, &mut progress)
        .map_err(|error| Failure::host(&error))?;
    let report = crate::report::Score {
        scenarios: &scenarios,
        scored: &scored,
        executor: backend.name(),
        possible,
        without,
    };
    let text = match args.format {
        Format::Json => {
            serde_json::to_string_pretty(&score_json(&report)).unwrap_or_default() + "\n"
        }
        Format::Text => score_text(&report),
    };
    write(out, &text)?;
    let escaped = scored.iter().any(|one| matches!(one.class, Class::Escaped(_)));
    Ok(if escaped { EXIT_UNEXPECTED } else { EXIT_OK })
}

/// Progress on standard error, on a terminal only.
fn progress(total: usize) -> impl FnMut(usize) {
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    move |done| {
        if terminal && (done % 64 == 0 || done == total) {
            let end = if done == total { "\r\x1b[K" } else { "" };
            eprint!("\r{done} of {total} faults{end}");
        }
    }
}
