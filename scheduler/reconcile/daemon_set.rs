//! DaemonSets: one Pod of a template on every node where it belongs.
//!
//! Each Pod names its node by affinity and is bound by the scheduler; it tolerates what ails a node, since it may be
//! there to mend it (`pkg/controller/daemon`).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::Key;
use skein_object::selector::Selector;

use crate::deployment::template_hash;
use crate::disruption::scaled;
use crate::pods_of::{Claimant, Made, Name, claim, is_active, make_or_tell, phase, ready_since};
use crate::snapshot::{Snapshot, Stored};
use crate::write::{Note, edit, event, remove};
use crate::{Mint, Outcome, revision};

const COMPONENT: &str = "daemonset-controller";

/// Tolerated by every Pod of a DaemonSet: key and effect (`AddOrUpdateDaemonPodTolerations`).
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// One pass over one DaemonSet.
struct Pass<'a> {
    snapshot: &'a Snapshot,
    stored: &'a Stored<DaemonSet>,
    template: Value,
    hash: String,
    transactions: Vec<Transaction>,
    again_ms: Option<u64>,
}

/// Counts of the status.
#[derive(Default)]
struct Counts {
    desired: usize,
    current: usize,
    misscheduled: usize,
    ready: usize,
    available: usize,
    updated: usize,
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    let Some(stored) = snapshot.daemon_sets.get(key) else { return Outcome::default() };
    if stored.object.metadata.deletion_timestamp.is_some() {
        return Outcome::default();
    }
    let template = stored.record.field("spec").and_then(|s| s.get("template").cloned()).unwrap_or_default();
    let uid = stored.object.metadata.uid.as_deref().unwrap_or_default();
    let hash = revision::label_of(snapshot, uid, &template, || template_hash(&template));
    let mut transactions = Vec::new();
    let by_node = pods_by_node(snapshot, stored, &mut transactions);
    let mut pass = Pass { snapshot, stored, template: daemon_template(template, &hash), hash, transactions, again_ms: None };
    pass.keep_revision(&by_node, mint);
    let surge = pass.surge(snapshot.nodes.len());
    let mut counts = Counts::default();
    let mut old: Vec<(&Stored<Pod>, bool)> = Vec::new();
    // Nodes where a new Pod may run beside the old one, and how many do already.
    let (mut behind, mut surging): (Vec<&str>, usize) = (Vec::new(), 0);
    for (name, node) in &snapshot.nodes {
        let name = name.name();
        let mine = by_node.get(name).map_or(&[][..], Vec::as_slice);
        let belongs = pass.belongs(&node.object, name);
        let mut kept: Option<&Stored<Pod>> = None;
        let has_successor = surge > 0 && pass.has_successor(mine, mint);
        for pod in mine {
            let ended = matches!(phase(&pod.object), "Succeeded" | "Failed");
            let going = pod.object.metadata.deletion_timestamp.is_some();
            if going {
                continue;
            }
            let is_old = label(pod) != pass.hash;
            // Where Pods surge, an old one and a new one are together until the new one is available.
            if !ended
                && belongs
                && surge > 0
                && is_old
                && !has_successor
                && mine.iter().any(|p| is_active(&p.object) && label(p) == pass.hash)
            {
                surging += 1;
                continue;
            }
            // One that has ended is made anew; a second one on a node is one too many.
            if ended || !belongs || kept.is_some() || (has_successor && is_old) {
                pass.remove(pod, mint);
            } else {
                kept = Some(*pod);
            }
        }
        if !belongs {
            counts.misscheduled += usize::from(mine.iter().any(|p| is_active(&p.object)));
            continue;
        }
        counts.desired += 1;
        match kept {
            Some(pod) => {
                let available = pass.count(pod, mint, &mut counts);
                if label(pod) != pass.hash {
                    old.push((pod, available));
                    behind.push(name);
                }
            }
            // A Pod that is still going keeps its place until it has gone.
            None if mine.iter().all(|p| !is_active(&p.object) && p.object.metadata.deletion_timestamp.is_none()) => pass.make(name, mint),
            None => {}
        }
    }
    if surge > 0 && !pass.is_on_delete() {
        behind.iter().take(surge.saturating_sub(surging)).for_each(|node| pass.make(node, mint));
    } else {
        pass.update(&old, &counts, mint);
    }
    pass.write_status(&counts);
    Outcome { transactions: pass.transactions, again_ms: pass.again_ms }
}

// === impl Pass ===

