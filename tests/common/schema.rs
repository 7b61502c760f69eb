//! Whether JSON is what its schema says. Of JSON Schema this knows the keywords that our schemas
//! have, and no other passes unseen.

use serde_json::{Map, Value};

/// Keywords that say nothing of a value.
const REMARKS: [&str; 6] = ["$schema", "$defs", "title", "description", "default", "format"];

/// What is wrong with `value`, a line each, by the place in it.
pub fn errors(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Check { root: schema, found: &mut found }.value(schema, value, "");
    found
}

struct Check<'a> {
    root: &'a Value,
    found: &'a mut Vec<String>,
}

impl Check<'_> {
    fn value(&mut self, schema: &Value, value: &Value, at: &str) {
        let Value::Object(keywords) = schema else {
            assert!(schema.is_boolean(), "no schema: {schema}");
            return self.holds(schema == true, at, "is not allowed");
        };
        for (keyword, said) in keywords {
            self.keyword(keywords, keyword, said, value, at);
        }
    }

    fn holds(&mut self, holds: bool, at: &str, what: &str) {
        if !holds {
            self.found.push(format!("{at}: {what}"));
        }
    }

    fn fits(&self, schema: &Value, value: &Value) -> bool {
        let mut found = Vec::new();
        Check { root: self.root, found: &mut found }.value(schema, value, "");
        found.is_empty()
    }

    fn keyword(
        &mut self,
        of: &Map<String, Value>,
        keyword: &str,
        said: &Value,
        value: &Value,
        at: &str,
    ) {
        let schemas = || said.as_array().expect("schemas").iter();
        match keyword {
            "$ref" => {
                let name = said.as_str().and_then(|name| name.strip_prefix('#')).expect("of ours");
                let schema = self.root.pointer(name).expect("a schema by that name");
                self.value(schema, value, at);
            }
            "type" => {
                let one = std::slice::from_ref(said);
                let mut types = said.as_array().map_or(one, Vec::as_slice).iter();
                let holds = types.any(|name| is_of(value, name.as_str().expect("a name")));
                self.holds(holds, at, &format!("{value} is no {said}"));
            }
            "const" => self.holds(value == said, at, &format!("{value} is not {said}")),
            "enum" => {
                let holds = schemas().any(|one| one == value);
                self.holds(holds, at, &format!("{value} is none of {said}"));
            }
            "anyOf" => {
                let holds = schemas().any(|schema| self.fits(schema, value));
                self.holds(holds, at, &format!("{value} fits none of {said}"));
            }
            "oneOf" => {
                let count = schemas().filter(|schema| self.fits(schema, value)).count();
                self.holds(count == 1, at, &format!("{value} fits {count} of {said}"));
            }
            "minimum" | "maximum" => {
                let Some(number) = value.as_f64() else { return };
                let limit = said.as_f64().expect("a number");
                let holds = if keyword == "minimum" { number >= limit } else { number <= limit };
                self.holds(holds, at, &format!("{value}: the {keyword} is {said}"));
            }
            "minItems" | "maxItems" => {
                let Some(items) = value.as_array() else { return };
                let (count, limit) = (items.len() as u64, said.as_u64().expect("a number"));
                let holds = if keyword == "minItems" { count >= limit } else { count <= limit };
                self.holds(holds, at, &format!("{count} items: {keyword} is {said}"));
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.value(said, item, &format!("{at}/{index}"));
                }
            }
            "properties" => {
                for (name, item) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = said.get(name) {
                        self.value(schema, item, &format!("{at}/{name}"));
                    }
                }
            }
            "propertyNames" => {
                for (name, _) in value.as_object().into_iter().flatten() {
                    self.value(said, &name.as_str().into(), &format!("{at}/{name}"));
                }
            }
            "additionalProperties" => {
                let known =
                    |name: &String| of.get("properties").is_some_and(|all| all.get(name).is_some());
                for (name, item) in value.as_object().into_iter().flatten() {
                    if !known(name) {
                        self.value(said, item, &format!("{at}/{name}"));
                    }
                }
            }
            "required" => {
                let Some(object) = value.as_object() else { return };
                for name in schemas().filter_map(Value::as_str) {
                    self.holds(object.contains_key(name), at, &format!("{name} is missing"));
                }
            }
            _ => assert!(REMARKS.contains(&keyword), "the keyword {keyword} is not known here"),
        }
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}
