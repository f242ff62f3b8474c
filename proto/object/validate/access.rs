//! Rules of roles and bindings (`pkg/apis/rbac/validation`).

use serde_json::{Value, json};

use super::{list, text};
use crate::field::{Errors, Path};

pub fn role(role: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let namespaced = !crate::meta::text(role, "namespace").is_empty();
    for (index, rule) in list(role, "rules").iter().enumerate() {
        let path = Path::new("rules").index(index);
        if list(rule, "verbs").is_empty() {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        let urls = list(rule, "nonResourceURLs");
        if !urls.is_empty() {
            if namespaced {
                errors.invalid(&path.child("nonResourceURLs"), json!(urls), "namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !list(rule, field).is_empty()) {
                errors.invalid(
                    &path.child("nonResourceURLs"),
                    json!(urls),
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if list(rule, "resources").is_empty() {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

pub fn binding(binding: &Value, old: Option<&Value>, errors: &mut Errors) {
    let role = binding.get("roleRef").cloned().unwrap_or_default();
    let path = Path::new("roleRef");
    if text(&role, "apiGroup") != GROUP {
        errors.unsupported(&path.child("apiGroup"), text(&role, "apiGroup"), &[GROUP]);
    }
    let namespaced = !crate::meta::text(binding, "namespace").is_empty();
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(&role, "kind")) {
        errors.unsupported(&path.child("kind"), text(&role, "kind"), kinds);
    }
    if text(&role, "name").is_empty() {
        errors.required(&path.child("name"), "");
    }
    if let Some(old) = old
        && old.get("roleRef") != Some(&role)
    {
        errors.invalid(&path, role, "cannot change roleRef");
    }
    for (index, subject) in list(binding, "subjects").iter().enumerate() {
        validate_subject(subject, &Path::new("subjects").index(index), errors);
    }
}

const GROUP: &str = "rbac.authorization.k8s.io";

fn validate_subject(subject: &Value, path: &Path, errors: &mut Errors) {
    if text(subject, "name").is_empty() {
        errors.required(&path.child("name"), "");
    }
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !text(subject, "apiGroup").is_empty() {
                errors.unsupported(&path.child("apiGroup"), text(subject, "apiGroup"), &[""]);
            }
            if text(subject, "namespace").is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if text(subject, "apiGroup") != GROUP {
                errors.unsupported(&path.child("apiGroup"), text(subject, "apiGroup"), &[GROUP]);
            }
        }
        other => errors.unsupported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

/// At least one certificate in PEM.
pub fn cluster_trust_bundle(bundle: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let bundle = bundle.pointer("/spec/trustBundle").and_then(Value::as_str).unwrap_or_default();
    if !bundle.contains("-----BEGIN CERTIFICATE-----") {
        errors.invalid(&Path::new("spec").child("trustBundle"), "<value omitted>", "at least one trust anchor must be provided");
    }
}
