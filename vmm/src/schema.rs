//! Schemas of JSON reports, made from the types that are written: what is said of a type and of its
//! fields is what its schema, and by it the manual, says of them.

use crate::arch::tlb::FILLS;
use crate::oracle::rules;
use schemars::generate::SchemaSettings;
use schemars::transform::Transform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;

/// The schema of a report.
pub fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// A report as JSON.
pub fn value(report: &impl Serialize) -> Value {
    // It has a value: the keys of all its maps are texts.
    serde_json::to_value(report).unwrap_or_default()
}

/// Names the built-in rules.
pub struct RuleName;

impl JsonSchema for RuleName {
    fn schema_name() -> Cow<'static, str> {
        "rule".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": rules::names() })
    }
}

/// Names the fill choices.
pub struct FillName;

impl JsonSchema for FillName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "fill".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let fill = |(_, name, about)| json!({ "const": name, "description": about });
        json_schema!({ "oneOf": FILLS.map(fill) })
    }
}

/// The keys of a map are the names of a `T`.
pub fn by<T: JsonSchema>(schema: &mut Schema) {
    let name = T::json_schema(&mut SchemaGenerator::default());
    schema.insert("propertyNames".to_owned(), name.to_value());
}

/// Fields that reports of the same version did not have from the beginning: they are always
/// written, and an older report may lack them.
pub struct Later(pub &'static [&'static str]);

impl Transform for Later {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(Value::Array(required)) = schema.get_mut("required") {
            required.retain(|name| name.as_str().is_none_or(|name| !self.0.contains(&name)));
        }
    }
}
