//! Rules of custom resource definitions (`apiextensions/validation`).

use serde_json::Value;

use super::{list, text};
use crate::field::{Errors, Path};
use crate::{meta, names};

pub fn custom_resource_definition(definition: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = definition.get("spec").cloned().unwrap_or_default();
    let path = Path::new("spec");
    let (group, names) = (text(&spec, "group"), spec.get("names").cloned().unwrap_or_default());
    let wanted = format!("{}.{group}", text(&names, "plural"));
    if !meta::name(definition).is_empty() && meta::name(definition) != wanted {
        errors.invalid(&Path::new("metadata").child("name"), meta::name(definition), "must be spec.names.plural+\".\"+spec.group");
    }
    if group.is_empty() {
        errors.required(&path.child("group"), "");
    } else if !group.contains('.') {
        errors.invalid(&path.child("group"), group, "should be a domain with at least one dot");
    } else if let Err(why) = names::subdomain(group) {
        errors.invalid(&path.child("group"), group, &why);
    }
    match text(&spec, "scope") {
        "" => errors.required(&path.child("scope"), ""),
        "Cluster" | "Namespaced" => {}
        other => errors.unsupported(&path.child("scope"), other, &["Cluster", "Namespaced"]),
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = text(&names, field);
        if value.is_empty() {
            errors.required(&path.child("names").child(field), "");
        } else if let Err(why) = names::dns1035_label(&value.to_lowercase()) {
            errors.invalid(&path.child("names").child(field), value, &why);
        }
    }
    validate_versions(&spec, &path.child("versions"), errors);
    if list(&spec, "versions").is_empty() {
        errors.invalid(&Path::new("status").child("storedVersions"), Value::Null, "must have at least one stored version");
    }
    let Some(old) = old else { return };
    for pointer in ["/spec/scope", "/spec/names/plural", "/spec/names/kind", "/spec/group"] {
        let path = Path::new(&pointer[1..].replace('/', "."));
        super::immutable(definition, old, pointer, &path, errors);
    }
}

fn validate_versions(spec: &Value, path: &Path, errors: &mut Errors) {
    let versions = list(spec, "versions");
    let stored = versions.iter().filter(|v| v["storage"] == true).count();
    if stored != 1 {
        let shown = spec.get("versions").cloned().unwrap_or_default();
        errors.invalid(path, shown, "must have exactly one version marked as storage version");
    }
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        let name = text(version, "name");
        if let Err(why) = names::dns1035_label(name) {
            errors.invalid(&path.child("name"), name, &why);
        }
        if versions[..index].iter().any(|other| text(other, "name") == name) {
            errors.duplicate(&path.child("name"), name);
        }
        match version.pointer("/schema/openAPIV3Schema") {
            None => errors.required(&path.child("schema").child("openAPIV3Schema"), "schemas are required"),
            Some(schema) => structural(schema, &path.child("schema").child("openAPIV3Schema"), true, errors),
        }
    }
}

pub fn api_service(service: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = service.get("spec").cloned().unwrap_or_default();
    let (group, version, path) = (text(&spec, "group"), text(&spec, "version"), Path::new("spec"));
    let wanted = format!("{version}.{group}");
    if !meta::name(service).is_empty() && meta::name(service) != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.invalid(&Path::new("metadata.name"), meta::name(service), &why);
    }
    if group.is_empty() && version != "v1" {
        errors.required(&path.child("group"), "only v1 may have an empty group and it better be legacy kube");
    }
    if let Err(why) = names::dns1035_label(version) {
        errors.invalid(&path.child("version"), version, &why);
    }
    for (field, most) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let value = spec.get(field).and_then(Value::as_i64).unwrap_or(0);
        if value <= 0 || value > most {
            errors.invalid(&path.child(field), value, &format!("must be positive and less than {most}"));
        }
    }
}

/// A schema must say what every value is (`apiextensions/schema`, structural schemas).
fn structural(schema: &Value, path: &Path, is_root: bool, errors: &mut Errors) {
    let flagged = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    let kind = text(schema, "type");
    if kind.is_empty() && !flagged("x-kubernetes-int-or-string") && !flagged("x-kubernetes-preserve-unknown-fields") {
        let what = if is_root { "must not be empty at the root" } else { "must not be empty for specified object fields" };
        errors.required(&path.child("type"), what);
    }
    if is_root && !kind.is_empty() && kind != "object" {
        errors.invalid(&path.child("type"), kind, "must be object at the root");
    }
    if !matches!(kind, "" | "object" | "array" | "string" | "integer" | "number" | "boolean") {
        errors.unsupported(&path.child("type"), kind, &["array", "boolean", "integer", "number", "object", "string"]);
    }
    if schema.get("$ref").is_some() {
        errors.forbidden(&path.child("$ref"), "$ref is not supported");
    }
    for (index, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
        let path = path.child("x-kubernetes-validations").index(index).child("rule");
        match text(rule, "rule") {
            "" => errors.required(&path, "rule is not specified"),
            source => {
                if let Some(why) = crate::custom::compile_error(source) {
                    errors.invalid(&path, source, &format!("compilation failed: {why}"));
                }
            }
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    if properties.is_some() && schema.get("additionalProperties").is_some() {
        errors.forbidden(&path.child("additionalProperties"), "additionalProperties and properties are mutual exclusive");
    }
    for (name, property) in properties.into_iter().flatten() {
        if is_root && name == "metadata" {
            continue;
        }
        structural(property, &path.child("properties").key(name), false, errors);
    }
    if let Some(items) = schema.get("items") {
        structural(items, &path.child("items"), false, errors);
    } else if kind == "array" {
        errors.required(&path.child("items"), "must be specified");
    }
    if let Some(additional) = schema.get("additionalProperties").filter(|a| a.is_object()) {
        structural(additional, &path.child("additionalProperties"), false, errors);
    }
}
