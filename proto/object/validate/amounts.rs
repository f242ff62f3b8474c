//! LimitRanges and ResourceQuotas.

use std::collections::BTreeSet;

use serde_json::Value;

use super::at::At;
use super::resource;
use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;

pub fn limit_range(range: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = range.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    let mut seen = BTreeSet::new();
    for limit in at.each("limits") {
        let kind = limit.str("type");
        let verdict = names::qualified_name(kind);
        if verdict.is_ok() && !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
            errors.invalid(&limit.child("type"), kind, "must be a standard limit type or fully qualified");
        }
        errors.judge(&limit.child("type"), kind, verdict);
        if !seen.insert(kind) {
            errors.duplicate(&limit.child("type"), kind);
        }
        item(&limit, kind, errors);
    }
}

fn item(at: &At<'_>, kind: &str, errors: &mut Errors) {
    let of_pod = kind == "Pod";
    let mut named = BTreeSet::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        if of_pod && field.starts_with("default") {
            if at.count(field) > 0 {
                errors.forbidden(&at.child(field), "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, _) in at.entries(field) {
            let path = at.child(field).key(name);
            if matches!(kind, "Pod" | "Container") {
                resource::of_container(name, &path, errors);
            } else {
                resource::name(name, &path, errors);
            }
            named.insert(name.as_str());
        }
    }
    let amount = |field: &str, name: &str| {
        let text = at.value.get(field)?.get(name)?.as_str()?;
        Some((text.parse::<Quantity>().ok()?, text))
    };
    if kind == "PersistentVolumeClaim" && amount("min", "storage").is_none() && amount("max", "storage").is_none() {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&at.child("limits"), why);
    }
    for name in named {
        let is_said = |field: &str| !of_pod || !field.starts_with("default");
        let get = |field: &str| amount(field, name).filter(|_| is_said(field));
        let (min, max, default, request) = (get("min"), get("max"), get("default"), get("defaultRequest"));
        // What must not be greater than what, where that is told, which value is shown, and what they are called.
        for (less, more, field, shown, words) in [
            (min, max, "min", min, ("min value", "max value")),
            (min, request, "defaultRequest", request, ("min value", "default request value")),
            (request, max, "defaultRequest", request, ("default request value", "max value")),
            (request, default, "defaultRequest", request, ("default request value", "default limit value")),
            (min, default, "default", min, ("min value", "default value")),
            (default, max, "default", max, ("default value", "max value")),
        ] {
            if let (Some((less, less_text)), Some((more, more_text)), Some((_, shown))) = (less, more, shown)
                && less > more
            {
                let why = format!("{} {less_text} is greater than {} {more_text}", words.0, words.1);
                errors.invalid(&at.child(field).key(name), shown, &why);
            }
        }
        if let Some((ratio, text)) = get("maxLimitRequestRatio") {
            let path = at.child("maxLimitRequestRatio").key(name);
            if ratio < Quantity::from_units(1) {
                errors.invalid(&path, text, &format!("ratio {text} is less than 1"));
            }
            if let (Some((min, _)), Some((max, _))) = (min, max)
                && ratio.milli() * min.milli() > max.milli() * 1000
            {
                #[allow(clippy::cast_precision_loss)]
                let most = max.milli() as f64 / min.milli() as f64;
                errors.invalid(&path, text, &format!("ratio {text} is greater than max/min = {most:.6}"));
            }
        }
        if let (Some((default, limit)), Some((request, text))) = (default, request)
            && default != request
            && !resource::may_be_overcommitted(name)
        {
            let why = format!("default value {limit} must equal to defaultRequest value {text} in {name}");
            errors.invalid(&at.child("defaultRequest").key(name), text, &why);
        }
    }
}

/// Scopes of quotas (KEP-1898 and others).
const SCOPES: [&str; 7] =
    ["Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity", "VolumeAttributesClass"];

pub fn resource_quota(quota: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = quota.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    for (name, amount) in at.entries("hard") {
        let path = at.child("hard").key(name);
        resource::of_quota(name, &path, errors);
        resource::amount(name, amount, &path, errors);
    }
    let shown = || at.value.get("scopes").cloned().unwrap_or_default();
    let scopes: Vec<&str> = at.each("scopes").filter_map(|scope| scope.value.as_str()).collect();
    let check = |scope: &str, path: &Path, place: &Path, unknown: Value, whole: Value, errors: &mut Errors| {
        if !SCOPES.contains(&scope) {
            errors.invalid(path, unknown, "unsupported scope");
        }
        for _ in at.entries("hard").filter(|(name, _)| resource::is_of_quota(name) && !fits(scope, name)) {
            errors.invalid(place, whole.clone(), "unsupported scope applied to resource");
        }
    };
    for scope in &scopes {
        check(scope, &at.child("scopes"), &at.child("scopes"), shown(), shown(), errors);
    }
    conflicts(&scopes, &at.child("scopes"), shown(), errors);
    let Some(selector) = at.given("scopeSelector") else { return };
    let path = selector.child("matchExpressions");
    let mut named = Vec::new();
    for one in selector.each("matchExpressions") {
        let (scope, operator, values) = (one.str("scopeName"), one.str("operator"), one.count("values"));
        check(scope, &path.child("scopeName"), &path, scope.into(), selector.value.clone(), errors);
        named.push(scope);
        if (SCOPES[..4].contains(&scope) || scope == "CrossNamespacePodAffinity") && operator != "Exists" {
            errors.invalid(&path.child("operator"), operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity");
        }
        match operator {
            "In" | "NotIn" if values == 0 => {
                errors.required(&path.child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector");
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(&path.child("values"), one.value["values"].clone(), why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
    }
    conflicts(&named, &path, shown(), errors);
}

fn conflicts(scopes: &[&str], path: &Path, shown: Value, errors: &mut Errors) {
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            errors.invalid(path, shown.clone(), "conflicting scopes");
        }
    }
}

/// Whether a scope says anything of what a resource counts.
fn fits(scope: &str, name: &str) -> bool {
    let bare = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    let counts_pods = name == "pods";
    match scope {
        "BestEffort" => counts_pods,
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        scope if SCOPES.contains(&scope) => counts_pods || matches!(bare, "cpu" | "memory"),
        _ => true,
    }
}
