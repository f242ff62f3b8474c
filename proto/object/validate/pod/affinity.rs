//! Where a Pod may stand: nodes' labels, other Pods, spread over domains, taints.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::at::At;
use super::super::label_selector;
use crate::field::{Errors, Path};
use crate::names;

const WEIGHT: &str = "must be in the range 1-100";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn check(spec: &At<'_>, errors: &mut Errors) {
    if let Some(affinity) = spec.given("affinity") {
        if let Some(node) = affinity.given("nodeAffinity") {
            if let Some(required) = node.given(REQUIRED) {
                node_selector(&required, errors);
            }
            for term in node.each(PREFERRED) {
                weight(&term, errors);
                if let Some(preference) = term.given("preference") {
                    node_term(&preference, false, errors);
                }
            }
        }
        for kind in ["podAffinity", "podAntiAffinity"].iter().filter_map(|kind| affinity.given(kind)) {
            kind.each(REQUIRED).for_each(|term| pod_term(&term, errors));
            for term in kind.each(PREFERRED) {
                weight(&term, errors);
                let none = Value::Null;
                pod_term(&term.given("podAffinityTerm").unwrap_or(At::new(&none, &term.child("podAffinityTerm"))), errors);
            }
        }
    }
    spread(spec, errors);
    tolerations(spec, errors);
}

fn weight(term: &At<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&term.int("weight")) {
        errors.invalid(&term.child("weight"), term.int("weight"), WEIGHT);
    }
}

/// `ValidateNodeSelector`
pub(in super::super) fn node_selector(at: &At<'_>, errors: &mut Errors) {
    if at.count("nodeSelectorTerms") == 0 {
        errors.required(&at.child("nodeSelectorTerms"), "must have at least one node selector term");
    }
    at.each("nodeSelectorTerms").for_each(|term| node_term(&term, true, errors));
}

