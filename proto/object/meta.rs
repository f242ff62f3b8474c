//! `metadata`: what every object has, and the rules that hold for all kinds alike.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::field::{Errors, Path};
use crate::names::{self, check_name};
use crate::registry::Resource;

/// All annotations of one object together: 256 KiB (apimachinery `TotalAnnotationSizeLimitB`).
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// Those that are known without a domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// What the server alone decides when an object is created.
pub struct Birth<'a> {
    pub uid: &'a str,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
    /// Five characters for `generateName`.
    pub suffix: &'a str,
}

pub fn get<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    object.get("metadata")?.get(field)
}

pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    get(object, field).and_then(Value::as_str).unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(object, "name")
}

pub fn is_terminating(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

pub fn finalizers(object: &Value) -> Vec<&str> {
    get(object, "finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

pub fn generation(object: &Value) -> i64 {
    get(object, "generation").and_then(Value::as_i64).unwrap_or(0)
}

pub fn labels(object: &Value) -> crate::selector::Labels {
    let entries = get(object, "labels").and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect()
}

/// An instant as Kubernetes writes it: RFC 3339, UTC, whole seconds.
pub fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The metadata as an object that can be written to; made where it is missing.
pub fn edit(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata.as_object_mut().expect("metadata was just made an object")
}

/// Five characters that make no words, for generated names: apimachinery's `rand.String`.
pub fn suffix(mut random: impl FnMut() -> u64) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| ALPHABET[usize::try_from(random() % 27).unwrap_or(0)] as char).collect()
}

/// Fills in what a new object gets from the server. The name is generated where only a prefix is given.
pub fn at_creation(object: &mut Value, resource: &Resource, namespace: &str, birth: &Birth<'_>) {
    let metadata = edit(object);
    for server_side in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        metadata.shift_remove(server_side);
    }
    if let Some(prefix) = metadata.get("generateName").and_then(Value::as_str)
        && metadata.get("name").and_then(Value::as_str).unwrap_or_default().is_empty()
    {
        // apiserver/pkg/storage/names: the base is cut so that the whole is at most 63 bytes.
        let base: String = prefix.chars().take(58).collect();
        metadata.insert("name".into(), format!("{base}{}", birth.suffix).into());
    }
    if resource.namespaced {
        metadata.insert("namespace".into(), namespace.into());
    } else {
        metadata.shift_remove("namespace");
    }
    metadata.insert("uid".into(), birth.uid.into());
    metadata.insert("creationTimestamp".into(), birth.now.into());
    if resource.has_generation {
        metadata.insert("generation".into(), 1.into());
    }
}

/// Carries over what an update may not change, and counts the generation when the specification changed.
pub fn at_update(object: &mut Value, old: &Value, resource: &Resource) {
    let changed = resource.has_generation && specification(object) != specification(old);
    let metadata = edit(object);
    for kept in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"] {
        match get(old, kept) {
            Some(value) => metadata.insert(kept.into(), value.clone()),
            None => metadata.shift_remove(kept),
        };
    }
    if metadata.get("uid").and_then(Value::as_str).unwrap_or_default().is_empty() {
        metadata.insert("uid".into(), get(old, "uid").cloned().unwrap_or_default());
    }
    if changed {
        metadata.insert("generation".into(), (generation(old) + 1).into());
    }
}

/// Everything whose change is a new generation: all but metadata and status, and the node that a Pod is bound to.
fn specification(object: &Value) -> BTreeMap<(&str, &str), &Value> {
    let fields = object.as_object().into_iter().flatten();
    let counted = fields.filter(|(k, _)| !matches!(k.as_str(), "metadata" | "status" | "kind" | "apiVersion"));
    let mut found = BTreeMap::new();
    for (field, value) in counted {
        match value.as_object().filter(|_| field == "spec") {
            Some(spec) => found.extend(spec.iter().filter(|(k, _)| *k != "nodeName").map(|(k, value)| (("spec", k.as_str()), value))),
            None => drop(found.insert(("", field.as_str()), value)),
        }
    }
    found
}

