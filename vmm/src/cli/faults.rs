//! `stalemate faults`: the detection score.

use super::{
    EXIT_OK, EXIT_UNEXPECTED, ExecutorKind, Failure, FaultsArgs, Format, Terminal, input, names,
};
use crate::boot::{self, Image, Symbols};
use crate::executor::Backend;
use crate::report::{score_json, score_text};
use crate::runner::Runner;
use crate::scenario::CPUS;
use crate::score::{Class, Wanted, cases, score};
use std::path::Path;

/// Scores what `args` select.
pub fn run(args: &FaultsArgs, device: &Path, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let scenarios = input::scenarios(&args.scenarios)?;
    let wanted = Wanted {
        cpus: names::or_default(&args.cpu),
        policy: args.policy,
        inject: input::faults(&args.inject)?,
    };
    let without = args.without;
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
        runner.disable_rule(without);
        runner.stride(stride);
        runner
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let bar = terminal.progress(cases.len() as u64, "faults");
    let scored = score(&runner, threads, &scenarios, &cases, &|more| bar.inc(more as u64))
        .map_err(|error| Failure::host(&error))?;
    bar.finish_and_clear();
    let report = crate::report::Score {
        scenarios: &scenarios,
        scored: &scored,
        executor: backend.name(),
        possible,
        without,
        stride,
    };
    let escaped = scored.iter().any(|one| matches!(one.class, Class::Escaped(_)));
    match args.format {
        Format::Json => terminal.json(&score_json(&report))?,
        Format::Text if terminal.quiet && !escaped => {}
        Format::Text => terminal.report(&score_text(&report), &[backend.name()])?,
    }
    Ok(if escaped { EXIT_UNEXPECTED } else { EXIT_OK })
}
