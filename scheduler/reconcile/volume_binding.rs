//! What the scheduler must know of a Pod's claims, and what placing the Pod writes into them (`plugins/volumebinding`).
//!
//! A claim that waits for its first Pod has its volume when the Pod is placed: one that is there and can be reached from
//! the node, or one of the built-in provisioner, both in the transaction that binds the Pod. Where somebody else makes
//! volumes, the claim names the node, and the Pod waits until the volume is there.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde::Deserialize;
use serde_json::{Value, json};
use skein_command::Write;
use skein_object::volume::{CAPACITIES, DRIVERS};
use skein_object::{Key, meta};
use skein_place::{Reach, Volumes};
use skein_state::Entry;

use crate::Mint;
use crate::claim::{
    CLAIMS, NO_PROVISIONER, SELECTED_NODE, VOLUMES, amount, bind, claims_of, class_of, fitting, local_class, provision, resource, take,
    typed, volume_name, volume_spec, waits_for_consumer,
};
use crate::pods_of::is_finished;
use crate::snapshot::Snapshot;
use crate::volume_limits::{held, required};
use crate::write::edit_entry;

/// Kubernetes' words for a node that will not do (`volumebinding/binder.go`, `volumerestrictions`).
const NONE_TO_BIND: &str = "node(s) didn't find available persistent volumes to bind";
const NO_SPACE: &str = "node(s) did not have enough free storage";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const OTHER_NODES: &str = "node(s) didn't match PersistentVolume's node affinity";
const TAKEN: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";

/// What a node means for the claims of a Pod that is placed there.
pub enum Claims {
    /// To be written together with the Pod's binding.
    Bound(Vec<Write>),
    /// The Pod must wait for volumes that others make; what asks them for it.
    Asked(Vec<Write>),
}

/// What must be written when a Pod is placed on a node.
pub fn placed(snapshot: &Snapshot, pod: &Pod, node: &str, mint: &mut Mint) -> Claims {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (mut bound, mut asked, mut waits) = (Vec::new(), Vec::new(), false);
    let mut given = BTreeSet::new();
    for name in claims_of(pod) {
        let key = Key::new(CLAIMS, namespace, &name);
        let Some(entry) = snapshot.state.get(&key) else { continue };
        let Some(claim) = typed::<PersistentVolumeClaim>(entry) else { continue };
        if is_bound(&claim) {
            continue;
        }
        let reachable = fitting(snapshot, &key, &claim).find(|(volume, entry)| !given.contains(*volume) && reaches(snapshot, entry, node));
        if let Some((volume, found)) = reachable {
            given.insert(volume.clone());
            bound.extend(bind(&key, entry, volume, found).into_iter().flat_map(|t| t.writes));
        } else if let Some(class) = local_class(snapshot, &claim) {
            let volume = provision(&key, &claim, class, node, mint);
            let (volume_name, offered) = (volume_name(&claim), volume_spec(&claim));
            bound.extend(volume.writes);
            let taken = edit_entry(resource(CLAIMS), &key, entry, |claim| take(claim, &volume_name, &offered));
            bound.extend(taken.into_iter().flat_map(|t| t.writes));
        } else {
            waits = true;
            let chosen = edit_entry(resource(CLAIMS), &key, entry, |claim| {
                meta::edit(claim).entry("annotations").or_insert_with(|| json!({}))[SELECTED_NODE] = node.into();
            });
            asked.extend(chosen.into_iter().flat_map(|t| t.writes));
        }
    }
    if waits { Claims::Asked(asked) } else { Claims::Bound(bound) }
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).is_some_and(|volume| !volume.is_empty())
}

/// Whether a volume can be used on a node.
fn reaches(snapshot: &Snapshot, volume: &Entry, node: &str) -> bool {
    let Some(terms) = node_terms(volume) else { return true };
    snapshot.nodes.get(&Key::new("nodes", "", node)).is_some_and(|node| on(&terms, OTHER_NODES).includes(&node.object))
}

/// `terms` is a list of NodeSelectorTerms.
fn on(terms: &Value, refusal: &'static str) -> Reach {
    Reach::on(Vec::deserialize(terms).unwrap_or_default(), refusal)
}

/// The nodes that a volume says it can be used on.
fn node_terms(volume: &Entry) -> Option<Value> {
    volume.record.field("spec")?.pointer("/nodeAffinity/required/nodeSelectorTerms").cloned()
}

/// What a Pod's volumes ask of its node. `Err` says why the Pod must wait wherever it goes.
pub fn volumes(snapshot: &Snapshot, pod: &Pod) -> Result<Volumes, String> {
    let (reach, held) = (reach(snapshot, pod)?, held(snapshot, pod));
    let drivers = required(snapshot, &held);
    Ok(Volumes { reach, held, drivers })
}

