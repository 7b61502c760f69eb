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
use std::sync::atomic::{AtomicUsize, Ordering};

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
    let image: &'static Image<'static> = Box::leak(Box::new(
        Image::parse(bytes).map_err(|error| Failure::usage(error.to_string()))?,
    ));
    let backend = match args.executor {
        ExecutorKind::Interp => Backend::interp(),
        ExecutorKind::Kvm => Backend::kvm(device).map_err(|error| Failure::host(&error))?,
        ExecutorKind::Both => {
            let message = "a score is made on one executor; use `--executor kvm` or `interp`";
            return Err(Failure::usage(message));
        }
    };
    // What there is one of lives as long as the process.
    let backend: &'static Backend = Box::leak(Box::new(backend));
    let stride = args.stride;
    let runner = move || {
        let mut runner = Runner::new(image, &Symbols::new(bytes), backend);
        runner.leave_out(without);
        runner.stride(stride);
        runner
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let done = AtomicUsize::new(0);
    let total = cases.len();
    let scored = score(&runner, threads, &scenarios, &cases, &|more| {
        progress(done.fetch_add(more, Ordering::Relaxed) + more, total);
    })
    .map_err(|error| Failure::host(&error))?;
    let report = crate::report::Score {
        scenarios: &scenarios,
        scored: &scored,
        executor: backend.name(),
        possible,
        without,
        stride,
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
fn progress(done: usize, total: usize) {
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        let end = if done == total { "\r\x1b[K" } else { "" };
        eprint!("\r{done} of {total} faults{end}");
    }
}
