//! Custom resource definitions (`apiextensions/validation`).

use serde_json::{Value, json};

use super::at::At;
use super::structural;
use crate::field::{Errors, Path};
use crate::{meta, names};

pub fn custom_resource_definition(definition: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = definition.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    let none = Value::Null;
    let given = at.given("names").unwrap_or(At::new(&none, &at.child("names")));
    let group = at.str("group");
    let wanted = format!("{}.{group}", given.str("plural"));
    if !meta::name(definition).is_empty() && meta::name(definition) != wanted {
        errors.invalid(&Path::new("metadata").child("name"), meta::name(definition), "must be spec.names.plural+\".\"+spec.group");
    }
    match names::subdomain(group) {
        _ if group.is_empty() => errors.required(&at.child("group"), ""),
        Err(why) => errors.judge(&at.child("group"), group, Err(why)),
        Ok(()) if !group.contains('.') => errors.invalid(&at.child("group"), group, "should be a domain with at least one dot"),
        Ok(()) => {}
    }
    match at.str("scope") {
        "" => errors.required(&at.child("scope"), ""),
        "Cluster" | "Namespaced" => {}
        other => errors.unsupported(&at.child("scope"), other, &["Cluster", "Namespaced"]),
    }
    kind_names(&given, errors);
    if at.flag("preserveUnknownFields") {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&at.child("preserveUnknownFields"), true, why);
    }
    versions(&at, errors);
    if let Some(conversion) = at.given("conversion") {
        self::conversion(&conversion, errors);
    }
    let Some(old) = old else { return };
    for pointer in ["/spec/scope", "/spec/names/plural", "/spec/names/kind", "/spec/group"] {
        let path = Path::new(&pointer[1..].replace('/', "."));
        super::immutable(definition, old, pointer, &path, errors);
    }
}

fn kind_names(at: &At<'_>, errors: &mut Errors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = at.str(field);
        if value.is_empty() {
            errors.required(&at.child(field), "");
        } else if field.to_lowercase().ends_with("kind") {
            for why in names::dns1035_label(&value.to_lowercase()).err().iter().flat_map(names::Faults::iter) {
                errors.invalid(&at.child(field), value, &format!("may have mixed case, but should otherwise match: {why}"));
            }
        } else {
            errors.judge(&at.child(field), value, names::dns1035_label(value));
        }
    }
    for one in ["shortNames", "categories"].iter().flat_map(|field| at.each(field)) {
        errors.judge(&one.path, one.value.clone(), names::dns1035_label(one.value.as_str().unwrap_or_default()));
    }
    if !at.str("kind").is_empty() && at.str("kind") == at.str("listKind") {
        errors.invalid(&at.child("listKind"), at.str("listKind"), "kind and listKind may not be the same");
    }
}

/// What all versions have alike is told as of the whole definition, under the names of its first API.
fn versions(at: &At<'_>, errors: &mut Errors) {
    let all: Vec<At<'_>> = at.each("versions").collect();
    let shared = |field: &str| all.iter().all(|one| one.value.get(field) == all[0].value.get(field));
    if all.iter().filter(|one| one.flag("storage")).count() != 1 {
        let shown = at.given("versions").map_or(Value::Null, |_| all.iter().map(in_go).collect());
        errors.invalid(&at.child("versions"), shown, "must have exactly one version marked as storage version");
        errors.invalid(&Path::new("status").child("storedVersions"), Value::Null, "must have at least one stored version");
    }
    for (index, one) in all.iter().enumerate() {
        let name = one.str("name");
        errors.judge(&one.child("name"), name, names::dns1035_label(name));
        if index == 0 && !name.is_empty() {
            errors.judge(&at.child("version"), name, names::dns1035_label(name));
        }
        if all[..index].iter().any(|other| other.str("name") == name) {
            errors.duplicate(&one.child("name"), name);
        }
        if one.given("deprecationWarning").is_some() && !one.flag("deprecated") {
            let why = "can only be set for deprecated versions";
            errors.invalid(&one.child("deprecationWarning"), one.str("deprecationWarning"), why);
        }
        let place = |field: &str| if shared(field) { at.path.clone() } else { one.path.clone() };
        if index == 0 || !shared("schema") {
            let path = if shared("schema") { at.child("validation") } else { one.child("schema") }.child("openAPIV3Schema");
            match one.value.pointer("/schema/openAPIV3Schema").filter(|schema| !schema.is_null()) {
                None => errors.required(&one.child("schema").child("openAPIV3Schema"), ""),
                Some(schema) => structural::root(schema, &path, errors),
            }
        }
        if index == 0 || !shared("additionalPrinterColumns") {
            columns(&At::new(one.value, &place("additionalPrinterColumns")), errors);
        }
        if index == 0 || !shared("selectableFields") {
            for field in At::new(one.value, &place("selectableFields")).each("selectableFields") {
                let path = field.str("jsonPath");
                if path.is_empty() {
                    errors.required(&field.child("jsonPath"), "");
                } else if !path.starts_with(['.', '[']) {
                    errors.invalid(&field.child("jsonPath"), path, &format!("is an invalid path: expected [ or . but got: {path}"));
                }
            }
        }
        if let Some(scale) = one.given("subresources").and_then(|sub| sub.given("scale")).filter(|_| index == 0 || !shared("subresources"))
        {
            self::scale(&At::new(scale.value, &place("subresources").child("subresources").child("scale")), errors);
        }
    }
}

