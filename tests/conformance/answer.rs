//! What an answer says once whatever differs each time is taken from it, and how two are compared.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
}

impl Answer {
    /// What it says beyond `base`, the answer to the same request without a certain field.
    pub fn beyond(self, base: &Self) -> Self {
        let body = match self.code {
            200..300 => delta(&by_owner(&base.body), &by_owner(&self.body)).unwrap_or_default(),
            // What is wrong with fields is the message, too.
            _ => match &self.body["details"]["causes"] {
                Value::Null => json!({"reason": self.body["reason"], "message": self.body["message"]}),
                causes => json!({"causes": causes}),
            },
        };
        Self { code: self.code, body }
    }
}

/// With the set of fields itself in the place of the list of managers, of which there is one.
fn by_owner(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(entry) = object.pointer("/metadata/managedFields/0/fieldsV1") {
        object["metadata"]["managedFields"] = entry.clone();
    }
    object
}

/// What is new or other in `b`; null is what it lacks. Elements of lists are told apart by their places.
fn delta(a: &Value, b: &Value) -> Option<Value> {
    let changed = |pairs: &mut dyn Iterator<Item = (String, Option<&Value>, Option<&Value>)>| {
        let changes: Map<String, Value> = pairs
            .filter_map(|(name, a, b)| match (a, b) {
                (Some(a), Some(b)) => Some((name, delta(a, b)?)),
                (None, Some(b)) => Some((name, b.clone())),
                _ => Some((name, Value::Null)),
            })
            .collect();
        (!changes.is_empty()).then_some(Value::Object(changes))
    };
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let gone = a.keys().filter(|key| !b.contains_key(*key)).map(|key| (key.clone(), a.get(key), None));
            changed(&mut b.iter().map(|(key, value)| (key.clone(), a.get(key), Some(value))).chain(gone))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            changed(&mut a.iter().zip(b).enumerate().map(|(i, (a, b))| (i.to_string(), Some(a), Some(b))))
        }
        _ => (a != b).then(|| b.clone()),
    }
}

/// An answer without what differs each time: ids, times, versions, addresses, generated names.
pub fn normalised(mut body: Value) -> Value {
    if body["kind"] == "Table" {
        // Descriptions are prose; rows are the cluster's.
        let columns = body["columnDefinitions"].as_array().into_iter().flatten();
        return columns.map(|c| json!([c["name"], c["type"], c["format"], c["priority"]])).collect();
    }
    if body["kind"] == "Status" {
        forget_ids(&mut body);
        // Several errors come in no particular order.
        if let Some(causes) = body.pointer_mut("/details/causes").and_then(Value::as_array_mut) {
            causes.sort_by_key(ToString::to_string);
            causes.dedup();
            if causes.len() > 1 {
                body["message"] = "*".into();
            }
        }
        return body;
    }
    forget(&mut body);
    body
}

fn forget(value: &mut Value) {
    const CHANGING: &[&str] = &[
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "time",
        "lastTransitionTime",
        "lastPhaseTransitionTime",
        "clusterIP",
        "clusterIPs",
        "nodePort",
        "hash",
        "storageVersionHash",
        "serverAddress",
        "caBundle",
    ];
    match value {
        Value::Object(map) => {
            for (key, child) in map.iter_mut() {
                if CHANGING.contains(&key.as_str()) && !child.is_object() {
                    *child = "*".into();
                } else {
                    forget(child);
                }
            }
            map.shift_remove("storageVersionHash");
        }
        Value::Array(list) => {
            // The recorded cluster had a custom resource; this one has metrics without an add-on.
            list.retain(|item| !ADDED.iter().any(|group| item["name"] == *group || item["metadata"]["name"] == *group));
            list.iter_mut().for_each(forget);
        }
        Value::String(text) if is_uuid(text) => *text = "*".into(),
        Value::String(text) if text.starts_with("kube-api-access-") => *text = "kube-api-access-*".into(),
        _ => {}
    }
}

/// Groups that are there on one side only.
const ADDED: [&str; 2] = ["example.com", "metrics.k8s.io"];

/// Ids in the middle of texts.
fn forget_ids(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(forget_ids),
        Value::Array(list) => list.iter_mut().for_each(forget_ids),
        Value::String(text) => {
            while let Some(start) = (0..text.len()).find(|start| text.get(*start..start + UUID_BYTES).is_some_and(is_uuid)) {
                text.replace_range(start..start + UUID_BYTES, "*");
            }
        }
        _ => {}
    }
}

const UUID_BYTES: usize = 36;

fn is_uuid(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// The places in which two answers differ, as a person reads them.
pub fn differences(wanted: &Answer, got: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    if wanted.code != got.code {
        found.push(format!("code {} instead of {}", got.code, wanted.code));
    }
    let mut expected = wanted.body.clone();
    forget(&mut expected);
    compare("", &expected, &got.body, &mut found);
    found
}

fn compare(path: &str, wanted: &Value, got: &Value, found: &mut Vec<String>) {
    match (wanted, got) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    Some(other) => compare(&format!("{path}.{key}"), value, other, found),
                    None => found.push(format!("{path}.{key} is missing, should be {value}")),
                }
            }
            found
                .extend(b.iter().filter(|(key, _)| !a.contains_key(*key)).map(|(key, value)| format!("{path}.{key} is too much: {value}")));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (x, y))| compare(&format!("{path}[{i}]"), x, y, found));
        }
        _ if wanted != got => found.push(format!("{path} is {got}, should be {wanted}")),
        _ => {}
    }
}
