//! Defaults of a structural schema (`apiextensions/schema/defaulting`): where a field is absent, its default is filled in,
//! and then that one's own fields; a null that is not allowed is replaced.

use serde_json::Value;

/// Whether there is anything to fill in.
pub(super) fn has_defaults(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => map.contains_key("default") || map.values().any(has_defaults),
        Value::Array(list) => list.iter().any(has_defaults),
        _ => false,
    }
}

pub(super) fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            for (name, property) in properties.into_iter().flatten() {
                if let Some(default) = property.get("default") {
                    let nullable = property.get("nullable") == Some(&Value::Bool(true));
                    let missing = match map.get(name) {
                        None => true,
                        Some(found) => found.is_null() && !nullable,
                    };
                    if missing {
                        map.insert(name.clone(), default.clone());
                    }
                }
            }
            for (name, child) in map.iter_mut() {
                let below = properties.and_then(|p| p.get(name)).or_else(|| schema.get("additionalProperties").filter(|a| a.is_object()));
                if let Some(below) = below {
                    fill(below, child);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.get("items") {
                list.iter_mut().for_each(|item| fill(items, item));
            }
        }
        _ => {}
    }
}
