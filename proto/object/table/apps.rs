//! Columns of workloads.

use serde_json::Value;

use super::{Column, age, column, items, joined, labels_text, name, number, text_or, wide};
use crate::selector::Labels;

pub(crate) fn deployment() -> Vec<Column> {
    vec![
        name(),
        column("Ready", "string", |o, _| format!("{}/{}", number(o, "/status/readyReplicas"), number(o, "/spec/replicas")).into()),
        column("Up-to-date", "string", |o, _| number(o, "/status/updatedReplicas").into()),
        column("Available", "string", |o, _| number(o, "/status/availableReplicas").into()),
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

pub(crate) fn stateful_set() -> Vec<Column> {
    vec![
        name(),
        column("Ready", "string", |o, _| format!("{}/{}", number(o, "/status/readyReplicas"), number(o, "/spec/replicas")).into()),
        age(),
        containers(),
        images(),
    ]
}

pub(crate) fn controller_revision() -> Vec<Column> {
    vec![
        name(),
        column("Controller", "string", |o, _| {
            let owner = items(o, "/metadata/ownerReferences").iter().find(|owner| owner["controller"] == true);
            let owned = |owner: &Value| {
                let group = text_or(owner, "/apiVersion", "").split_once('/').map(|(g, _)| format!(".{g}")).unwrap_or_default();
                format!("{}{group}/{}", text_or(owner, "/kind", "").to_lowercase(), text_or(owner, "/name", ""))
            };
            owner.map_or_else(|| "<none>".into(), owned).into()
        }),
        column("Revision", "string", |o, _| number(o, "/revision").into()),
        age(),
    ]
}

pub(crate) fn pod_template() -> Vec<Column> {
    vec![
        name(),
        column("Containers", "string", |o, _| joined(items(o, "/template/spec/containers").iter().map(|c| text_or(c, "/name", ""))).into()),
        column("Images", "string", |o, _| joined(items(o, "/template/spec/containers").iter().map(|c| text_or(c, "/image", ""))).into()),
        column("Pod Labels", "string", |o, _| labels_text(o.pointer("/template/metadata/labels")).into()),
    ]
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
    selector_at(object, "/spec/selector")
}

pub(crate) fn selector_at(object: &Value, pointer: &str) -> String {
    let Some(selector) = object.pointer(pointer) else { return "<none>".into() };
    let labels: Labels = selector.get("matchLabels").and_then(|l| serde_json::from_value(l.clone()).ok()).unwrap_or_default();
    let mut terms: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    for expression in items(selector, "/matchExpressions") {
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
