//! Columns of workloads.

use serde_json::Value;

use super::{Column, age, column, items, joined, labels_text, name, number, text_or, wide};
use crate::selector::Labels;

pub(crate) fn deployment() -> Vec<Column> {
    vec![
        name(),
        column("Ready", "string", |o, _| format!("{}/{}", number(o, "/status/readyReplicas"), number(o, "/spec/replicas")).into()),
        column("Up-to-date", "integer", |o, _| number(o, "/status/updatedReplicas").into()),
        column("Available", "integer", |o, _| number(o, "/status/availableReplicas").into()),
        age(),
        containers(),
        images(),
        wide("Selector", "string", |o, _| selector_text(o).into()),
    ]
}

pub(crate) fn replica_set() -> Vec<Column> {
    vec![
        name(),
        column("Desired", "integer", |o, _| number(o, "/spec/replicas").into()),
        column("Current", "integer", |o, _| number(o, "/status/replicas").into()),
        column("Ready", "integer", |o, _| number(o, "/status/readyReplicas").into()),
        age(),
        containers(),
        images(),
        wide("Selector", "string", |o, _| selector_text(o).into()),
    ]
}

pub(crate) fn daemon_set() -> Vec<Column> {
    vec![
        name(),
        column("Desired", "integer", |o, _| number(o, "/status/desiredNumberScheduled").into()),
        column("Current", "integer", |o, _| number(o, "/status/currentNumberScheduled").into()),
        column("Ready", "integer", |o, _| number(o, "/status/numberReady").into()),
        column("Up-to-date", "integer", |o, _| number(o, "/status/updatedNumberScheduled").into()),
        column("Available", "integer", |o, _| number(o, "/status/numberAvailable").into()),
        column("Node Selector", "string", |o, _| labels_text(o.pointer("/spec/template/spec/nodeSelector")).into()),
        age(),
        containers(),
        images(),
        wide("Selector", "string", |o, _| selector_text(o).into()),
    ]
}

pub(crate) fn replication_controller() -> Vec<Column> {
    let mut columns = replica_set();
    columns.pop();
    columns.push(wide("Selector", "string", |o, _| labels_text(o.pointer("/spec/selector")).into()));
    columns
}

pub(super) fn containers() -> Column {
    wide("Containers", "string", |o, _| joined(template_containers(o).map(|c| text_or(c, "/name", ""))).into())
}

pub(super) fn images() -> Column {
    wide("Images", "string", |o, _| joined(template_containers(o).map(|c| text_or(c, "/image", ""))).into())
}

fn template_containers(object: &Value) -> impl Iterator<Item = &Value> {
    items(object, "/spec/template/spec/containers").iter()
}

/// A label selector as `metav1.FormatLabelSelector` writes it.
pub(crate) fn selector_text(object: &Value) -> String {
    let labels: Labels =
        object.pointer("/spec/selector/matchLabels").and_then(|l| serde_json::from_value(l.clone()).ok()).unwrap_or_default();
    let mut terms: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    for expression in items(object, "/spec/selector/matchExpressions") {
        let key = text_or(expression, "/key", "");
        let values = joined(items(expression, "/values").iter().filter_map(|v| v.as_str().map(Into::into)));
        terms.push(match text_or(expression, "/operator", "").as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key,
            _ => format!("!{key}"),
        });
    }
    if terms.is_empty() { "<none>".into() } else { terms.join(",") }
}