impl Pass<'_> {
    /// Writes down the template, for `kubectl rollout undo`.
    fn keep_revision(&mut self, by_node: &BTreeMap<String, Vec<&Stored<Pod>>>, mint: &mut Mint) {
        let template = self.stored.record.field("spec").and_then(|s| s.get("template").cloned()).unwrap_or_default();
        let key = &self.stored.key;
        let name = |hash: &str| format!("{}-{hash}", key.name());
        let used: Vec<String> = by_node.values().flatten().map(|pod| name(label(pod))).collect();
        let current = revision::Current {
            set: key,
            uid: self.stored.object.metadata.uid.as_deref().unwrap_or_default(),
            reference: reference(self.stored),
            template: &template,
            name: &name(&self.hash),
            label: &self.hash,
            limit: self.stored.object.spec.revision_history_limit,
        };
        let written = revision::keep(self.snapshot, &current, |name| used.iter().any(|known| known == name), mint);
        self.transactions.extend(written);
    }

    fn is_on_delete(&self) -> bool {
        self.stored.object.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("OnDelete")
    }

    /// On how many nodes a new Pod may run beside the old one (`maxSurge`).
    fn surge(&self, nodes: usize) -> usize {
        let strategy = self.stored.object.spec.update_strategy.as_ref();
        let stated = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_surge.as_ref());
        stated.map_or(0, |value| scaled(value, nodes))
    }

    /// Whether a node has an available Pod of the new template.
    fn has_successor(&self, mine: &[&Stored<Pod>], mint: &Mint) -> bool {
        let min_ready = i64::from(self.stored.object.spec.min_ready_seconds.unwrap_or(0));
        let is_available = |pod: &Pod| ready_since(pod).is_some_and(|since| mint.now.as_second() - since >= min_ready);
        mine.iter().any(|pod| label(pod) == self.hash && is_active(&pod.object) && is_available(&pod.object))
    }

    fn belongs(&self, node: &Node, name: &str) -> bool {
        let pod = json!({"metadata": {}, "spec": self.template["spec"]});
        let pod: Pod = serde_json::from_value(on_node(pod, name)).unwrap_or_default();
        skein_place::belongs(node, &pod)
    }

    fn make(&mut self, node: &str, mint: &mut Mint) {
        let owner = reference(self.stored);
        let key = &self.stored.key;
        let made =
            Made { template: on_node(self.template.clone(), node), namespace: key.namespace(), name: Name::Generated(key.name()), owner };
        let origin = (key, self.stored.object.metadata.uid.as_deref(), COMPONENT);
        let made = make_or_tell(self.snapshot, origin, made, mint, &mut self.transactions, &mut self.again_ms);
        let Some((mut transaction, name)) = made else { return };
        transaction.writes.extend(self.note("SuccessfulCreate", format!("Created pod: {name}"), mint).writes);
        self.transactions.push(transaction);
    }

    fn remove(&mut self, pod: &Stored<Pod>, mint: &mut Mint) {
        if let Some(mut transaction) = remove(pod, mint) {
            transaction.writes.extend(self.note("SuccessfulDelete", format!("Deleted pod: {}", pod.key.name()), mint).writes);
            self.transactions.push(transaction);
        }
    }

    /// Whether the Pod is available.
    fn count(&mut self, pod: &Stored<Pod>, mint: &Mint, counts: &mut Counts) -> bool {
        counts.current += 1;
        counts.updated += usize::from(label(pod) == self.hash);
        let Some(since) = ready_since(&pod.object) else { return false };
        counts.ready += 1;
        let min_ready = i64::from(self.stored.object.spec.min_ready_seconds.unwrap_or(0));
        let waited = mint.now.as_second() - since;
        if waited < min_ready {
            let rest = u64::try_from(min_ready - waited).unwrap_or(0) * 1000;
            self.again_ms = Some(self.again_ms.map_or(rest, |known| known.min(rest)));
            return false;
        }
        counts.available += 1;
        true
    }

    /// Replaces Pods of an older template, as many at a time as may be unavailable.
    fn update(&mut self, old: &[(&Stored<Pod>, bool)], counts: &Counts, mint: &mut Mint) {
        let strategy = self.stored.object.spec.update_strategy.clone().unwrap_or_default();
        if self.is_on_delete() {
            return;
        }
        let stated = strategy.rolling_update.and_then(|r| r.max_unavailable);
        let max = stated.map_or(1, |value| scaled(&value, counts.desired));
        let mut room = max.max(1).saturating_sub(counts.desired - counts.available.min(counts.desired));
        for (pod, available) in old {
            // One that does not work is no loss.
            if !available {
                self.remove(pod, mint);
            } else if room > 0 {
                room -= 1;
                self.remove(pod, mint);
            }
        }
    }

    fn write_status(&mut self, counts: &Counts) {
        let generation = self.stored.object.metadata.generation.unwrap_or(0);
        let status = json!({
            "currentNumberScheduled": counts.current, "numberMisscheduled": counts.misscheduled, "desiredNumberScheduled": counts.desired,
            "numberReady": counts.ready, "observedGeneration": generation, "updatedNumberScheduled": counts.updated,
            "numberAvailable": counts.available, "numberUnavailable": counts.desired - counts.available.min(counts.desired),
        });
        self.transactions.extend(edit(self.stored, |object| object["status"] = status));
    }

    fn note(&self, reason: &str, message: String, mint: &mut Mint) -> Transaction {
        let uid = self.stored.object.metadata.uid.as_deref().unwrap_or_default();
        event(&Note { regarding: &self.stored.key, uid, reason, message, component: COMPONENT, warning: false }, mint)
    }
}

