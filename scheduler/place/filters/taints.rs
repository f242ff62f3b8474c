//! TaintToleration: every taint that forbids scheduling is tolerated.

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use crate::NodeInfo;

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

pub(super) fn check(node: &NodeInfo, pod: &Pod) -> Result<(), String> {
    let forbids = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let refused = node.taints.iter().filter(forbids).any(|taint| !tolerations(pod).iter().any(|t| tolerates(t, taint)));
    if refused { Err("node(s) had untolerated taint(s)".into()) } else { Ok(()) }
}

pub(super) fn tolerates_unschedulable(pod: &Pod) -> bool {
    let taint = Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    tolerations(pod).iter().any(|t| tolerates(t, &taint))
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

/// `Toleration.ToleratesTaint`.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let same = |wanted: Option<&str>, found: &str| wanted.is_none_or(|w| w.is_empty() || w == found);
    if !same(toleration.effect.as_deref(), &taint.effect) || !same(toleration.key.as_deref(), &taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
    }
}