fn reach(snapshot: &Snapshot, pod: &Pod) -> Result<Vec<Reach>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut all = Vec::new();
    for name in claims_of(pod) {
        let key = Key::new(CLAIMS, namespace, &name);
        let missing = || format!("persistentvolumeclaim \"{name}\" not found");
        let claim = snapshot.state.get(&key).and_then(typed::<PersistentVolumeClaim>).ok_or_else(missing)?;
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        if is_taken(snapshot, pod, &key, &claim) {
            all.push(Reach::nowhere(TAKEN));
        }
        let Some(volume) = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|volume| !volume.is_empty()) else {
            all.extend(reach_unbound(snapshot, &key, &claim)?);
            continue;
        };
        match snapshot.state.get(&Key::new(VOLUMES, "", &volume)) {
            Some(volume) => all.extend(node_terms(volume).map(|terms| on(&terms, OTHER_NODES))),
            None => all.push(Reach::nowhere(NO_VOLUME)),
        }
    }
    Ok(all)
}

/// Whether a claim for one Pod only has another.
fn is_taken(snapshot: &Snapshot, pod: &Pod, key: &Key, claim: &PersistentVolumeClaim) -> bool {
    let is_exclusive = claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).any(|mode| mode == "ReadWriteOncePod");
    let runs = |other: &Pod| {
        let node = other.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        !node.is_empty() && !is_finished(other) && other.metadata.uid != pod.metadata.uid
    };
    let mut others = snapshot.pods_in(key.namespace()).filter(|other| runs(&other.object));
    is_exclusive && others.any(|other| claims_of(&other.object).any(|name| name == key.name()))
}

/// Where a claim can get a volume that has none.
fn reach_unbound(snapshot: &Snapshot, key: &Key, claim: &PersistentVolumeClaim) -> Result<Vec<Reach>, String> {
    let Some(class) = class_of(snapshot, claim).filter(|class| waits_for_consumer(class)) else {
        return Err("pod has unbound immediate PersistentVolumeClaims".into());
    };
    let mut all = Vec::new();
    if let Some(node) = claim.metadata.annotations.as_ref().and_then(|a| a.get(SELECTED_NODE)) {
        let term = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
        all.push(on(&term, NONE_TO_BIND));
    }
    let provisioner = class.record.field("provisioner").unwrap_or_default();
    if provisioner == NO_PROVISIONER {
        let volumes: Vec<Option<Value>> = fitting(snapshot, key, claim).map(|(_, volume)| node_terms(volume)).collect();
        // One that any node reaches asks nothing.
        if volumes.iter().all(Option::is_some) {
            let terms = volumes.into_iter().flatten().flat_map(|terms| terms.as_array().cloned().unwrap_or_default()).collect();
            all.push(on(&terms, NONE_TO_BIND));
        }
        return Ok(all);
    }
    let allowed = class.record.field("allowedTopologies").and_then(|t| t.as_array().cloned()).unwrap_or_default();
    if !allowed.is_empty() {
        all.push(on(&allowed.iter().map(topology_term).collect(), NONE_TO_BIND));
    }
    all.extend(enough(snapshot, claim, provisioner.as_str().unwrap_or_default()).map(|terms| on(&terms, NO_SPACE)));
    Ok(all)
}

/// One of a class's `allowedTopologies` as a term.
fn topology_term(topology: &Value) -> Value {
    let expressions = topology["matchLabelExpressions"].as_array().into_iter().flatten();
    let expressions: Vec<Value> = expressions.map(|e| json!({"key": e["key"], "operator": "In", "values": e["values"]})).collect();
    json!({"matchExpressions": expressions})
}

/// Where a driver that tells its capacity has enough for a claim (KEP-1472).
fn enough(snapshot: &Snapshot, claim: &PersistentVolumeClaim, provisioner: &str) -> Option<Value> {
    let driver = snapshot.state.get(&Key::new(DRIVERS, "", provisioner)).and_then(|driver| driver.record.field("spec"));
    if driver?["storageCapacity"] != true {
        return None;
    }
    let wanted = amount(volume_spec(claim)["capacity"]["storage"].as_str());
    let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default();
    let prefix = Key::prefix(CAPACITIES, "");
    let capacities = snapshot.state.range(&prefix, None).map(|(_, entry)| entry);
    let fits = |entry: &&Entry| {
        let largest = entry.record.field("maximumVolumeSize").or_else(|| entry.record.field("capacity")).unwrap_or_default();
        entry.record.field("storageClassName").is_some_and(|name| name == class) && amount(largest.as_str()) >= wanted
    };
    Some(capacities.filter(fits).filter_map(|entry| Some(label_term(&entry.record.field("nodeTopology")?))).collect())
}

/// A selector of labels as a term for nodes.
fn label_term(selector: &Value) -> Value {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let equal = labels.map(|(key, value)| json!({"key": key, "operator": "In", "values": [value]}));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten().cloned();
    json!({"matchExpressions": equal.chain(expressions).collect::<Vec<_>>()})
}
