//! `stalemate compare`.

use super::{CompareArgs, EXIT_OK, EXIT_UNEXPECTED, Failure, Format, input, write};
use crate::boot;
use crate::compare::{self, Comparison};
use std::io::Write;
use std::path::Path;

/// Compares the policies.
pub fn run(args: &CompareArgs, out: &mut dyn Write) -> Result<u8, Failure> {
    let cpus = match &args.cpu {
        None => compare::default_cpus(),
        list => input::cpus(list.as_deref())?,
    };
    let workloads = compare::workloads().map_err(|error| Failure::usage(error.to_string()))?;
    let found = compare::compare(boot::guest_image(), &workloads, &cpus, &mut progress())
        .map_err(|error| Failure::host(&error))?;
    if let Some(path) = &args.svg {
        save(path, &found)?;
    }
    let text = match args.format {
        Format::Text => compare::text(&found),
        Format::Json => {
            serde_json::to_string_pretty(&compare::json(&found)).unwrap_or_default() + "\n"
        }
    };
    write(out, &text)?;
    Ok(if found.all_as_expected() { EXIT_OK } else { EXIT_UNEXPECTED })
}

fn save(path: &Path, found: &Comparison) -> Result<(), Failure> {
    std::fs::write(path, compare::svg(found))
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Progress on standard error, on a terminal only.
fn progress() -> impl FnMut(usize, usize) {
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    move |done, total| {
        if terminal {
            let end = if done == total { "\r\x1b[K" } else { "" };
            eprint!("\r{done} of {total} rows{end}");
        }
    }
}