/// Whether an update of a resource's status may bring labels, annotations, finalizers and owners along. Of others, and
/// of custom resources, metadata stays (`ResetObjectMetaForStatus`).
pub fn comes_with_status(resource: &Resource) -> bool {
    matches!(resource.group, "" | "apps" | "batch" | "autoscaling" | "policy" | "networking.k8s.io" | "certificates.k8s.io")
        && matches!(
            resource.plural,
            "nodes"
                | "pods"
                | "namespaces"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "services"
                | "replicationcontrollers"
                | "resourcequotas"
                | "daemonsets"
                | "deployments"
                | "replicasets"
                | "statefulsets"
                | "cronjobs"
                | "jobs"
                | "horizontalpodautoscalers"
                | "poddisruptionbudgets"
                | "ingresses"
                | "certificatesigningrequests"
        )
}

/// The rules for the metadata of every kind.
pub fn validate(object: &Value, resource: &Resource, errors: &mut Errors) {
    let path = Path::new("metadata");
    let name = name(object);
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        errors.judge(&path.child("name"), name, check_name(resource.name_rule, name));
    }
    validate_labels(get(object, "labels"), &path.child("labels"), errors);
    validate_annotations(get(object, "annotations"), &path.child("annotations"), errors);
    for (index, finalizer) in finalizers(object).iter().enumerate() {
        errors.judge(&path.child("finalizers"), *finalizer, names::qualified_name(finalizer));
        let is_known = finalizer.contains('/') || STANDARD_FINALIZERS.contains(finalizer) || resource.has_generic_metadata();
        if !is_known {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.child("finalizers").index(index), *finalizer, why);
        }
    }
    validate_owners(object, &path.child("ownerReferences"), errors);
}

pub fn validate_annotations(annotations: Option<&Value>, path: &Path, errors: &mut Errors) {
    let annotations = annotations.and_then(Value::as_object);
    for (key, _) in annotations.into_iter().flatten() {
        errors.judge(path, key.as_str(), names::qualified_name(&key.to_lowercase()));
    }
    let bytes: usize = annotations.into_iter().flatten().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.add(path, crate::field::Problem::TooLong(ANNOTATIONS_BYTES_MAX));
    }
}

pub fn validate_labels(labels: Option<&Value>, path: &Path, errors: &mut Errors) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        errors.judge(path, key.as_str(), names::qualified_name(key));
        errors.judge(path, value.clone(), names::label_value(value.as_str().unwrap_or_default()));
    }
}

fn validate_owners(object: &Value, path: &Path, errors: &mut Errors) {
    let owners = get(object, "ownerReferences").and_then(Value::as_array);
    let mut controllers = 0;
    for (index, owner) in owners.into_iter().flatten().enumerate() {
        let given = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        for field in ["apiVersion", "kind", "name", "uid"].into_iter().filter(|field| given(field).is_empty()) {
            errors.required(&path.index(index).child(field), "must not be empty");
        }
        if (given("apiVersion"), given("kind")) == ("v1", "Event") {
            errors.invalid(&path.index(index), owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        controllers += usize::from(owner.get("controller") == Some(&Value::Bool(true)));
    }
    if controllers > 1 {
        errors.invalid(path, owners.cloned().unwrap_or_default(), "Only one reference can have Controller set to true");
    }
}

/// What an update of metadata may not change.
pub fn validate_update(object: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    for field in ["name", "namespace", "uid"] {
        let (new, before) = (text(object, field), text(old, field));
        if !new.is_empty() && new != before {
            errors.invalid(&path.child(field), new, "field is immutable");
        }
    }
    for field in ["deletionGracePeriodSeconds", "deletionTimestamp"] {
        let (new, before) = (get(object, field).filter(|new| !new.is_null()), get(old, field));
        if let Some(new) = new.filter(|new| Some(*new) != before) {
            errors.invalid(&path.child(field), new.clone(), "field is immutable");
        }
    }
    if is_terminating(old) {
        let before = finalizers(old);
        for (index, finalizer) in finalizers(object).iter().enumerate() {
            if !before.contains(finalizer) {
                let why = format!("no new finalizers can be added if the object is being deleted, found new finalizers {finalizer:?}");
                errors.forbidden(&path.child("finalizers").index(index), &why);
            }
        }
    }
}

/// Sets one condition of `status.conditions`; its transition time stays while its status does.
pub fn set_condition(object: &mut Value, mut condition: Value) {
    let kind = condition["type"].clone();
    let status = &mut object["status"];
    if !status.is_object() {
        *status = json!({});
    }
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => {
            if old["status"] == condition["status"] {
                for time in ["lastTransitionTime", "lastUpdateTime", "lastHeartbeatTime"] {
                    if let Some(kept) = old.get(time).cloned() {
                        condition[time] = kept;
                    }
                }
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
}
