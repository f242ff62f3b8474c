//! Nodes that are lost: marked NotReady, tainted, and their Pods replaced.
//!
//! Liveness is soft state of the leader, counted in its own ticks: a leader that was paused itself has seen no ticks
//! pass, so it never takes its own stall for the others'. A Pod that states how long it tolerates the taint gets that;
//! one that says nothing is replaced at once. A Pod that must not run twice is gone when its node's lease has run out.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, Toleration};
use serde_json::{Value, json};
use skein_command::{Transaction, Write};
use skein_object::deletion::Wish;
use skein_object::fence::{LEASE_MS, MARGIN_MS, UNREACHABLE, is_fenced};
use skein_object::meta::set_condition;
use skein_object::{Key, registry};

use crate::snapshot::{Snapshot, Stored};
use crate::write::{Note, delete, edit, event, remove};
use crate::{Mint, Outcome};

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// How long each node has been silent. A node that is missing here has not been heard of by this leader and is given
/// time from its election on.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    pub silent_ms: BTreeMap<String, u64>,
}

/// Without a report for this long a node is lost. Ten reports; five times the stall that must not evict anything.
pub const LOST_AFTER_MS: u64 = 1000;

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    let Some(node) = snapshot.nodes.get(key) else { return Outcome::default() };
    // A Node that no daemon reports for (created by hand, kwok) is judged by nobody here.
    let Some(silent_ms) = mint.liveness.silent_ms.get(key.name()).copied() else { return Outcome::default() };
    let lost = silent_ms >= LOST_AFTER_MS;
    let mut outcome = Outcome::default();
    let now = mint.time();
    let changed = edit(node, |object| {
        if lost {
            for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
                set_condition(
                    object,
                    json!({
                        "type": kind, "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Node stopped reporting to the leader.",
                        "lastHeartbeatTime": now, "lastTransitionTime": now,
                    }),
                );
            }
        }
        set_taints(object, lost, &now);
    });
    if let Some(mut transaction) = changed {
        if lost && is_ready(node) {
            let uid = node.object.metadata.uid.clone().unwrap_or_default();
            let message = format!("Node {} status is now: NodeNotReady", key.name());
            let note = Note { regarding: key, uid: &uid, reason: "NodeNotReady", message, component: "node-controller", warning: false };
            transaction.writes.extend(event(&note, mint).writes);
        }
        outcome.transactions.push(transaction);
    }
    if lost {
        evict(snapshot, key.name(), silent_ms, mint, &mut outcome);
        remove_fenced(snapshot, node, silent_ms, mint, &mut outcome);
    }
    outcome
}

fn is_ready(node: &Stored<k8s_openapi::api::core::v1::Node>) -> bool {
    let conditions = node.object.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The taints that say how a node stands (`nodelifecycle`), by its conditions.
const BY_CONDITION: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// The taints that a node should have of those that are this controller's.
fn wanted_taints(object: &Value, lost: bool) -> Vec<(&'static str, &'static str)> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let is = |kind: &str, status: &str| conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == status);
    let mut wanted = Vec::new();
    if lost {
        wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]);
    } else if !is("Ready", "True") {
        // A node that is merely not ready yet keeps what it runs: only a lost one evicts.
        wanted.push((NOT_READY, "NoSchedule"));
    }
    wanted.extend(BY_CONDITION.iter().filter(|(kind, status, _)| is(kind, status)).map(|(.., key)| (*key, "NoSchedule")));
    if object.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

fn set_taints(object: &mut Value, lost: bool, now: &str) {
    let wanted = wanted_taints(object, lost);
    let mut taints = object.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
    let is = |taint: &Value, (key, effect): (&str, &str)| taint["key"] == key && taint["effect"] == effect;
    let ours = |taint: &Value| {
        let known = BY_CONDITION.iter().map(|(.., key)| *key).chain([UNREACHABLE, NOT_READY, UNSCHEDULABLE]);
        known.into_iter().any(|key| taint["key"] == key)
    };
    taints.retain(|taint| !ours(taint) || wanted.iter().any(|one| is(taint, *one)));
    for one in wanted {
        if !taints.iter().any(|taint| is(taint, one)) {
            taints.push(json!({"key": one.0, "effect": one.1, "timeAdded": now}));
        }
    }
    if taints.is_empty() {
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            spec.shift_remove("taints");
        }
    } else {
        object["spec"]["taints"] = json!(taints);
    }
}

