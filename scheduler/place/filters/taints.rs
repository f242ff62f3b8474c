//! TaintToleration: every taint that forbids scheduling is tolerated.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::Refusal;
use crate::demand::Demand;
use crate::fleet::NodeInfo;

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

pub(crate) fn check(node: &NodeInfo, demand: &Demand) -> Result<(), Refusal> {
    let forbids = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let refused = node.taints.iter().filter(forbids).any(|taint| !is_tolerated(taint, demand));
    if refused { Err(Refusal::lasting("node(s) had untolerated taint(s)")) } else { Ok(()) }
}

pub(super) fn tolerates_unschedulable(demand: &Demand) -> bool {
    is_tolerated(&Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() }, demand)
}

pub(crate) fn is_tolerated(taint: &Taint, demand: &Demand) -> bool {
    demand.tolerations().iter().any(|toleration| tolerates(toleration, taint))
}

/// `Toleration.ToleratesTaint`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let same = |wanted: Option<&str>, found: &str| wanted.is_none_or(|w| w.is_empty() || w == found);
    if !same(toleration.effect.as_deref(), &taint.effect) || !same(toleration.key.as_deref(), &taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
    }
}
