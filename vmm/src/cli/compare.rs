//! `stalemate compare`.

use super::confine::confine;
use super::failure::{EXIT_OK, EXIT_UNEXPECTED, Failure};
use super::stopped::verdict;
use super::terminal::{Format, Terminal};
use super::{files, input, names};
use crate::compare;
use crate::kernel::steps::Guest;
use crate::sandbox::Grants;
use crate::scenario::Policy;
use std::path::PathBuf;

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// Processors, separated by commas, or `all` [default: with PCID, with and without INVPCID and
    /// PGE; and nopcid]
    #[arg(long, value_name = "LIST", value_parser = names::cpus(), value_delimiter = ',',
          hide_possible_values = true)]
    cpu: Vec<names::Cpus>,
    /// How to print; the schema of `json` is docs/compare.schema.json
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true,
          value_name = "text|json")]
    format: Format,
    /// Compare this kernel (ELF) too: as `own`, where it has a policy of its own, on the workloads that it
    /// can run, with page-table isolation if it has that
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
    /// Write a chart to this file too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Compares the policies.
pub fn run(args: &CompareArgs, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let cpus = match &args.cpu[..] {
        [] => compare::default_cpus(),
        words => names::each_once(words),
    };
    let workloads = compare::workloads()?;
    let guest = args.guest.as_deref().map_or_else(|| Ok(Guest::builtin()), input::guest)?;
    let [svg] = files::open([args.svg.as_deref()], &[])?;
    let renames = svg.iter().filter_map(files::Output::folder).collect();
    confine(terminal, &Grants { renames, ..Grants::default() });
    let rows = workloads.len() * cpus.len() * Policy::all().len();
    let bar = terminal.progress(rows as u64, "rows");
    let own = !guest.abilities().has_policies();
    let of_policies = if own { &Guest::builtin() } else { &guest };
    let mut found = compare::compare(of_policies, &workloads, &cpus, &mut |done| {
        bar.set_position(done as u64);
    })
    .map_err(|error| Failure::host(&error))?;
    if own {
        found.add_own(&guest, &workloads).map_err(|error| Failure::host(&error))?;
    }
    bar.finish_and_clear();
    let reported = match args.format {
        Format::Text => terminal.report(&compare::text(&found), &["interp"]),
        Format::Json => terminal.json(&compare::json(&found)),
    };
    let saved = svg.map_or(Ok(()), |svg| svg.save(&compare::svg(&found)));
    let code = if found.all_as_expected() { EXIT_OK } else { EXIT_UNEXPECTED };
    verdict(code, reported.and(saved))
}