fn evict(snapshot: &Snapshot, node: &str, silent_ms: u64, mint: &mut Mint, outcome: &mut Outcome) {
    let on_node = |pod: &&Stored<Pod>| pod.object.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node);
    for pod in snapshot.pods.values().filter(on_node).filter(|p| p.object.metadata.deletion_timestamp.is_none()) {
        let Some(tolerated_ms) = tolerated_ms(&pod.object) else { continue };
        let waited_ms = silent_ms - LOST_AFTER_MS;
        if waited_ms < tolerated_ms {
            let rest = tolerated_ms - waited_ms;
            outcome.again_ms = Some(outcome.again_ms.map_or(rest, |known| known.min(rest)));
            continue;
        }
        outcome.transactions.extend(evicted(pod, mint));
    }
}

/// Pods that are to go and have ended with the node's lease do not wait for the node to say so. While this is decided the node
/// may come back: then the state says that it is not lost before it gets another lease, and this is refused.
fn remove_fenced(snapshot: &Snapshot, node: &Stored<Node>, silent_ms: u64, mint: &Mint, outcome: &mut Outcome) {
    let tainted = node.object.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == UNREACHABLE);
    let name = node.key.name();
    let going = |pod: &&Stored<Pod>| pod.object.metadata.deletion_timestamp.is_some() && is_fenced(&pod.object);
    let on_node = |pod: &&Stored<Pod>| pod.object.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(name);
    let fenced: Vec<&Stored<Pod>> = snapshot.pods.values().filter(on_node).filter(going).collect();
    if fenced.is_empty() || !tainted {
        return;
    }
    let rest = (LEASE_MS + MARGIN_MS).saturating_sub(silent_ms);
    if rest > 0 {
        outcome.again_ms = Some(outcome.again_ms.map_or(rest, |known| known.min(rest)));
        return;
    }
    for pod in fenced {
        let now = Wish { grace_seconds: Some(0), ..Wish::default() };
        let Some(mut removal) = registry::by_key("pods").and_then(|pods| delete(pods, &pod.key, &pod.entry(), &now, mint)) else {
            continue;
        };
        removal.writes.push(Write::unchanged(&node.key, node.revision));
        outcome.transactions.push(removal);
    }
}

pub(crate) fn evicted(pod: &Stored<Pod>, mint: &mut Mint) -> Option<Transaction> {
    let mut transaction = remove(pod, mint)?;
    let uid = pod.object.metadata.uid.clone().unwrap_or_default();
    let message = format!("Marking for deletion Pod {}/{}", pod.key.namespace(), pod.key.name());
    let note = Note {
        regarding: &pod.key,
        uid: &uid,
        reason: "TaintManagerEviction",
        message,
        component: "taint-eviction-controller",
        warning: false,
    };
    transaction.writes.extend(event(&note, mint).writes);
    Some(transaction)
}

