//! OpenAPI v3: an index and one document for each group and version, derived from the registry.

pub(crate) mod v2;

use std::collections::{BTreeSet, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::Response;
use serde_json::{Map, Value, json};
use skein_object::registry::Serving;
use skein_object::{Resource, Status, schema};

use crate::aggregate::Backend;
use crate::{Body, respond};

pub(crate) fn index(served: &[Arc<Resource>], remotes: &[Backend]) -> Response<Body> {
    let mut paths = Map::new();
    for (group, version) in versions(served) {
        let path = path_of(group, version);
        let mut hasher = DefaultHasher::new();
        document_of(group, version, served).to_string().hash(&mut hasher);
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={:016X}", hasher.finish())}));
    }
    for remote in remotes {
        // Its own server says what changes; without a hash nobody keeps it.
        let path = path_of(&remote.group, &remote.version);
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}")}));
    }
    respond::json(200, &json!({"paths": paths}))
}

pub(crate) fn document(parts: &[&str], served: &[Arc<Resource>]) -> Result<Response<Body>, Status> {
    let (group, version) = match parts {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Err(Status::page_not_found()),
    };
    if !versions(served).contains(&(group, version)) {
        return Err(Status::page_not_found());
    }
    Ok(respond::json(200, &document_of(group, version, served)))
}

fn versions(served: &[Arc<Resource>]) -> BTreeSet<(&str, &str)> {
    served.iter().map(|r| (r.group, r.version)).collect()
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn document_of(group: &str, version: &str, served: &[Arc<Resource>]) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in served.iter().filter(|r| r.group == group && r.version == version) {
        let definition = definition_of(resource);
        match &resource.custom {
            Some(custom) => {
                let mut schema = custom.schema.clone();
                describe(&mut schema);
                schema["x-kubernetes-group-version-kind"] = json!([kind_of(resource)]);
                add_references(&schema, &mut schemas);
                schemas.insert(definition, schema);
            }
            None => add_schemas(&definition, &mut schemas),
        }
        let base = format!("/{}{}", path_of(group, version), if resource.namespaced { "/namespaces/{namespace}" } else { "" });
        paths.insert(format!("{base}/{}", resource.plural), collection(resource));
        if resource.serving != Serving::Asked {
            paths.insert(format!("{base}/{}/{{name}}", resource.plural), single(resource));
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.37"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// Publishes the fields that every object has as they are published elsewhere, descriptions and all.
fn describe(schema: &mut Value) {
    let known = schema::definitions().get("io.k8s.api.core.v1.ConfigMap").and_then(|map| map.get("properties"));
    for field in ["apiVersion", "kind", "metadata"] {
        if let (Some(known), Some(own)) = (known.and_then(|fields| fields.get(field)), schema.pointer_mut(&format!("/properties/{field}")))
        {
            *own = known.clone();
        }
    }
}

/// The name under which a resource's schema is published: a custom one's group, reversed, with version and kind.
fn definition_of(resource: &Resource) -> String {
    match resource.definition() {
        Some(definition) => definition.into(),
        None => {
            let reversed: Vec<&str> = resource.group.rsplit('.').collect();
            format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
        }
    }
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
    add_references(definition, schemas);
}

fn add_references(schema: &Value, schemas: &mut Map<String, Value>) {
    let mut references = Vec::new();
    collect_references(schema, &mut references);
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
    let content = json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{}", definition_of(resource))}}});
    json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind_of(resource),
    })
}

fn collection(resource: &Resource) -> Value {
    let post = || operation(resource, "post", &[]);
    let list = || operation(resource, "list", &["labelSelector", "fieldSelector", "limit", "continue", "watch"]);
    match resource.serving {
        Serving::Asked => json!({"post": post()}),
        Serving::Measured => json!({"get": list()}),
        Serving::Stored => json!({"post": post(), "get": list()}),
    }
}

fn single(resource: &Resource) -> Value {
    if resource.serving == Serving::Measured {
        return json!({"get": operation(resource, "get", &[])});
    }
    json!({
        "get": operation(resource, "get", &[]),
        "put": operation(resource, "put", &[]),
        "patch": operation(resource, "patch", &["force"]),
        "delete": operation(resource, "delete", &["gracePeriodSeconds", "propagationPolicy"]),
    })
}
