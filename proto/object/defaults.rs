//! Defaulting: what Kubernetes writes into an object where the client said nothing (`pkg/apis/*/v1/defaults.go`).

pub mod access;
pub mod batch;
pub mod extension;
pub mod network;
pub mod pod;
pub mod policy;
pub mod service;
pub mod storage;
pub mod workload;

use serde_json::{Map, Value, json};

/// Sets `field` where it is absent or null.
fn default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    let slot = map.entry(field.to_string()).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// Sets `field` also where it is empty or zero: Go's types hold it by value, so that its clients write that for nothing.
fn fill(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    let says_nothing = |found: &Value| *found == "" || *found == 0 || found.as_array().is_some_and(Vec::is_empty);
    if map.get(field).is_some_and(says_nothing) {
        map.insert(field.into(), Value::Null);
    }
    default(map, field, value);
}

/// The object at `field`, made where it is missing.
fn object<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    object_in(value.as_object_mut()?, field)
}

fn object_in<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    default(map, field, json!({}));
    map.get_mut(field)?.as_object_mut()
}

fn each<'a>(map: &'a mut Map<String, Value>, field: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> + use<'a> {
    map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Fields of features that Kubernetes v1.37 has switched off, or given up; what is said there is not kept.
pub fn forget_of_node(node: &mut Value) {
    if let Some(spec) = node.get_mut("spec").and_then(Value::as_object_mut) {
        for field in ["configSource", "podPreemptionPolicy"] {
            spec.shift_remove(field);
        }
    }
}

/// Of the Secrets of a ServiceAccount only names are kept (`cleanSecretReferences`).
pub fn name_secrets(account: &mut Value) {
    let Some(map) = account.as_object_mut() else { return };
    for secret in each(map, "secrets") {
        secret.retain(|field, _| field == "name");
    }
}

/// A LimitRange may come without a name; its uid is one.
pub fn name_limit_range(range: &mut Value) {
    let uid = crate::meta::text(range, "uid").to_string();
    if crate::meta::name(range).is_empty() && !uid.is_empty() {
        crate::meta::edit(range).insert("name".into(), uid.into());
    }
}

/// A container's default limit is its default request too (SetDefaults_LimitRangeItem).
pub fn limit_range(range: &mut Value) {
    let Some(spec) = object(range, "spec") else { return };
    for item in each(spec, "limits").filter(|item| item.get("type") == Some(&json!("Container"))) {
        for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let Some(amounts) = item.get(from).and_then(Value::as_object).cloned() else { continue };
            default(item, to, json!({}));
            if let Some(target) = item.get_mut(to).and_then(Value::as_object_mut) {
                amounts.into_iter().for_each(|(name, amount)| default(target, &name, amount));
            }
        }
    }
}

pub fn namespace(namespace: &mut Value) {
    let name = crate::meta::name(namespace).to_string();
    let labels = crate::meta::edit(namespace).entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut()
        && !name.is_empty()
    {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
    if let Some(status) = object(namespace, "status") {
        fill(status, "phase", "Active");
    }
}

/// Times of an Event are there, if only as null.
pub fn event(event: &mut Value) {
    nulls(event, &["firstTimestamp", "lastTimestamp", "eventTime"]);
}

/// The same of an Event in its newer form.
pub fn event_of_events(event: &mut Value) {
    nulls(event, &["deprecatedFirstTimestamp", "deprecatedLastTimestamp", "eventTime"]);
}

fn nulls(object: &mut Value, fields: &[&str]) {
    if let Some(map) = object.as_object_mut() {
        for field in fields {
            map.entry(*field).or_insert(Value::Null);
        }
    }
}

pub fn prepare_namespace(namespace: &mut Value) {
    if let Some(spec) = object(namespace, "spec") {
        default(spec, "finalizers", json!(["kubernetes"]));
    }
}

/// `stringData` is written into `data`, in base64, and forgotten.
pub fn secret(secret: &mut Value) {
    let Some(map) = secret.as_object_mut() else { return };
    fill(map, "type", "Opaque");
    let Some(Value::Object(plain)) = map.shift_remove("stringData") else { return };
    default(map, "data", json!({}));
    if let Some(data) = map.get_mut("data").and_then(Value::as_object_mut) {
        for (key, value) in plain {
            let encoded = k8s_openapi::ByteString(value.as_str().unwrap_or_default().as_bytes().to_vec());
            data.insert(key, serde_json::to_value(encoded).unwrap_or_default());
        }
    }
}
