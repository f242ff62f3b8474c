//! `metrics.k8s.io`: what nodes and Pods use, asked of their kubelets when it is asked for (`kubectl top`).

use std::time::Duration;

use futures::future::join_all;
use http::Request;
use http_body_util::BodyExt;
use jiff::Timestamp;
use prost::Message;
use serde_json::{Value, json};
use skein_object::usage::{NodeUsage, PodUsage};
use skein_object::{Key, Status, meta};

use crate::route::Target;
use crate::verbs::list::Filter;
use crate::verbs::view;
use crate::{Context, respond};

/// A kubelet that has not answered by then is left out.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn nodes(context: &Context, target: &Target) -> Result<Vec<Value>, Status> {
    let filter = Filter::of(target)?;
    let view = view(context, target).await?;
    let wanted = |key: &Key| target.name.is_empty() || key.name() == target.name;
    let nodes: Vec<(&Key, _)> =
        view.state.range("nodes/", None).filter(|(key, entry)| wanted(key) && filter.matches_labels(entry)).collect();
    let usages = join_all(nodes.iter().map(|(key, _)| usage(context, key.name()))).await;
    let shown = nodes.iter().zip(usages).filter_map(|((key, entry), usage)| {
        let usage = usage?;
        let mut object = measured(target, &usage, key, entry.record.field("metadata").unwrap_or_default());
        object["usage"] = usage.total.unwrap_or_default().to_value();
        Some(object)
    });
    Ok(shown.collect())
}

pub(super) async fn pods(context: &Context, target: &Target) -> Result<Vec<Value>, Status> {
    let filter = Filter::of(target)?;
    let view = view(context, target).await?;
    let prefix = Key::prefix("pods", &target.namespace);
    let wanted = |key: &Key| target.name.is_empty() || key.name() == target.name;
    let mut on_nodes = std::collections::BTreeMap::<String, Vec<(&Key, _)>>::new();
    for (key, entry) in view.state.range(&prefix, None).filter(|(key, entry)| wanted(key) && filter.matches_labels(entry)) {
        let node = entry.record.field("spec").and_then(|spec| spec["nodeName"].as_str().map(String::from));
        if let Some(node) = node.filter(|node| !node.is_empty()) {
            on_nodes.entry(node).or_default().push((key, entry));
        }
    }
    let usages = join_all(on_nodes.keys().map(|node| usage(context, node))).await;
    let mut shown = Vec::new();
    for (pods, usage) in on_nodes.values().zip(usages) {
        let Some(usage) = usage else { continue };
        for (key, entry) in pods {
            let of_pod = |pod: &&PodUsage| pod.namespace == key.namespace() && pod.name == key.name();
            let Some(pod) = usage.pods.iter().find(of_pod) else { continue };
            let containers: Vec<Value> =
                pod.containers.iter().map(|c| json!({"name": c.name, "usage": c.amounts.unwrap_or_default().to_value()})).collect();
            let mut object = measured(target, &usage, key, entry.record.field("metadata").unwrap_or_default());
            object["metadata"]["namespace"] = key.namespace().into();
            object["containers"] = containers.into();
            shown.push(object);
        }
    }
    Ok(shown)
}

fn measured(target: &Target, usage: &NodeUsage, key: &Key, metadata: Value) -> Value {
    let time = Timestamp::from_millisecond(usage.time_ms).unwrap_or_default();
    let mut object = json!({
        "kind": target.resource.kind, "apiVersion": target.resource.api_version(),
        "metadata": {"name": key.name(), "creationTimestamp": meta::time(Timestamp::now())},
        "timestamp": meta::time(time),
        "window": format!("{}.{:03}s", usage.window_ms / 1000, usage.window_ms % 1000),
    });
    if let Some(labels) = metadata.get("labels") {
        object["metadata"]["labels"] = labels.clone();
    }
    object
}

/// What a node's kubelet has measured last.
async fn usage(context: &Context, node: &str) -> Option<NodeUsage> {
    let asked = async {
        let request = Request::get("/stats/usage").body(respond::full("")).ok()?;
        let answer = context.kubelets.send(node, request).await.ok().filter(|answer| answer.status().is_success())?;
        let bytes = answer.into_body().collect().await.ok()?.to_bytes();
        NodeUsage::decode(bytes).ok()
    };
    tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
}
