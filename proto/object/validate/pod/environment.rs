//! Variables of a container, and what of a Pod they may show.

use super::super::at::{At, no_backsteps};
use crate::field::Errors;
use crate::names;
use crate::quantity::Quantity;

/// Fields of a Pod that a variable may show.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: [&str; 6] =
    ["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

const HUGE_PAGES: [&str; 2] = ["requests.hugepages-", "limits.hugepages-"];

pub(super) fn check(container: &At<'_>, errors: &mut Errors) {
    for one in container.each("env") {
        one.require_named("name", names::variable, errors);
        if let Some(from) = one.given("valueFrom") {
            value_from(&from, !one.str("value").is_empty(), errors);
        }
    }
    let path = container.child("envFrom");
    for one in container.each("envFrom") {
        one.named("prefix", names::variable, errors);
        let sources: Vec<At<'_>> = ["configMapRef", "secretRef"].iter().filter_map(|kind| one.given(kind)).collect();
        sources.iter().for_each(|source| source.require_named("name", names::subdomain, errors));
        match sources.len() {
            0 => errors.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(&path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(from: &At<'_>, has_value: bool, errors: &mut Errors) {
    let mut sources = 0;
    for kind in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let Some(source) = from.given(kind) else { continue };
        sources += 1;
        match kind {
            "fieldRef" => field_ref(&source, &FIELDS, errors),
            "resourceFieldRef" => resource_ref(&source, false, errors),
            "fileKeyRef" => {
                source.require_named("key", names::variable, errors);
                source.require_named("volumeName", names::dns1123_label, errors);
                source.require(&["path"], errors);
                no_backsteps(source.str("path"), &source.child("path"), errors);
            }
            _ => {
                errors.judge(&source.child("name"), source.str("name"), names::subdomain(source.str("name")));
                source.require_named("key", names::config_key, errors);
            }
        }
    }
    match sources {
        0 => {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            errors.invalid(&from.path, "", why);
        }
        _ if has_value => errors.invalid(&from.path, "", "may not be specified when `value` is not empty"),
        1 => {}
        _ => errors.invalid(&from.path, "", "may not have more than one field specified at a time"),
    }
}

/// A field of the Pod itself, or one label or annotation.
pub(in super::super) fn field_ref(at: &At<'_>, fields: &[&str], errors: &mut Errors) {
    let (version, field) = (at.str("apiVersion"), at.str("fieldPath"));
    if version.is_empty() || field.is_empty() {
        return errors.required(&at.child(if version.is_empty() { "apiVersion" } else { "fieldPath" }), "");
    }
    let unknown = |why: String, errors: &mut Errors| {
        errors.invalid(&at.child("fieldPath"), field, &format!("error converting fieldPath: {why}"));
    };
    if version != "v1" {
        return unknown(format!("unsupported pod version: {version}"), errors);
    }
    let subscript = field.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    match subscript {
        Some(("metadata.annotations", key)) => errors.judge(&at.path, key.to_lowercase(), names::qualified_name(&key.to_lowercase())),
        Some(("metadata.labels", key)) => errors.judge(&at.path, key, names::qualified_name(key)),
        Some((path, _)) => unknown(format!("field label not supported: {path}"), errors),
        None if fields.contains(&field) => {}
        None if FIELDS.contains(&field)
            || matches!(
                field,
                "metadata.labels"
                    | "metadata.annotations"
                    | "spec.schedulerName"
                    | "spec.restartPolicy"
                    | "spec.hostNetwork"
                    | "status.phase"
            ) =>
        {
            errors.unsupported(&at.child("fieldPath"), field, fields);
        }
        None => unknown(format!("field label not supported: {field}"), errors),
    }
}

/// What a container gets of a resource.
pub(in super::super) fn resource_ref(at: &At<'_>, is_volume: bool, errors: &mut Errors) {
    let resource = at.str("resource");
    let is_huge = HUGE_PAGES.iter().any(|prefix| resource.starts_with(prefix));
    if is_volume && at.str("containerName").is_empty() {
        errors.required(&at.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&at.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !is_huge {
        errors.unsupported(&at.child("resource"), resource, &RESOURCES);
    }
    let divisor = at.str("divisor");
    if divisor.parse::<Quantity>().is_ok_and(|amount| amount == Quantity::ZERO) || divisor.is_empty() {
        return;
    }
    let name = if is_huge { "hugepages" } else { resource.split_once('.').map_or("", |(_, name)| name) };
    let (what, units): (&str, &[&str]) = match name {
        "cpu" => {
            return if !["1m", "1"].contains(&divisor) {
                errors.invalid(&at.child("divisor"), resource, "only divisor's values 1m and 1 are supported with the cpu resource");
            };
        }
        "memory" | "hugepages" => (name, &["", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]),
        "ephemeral-storage" => ("local ephemeral storage", &["", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]),
        _ => return,
    };
    if !units.iter().any(|unit| divisor.strip_prefix('1') == Some(unit)) {
        let all: Vec<String> = units.iter().map(|unit| format!("1{unit}")).collect();
        let why = format!("only divisor's values {} are supported with the {what} resource", all.join(", "));
        errors.invalid(&at.child("divisor"), resource, &why);
    }
}
