//! OpenAPI v2, in JSON and in protobuf: one document of everything, for clients that do not know v3.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, Response};
use serde_json::{Map, Value, json};
use skein_object::custom::DEFINITIONS;
use skein_object::{Key, Resource};
use skein_protobuf::openapi;
use skein_state::State;

use super::{document_of, versions};
use crate::{Body, respond};

/// The document in both encodings, as it was made of these definitions of custom resources.
#[derive(Clone)]
struct Made {
    of: u64,
    json: Bytes,
    protobuf: Bytes,
}

static MADE: Mutex<Option<Made>> = Mutex::new(None);

pub(crate) fn serve(headers: &HeaderMap, state: &State, served: &[Arc<Resource>]) -> Response<Body> {
    let made = made(state, served);
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match openapi::CONTENT_TYPES.iter().find(|known| accept.contains(**known)) {
        Some(content_type) => respond::bytes(200, content_type, made.protobuf),
        None => respond::bytes(200, "application/json", made.json),
    }
}

fn made(state: &State, served: &[Arc<Resource>]) -> Made {
    let mut hasher = DefaultHasher::new();
    let prefix = Key::prefix(DEFINITIONS, "");
    state.range(&prefix, None).for_each(|(key, entry)| (key.name(), entry.revision).hash(&mut hasher));
    let of = hasher.finish();
    let mut kept = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(made) = kept.as_ref().filter(|made| made.of == of) {
        return made.clone();
    }
    let document = document(served);
    let made = Made { of, json: document.to_string().into(), protobuf: openapi::encode(&document).into() };
    *kept = Some(made.clone());
    made
}

fn document(served: &[Arc<Resource>]) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for (group, version) in versions(served) {
        let mut part = document_of(group, version, served);
        for (name, schema) in part["components"]["schemas"].as_object().cloned().unwrap_or_default() {
            definitions.entry(name).or_insert_with(|| lower(schema));
        }
        if let Some(own) = part["paths"].as_object_mut() {
            own.iter_mut().for_each(|(_, path)| lower_path(path));
            paths.append(own);
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.37"},
        "paths": paths,
        "definitions": definitions,
    })
}

/// What marks the schema of a whole object.
const KINDS: &str = "x-kubernetes-group-version-kind";

/// A schema in the words of v2: no choices, no null, references alone.
fn lower(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else { return schema };
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) || schema.get("format") == Some(&json!("int-or-string")) {
        return json!({"type": "string", "format": "int-or-string"});
    }
    // v3 wraps a reference that has a default or a description.
    if let Some([Value::Object(only)]) = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
        && let Some(reference) = only.get("$ref").cloned()
    {
        schema.insert("$ref".into(), reference);
    }
    // kubectl takes what is not named for unknown, even where anything goes.
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        for named in ["properties", "items"] {
            schema.shift_remove(named);
        }
        if schema.contains_key(KINDS) {
            schema.retain(|field, _| matches!(field.as_str(), "type" | KINDS));
        }
    }
    for choice in ["allOf", "oneOf", "anyOf", "not", "nullable"] {
        schema.shift_remove(choice);
    }
    if let Some(Value::String(reference)) = schema.get("$ref") {
        let mut lowered = json!({"$ref": reference.replace("#/components/schemas/", "#/definitions/")});
        if let Some(description) = schema.get("description") {
            lowered["description"] = description.clone();
        }
        return lowered;
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(value) = schema.get_mut(inner) {
            *value = lower(value.take());
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.iter_mut().for_each(|(_, property)| *property = lower(property.take()));
    }
    Value::Object(schema)
}

fn lower_path(path: &mut Value) {
    for (_, operation) in path.as_object_mut().into_iter().flatten() {
        for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
            let kind = parameter["schema"]["type"].clone();
            if let Some(map) = parameter.as_object_mut() {
                map.shift_remove("schema");
                map.insert("type".into(), kind);
            }
        }
        for (_, response) in operation["responses"].as_object_mut().into_iter().flatten() {
            let schema = response["content"]["application/json"]["schema"].take();
            if let Some(map) = response.as_object_mut() {
                map.shift_remove("content");
                map.insert("schema".into(), lower(schema));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_lead_somewhere_and_arrays_have_items() {
        let document = document(skein_object::registry::all());
        let definitions = document["definitions"].as_object().expect("a map");
        fn check(value: &Value, definitions: &Map<String, Value>) {
            if let Some(reference) = value["$ref"].as_str() {
                let name = reference.strip_prefix("#/definitions/").expect("a definition");
                assert!(definitions.contains_key(name), "{name} is missing");
            }
            assert!(value["type"] != "array" || value["items"].is_object(), "{value}");
            match value {
                Value::Object(map) => map.values().for_each(|v| check(v, definitions)),
                Value::Array(list) => list.iter().for_each(|v| check(v, definitions)),
                _ => {}
            }
        }
        check(&document, definitions);
        let pod = &document["definitions"]["io.k8s.api.core.v1.Pod"];
        assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
        assert_eq!(pod["properties"]["spec"]["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
        assert!(document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"]["parameters"][0]["type"] == "string");
    }
}
