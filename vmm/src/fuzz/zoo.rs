//! After how many random programs the fuzzer finds each historical bug, knowing nothing of it.
//!
//! The programs are those of every other campaign, in the same order; only the kernel differs.

use super::report::Trouble;
use super::run::{self, Campaign, FuzzError};
use super::script::Base;
use crate::schema;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use stalemate_shared::variant::{VARIANTS, Variant};
use std::fmt::Write;

/// Programs that are tried first; each further window is as large as all before it.
const FIRST_WINDOW: u64 = 64;
/// Rises when a field of the JSON changes its meaning or is removed.
const SCHEMA_VERSION: u32 = 1;

/// What became of the search for one bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The historical mistake that the kernel makes.
    pub variant: Variant,
    /// How many programs it took, and what the last of them showed.
    pub found: Option<(u64, Trouble)>,
}

/// Searches for every historical bug that can be seen, each among the first `count` programs of the campaign, whose
/// own variant is not looked at. `done` is called after each bug.
///
/// # Errors
/// When the host fails.
pub fn discover(
    campaign: &Campaign<'_>,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Discovery>, FuzzError> {
    let base = Base::new()?;
    let mut discoveries = Vec::new();
    for about in VARIANTS.iter().filter(|about| !about.variant.needs_store_buffers()) {
        let campaign = Campaign { variant: Some(about.variant), ..*campaign };
        discoveries.push(Discovery { variant: about.variant, found: first(&campaign, &base)? });
        done(discoveries.len());
    }
    Ok(discoveries)
}

/// How many programs of the campaign it took until one failed.
fn first(campaign: &Campaign<'_>, base: &Base) -> Result<Option<(u64, Trouble)>, FuzzError> {
    let mut tried = 0;
    while tried < campaign.count {
        let count = tried.max(FIRST_WINDOW).min(campaign.count - tried);
        let window = Campaign { first: campaign.first + tried, count, ..*campaign };
        let report = run::campaign(&window, base, &|_| ())?;
        if let Some(failing) = report.failing.into_iter().min_by_key(|failing| failing.number) {
            return Ok(Some((failing.number + 1 - campaign.first, failing.trouble)));
        }
        tried += count;
    }
    Ok(None)
}

/// The table for people.
#[must_use]
pub fn text(campaign: &Campaign<'_>, discoveries: &[Discovery]) -> String {
    let names = discoveries.iter().map(|discovery| discovery.variant.about().name);
    let width = names.clone().map(str::len).max().unwrap_or(0);
    let mut out = format!("{:width$}  {:>9}  shown by\n", "historical bug", "programs");
    for (name, discovery) in names.zip(discoveries) {
        // Writing to a String cannot fail.
        let _ = match &discovery.found {
            Some((programs, trouble)) => writeln!(out, "{name:width$}  {programs:>9}  {trouble}"),
            None => writeln!(out, "{name:width$}  {:>9}  not found in {}", "-", campaign.count),
        };
    }
    let found = discoveries.iter().filter(|discovery| discovery.found.is_some()).count();
    let _ = writeln!(
        out,
        "\n{found} of {} found from scratch, by the programs of seed {} from {} on, on {}",
        discoveries.len(),
        campaign.seed,
        campaign.first,
        campaign.executor.name()
    );
    out
}

/// What `stalemate fuzz --zoo --format json` prints. `schema` rises when a field changes its
/// meaning or is removed; new fields may appear.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "Stalemate discovery table")]
struct Table<'a> {
    /// Version of this schema.
    #[schemars(extend("const" = SCHEMA_VERSION))]
    schema: u32,
    /// Version of the program.
    stalemate: &'static str,
    /// The seed of all programs.
    seed: u64,
    /// Number of the first program.
    first: u64,
    /// Programs that were tried at most for each bug.
    limit: u64,
    /// What ran the guest.
    #[schemars(extend("enum" = ["kvm", "interp"]))]
    executor: &'a str,
    /// In the order of `stalemate list zoo`.
    bugs: Vec<Bug>,
}

/// The search for one bug.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Bug {
    /// The historical mistake that the kernel makes.
    variant: &'static str,
    /// How many programs it took; null where it was not found.
    #[schemars(range(min = 1))]
    programs: Option<u64>,
    /// What the last of them showed: the first violated rule, or another outcome.
    trouble: Option<String>,
}

/// The table for programs.
#[must_use]
pub fn json(campaign: &Campaign<'_>, discoveries: &[Discovery]) -> Value {
    let bug = |discovery: &Discovery| Bug {
        variant: discovery.variant.about().name,
        programs: discovery.found.as_ref().map(|(programs, _)| *programs),
        trouble: discovery.found.as_ref().map(|(_, trouble)| trouble.to_string()),
    };
    let table = Table {
        schema: SCHEMA_VERSION,
        stalemate: env!("CARGO_PKG_VERSION"),
        seed: campaign.seed,
        first: campaign.first,
        limit: campaign.count,
        executor: campaign.executor.name(),
        bugs: discoveries.iter().map(bug).collect(),
    };
    schema::value(&table)
}

/// The schema of the table; docs/fuzz-zoo.schema.json.
#[must_use]
pub fn schema() -> Value {
    schema::of::<Table<'_>>()
}
