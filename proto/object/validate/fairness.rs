//! FlowSchemas and PriorityLevelConfigurations (`pkg/apis/flowcontrol/validation`).

use serde_json::{Value, json};

use super::at::At;
use crate::field::{Errors, Path};
use crate::names;

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub fn flow_schema(schema: &Value, _old: Option<&Value>, errors: &mut Errors) {
    const PRECEDENCE_MAX: i64 = 10_000;
    let spec = schema.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    let (precedence, path) = (at.int("matchingPrecedence"), at.child("matchingPrecedence"));
    if precedence <= 0 {
        errors.invalid(&path, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        errors.invalid(&path, precedence, &format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && crate::meta::name(schema) != "exempt" {
        errors.invalid(&path, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = at.given("distinguisherMethod").filter(|method| !matches!(method.str("type"), "ByUser" | "ByNamespace")) {
        errors.unsupported(&method.child("type"), json!({"Type": method.str("type")}), &["ByNamespace", "ByUser"]);
    }
    let level = at.given("priorityLevelConfiguration").unwrap_or(At { value: &Value::Null, path: at.child("priorityLevelConfiguration") });
    if level.str("name").is_empty() {
        errors.required(&level.child("name"), "must reference a priority level");
    }
    level.named("name", names::subdomain, errors);
    for rule in at.each("rules") {
        if rule.count("subjects") == 0 {
            errors.required(&rule.child("subjects"), "subjects must contain at least one value");
        }
        rule.each("subjects").for_each(|one| subject(&one, errors));
        if rule.count("resourceRules") == 0 && rule.count("nonResourceRules") == 0 {
            errors.required(&rule.path, "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
        rule.each("resourceRules").for_each(|one| resource_rule(&one, errors));
        rule.each("nonResourceRules").for_each(|one| url_rule(&one, errors));
    }
}

fn subject(at: &At<'_>, errors: &mut Errors) {
    const KINDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = at.str("kind");
    let Some((_, field)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        return errors.unsupported(&at.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
    };
    for (name, other) in KINDS.iter().filter(|(name, other)| *name != kind && at.given(other).is_some()) {
        errors.forbidden(&at.child(other), &format!("{other} is forbidden when subject kind is not '{name}'"));
    }
    let Some(who) = at.given(field) else {
        return errors.required(&at.child(field), &format!("{field} is required when subject kind is '{kind}'"));
    };
    who.require(&["name"], errors);
    if kind == "ServiceAccount" {
        if who.str("name") != "*" {
            who.named("name", names::subdomain, errors);
        }
        if who.str("namespace").is_empty() {
            errors.required(&who.child("namespace"), "must specify namespace for service account");
        }
        who.named("namespace", names::dns1123_label, errors);
    }
}

/// A list that must say something, and nothing beside `*`.
fn all_or_some<'a>(at: &At<'a>, field: &str, missing: &str, others: &str, errors: &mut Errors) -> Vec<&'a str> {
    let values: Vec<&str> = at.each(field).filter_map(|value| value.value.as_str()).collect();
    if values.is_empty() {
        errors.required(&at.child(field), missing);
    } else if values.len() > 1 && values.contains(&"*") {
        errors.invalid(&at.child(field), json!(values), &format!("if '*' is present, must not specify other {others}"));
    }
    values
}

fn verbs(at: &At<'_>, errors: &mut Errors) {
    let verbs = all_or_some(at, "verbs", "verbs must contain at least one value", "verbs", errors);
    if !verbs.contains(&"*") && verbs.iter().any(|verb| !VERBS.contains(verb)) {
        errors.unsupported(&at.child("verbs"), json!(verbs), &VERBS);
    }
}

fn resource_rule(at: &At<'_>, errors: &mut Errors) {
    verbs(at, errors);
    all_or_some(at, "apiGroups", "resource rules must supply at least one api group", "api groups", errors);
    all_or_some(at, "resources", "resource rules must supply at least one resource", "resources", errors);
    if at.count("namespaces") == 0 && at.flag("clusterScope") {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    let namespaces = all_or_some(at, "namespaces", missing, "namespaces", errors);
    for (index, namespace) in namespaces.iter().enumerate().filter(|_| !namespaces.contains(&"*")) {
        for why in names::dns1123_label(namespace).err().iter().flat_map(names::Faults::iter) {
            let why = format!("each member of this list must be '*' or a DNS-1123 label; {why}");
            errors.invalid(&at.child("namespaces").index(index), *namespace, &why);
        }
    }
}

fn url_rule(at: &At<'_>, errors: &mut Errors) {
    verbs(at, errors);
    let missing = "nonResourceURLs must contain at least one value";
    let urls = all_or_some(at, "nonResourceURLs", missing, "non-resource URLs", errors);
    for (index, url) in urls.iter().enumerate().filter(|_| !urls.contains(&"*")) {
        let path = at.child("nonResourceURLs").index(index);
        if url.is_empty() {
            errors.invalid(&path, *url, "must not be empty");
        } else if !url.starts_with('/') {
            errors.invalid(&path, *url, "must start with slash");
        } else if url.contains(' ') {
            errors.invalid(&path, *url, "must not contain white-space");
        } else if url.contains("//") {
            errors.invalid(&path, *url, "must not contain double slash");
        } else if url.strip_suffix('*').is_some_and(|rest| rest.contains('*') || !rest.ends_with('/')) || url[..url.len() - 1].contains('*')
        {
            errors.invalid(&path, *url, "wildcard can only do suffix matching");
        }
    }
}

pub fn priority_level(level: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = level.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    let (kind, limited, exempt) = (at.str("type"), at.given("limited"), at.given("exempt"));
    if (crate::meta::name(level) == "exempt") != (kind == "Exempt") {
        errors.invalid(&at.child("type"), kind, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    let mut unwanted = |one: &Option<At<'_>>| {
        if let Some(one) = one {
            errors.forbidden(&one.path, "");
        }
    };
    match kind {
        "Exempt" => unwanted(&limited),
        "Limited" => unwanted(&exempt),
        _ => {
            unwanted(&limited);
            unwanted(&exempt);
        }
    }
    match kind {
        "Exempt" => {
            if let Some(exempt) = exempt {
                shares(&exempt, errors);
            }
        }
        "Limited" => match limited {
            None => errors.required(&at.child("limited"), ""),
            Some(limited) => {
                shares(&limited, errors);
                limited.number("borrowingLimitPercent", 0..=i64::MAX, "if specified, must be a non-negative integer", errors);
                let response = limited.given("limitResponse").unwrap_or(At { value: &Value::Null, path: limited.child("limitResponse") });
                limit_response(&response, errors);
            }
        },
        "" => errors.required(&at.child("type"), ""),
        other => errors.unsupported(&at.child("type"), other, &["Exempt", "Limited"]),
    }
}

fn shares(at: &At<'_>, errors: &mut Errors) {
    at.number("nominalConcurrencyShares", 0..=i64::MAX, "must be a non-negative integer", errors);
    at.in_range("lendablePercent", 0..=100, errors);
}

fn limit_response(at: &At<'_>, errors: &mut Errors) {
    const QUEUES_MAX: i64 = 10_000_000;
    let (kind, queuing) = (at.str("type"), at.given("queuing"));
    match (kind, queuing) {
        ("Queue", None) => errors.required(&at.child("queuing"), ""),
        ("Queue", Some(queuing)) => {
            for field in ["queueLengthLimit", "queues", "handSize"].into_iter().filter(|field| queuing.int(field) <= 0) {
                errors.invalid(&queuing.child(field), queuing.int(field), "must be positive");
            }
            queuing.number("queues", i64::MIN..=QUEUES_MAX, &format!("must not be greater than {QUEUES_MAX}"), errors);
            let queues = queuing.int("queues");
            queuing.number("handSize", i64::MIN..=queues, &format!("should not be greater than queues ({queues})"), errors);
        }
        (kind, queuing) => {
            if let Some(queuing) = queuing {
                errors.forbidden(&queuing.path, "");
            }
            match kind {
                "Reject" => {}
                "" => errors.required(&at.child("type"), ""),
                other => errors.unsupported(&at.child("type"), other, &["Queue", "Reject"]),
            }
        }
    }
}
