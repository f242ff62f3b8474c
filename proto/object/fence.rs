//! Pods that must never run twice: those of StatefulSets, and any that asks for it. Pure.
//!
//! Where a node's runtime can end such a Pod by itself, the Pod runs for as long as the node's lease holds, which a leader
//! with a majority behind it prolongs. So the leader knows when another may begin elsewhere, although the node says nothing:
//! a lease and a margin after it has heard from it last. A new leader counts from its election.

use k8s_openapi::api::core::v1::Pod;

/// What a Pod may say: `"true"`, or `"false"` where it would rather run on than be replaced.
pub const AT_MOST_ONCE: &str = "skein.dev/at-most-once";

/// The condition of a Pod that ends with its node's lease.
pub const CONDITION: &str = "skein.dev/Fenced";

/// The taint of a node that is taken for lost.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

pub const LEASE_MS: u64 = 15_000;

/// For clocks that go at another pace, and the time that killing takes.
pub const MARGIN_MS: u64 = 5_000;

pub fn is_wanted(pod: &Pod) -> bool {
    let said = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(AT_MOST_ONCE)).map(String::as_str);
    let owners = pod.metadata.owner_references.iter().flatten();
    let is_of_set = { owners }.any(|owner| owner.controller == Some(true) && owner.kind == "StatefulSet");
    said == Some("true") || (is_of_set && said != Some("false"))
}

/// Whether its node has said that it ends with the lease.
pub fn is_fenced(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == CONDITION && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn pods_of_stateful_sets_run_at_most_once_unless_they_say_otherwise() {
        let check = |kind: &str, annotations: Value, expected: bool| {
            let owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": "a", "uid": "u", "controller": true});
            let pod = json!({"metadata": {"name": "a-0", "annotations": annotations, "ownerReferences": [owner]}});
            assert_eq!(is_wanted(&serde_json::from_value(pod).expect("a Pod")), expected, "{kind} {annotations}");
        };
        check("StatefulSet", json!({}), true);
        check("StatefulSet", json!({AT_MOST_ONCE: "false"}), false);
        check("ReplicaSet", json!({}), false);
        check("ReplicaSet", json!({AT_MOST_ONCE: "true"}), true);
    }
}
