//! OpenAPI v3: an index and one document for each group and version, derived from the registry.

use std::collections::{BTreeSet, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};

use http::Response;
use serde_json::{Map, Value, json};
use skein_object::registry::{self, Resource};
use skein_object::{Status, schema};

use crate::{Body, discovery, respond};

pub(crate) fn index() -> Response<Body> {
    let mut paths = Map::new();
    for (group, version) in versions() {
        let path = path_of(group, version);
        let mut hasher = DefaultHasher::new();
        document_of(group, version).to_string().hash(&mut hasher);
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={:016X}", hasher.finish())}));
    }
    respond::json(200, &json!({"paths": paths}))
}

pub(crate) fn document(parts: &[&str]) -> Result<Response<Body>, Status> {
    let (group, version) = match parts {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Err(Status::page_not_found()),
    };
    if !versions().contains(&(group, version)) {
        return Err(Status::page_not_found());
    }
    Ok(respond::json(200, &document_of(group, version)))
}

fn versions() -> BTreeSet<(&'static str, &'static str)> {
    registry::all().iter().map(|r| (r.group, r.version)).collect()
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn document_of(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in registry::all().iter().filter(|r| r.group == group && r.version == version) {
        add_schemas(resource.definition, &mut schemas);
        if let Some(schema) = schemas.get_mut(resource.definition) {
            schema["x-kubernetes-group-version-kind"] = json!([kind_of(resource)]);
        }
        let base = format!("/{}{}", path_of(group, version), if resource.namespaced { "/namespaces/{namespace}" } else { "" });
        paths.insert(format!("{base}/{}", resource.plural), collection(resource));
        if !resource.is_virtual {
            paths.insert(format!("{base}/{}/{{name}}", resource.plural), single(resource));
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": discovery::VERSION.2},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn kind_of(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

/// The definition and all that it refers to.
fn add_schemas(name: &str, schemas: &mut Map<String, Value>) {
    let Some(definition) = schema::definitions().get(name) else { return };
    if schemas.contains_key(name) {
        return;
    }
    schemas.insert(name.into(), definition.clone());
    let mut references = Vec::new();
    collect_references(definition, &mut references);
    references.iter().for_each(|reference| add_schemas(reference, schemas));
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) {
                found.push(name.into());
            }
            map.values().for_each(|v| collect_references(v, found));
        }
        Value::Array(list) => list.iter().for_each(|v| collect_references(v, found)),
        _ => {}
    }
}

fn operation(resource: &Resource, action: &str, extra: &[&str]) -> Value {
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"]
        .iter()
        .chain(extra)
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    let content = json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{}", resource.definition)}}});
    json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind_of(resource),
    })
}

fn collection(resource: &Resource) -> Value {
    let post = operation(resource, "post", &[]);
    if resource.is_virtual {
        return json!({"post": post});
    }
    json!({"post": post, "get": operation(resource, "list", &["labelSelector", "fieldSelector", "limit", "continue", "watch"])})
}

fn single(resource: &Resource) -> Value {
    json!({
        "get": operation(resource, "get", &[]),
        "put": operation(resource, "put", &[]),
        "patch": operation(resource, "patch", &["force"]),
        "delete": operation(resource, "delete", &["gracePeriodSeconds", "propagationPolicy"]),
    })
}