fn label(pod: &Stored<Pod>) -> &str {
    pod.object.metadata.labels.as_ref().and_then(|l| l.get(revision::LABEL)).map_or("", String::as_str)
}

/// The template with its hash and the tolerations.
fn daemon_template(mut template: Value, hash: &str) -> Value {
    skein_object::meta::edit(&mut template).entry("labels").or_insert_with(|| json!({}))[revision::LABEL] = hash.into();
    let mut tolerations = template.pointer("/spec/tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    for (key, effect) in TOLERATED {
        tolerations.push(json!({"key": key, "operator": "Exists", "effect": effect}));
    }
    template["spec"]["tolerations"] = tolerations.into();
    template
}

/// For this node alone, in addition to what the template asks for.
fn on_node(mut pod: Value, node: &str) -> Value {
    let fields = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    let required = &mut pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let mut terms = required["nodeSelectorTerms"].as_array().cloned().unwrap_or_else(|| vec![json!({})]);
    terms.iter_mut().for_each(|term| term["matchFields"] = fields.clone());
    required["nodeSelectorTerms"] = terms.into();
    pod
}

fn reference(stored: &Stored<DaemonSet>) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": stored.key.name(), "uid": stored.object.metadata.uid,
        "controller": true, "blockOwnerDeletion": true})
}

/// The set's own Pods, by the node that they are on or meant for.
fn pods_by_node<'a>(
    snapshot: &'a Snapshot,
    stored: &'a Stored<DaemonSet>,
    transactions: &mut Vec<Transaction>,
) -> BTreeMap<String, Vec<&'a Stored<Pod>>> {
    let claimant = Claimant {
        uid: stored.object.metadata.uid.as_deref(),
        selector: Selector::from_label_selector(&stored.object.spec.selector),
        reference: reference(stored),
    };
    let mut by_node: BTreeMap<String, Vec<&Stored<Pod>>> = BTreeMap::new();
    for pod in claim(snapshot.pods_in(stored.key.namespace()), &claimant, transactions) {
        by_node.entry(node_of(&pod.object)).or_default().push(pod);
    }
    by_node
}

fn node_of(pod: &Pod) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    if let Some(bound) = spec.node_name.as_ref().filter(|n| !n.is_empty()) {
        return bound.clone();
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()).map(|r| &r.node_selector_terms);
    let fields = terms.into_iter().flatten().flat_map(|t| t.match_fields.iter().flatten());
    { fields }.find(|f| f.key == "metadata.name").and_then(|f| f.values.as_ref()?.first().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_for_one_node_also_where_the_template_has_affinity() {
        let plain = on_node(json!({"spec": {}}), "a");
        let terms = &plain["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchFields"][0]["values"][0], "a");
        let pod: Pod = serde_json::from_value(plain).expect("a Pod");
        assert_eq!(node_of(&pod), "a");
        let with = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}, {"matchExpressions": [{"key": "big", "operator": "Exists"}]}]}}}}});
        let both = on_node(with, "b");
        let terms = &both["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(terms.as_array().map(Vec::len), Some(2));
        assert!(
            terms.as_array().into_iter().flatten().all(|t| t["matchFields"][0]["values"][0] == "b" && t["matchExpressions"].is_array())
        );
    }
}
