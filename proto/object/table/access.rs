//! Columns of roles, bindings and certificates.

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, age, column, items, joined, name, text_or, wide};

pub(crate) fn binding() -> Vec<Column> {
    vec![
        name(),
        column("Role", "string", |o, _| format!("{}/{}", text_or(o, "/roleRef/kind", ""), text_or(o, "/roleRef/name", "")).into()),
        age(),
        wide("Users", "string", |o, _| subjects(o, "User").into()),
        wide("Groups", "string", |o, _| subjects(o, "Group").into()),
        wide("ServiceAccounts", "string", |o, _| subjects(o, "ServiceAccount").into()),
    ]
}

fn subjects(binding: &Value, kind: &str) -> String {
    let of_kind = items(binding, "/subjects").iter().filter(|s| text_or(s, "/kind", "") == kind);
    let called = |subject: &Value| match kind {
        "ServiceAccount" => format!("{}/{}", text_or(subject, "/namespace", ""), text_or(subject, "/name", "")),
        _ => text_or(subject, "/name", ""),
    };
    of_kind.map(called).collect::<Vec<_>>().join(", ")
}

pub(crate) fn certificate_signing_request() -> Vec<Column> {
    vec![
        name(),
        age(),
        column("SignerName", "string", |o, _| text_or(o, "/spec/signerName", "<none>").into()),
        column("Requestor", "string", |o, _| text_or(o, "/spec/username", "").into()),
        column("RequestedDuration", "string", requested_duration),
        column("Condition", "string", |o, _| signing_state(o).into()),
    ]
}

fn requested_duration(request: &Value, _: Timestamp) -> Value {
    let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
    seconds.map_or_else(|| "<none>".into(), super::human_duration).into()
}

fn signing_state(request: &Value) -> String {
    let of = |kind: &str| items(request, "/status/conditions").iter().any(|c| text_or(c, "/type", "") == kind);
    let mut state = match (of("Denied"), of("Approved")) {
        (true, _) => "Denied".to_string(),
        (_, true) => "Approved".into(),
        _ => "Pending".into(),
    };
    if of("Failed") {
        state.push_str(",Failed");
    }
    if !text_or(request, "/status/certificate", "").is_empty() {
        state.push_str(",Issued");
    }
    state
}

pub(crate) fn cluster_trust_bundle() -> Vec<Column> {
    vec![name(), column("SignerName", "string", |o, _| text_or(o, "/spec/signerName", "<none>").into())]
}

pub(crate) fn pod_certificate_request() -> Vec<Column> {
    vec![
        name(),
        column("PodName", "string", |o, _| text_or(o, "/spec/podName", "").into()),
        column("ServiceAccountName", "string", |o, _| text_or(o, "/spec/serviceAccountName", "").into()),
        column("NodeName", "string", |o, _| text_or(o, "/spec/nodeName", "").into()),
        column("SignerName", "string", |o, _| text_or(o, "/spec/signerName", "").into()),
        column("State", "string", |o, _| {
            let known = items(o, "/status/conditions").iter().map(|c| text_or(c, "/type", ""));
            let state = joined(known);
            if state.is_empty() { "Pending".into() } else { state.into() }
        }),
        column("UnverifiedUserAnnotations", "string", |o, _| super::labels_text(o.pointer("/spec/unverifiedUserAnnotations")).into()),
    ]
}