fn node_term(at: &At<'_>, checks_values: bool, errors: &mut Errors) {
    for one in at.each("matchExpressions") {
        let count = one.count("values");
        match one.str("operator") {
            "In" | "NotIn" if count == 0 => {
                errors.required(&one.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                errors.forbidden(&one.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if count != 1 => {
                errors.required(&one.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid(&one.child("operator"), other, "not a valid selector operator"),
        }
        errors.judge(&one.child("key"), one.str("key"), names::qualified_name(one.str("key")));
        for value in one.each("values").filter(|_| checks_values) {
            errors.judge(&value.path, value.value.clone(), names::label_value(value.value.as_str().unwrap_or_default()));
        }
    }
    for one in at.each("matchFields") {
        match one.str("operator") {
            "In" | "NotIn" if one.count("values") != 1 => {
                let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(&one.child("values"), why);
            }
            "In" | "NotIn" => {}
            other => errors.invalid(&one.child("operator"), other, "not a valid selector operator"),
        }
        if one.str("key") == "metadata.name" {
            for value in one.each("values") {
                errors.judge(&value.path, value.value.clone(), names::subdomain(value.value.as_str().unwrap_or_default()));
            }
        } else {
            errors.invalid(&one.child("key"), one.str("key"), "not a valid field selector key");
        }
    }
}

fn pod_term(at: &At<'_>, errors: &mut Errors) {
    for selector in ["labelSelector", "namespaceSelector"].iter().filter_map(|field| at.given(field)) {
        label_selector(selector.value, &selector.path, errors);
    }
    for namespace in at.each("namespaces").filter_map(|namespace| namespace.value.as_str()) {
        errors.judge(&at.child("namespace"), namespace, names::dns1123_label(namespace));
    }
    label_keys(at, errors);
    if at.str("topologyKey").is_empty() {
        errors.required(&at.child("topologyKey"), "can not be empty");
    }
    errors.judge(&at.child("topologyKey"), at.str("topologyKey"), names::qualified_name(at.str("topologyKey")));
}

/// `ValidateMatchLabelKeysAndMismatchLabelKeys`
fn label_keys(at: &At<'_>, errors: &mut Errors) {
    let selector = at.given("labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"].into_iter().filter(|field| at.count(field) > 0) {
        if selector.is_none() {
            errors.forbidden(&at.child(field), "must not be specified when labelSelector is not set");
            continue;
        }
        for key in at.each(field) {
            errors.judge(&key.path, key.value.clone(), names::qualified_name(key.value.as_str().unwrap_or_default()));
        }
    }
    let keys = |field: &str| -> Vec<&str> { at.each(field).filter_map(|key| key.value.as_str()).collect() };
    let (matched, mismatched) = (keys("matchLabelKeys"), keys("mismatchLabelKeys"));
    if let Some(selector) = selector {
        let mut seen: BTreeSet<&str> = selector.entries("matchLabels").map(|(key, _)| key.as_str()).collect();
        for expression in selector.each("matchExpressions") {
            let key = expression.str("key");
            if let Some(index) = matched.iter().rposition(|known| *known == key).filter(|_| seen.contains(key)) {
                errors.invalid(&at.path.index(index), key, "exists in both matchLabelKeys and labelSelector");
            }
            seen.insert(key);
        }
    }
    for (index, key) in matched.iter().enumerate().filter(|(_, key)| mismatched.contains(key)) {
        errors.invalid(&at.child("matchLabelKeys").index(index), *key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

fn spread(spec: &At<'_>, errors: &mut Errors) {
    const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    let all: Vec<At<'_>> = spec.each("topologySpreadConstraints").collect();
    for (index, one) in all.iter().enumerate() {
        let positive = "must be greater than zero";
        if one.int("maxSkew") < 1 {
            errors.invalid(&one.child("maxSkew"), one.int("maxSkew"), positive);
        }
        let (key, action) = (one.str("topologyKey"), one.str("whenUnsatisfiable"));
        if key.is_empty() {
            errors.required(&one.child("topologyKey"), "can not be empty");
        }
        if !ACTIONS.contains(&action) {
            errors.unsupported(&one.child("whenUnsatisfiable"), action, &ACTIONS);
        }
        if all[index + 1..].iter().any(|other| other.str("topologyKey") == key && other.str("whenUnsatisfiable") == action) {
            errors.duplicate(&one.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        one.number("minDomains", 1..=i64::MAX, positive, errors);
        if let Some(domains) = one.given("minDomains").filter(|_| action != "DoNotSchedule") {
            let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.invalid(&domains.path, domains.value.clone(), &why);
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one.supported(policy, &["Honor", "Ignore"], errors);
        }
        label_keys(one, errors);
        if let Some(selector) = one.given("labelSelector") {
            label_selector(selector.value, &selector.path, errors);
        }
    }
}

fn tolerations(spec: &At<'_>, errors: &mut Errors) {
    spec.each("tolerations").for_each(|one| toleration(&one, errors));
}

pub(in super::super) fn toleration(one: &At<'_>, errors: &mut Errors) {
    one.named("key", names::qualified_name, errors);
    let (operator, value, path) = (one.str("operator"), one.str("value"), one.child("operator"));
    if one.str("key").is_empty() && operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(&path, operator, why);
    }
    if one.given("tolerationSeconds").is_some() && one.str("effect") != "NoExecute" {
        errors.invalid(&one.child("effect"), one.str("effect"), "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    match operator {
        "Equal" | "" => {
            if let Err(why) = names::label_value(value) {
                errors.invalid(&path, value, &why.iter().collect::<Vec<_>>().join(";"));
            }
        }
        "Exists" if value.is_empty() => {}
        "Exists" => errors.invalid(&path, value, "value must be empty when `operator` is 'Exists'"),
        "Lt" | "Gt" => errors.unsupported(&path, operator, &["Equal", "Exists", "Lt", "Gt"]),
        _ => errors.unsupported(&path, operator, &["Equal", "Exists"]),
    }
    if !one.str("effect").is_empty() {
        taint_effect(one.str("effect"), &one.child("effect"), errors);
    }
}

pub(in super::super) fn taint_effect(effect: &str, path: &Path, errors: &mut Errors) {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !EFFECTS.contains(&effect) {
        errors.unsupported(path, effect, &EFFECTS);
    }
}
