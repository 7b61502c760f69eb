//! docs/zoo.md, which is written from the rows and from what the fuzzer finds.

use super::zoo;
use crate::common::stalemate;
use serde_json::Value;
use stalemate::executor::Backend;
use stalemate::fuzz::Campaign;
use stalemate::fuzz::zoo::discover;
use stalemate::kernel::steps::Guest;
use stalemate::scenario::{CPUS, NOT_REBUILT, Policy};
use std::collections::BTreeMap;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/zoo.md");
/// Programs that the table was made with, for each bug.
const LIMIT: u64 = 20_000;
/// Programs that are run again here.
const CHECKED: u64 = 64;

/// By the variant's name, how many programs it took to find it, and what showed it.
type Found = BTreeMap<String, Option<(u64, String)>>;

fn search(count: u64) -> Found {
    let executor = Backend::interp();
    let guest = Guest::builtin();
    let campaign = Campaign {
        path: None,
        guest: &guest,
        seed: 1,
        first: 0,
        count,
        policies: &[Policy::Split],
        variant: None,
        cpus: &CPUS,
        executor: &executor,
        cross_check: None,
        threads: 2,
    };
    let discoveries = discover(&campaign, &mut |_| ()).expect("the host works");
    let named = discoveries.into_iter().map(|discovery| {
        let found = discovery.found.map(|(programs, trouble)| (programs, trouble.to_string()));
        (discovery.variant.about().name.to_owned(), found)
    });
    named.collect()
}

/// The page, with these figures in its last column.
fn page(found: &Found) -> String {
    let mut rows = String::new();
    for scenario in zoo() {
        let row = scenario.zoo.as_ref().expect("a historical bug");
        let about = scenario.variant.iter().flatten().next().expect("a mistake").about();
        let programs = match &found[about.name] {
            Some((programs, trouble)) => format!("{programs} ({trouble})"),
            None => format!("not found in {LIMIT}"),
        };
        rows += &format!(
            "| `{name}` | {} | {} | {} | `{}` | {} | {programs} |\n",
            row.reference,
            row.system,
            row.year.map_or("".to_owned(), |year| year.to_string()),
            about.function,
            row.rule.map_or("none: by a value".to_owned(), |rule| rule.to_string()),
            name = scenario.name,
        );
    }
    let missing = NOT_REBUILT.iter().map(|(row, why)| format!("* {row}: {why}\n"));
    include_str!("template.md")
        .replace("{{rows}}", rows.trim_end())
        .replace("{{missing}}", missing.collect::<String>().trim_end())
        .replace("{{limit}}", &LIMIT.to_string())
}

/// What the committed page says of each bug.
fn committed(text: &str) -> Found {
    let mut found = Found::new();
    for scenario in zoo() {
        let about = scenario.variant.iter().flatten().next().expect("a mistake").about();
        let row = text.lines().find(|line| line.starts_with(&format!("| `{}` |", scenario.name)));
        let cell = row.and_then(|row| row.trim_end_matches(" |").rsplit(" | ").next());
        let figure = cell.and_then(|cell| {
            let (programs, trouble) = cell.strip_suffix(')')?.split_once(" (")?;
            Some((programs.parse().ok()?, trouble.to_owned()))
        });
        found.insert(about.name.to_owned(), figure);
    }
    found
}

#[test]
fn the_page_says_what_the_rows_and_the_fuzzer_say() {
    if std::env::var_os("STALEMATE_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(FILE, page(&search(LIMIT))).expect("docs can be written");
    }
    let text = std::fs::read_to_string(FILE).unwrap_or_default();
    let said = committed(&text);
    for (name, found) in search(CHECKED) {
        // Some variants are of no row.
        let Some(said) = said.get(&name) else { continue };
        let soon = said.clone().filter(|(programs, _)| *programs <= CHECKED);
        assert_eq!(found, soon, "{name}: docs/zoo.md is out of date, see `just zoo-page`");
    }
    assert_eq!(text, page(&said), "docs/zoo.md is out of date, see `just zoo-page`");
}

#[test]
fn the_table_follows_its_schema() {
    let schema: Value =
        serde_json::from_str(include_str!("../../../docs/fuzz-zoo.schema.json")).expect("a schema");
    let arguments = ["fuzz", "--zoo", "--count", "4", "--executor", "interp", "--format", "json"];
    let output = stalemate(&arguments);
    let mut table: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let errors = crate::common::schema::errors(&schema, &table);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(table["bugs"].as_array().expect("bugs").iter().any(|bug| bug["programs"] == 1));
    table["bugs"][0]["programs"] = 0.into();
    assert!(!crate::common::schema::errors(&schema, &table).is_empty(), "the schema can refuse");
}
