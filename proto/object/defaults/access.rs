//! Defaults of role bindings.

use serde_json::Value;

use super::{each, fill, object};

const GROUP: &str = "rbac.authorization.k8s.io";

pub fn binding(binding: &mut Value) {
    if let Some(role) = object(binding, "roleRef") {
        fill(role, "apiGroup", GROUP);
    }
    let Some(map) = binding.as_object_mut() else { return };
    for subject in each(map, "subjects") {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            fill(subject, "apiGroup", GROUP);
        }
    }
}

/// A role without rules says so.
pub fn role(role: &mut Value) {
    if let Some(map) = role.as_object_mut() {
        map.entry("rules").or_insert(Value::Null);
    }
}

/// For a day, if nobody says otherwise.
pub fn pod_certificate_request(request: &mut Value) {
    if let Some(spec) = object(request, "spec") {
        fill(spec, "maxExpirationSeconds", 86_400);
    }
}
