//! Columns of what extends the API.

use super::{Column, age, column, items, joined, name, name_and_creation, text_or, wide};

pub(crate) fn webhooks() -> Vec<Column> {
    vec![name(), column("Webhooks", "integer", |o, _| items(o, "/webhooks").len().into()), age()]
}

pub(crate) fn validating_policy() -> Vec<Column> {
    policy(column("Validations", "integer", |o, _| items(o, "/spec/validations").len().into()))
}

pub(crate) fn mutating_policy() -> Vec<Column> {
    policy(column("Mutations", "integer", |o, _| items(o, "/spec/mutations").len().into()))
}

fn policy(count: Column) -> Vec<Column> {
    let kind = column("ParamKind", "string", |o, _| match o.pointer("/spec/paramKind") {
        None => "<unset>".into(),
        Some(kind) => format!("{}/{}", text_or(kind, "/apiVersion", ""), text_or(kind, "/kind", "")).into(),
    });
    vec![name(), count, kind, age()]
}

pub(crate) fn policy_binding() -> Vec<Column> {
    vec![
        name(),
        column("PolicyName", "string", |o, _| text_or(o, "/spec/policyName", "").into()),
        column("ParamRef", "string", |o, _| match o.pointer("/spec/paramRef") {
            None => "<unset>".into(),
            Some(reference) => match (text_or(reference, "/namespace", ""), text_or(reference, "/name", "")) {
                (namespace, name) if namespace.is_empty() => name.into(),
                (namespace, name) => format!("{namespace}/{name}").into(),
            },
        }),
        age(),
    ]
}

pub(crate) fn custom_resource_definition() -> Vec<Column> {
    let mut columns = name_and_creation();
    columns.splice(
        1..1,
        [
            column("Scope", "string", |o, _| text_or(o, "/spec/scope", "").into()),
            column("Versions", "string", |o, _| {
                let served = items(o, "/spec/versions").iter().filter(|v| v["served"] == true);
                joined(served.map(|v| text_or(v, "/name", ""))).into()
            }),
        ],
    );
    columns.extend([
        wide("Group", "string", |o, _| text_or(o, "/spec/group", "").into()),
        wide("Kind", "string", |o, _| text_or(o, "/spec/names/kind", "").into()),
        wide("ShortNames", "string", |o, _| {
            joined(items(o, "/spec/names/shortNames").iter().map(|n| n.as_str().unwrap_or_default().into())).into()
        }),
        wide("Established", "boolean", |o, _| {
            items(o, "/status/conditions").iter().any(|c| c["type"] == "Established" && c["status"] == "True").into()
        }),
    ]);
    columns
}

pub(crate) fn api_service() -> Vec<Column> {
    vec![
        name(),
        column("Service", "string", |o, _| match o.pointer("/spec/service") {
            None => "Local".into(),
            Some(service) => format!("{}/{}", text_or(service, "/namespace", ""), text_or(service, "/name", "")).into(),
        }),
        column("Available", "string", |o, _| {
            let available = items(o, "/status/conditions").iter().find(|c| c["type"] == "Available");
            match available {
                None => "Unknown".into(),
                Some(c) if c["status"] == "True" => "True".into(),
                Some(c) => format!("{} ({})", text_or(c, "/status", ""), text_or(c, "/reason", "")).into(),
            }
        }),
        age(),
    ]
}
