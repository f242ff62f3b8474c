//! Defaults of webhooks and custom resource definitions.

use serde_json::{Map, Value, json};

use super::{default, each, fill, object};

pub fn validating_webhooks(configuration: &mut Value) {
    webhooks(configuration, |_| {});
}

pub fn mutating_webhooks(configuration: &mut Value) {
    webhooks(configuration, |webhook| default(webhook, "reinvocationPolicy", "Never"));
}

fn webhooks(configuration: &mut Value, more: fn(&mut Map<String, Value>)) {
    let Some(map) = configuration.as_object_mut() else { return };
    for webhook in each(map, "webhooks") {
        default(webhook, "failurePolicy", "Fail");
        default(webhook, "matchPolicy", "Equivalent");
        default(webhook, "namespaceSelector", json!({}));
        default(webhook, "objectSelector", json!({}));
        default(webhook, "timeoutSeconds", 10);
        for rule in each(webhook, "rules") {
            default(rule, "scope", "*");
        }
        if let Some(service) = webhook.get_mut("clientConfig").and_then(|c| c.get_mut("service")).and_then(Value::as_object_mut) {
            default(service, "port", 443);
        }
        more(webhook);
    }
}

pub fn admission_policy(policy: &mut Value) {
    let Some(spec) = object(policy, "spec") else { return };
    default(spec, "failurePolicy", "Fail");
    match_resources(spec, "matchConstraints");
}

pub fn policy_binding(binding: &mut Value) {
    if let Some(spec) = object(binding, "spec") {
        match_resources(spec, "matchResources");
    }
}

fn match_resources(spec: &mut Map<String, Value>, field: &str) {
    let Some(resources) = spec.get_mut(field).and_then(Value::as_object_mut) else { return };
    default(resources, "matchPolicy", "Equivalent");
    default(resources, "namespaceSelector", json!({}));
    default(resources, "objectSelector", json!({}));
    for list in ["resourceRules", "excludeResourceRules"] {
        each(resources, list).for_each(|rule| default(rule, "scope", "*"));
    }
}

pub fn api_service(service: &mut Value) {
    if let Some(reference) = object(service, "spec").and_then(|spec| spec.get_mut("service")).and_then(Value::as_object_mut) {
        default(reference, "port", 443);
    }
}

pub fn custom_resource_definition(definition: &mut Value) {
    let Some(spec) = object(definition, "spec") else { return };
    default(spec, "conversion", json!({"strategy": "None"}));
    if let Some(service) =
        spec.get_mut("conversion").and_then(|c| c.pointer_mut("/webhook/clientConfig/service")).and_then(Value::as_object_mut)
    {
        default(service, "port", 443);
    }
    let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) else { return };
    if let Some(kind) = names.get("kind").and_then(Value::as_str).filter(|k| !k.is_empty()).map(String::from) {
        fill(names, "singular", kind.to_lowercase());
        fill(names, "listKind", format!("{kind}List"));
    }
}

/// A definition says from the first which version it stores.
pub fn prepare_custom_resource_definition(definition: &mut Value) {
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
    let stored: Vec<Value> = versions.filter(|version| version["storage"] == true).map(|version| version["name"].clone()).collect();
    let Some(status) = object(definition, "status") else { return };
    status.entry("conditions").or_insert(Value::Null);
    if !stored.is_empty() {
        fill(status, "storedVersions", stored);
    }
}