/// For how long a Pod stays on a lost node; `None` for ever.
fn tolerated_ms(pod: &Pod) -> Option<u64> {
    let tolerates = |t: &&Toleration| {
        let effect = t.effect.as_deref().unwrap_or_default();
        let key = t.key.as_deref().unwrap_or_default();
        (effect.is_empty() || effect == "NoExecute") && (key == UNREACHABLE || (key.is_empty() && t.operator.as_deref() == Some("Exists")))
    };
    let stated = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut seconds: Option<i64> = Some(0);
    for toleration in stated.iter().filter(tolerates) {
        seconds = match (toleration.toleration_seconds, seconds) {
            (Some(stated), Some(known)) => Some(if known == 0 { stated } else { known.min(stated) }),
            (None, _) => return None,
            (_, None) => None,
        };
    }
    seconds.map(|s| u64::try_from(s).unwrap_or(0) * 1000)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skein_object::Record;
    use skein_object::fence::CONDITION;
    use skein_state::{Entry, State};

    use super::*;

    #[test]
    fn taints_say_how_a_node_stands() {
        let check = |spec: Value, conditions: Value, lost: bool, expected: &[(&str, &str)]| {
            let mut node = json!({"spec": spec, "status": {"conditions": conditions}});
            set_taints(&mut node, lost, "now");
            let taints = node.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
            let found: Vec<_> = taints.iter().map(|taint| (text(&taint["key"]), text(&taint["effect"]))).collect();
            let expected: Vec<_> = expected.iter().map(|(key, effect)| ((*key).to_string(), (*effect).to_string())).collect();
            assert_eq!(found, expected);
        };
        let ready = json!([{"type": "Ready", "status": "True"}]);
        check(json!({}), ready.clone(), false, &[]);
        check(json!({"unschedulable": true}), ready.clone(), false, &[(UNSCHEDULABLE, "NoSchedule")]);
        check(json!({}), json!([{"type": "Ready", "status": "False"}]), false, &[(NOT_READY, "NoSchedule")]);
        let own = json!({"taints": [{"key": "own", "effect": "NoExecute"}, {"key": UNREACHABLE, "effect": "NoExecute"}]});
        check(own, ready.clone(), false, &[("own", "NoExecute")]);
        let pressed = json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]);
        let pressure = ("node.kubernetes.io/disk-pressure", "NoSchedule");
        check(json!({}), pressed.clone(), false, &[pressure]);
        check(json!({"taints": [{"key": pressure.0, "effect": pressure.1}]}), ready, false, &[]);
        check(json!({}), pressed, true, &[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute"), pressure]);
    }

    #[test]
    fn a_pod_that_ends_with_its_lease_goes_when_that_has_run_out() {
        let taint = json!({"key": UNREACHABLE, "effect": "NoExecute"});
        let lost = |taints: Value| json!({"metadata": {"name": "n"}, "spec": {"taints": taints}});
        let pod = |condition: &str, is_going: bool| {
            let mut metadata = json!({"name": "p", "namespace": "d", "uid": "u"});
            if is_going {
                metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            let conditions = json!([{"type": condition, "status": "True"}]);
            json!({"metadata": metadata, "spec": {"nodeName": "n"}, "status": {"conditions": conditions}})
        };
        let check = |node: Value, pod: Value, silent_ms: u64, expected: (usize, Option<u64>)| {
            let mut state = State::default();
            for (key, object) in [(Key::new("nodes", "", "n"), node), (Key::new("pods", "d", "p"), pod)] {
                state.restore(key, Entry { revision: 5, record: Arc::new(Record::from_value(&object)) });
            }
            let snapshot = Snapshot::of(&state);
            let mint = Mint::new(jiff::Timestamp::UNIX_EPOCH, 1, Liveness::default());
            let mut outcome = Outcome::default();
            remove_fenced(&snapshot, &snapshot.nodes[&Key::new("nodes", "", "n")], silent_ms, &mint, &mut outcome);
            assert_eq!((outcome.transactions.len(), outcome.again_ms), expected);
            for transaction in &outcome.transactions {
                assert_eq!(transaction.writes[1], Write::unchanged(&Key::new("nodes", "", "n"), 5), "the node is still lost");
            }
        };
        let tainted = lost(json!([taint]));
        check(tainted.clone(), pod(CONDITION, true), LEASE_MS + MARGIN_MS, (1, None));
        check(tainted.clone(), pod(CONDITION, true), LEASE_MS, (0, Some(MARGIN_MS)));
        check(tainted.clone(), pod(CONDITION, false), LEASE_MS + MARGIN_MS, (0, None));
        check(tainted, pod("Ready", true), LEASE_MS + MARGIN_MS, (0, None));
        check(lost(json!([])), pod(CONDITION, true), LEASE_MS + MARGIN_MS, (0, None));
    }
}
