//! Schemas of the values in a profile that may be written in several ways.

use super::raw::{REGISTERS, RawAddress, RawField, RawPointed, RawProfile, RawValue};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use std::borrow::Cow;

/// The schema of profile files; docs/profile.schema.json.
#[must_use]
pub fn schema() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<RawProfile>().to_value()
}

/// Names the general-purpose registers.
pub(super) struct RegisterName;

impl JsonSchema for RegisterName {
    fn schema_name() -> Cow<'static, str> {
        "register".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": REGISTERS })
    }
}

impl JsonSchema for RawValue {
    fn schema_name() -> Cow<'static, str> {
        "argument".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A register at the function's first instruction, or what it points to.",
            "anyOf": [
                generator.subschema_for::<RegisterName>(),
                generator.subschema_for::<RawPointed>(),
            ]
        })
    }
}

impl JsonSchema for RawField {
    fn schema_name() -> Cow<'static, str> {
        "field".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How far into a structure: in bytes, or `structure.member` by the kernel's own types.",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string" },
            ]
        })
    }
}

impl JsonSchema for RawAddress {
    fn schema_name() -> Cow<'static, str> {
        "address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An address, as `0xffffc90000000000`, or the variable that holds it.",
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": {
                        "value_of": {
                            "description": "The variable.",
                            "type": "string",
                        },
                    },
                    "required": ["value_of"],
                    "additionalProperties": false,
                },
            ]
        })
    }
}
