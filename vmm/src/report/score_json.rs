//! The detection score as JSON; its schema is docs/faults.schema.json.

use super::score::{Score, Tally};
use crate::inject::forms::FORMS;
use crate::oracle::RuleId;
use crate::schema::{self, Later};
use crate::score::{ClassName, Scored};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Value, json as value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Version of the schema. Rises when a field changes its meaning or is removed.
pub const SCORE_SCHEMA_VERSION: u32 = 1;

/// What `stalemate faults --format json` prints. `schema` rises when a field changes its meaning or
/// is removed; new fields may appear.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "Stalemate detection score", transform = Later(&["stride"]))]
struct Report<'a> {
    /// Version of this schema.
    #[schemars(extend("const" = SCORE_SCHEMA_VERSION))]
    schema: u32,
    /// Version of the program.
    stalemate: &'static str,
    /// What ran the guest.
    #[schemars(extend("enum" = ["kvm", "interp"]))]
    executor: &'a str,
    /// Faults that all named CPUs would make, each counted once, however often it can be.
    possible_faults: usize,
    /// A rule that was left out.
    #[schemars(with = "Option<String>")]
    without: Option<RuleId>,
    /// Of the boundaries of nmi@each and irq@each, one in so many was tried.
    #[schemars(range(min = 1))]
    stride: usize,
    /// Of all faults.
    score: Sums,
    /// By form of fault.
    forms: Vec<Form>,
    /// By scenario and policy.
    cells: Vec<Cell<'a>>,
    /// Each fault, by scenario.
    faults: Vec<Fault<'a>>,
}

/// Faults by class, and by whom they were caught or covered.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "score")]
struct Sums {
    /// How many of each class.
    #[schemars(with = "BTreeMap<String, usize>", transform = each_class)]
    classes: BTreeMap<ClassName, usize>,
    /// By class, how many by rule, discharger, or whatever spoke.
    #[schemars(with = "BTreeMap<String, BTreeMap<String, usize>>")]
    by: BTreeMap<ClassName, BTreeMap<String, usize>>,
}

/// Every class has its number.
fn each_class(schema: &mut Schema) {
    let names = ClassName::ALL.map(|(_, name)| name);
    schema.insert("required".to_owned(), value!(names));
}

impl Sums {
    fn of<'s>(scored: impl IntoIterator<Item = &'s Scored>) -> Self {
        let tally = Tally::of(scored);
        let classes = ClassName::ALL.iter().map(|(class, _)| (*class, tally.count(*class)));
        let classes = classes.collect();
        let mut by: BTreeMap<ClassName, BTreeMap<String, usize>> = BTreeMap::new();
        for ((class, name), count) in tally.by {
            by.entry(class).or_default().insert(name, count);
        }
        Self { classes, by }
    }
}

/// The faults of one form.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Form {
    /// As `stalemate list faults` has it.
    form: &'static str,
    /// What it does.
    help: &'static str,
    /// Of the faults of this form.
    score: Sums,
}

/// The faults in one scenario under one policy.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Cell<'a> {
    /// The scenario's name.
    scenario: &'a str,
    /// The policy's name.
    policy: String,
    /// Of the faults there.
    score: Sums,
}

/// One fault.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Fault<'a> {
    /// The scenario's name.
    scenario: &'a str,
    /// Processor, policy and what else the run was configured with.
    configuration: String,
    /// As `--inject` takes it.
    fault: String,
    /// What became of it.
    class: ClassName,
    /// Rules, dischargers, how the guest stopped, or what nobody spoke of.
    by: Vec<String>,
    /// Runs that it took; 0 where another fault's run was the same.
    runs: usize,
    /// Does this run again.
    command: String,
}

impl<'a> Fault<'a> {
    fn new(score: &Score<'_>, one: &'a Scored) -> Self {
        Self {
            scenario: &one.scenario.name,
            configuration: one.config.to_string(),
            fault: one.fault.to_string(),
            class: one.class.name(),
            by: one.class.by(),
            runs: one.runs,
            command: score.command(one),
        }
    }
}

/// The score as JSON.
#[must_use]
pub fn score_json(score: &Score<'_>) -> Value {
    let form = |&(form, help)| Form { form, help, score: Sums::of(score.form(form)) };
    let index = |of| score.scenarios.iter().position(|scenario| Arc::ptr_eq(scenario, of));
    let mut cells: BTreeMap<(Option<usize>, String), Vec<&Scored>> = BTreeMap::new();
    for one in score.scored {
        let policy = one.config.policy.to_string();
        cells.entry((index(&one.scenario), policy)).or_default().push(one);
    }
    let cells = cells.into_iter().map(|((_, policy), scored)| Cell {
        scenario: &scored[0].scenario.name,
        policy,
        score: Sums::of(scored),
    });
    let report = Report {
        schema: SCORE_SCHEMA_VERSION,
        stalemate: env!("CARGO_PKG_VERSION"),
        executor: score.executor,
        possible_faults: score.possible,
        without: score.without,
        stride: score.stride,
        score: Sums::of(score.scored),
        forms: FORMS.iter().map(form).collect(),
        cells: cells.collect(),
        faults: score.scored.iter().map(|one| Fault::new(score, one)).collect(),
    };
    schema::value(&report)
}

/// The schema of the score; docs/faults.schema.json.
#[must_use]
pub fn score_schema() -> Value {
    schema::of::<Report<'_>>()
}
