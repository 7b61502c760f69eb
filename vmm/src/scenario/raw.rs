//! The shape of a scenario file. What is written here about a key is what its schema, and by it
//! the manual, says of it.

use super::config::Policy;
use crate::arch::tlb::Fill;
use crate::oracle::rules;
use crate::schema::FillName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use stalemate_shared::variant::VARIANTS;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use toml::Spanned;

/// The schema of a scenario file, after its TOML is read; docs/scenario.schema.json.
#[must_use]
pub fn schema() -> serde_json::Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12();
    settings.into_generator().into_root_schema_for::<RawScenario>().to_value()
}

/// A value, or a list of them.
#[derive(Clone, Debug)]
pub(super) struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany<T>(PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for OneOrMany<T> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }
            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Vec<T>, E> {
                T::deserialize(value.into_deserializer()).map(|value| vec![value])
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Vec<T>, E> {
                let one = T::deserialize(IntoDeserializer::<E>::into_deserializer(value));
                let found = serde::de::Unexpected::Signed(value);
                one.map(|value| vec![value]).map_err(|_| E::invalid_type(found, &self))
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Vec<T>, E> {
                T::deserialize(value.into_deserializer()).map(|value| vec![value])
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(values)
            }
        }
        deserializer.deserialize_any(OneOrMany(PhantomData)).map(List)
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("List_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// One of these words, or a list of them.
fn words(words: &[&str]) -> Schema {
    json_schema!({
        "anyOf": [{ "enum": words }, { "type": "array", "items": { "enum": words } }]
    })
}

fn variants(_: &mut SchemaGenerator) -> Schema {
    words(&VARIANTS.iter().map(|about| about.name).chain(["none"]).collect::<Vec<_>>())
}

fn rule(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": rules::names() })
}

/// Each item is a rule's name.
fn rule_items(schema: &mut Schema) {
    schema.insert("items".to_owned(), serde_json::json!({ "enum": rules::names() }));
}

/// A scenario: steps, the configurations that it runs on, and what must come of each.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Stalemate scenario")]
pub(super) struct RawScenario {
    /// One line on what it is about.
    #[schemars(with = "String")]
    pub summary: Spanned<String>,
    /// The file is about what a processor may show, not about flushes: its accesses alone decide, no
    /// rule speaks, and a run in which nothing was ever stale counts too.
    #[serde(default)]
    pub conformance: bool,
    /// What the processor must have or must not have; what is left out may be either.
    #[serde(default)]
    pub cpu: RawCpu,
    /// What the kernel is told at boot.
    #[serde(default)]
    pub kernel: RawKernel,
    /// How the modelled TLB chooses, and which CPU runs when.
    #[serde(default)]
    pub model: RawModel,
    /// The historical bug that it rebuilds.
    pub zoo: Option<RawZoo>,
    /// The steps, one a line; `#` begins a comment. The steps after the line `concurrently:` are those that
    /// `stalemate explore` has come in every order, each CPU's own in theirs; a run ignores it.
    #[schemars(with = "String")]
    pub steps: Spanned<String>,
    /// Runs with faults: one more run each.
    #[serde(default)]
    pub fault: Vec<RawFault>,
    /// Where the run without faults is not clean; the first whose condition holds counts.
    #[serde(default)]
    pub verdict: Vec<RawVerdict>,
    /// How much of the combinations of its axes is run.
    #[serde(default)]
    #[schemars(with = "RawThin")]
    pub axes: Option<toml::Value>,
    /// The axes, by name, each with its values: the file is one scenario for each combination, in
    /// which `{AXIS.KEY}` stands for what the value says. These are the last tables of the file.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, BTreeMap<String, RawAxis>>")]
    pub axis: Option<toml::Value>,
}

/// What one value of an axis says, by key: a string, or a list of them; a line that holds a list is
/// there once for each.
pub(super) type RawAxis = BTreeMap<String, List<String>>;

/// The axes of a file, which are its last tables.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAxes {
    #[serde(default)]
    pub axes: RawThin,
    #[serde(default)]
    pub axis: BTreeMap<String, BTreeMap<String, RawAxis>>,
}

/// How much of the combinations of its axes is run.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawThin {
    /// Of the configurations of each combination one in so many is run, others for the next one; all
    /// where a policy or a variant is asked for, and where nothing is said.
    #[schemars(range(min = 1))]
    pub one_in: Option<usize>,
}

/// What the processor must have or must not have.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCpu {
    /// Process-context identifiers.
    pub pcid: List<bool>,
    /// The INVPCID instruction.
    pub invpcid: List<bool>,
    /// Global pages.
    pub pge: List<bool>,
}