/// A version as Go prints its internal type.
fn in_go(version: &At<'_>) -> Value {
    json!({
        "Name": version.str("name"), "Served": version.flag("served"), "Storage": version.flag("storage"),
        "Deprecated": version.flag("deprecated"), "DeprecationWarning": version.value.get("deprecationWarning").cloned().unwrap_or_default(),
        "Schema": null, "Subresources": null, "AdditionalPrinterColumns": null, "SelectableFields": null,
    })
}

fn columns(at: &At<'_>, errors: &mut Errors) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    for column in at.each("additionalPrinterColumns") {
        column.require(&["name"], errors);
        let types = format!("must be one of {}", TYPES.join(","));
        match column.str("type") {
            "" => errors.required(&column.child("type"), &types),
            kind if TYPES.contains(&kind) => {}
            other => errors.invalid(&column.child("type"), other, &types),
        }
        let format = column.str("format");
        if !format.is_empty() && !FORMATS.contains(&format) {
            errors.invalid(&column.child("format"), format, &format!("must be one of {}", FORMATS.join(",")));
        }
        simple_path(column.str("jsonPath"), &column.child("JSONPath"), true, errors);
    }
}

fn scale(at: &At<'_>, errors: &mut Errors) {
    for (field, is_required, roots) in [
        ("specReplicasPath", true, &[".spec."][..]),
        ("statusReplicasPath", true, &[".status."]),
        ("labelSelectorPath", false, &[".spec.", ".status."]),
    ] {
        let (path, place) = (at.str(field), at.child(field));
        let is_simple = simple_path(path, &place, is_required, errors);
        if is_simple && !path.is_empty() && !roots.iter().any(|root| path.starts_with(root)) {
            let all: Vec<String> = roots.iter().map(|root| root.trim_end_matches('.').to_owned()).collect();
            errors.invalid(&place, path, &format!("should be a json path under {}", all.join(" or ")));
        }
    }
}

fn simple_path(text: &str, path: &Path, is_required: bool, errors: &mut Errors) -> bool {
    if text.is_empty() {
        if is_required {
            errors.required(path, "");
        }
        return !is_required;
    }
    if !text.starts_with('.') {
        errors.invalid(path, text, "must be a simple json path starting with .");
    }
    text.starts_with('.')
}

fn conversion(at: &At<'_>, errors: &mut Errors) {
    let strategy = at.str("strategy");
    match strategy {
        "" => errors.required(&at.child("strategy"), ""),
        "None" | "Webhook" => {}
        other => errors.unsupported(&at.child("strategy"), other, &["None", "Webhook"]),
    }
    let webhook = at.given("webhook");
    let (client, versions) = (
        webhook.as_ref().and_then(|webhook| webhook.given("clientConfig")),
        webhook.as_ref().map_or(0, |webhook| webhook.count("conversionReviewVersions")),
    );
    if strategy != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if client.is_some() {
            errors.forbidden(&at.child("webhookClientConfig"), why);
        }
        if versions > 0 {
            errors.forbidden(&at.child("conversionReviewVersions"), why);
        }
        return;
    }
    let Some(client) = client else {
        return errors.required(&at.child("webhookClientConfig"), "required when strategy is set to Webhook");
    };
    match (client.given("url"), client.given("service")) {
        (Some(_), Some(_)) | (None, None) => {
            errors.required(&at.child("webhookClientConfig"), "exactly one of url or service is required");
        }
        (Some(url), None) if !url.value.as_str().unwrap_or_default().starts_with("https://") => {
            errors.invalid(
                &at.child("webhookClientConfig").child("url"),
                url.value.clone(),
                "'https' is the only allowed URL scheme; desired format: https://host[/path]",
            );
        }
        (Some(_), None) => {}
        (None, Some(service)) => {
            let service = At::new(service.value, &at.child("webhookClientConfig").child("service"));
            service.require(&["name", "namespace"], errors);
            if service.given("port").is_some() && !(1..=65535).contains(&service.int("port")) {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                errors.invalid(&service.child("port"), service.int("port"), why);
            }
        }
    }
    if versions == 0 {
        errors.required(&at.child("conversionReviewVersions"), "");
    }
}
