//! A campaign as JSON.

use super::super::campaign::{Campaign, Dropped, WORDS};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use std::collections::BTreeMap;

/// What became of each flush that was withheld.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "campaign")]
pub(super) struct CampaignReport<'a> {
    /// Operations of the workload that could be withheld.
    operations: u64,
    /// Those that removed something stale: each of them was.
    tried: usize,
    /// How many came to what.
    #[schemars(with = "BTreeMap<String, usize>", transform = of_each_word)]
    counts: BTreeMap<&'static str, usize>,
    /// Each, in the order of the workload.
    dropped: Vec<DroppedReport<'a>>,
}

/// Each outcome has its number.
fn of_each_word(schema: &mut Schema) {
    schema.insert("required".to_owned(), WORDS.map(|(word, _)| word).as_slice().into());
}

/// What one withheld operation came to.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct DroppedReport<'a> {
    /// The fault, as `--inject` takes it.
    fault: &'a str,
    /// The operation.
    operation: &'static str,
    /// The function that it is in.
    function: &'a str,
    /// What came of it: `caught` by a rule; `covered`, where something else removed it all in time;
    /// what was still cached at the end is `parked` under a PCID that is not current, `unused` where it is
    /// of kernel addresses that were not used again, else `unjudged`.
    #[schemars(extend("enum" = ["caught", "covered", "parked", "unused", "unjudged"]))]
    came: &'static str,
    /// The rule that caught it, or the operation that covered it and its function.
    by: Option<String>,
    /// What was still cached at the end.
    left: Option<&'a str>,
    /// Instructions until that was known.
    instructions: u64,
}

impl<'a> CampaignReport<'a> {
    pub(super) fn new(campaign: &'a Campaign) -> Self {
        let dropped = |one: &'a Dropped| DroppedReport {
            fault: &one.fault,
            operation: one.operation,
            function: &one.function,
            came: one.came.word(),
            by: one.came.by(),
            left: one.came.left(),
            instructions: one.instructions,
        };
        Self {
            operations: campaign.operations,
            tried: campaign.dropped.len(),
            counts: WORDS.iter().map(|(word, _)| (*word, campaign.count(word))).collect(),
            dropped: campaign.dropped.iter().map(dropped).collect(),
        }
    }
}
