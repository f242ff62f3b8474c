//! Columns of Ingresses, policies and address ranges.

use serde_json::Value;

use super::{Column, age, column, items, joined, name, text_or};

pub(crate) fn ingress_class() -> Vec<Column> {
    vec![
        name(),
        column("Controller", "string", |o, _| text_or(o, "/spec/controller", "").into()),
        column("Parameters", "string", |o, _| match o.pointer("/spec/parameters") {
            None => "<none>".into(),
            Some(parameters) => {
                let group = text_or(parameters, "/apiGroup", "");
                let kind = text_or(parameters, "/kind", "");
                let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
                format!("{kind}/{}", text_or(parameters, "/name", "")).into()
            }
        }),
        age(),
    ]
}

pub(crate) fn ingress() -> Vec<Column> {
    vec![
        name(),
        column("Class", "string", |o, _| text_or(o, "/spec/ingressClassName", "<none>").into()),
        column("Hosts", "string", |o, _| hosts(o).into()),
        column("Address", "string", |o, _| {
            let addresses = items(o, "/status/loadBalancer/ingress").iter().map(|i| text_or(i, "/ip", &text_or(i, "/hostname", "")));
            joined(addresses).into()
        }),
        column("Ports", "string", |o, _| if items(o, "/spec/tls").is_empty() { "80".into() } else { "80, 443".into() }),
        age(),
    ]
}

/// The first three, and how many more (`formatHosts`).
fn hosts(ingress: &Value) -> String {
    let all: Vec<String> = items(ingress, "/spec/rules").iter().map(|r| text_or(r, "/host", "")).filter(|h| !h.is_empty()).collect();
    match all.as_slice() {
        [] => "*".into(),
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
        few => few.join(","),
    }
}

pub(crate) fn ip_address() -> Vec<Column> {
    vec![
        name(),
        column("ParentRef", "string", |o, _| {
            let part = |field: &str| text_or(o, &format!("/spec/parentRef/{field}"), "");
            let parts = [part("group"), part("resource"), part("namespace"), part("name")];
            parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/").into()
        }),
    ]
}

pub(crate) fn policy() -> Vec<Column> {
    vec![name(), column("Pod-Selector", "string", |o, _| super::apps::selector_at(o, "/spec/podSelector").into()), age()]
}

pub(crate) fn service_cidr() -> Vec<Column> {
    vec![
        name(),
        column("CIDRs", "string", |o, _| joined(items(o, "/spec/cidrs").iter().map(|c| c.as_str().unwrap_or_default().into())).into()),
        age(),
    ]
}
