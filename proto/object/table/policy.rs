//! Columns of autoscalers, budgets, classes and levels.

use serde_json::Value;

use super::{Column, age, column, flag, items, name, number, text_or};

pub(crate) fn autoscaler() -> Vec<Column> {
    vec![
        name(),
        column("Reference", "string", |o, _| {
            format!("{}/{}", text_or(o, "/spec/scaleTargetRef/kind", ""), text_or(o, "/spec/scaleTargetRef/name", "")).into()
        }),
        column("Targets", "string", |o, _| targets(o).into()),
        column("MinPods", "string", |o, _| text_or(o, "/spec/minReplicas", UNSET).into()),
        column("MaxPods", "string", |o, _| number(o, "/spec/maxReplicas").into()),
        column("Replicas", "string", |o, _| number(o, "/status/currentReplicas").into()),
        age(),
    ]
}

const UNSET: &str = "<unset>";

/// The first two metrics, current and wanted, and how many more (`formatHPAMetrics`).
fn targets(autoscaler: &Value) -> String {
    if let Some(percent) = autoscaler.pointer("/spec/targetCPUUtilizationPercentage") {
        let current = autoscaler.pointer("/status/currentCPUUtilizationPercentage").map_or_else(|| "<unknown>".into(), |c| format!("{c}%"));
        return format!("cpu: {current}/{percent}%");
    }
    let metrics = items(autoscaler, "/spec/metrics");
    let shown: Vec<String> = metrics.iter().take(2).enumerate().map(|(at, metric)| target(autoscaler, at, metric)).collect();
    match metrics.len() {
        0 => "<none>".into(),
        many @ 3.. => format!("{} + {} more...", shown.join(", "), many - 2),
        _ => shown.join(", "),
    }
}

fn target(autoscaler: &Value, at: usize, metric: &Value) -> String {
    let kind = text_or(metric, "/type", "");
    let field = match kind.as_str() {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".into(),
    };
    let current = autoscaler.pointer(&format!("/status/currentMetrics/{at}/{field}/current"));
    let wanted = metric.pointer(&format!("/{field}/target")).cloned().unwrap_or_default();
    let name = text_or(metric, &format!("/{field}/name"), "");
    let prefix = if kind.contains("Resource") { format!("{name}: ") } else { String::new() };
    let of = |which: &str| current.map_or_else(|| "<unknown>".into(), |c| text_or(c, which, "<unknown>"));
    if let Some(percent) = wanted.get("averageUtilization") {
        let now = of("/averageUtilization");
        let now = if now == "<unknown>" { now } else { format!("{now}%") };
        return format!("{prefix}{now}/{percent}%");
    }
    match wanted.get("averageValue").and_then(Value::as_str) {
        Some(average) if kind == "Pods" || kind.contains("Resource") => format!("{prefix}{}/{average}", of("/averageValue")),
        Some(average) => format!("{}/{average} (avg)", of("/averageValue")),
        None => format!("{prefix}{}/{}", of("/value"), text_or(&wanted, "/value", "<auto>")),
    }
}

pub(crate) fn disruption_budget() -> Vec<Column> {
    vec![
        name(),
        column("Min Available", "string", |o, _| text_or(o, "/spec/minAvailable", "N/A").into()),
        column("Max Unavailable", "string", |o, _| text_or(o, "/spec/maxUnavailable", "N/A").into()),
        column("Allowed Disruptions", "integer", |o, _| number(o, "/status/disruptionsAllowed").into()),
        age(),
    ]
}

pub(crate) fn priority_class() -> Vec<Column> {
    vec![
        name(),
        column("Value", "integer", |o, _| number(o, "/value").into()),
        column("Global-Default", "boolean", |o, _| flag(o, "/globalDefault", false)),
        age(),
        column("PreemptionPolicy", "string", |o, _| text_or(o, "/preemptionPolicy", "PreemptLowerPriority").into()),
    ]
}

pub(crate) fn runtime_class() -> Vec<Column> {
    vec![name(), column("Handler", "string", |o, _| text_or(o, "/handler", "").into()), age()]
}

pub(crate) fn flow_schema() -> Vec<Column> {
    vec![
        name(),
        column("PriorityLevel", "string", |o, _| text_or(o, "/spec/priorityLevelConfiguration/name", "").into()),
        column("MatchingPrecedence", "string", |o, _| number(o, "/spec/matchingPrecedence").into()),
        column("DistinguisherMethod", "string", |o, _| text_or(o, "/spec/distinguisherMethod/type", "<none>").into()),
        age(),
        column("MissingPL", "string", |o, _| {
            let dangling = items(o, "/status/conditions").iter().find(|c| c["type"] == "Dangling");
            dangling.map_or_else(|| "?".into(), |c| text_or(c, "/status", "?")).into()
        }),
    ]
}

pub(crate) fn priority_level() -> Vec<Column> {
    let queuing = |field: &'static str| -> fn(&Value, jiff::Timestamp) -> Value {
        match field {
            "queues" => |o, _| text_or(o, "/spec/limited/limitResponse/queuing/queues", "<none>").into(),
            "handSize" => |o, _| text_or(o, "/spec/limited/limitResponse/queuing/handSize", "<none>").into(),
            _ => |o, _| text_or(o, "/spec/limited/limitResponse/queuing/queueLengthLimit", "<none>").into(),
        }
    };
    vec![
        name(),
        column("Type", "string", |o, _| text_or(o, "/spec/type", "").into()),
        column("NominalConcurrencyShares", "string", |o, _| text_or(o, "/spec/limited/nominalConcurrencyShares", "<none>").into()),
        column("Queues", "string", queuing("queues")),
        column("HandSize", "string", queuing("handSize")),
        column("QueueLengthLimit", "string", queuing("queueLengthLimit")),
        age(),
    ]
}