/// What the kernel is told at boot.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawKernel {
    /// The flush policies; `split` where nothing is said.
    pub policy: List<Policy>,
    /// Page-table isolation; with and without where nothing is said.
    pub pti: List<bool>,
    /// Only where kernel pages are global, or are not. `true` with page-table isolation asks for
    /// the broken kernel that leaks them.
    #[schemars(with = "Option<bool>")]
    pub global: Option<Spanned<bool>>,
    /// The older paranoid exit, which writes a kernel CR3 back; `false` where nothing is said.
    pub paranoid_rewrite: List<bool>,
    /// The NMI handler changes the first user page and flushes it, which it must not.
    #[serde(default)]
    pub nmi_flush: bool,
    /// The historical mistakes that the kernel makes, `none` for the kernel as it is.
    #[schemars(schema_with = "variants")]
    pub variant: Option<Spanned<List<String>>>,
}

/// A historical bug.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawZoo {
    /// Where it is told: commit, CVE or advisory.
    pub reference: String,
    /// When it was mended, where that is known.
    pub year: Option<u16>,
    /// Whose it was.
    pub system: String,
    /// The rule that it breaks; none where it shows by what steps come to alone.
    #[serde(default)]
    #[schemars(schema_with = "rule")]
    pub rule: Option<Spanned<String>>,
}

/// How the modelled TLB chooses, and which CPU runs when.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawModel {
    /// What the TLB holds; `worst-case` where nothing is said.
    #[schemars(with = "List<FillName>")]
    pub fill: List<Fill>,
    /// After what another CPU may come in; `in-order` where nothing is said.
    pub schedule: List<Grain>,
    /// Where `seeded` fills, and schedules but `in-order`, begin; 0 where nothing is said.
    #[schemars(with = "Option<List<u64>>")]
    pub seed: Option<Spanned<List<u64>>>,
    /// With paging-structure caches, or without; `true` where nothing is said.
    pub structure_caches: List<bool>,
}

/// After what another CPU may preempt one.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Grain {
    /// The CPUs take turns in the order of the steps.
    InOrder,
    /// Any CPU may come in after any event, as the seed says.
    Events,
    /// Any CPU may come in after any instruction, as the seed says; on `interp`.
    Instructions,
}

/// How a guest shows that it cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stops {
    /// It goes on for ever and completes no step.
    Hang,
    /// It panics, faults for the third time, or halts.
    Crash,
}

/// A condition on a configuration: each key that is there must hold.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWhen {
    /// The policy is one of these.
    pub policy: List<Policy>,
    /// The processor has process-context identifiers, or has not.
    pub pcid: List<bool>,
    /// The processor has INVPCID, or has not.
    pub invpcid: List<bool>,
    /// The processor has global pages, or has not.
    pub pge: List<bool>,
    /// Page-table isolation is on, or off.
    pub pti: List<bool>,
    /// Kernel pages are global, or are not.
    pub global: List<bool>,
    /// The fill is one of these.
    #[schemars(with = "List<FillName>")]
    pub fill: List<Fill>,
    /// The kernel makes one of these mistakes.
    #[schemars(schema_with = "variants")]
    pub variant: Option<Spanned<List<String>>>,
}

/// A run with faults.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFault {
    /// The fault; a list injects them together.
    #[schemars(with = "List<String>")]
    pub inject: Spanned<List<String>>,
    /// On these configurations; on all where nothing is said.
    #[schemars(with = "Option<RawWhen>")]
    pub when: Option<Spanned<RawWhen>>,
    /// The rules that are violated, exactly; none where the fault does no harm.
    #[schemars(with = "Option<Vec<String>>", transform = rule_items)]
    pub violates: Option<Spanned<Vec<String>>>,
    /// Instead of violating a rule, the guest cannot go on, and how that shows.
    #[schemars(with = "Option<Stops>")]
    pub stops: Option<Spanned<Stops>>,
}

/// What comes of configurations without a fault.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVerdict {
    /// On these configurations; the first verdict of a file that holds is the one that counts.
    #[schemars(with = "RawWhen")]
    pub when: Spanned<RawWhen>,
    /// The rules that are violated, exactly; none for a clean run.
    #[schemars(with = "Option<Vec<String>>", transform = rule_items)]
    pub violates: Option<Spanned<Vec<String>>>,
    /// Instead of violating a rule, the guest cannot go on, and how that shows.
    #[schemars(with = "Option<Stops>")]
    pub stops: Option<Spanned<Stops>>,
    /// Instead of violating a rule, a step comes to something else than it says: a mistake for which
    /// there is no rule.
    #[serde(default)]
    pub mismatch: bool,
}
