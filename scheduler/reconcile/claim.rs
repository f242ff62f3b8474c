//! PersistentVolumeClaims and PersistentVolumes: a claim gets a volume that fits, or one is made for it on the node of
//! the first Pod that uses it; a volume that its claim has left is given back.
//!
//! The built-in provisioner's volumes are directories on a node. That node's kubelet makes them, and removes them before
//! the volume's object goes.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};
use skein_command::{Transaction, Write};
use skein_object::deletion::Wish;
use skein_object::quantity::Quantity;
use skein_object::volume::{CLAIM_PROTECTION, DIRECTORY, LOCAL, NODE, VOLUME_PROTECTION};
use skein_object::{Key, Resource, meta, registry};
use skein_state::{Entry, Event};

use crate::garbage::without_finalizer;
use crate::pods_of::is_finished;
use crate::snapshot::Snapshot;
use crate::write::{create, delete, edit_entry};
use crate::{Controller, Mint};

pub(crate) const CLAIMS: &str = "persistentvolumeclaims";
pub(crate) const VOLUMES: &str = "persistentvolumes";
const CLASSES: &str = "storageclasses.storage.k8s.io";

fn resource(stored: &str) -> &'static Resource {
    registry::by_key(stored).expect("the registry has claims and volumes")
}

fn typed<T>(entry: &Entry) -> Option<T>
where
    T: k8s_openapi::Resource + serde::de::DeserializeOwned,
{
    entry.record.typed::<T>(entry.revision)
}

/// The claims that a Pod uses.
pub(crate) fn claims_of(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|v| v.persistent_volume_claim.as_ref()).map(|c| c.claim_name.as_str())
}

/// Brings one claim to its volume.
pub(crate) fn reconcile_claim(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let Some(entry) = snapshot.state.get(key) else { return Vec::new() };
    let Some(claim) = typed::<PersistentVolumeClaim>(entry) else { return Vec::new() };
    let users = || snapshot.pods_in(key.namespace()).filter(|pod| claims_of(&pod.object).any(|name| name == key.name()));
    if claim.metadata.deletion_timestamp.is_some() {
        let held = claim.metadata.finalizers.iter().flatten().any(|f| f == CLAIM_PROTECTION);
        let used = users().any(|pod| !is_finished(&pod.object));
        return if held && !used { without_finalizer(snapshot, key, entry, CLAIM_PROTECTION).into_iter().collect() } else { Vec::new() };
    }
    let spec = claim.spec.clone().unwrap_or_default();
    let named = spec.volume_name.clone().filter(|n| !n.is_empty());
    if let Some(volume_key) = named.map(|name| Key::new(VOLUMES, "", &name)) {
        return match snapshot.state.get(&volume_key) {
            Some(volume) => {
                let grown = local_class(snapshot, &claim).and_then(|_| grow(&claim, &volume_key, volume));
                grown.map_or_else(|| bind(key, entry, &volume_key, volume), |grown| vec![grown])
            }
            None => lose(key, entry),
        };
    }
    if let Some((volume_key, volume)) = fitting(snapshot, key, &claim) {
        return bind(key, entry, volume_key, volume);
    }
    let class = local_class(snapshot, &claim);
    let node = users().find_map(|pod| pod.object.spec.as_ref()?.node_name.clone().filter(|n| !n.is_empty()));
    match (class, node) {
        (Some(class), Some(node)) => vec![provision(key, &claim, class, &node, mint)],
        _ => Vec::new(),
    }
}

/// A volume that is free, or meant for this claim, and gives what it asks for: the smallest.
fn fitting<'a>(snapshot: &'a Snapshot, key: &Key, claim: &PersistentVolumeClaim) -> Option<(&'a Key, &'a Entry)> {
    let spec = claim.spec.clone().unwrap_or_default();
    let wanted = amount(spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("storage")).map(|q| q.0.as_str()));
    let modes = spec.access_modes.unwrap_or_default();
    let class = spec.storage_class_name.unwrap_or_default();
    let mut best: Option<(Quantity, &Key, &Entry)> = None;
    for (volume_key, entry) in snapshot.state.range("persistentvolumes/", None) {
        let Some(volume) = typed::<PersistentVolume>(entry) else { continue };
        let Some(offered) = volume.spec.filter(|_| volume.metadata.deletion_timestamp.is_none()) else { continue };
        if let Some(reference) = &offered.claim_ref {
            let is_for = |field: &Option<String>, value: &str| field.as_deref() == Some(value);
            let other = reference.uid.as_ref().is_some_and(|uid| Some(uid) != claim.metadata.uid.as_ref());
            if !is_for(&reference.name, key.name()) || !is_for(&reference.namespace, key.namespace()) || other {
                continue;
            }
            return Some((volume_key, entry));
        }
        let capacity = amount(offered.capacity.as_ref().and_then(|c| c.get("storage")).map(|q| q.0.as_str()));
        let has_modes = modes.iter().all(|mode| offered.access_modes.iter().flatten().any(|own| own == mode));
        let fits = offered.storage_class_name.unwrap_or_default() == class && has_modes && capacity >= wanted;
        if fits && best.as_ref().is_none_or(|(least, ..)| capacity < *least) {
            best = Some((capacity, volume_key, entry));
        }
    }
    best.map(|(_, key, entry)| (key, entry))
}

fn amount(text: Option<&str>) -> Quantity {
    text.and_then(|t| t.parse().ok()).unwrap_or_default()
}

/// What must be written together with the placement of a Pod: volumes for its claims that waited for a node.
pub fn placed(snapshot: &Snapshot, pod: &Pod, node: &str, mint: &mut Mint) -> Vec<Write> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut writes = Vec::new();
    for name in claims_of(pod) {
        let key = Key::new(CLAIMS, namespace, name);
        let Some(entry) = snapshot.state.get(&key) else { continue };
        let Some(claim) = typed::<PersistentVolumeClaim>(entry) else { continue };
        let is_bound = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).is_some_and(|v| !v.is_empty());
        let (Some(class), false) = (local_class(snapshot, &claim), is_bound) else { continue };
        let volume = provision(&key, &claim, class, node, mint);
        let volume_name = volume_name(&claim);
        let offered = volume_spec(&claim);
        writes.extend(volume.writes);
        writes.extend(
            edit_entry(resource(CLAIMS), &key, entry, |claim| take(claim, &volume_name, &offered)).into_iter().flat_map(|t| t.writes),
        );
    }
    writes
}

/// A claim's class, where the built-in provisioner serves it.
fn local_class<'a>(snapshot: &'a Snapshot, claim: &PersistentVolumeClaim) -> Option<&'a Entry> {
    let name = claim.spec.as_ref()?.storage_class_name.as_deref().unwrap_or_default();
    let class = snapshot.state.get(&Key::new(CLASSES, "", name))?;
    (class.record.field("provisioner")? == LOCAL).then_some(class)
}

/// What the volume that is made for a claim is called.
fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// The part of a volume's specification that its claim shows.
fn volume_spec(claim: &PersistentVolumeClaim) -> Value {
    let spec = claim.spec.clone().unwrap_or_default();
    let storage = spec.resources.and_then(|r| r.requests).and_then(|r| r.get("storage").cloned());
    json!({"capacity": {"storage": storage}, "accessModes": spec.access_modes})
}

/// Writes into a claim which volume it has.
fn take(claim: &mut Value, volume: &str, offered: &Value) {
    claim["spec"]["volumeName"] = volume.into();
    let annotations = meta::edit(claim).entry("annotations").or_insert_with(|| json!({}));
    annotations["pv.kubernetes.io/bind-completed"] = "yes".into();
    claim["status"] = json!({"phase": "Bound", "accessModes": offered["accessModes"], "capacity": offered["capacity"]});
}

/// Writes claim and volume into one another, each as far as it is not said yet.
fn bind(key: &Key, claim: &Entry, volume_key: &Key, volume: &Entry) -> Vec<Transaction> {
    let object = resource(CLAIMS).show(&claim.record, claim.revision);
    let offered = resource(VOLUMES).show(&volume.record, volume.revision);
    let reference = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": key.namespace(), "name": key.name(),
        "uid": meta::text(&object, "uid")});
    let taken = offered.pointer("/spec/claimRef/uid").is_some_and(|uid| *uid != reference["uid"]);
    if taken {
        return lose(key, claim);
    }
    let given = edit_entry(resource(VOLUMES), volume_key, volume, |volume| {
        if volume.pointer("/spec/claimRef/uid").is_none() {
            volume["spec"]["claimRef"] = reference;
        }
        volume["status"]["phase"] = "Bound".into();
    });
    let taken = edit_entry(resource(CLAIMS), key, claim, |claim| take(claim, volume_key.name(), &offered["spec"]));
    given.into_iter().chain(taken).collect()
}

/// A directory is as large as its claim wishes; the claim's status follows the volume.
fn grow(claim: &PersistentVolumeClaim, key: &Key, volume: &Entry) -> Option<Transaction> {
    let wanted = volume_spec(claim)["capacity"]["storage"].clone();
    let object = resource(VOLUMES).show(&volume.record, volume.revision);
    let is_own = object["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] == LOCAL
        && object["spec"]["claimRef"]["uid"] == claim.metadata.uid.as_deref().unwrap_or_default();
    let is_larger = amount(wanted.as_str()) > amount(object["spec"]["capacity"]["storage"].as_str());
    (is_own && is_larger).then(|| edit_entry(resource(VOLUMES), key, volume, |volume| volume["spec"]["capacity"]["storage"] = wanted))?
}

/// The volume that a claim names is not there, or another's.
fn lose(key: &Key, claim: &Entry) -> Vec<Transaction> {
    edit_entry(resource(CLAIMS), key, claim, |claim| claim["status"]["phase"] = "Lost".into()).into_iter().collect()
}

/// A directory on the node where the claim's first Pod is.
fn provision(key: &Key, claim: &PersistentVolumeClaim, class: &Entry, node: &str, mint: &mut Mint) -> Transaction {
    let uid = claim.metadata.uid.clone().unwrap_or_default();
    let spec = claim.spec.clone().unwrap_or_default();
    let offered = volume_spec(claim);
    let policy = class.record.field("reclaimPolicy").unwrap_or(json!("Delete"));
    let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
    let volume = json!({
        "metadata": {"name": volume_name(claim), "annotations": {"pv.kubernetes.io/provisioned-by": LOCAL, NODE: node},
            "finalizers": [VOLUME_PROTECTION, DIRECTORY]},
        "spec": {
            "capacity": offered["capacity"], "accessModes": offered["accessModes"], "volumeMode": spec.volume_mode,
            "persistentVolumeReclaimPolicy": policy, "storageClassName": spec.storage_class_name,
            "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": key.namespace(), "name": key.name(), "uid": uid},
            "csi": {"driver": LOCAL, "volumeHandle": volume_name(claim)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
        "status": {"phase": "Bound"},
    });
    create(resource(VOLUMES), "", volume, mint)
}

/// Says how a volume stands; one that its claim has left is released, and goes where it was made for the claim.
pub(crate) fn reconcile_volume(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let Some(entry) = snapshot.state.get(key) else { return Vec::new() };
    let volume = resource(VOLUMES).show(&entry.record, entry.revision);
    let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let claim = Key::new(CLAIMS, text("/spec/claimRef/namespace"), text("/spec/claimRef/name"));
    let found = snapshot.state.get(&claim).and_then(|e| e.record.field("metadata"));
    let is_claimed = !text("/spec/claimRef/name").is_empty();
    let uid = text("/spec/claimRef/uid");
    let is_there = found.is_some_and(|m| uid.is_empty() || m["uid"] == uid);
    if meta::is_terminating(&volume) {
        let held = meta::finalizers(&volume).contains(&VOLUME_PROTECTION);
        return if held && !(is_claimed && is_there) {
            without_finalizer(snapshot, key, entry, VOLUME_PROTECTION).into_iter().collect()
        } else {
            Vec::new()
        };
    }
    let ours = text("/spec/csi/driver") == LOCAL;
    let phase = match (is_claimed, is_there) {
        (false, _) => "Available",
        (true, false) if !uid.is_empty() => "Released",
        (true, _) => return Vec::new(),
    };
    if phase == "Released" && ours && text("/spec/persistentVolumeReclaimPolicy") == "Delete" {
        return delete(resource(VOLUMES), key, entry, &Wish::default(), mint).into_iter().collect();
    }
    edit_entry(resource(VOLUMES), key, entry, |volume| volume["status"]["phase"] = phase.into()).into_iter().collect()
}

/// Who must look when a claim or a volume changes: both ends of it, and whoever waits for a place.
pub(crate) fn interested(snapshot: &Snapshot, event: &Event) -> Vec<(Controller, Key)> {
    let key = event.key.clone();
    let specs: Vec<Value> = event.before.iter().chain(&event.after).filter_map(|e| e.record.field("spec")).collect();
    let text = |spec: &Value, pointer: &str| spec.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
    if key.resource() == CLAIMS {
        let volumes = specs.iter().map(|spec| text(spec, "/volumeName")).filter(|name| !name.is_empty());
        let mut work: Vec<_> = volumes.map(|name| (Controller::Volume, Key::new(VOLUMES, "", &name))).collect();
        if event.after.is_none() {
            // A set waits for the claim of that name to be gone.
            let sets = snapshot.stateful_sets.keys().filter(|set| set.namespace() == key.namespace());
            work.extend(sets.map(|set| (Controller::StatefulSet, set.clone())));
        }
        work.push((Controller::VolumeClaim, key));
        return work;
    }
    let claimed = specs.iter().map(|spec| Key::new(CLAIMS, &text(spec, "/claimRef/namespace"), &text(spec, "/claimRef/name")));
    let mut work: Vec<_> = claimed.filter(|claim| !claim.name().is_empty()).map(|claim| (Controller::VolumeClaim, claim)).collect();
    if work.is_empty() {
        let waits = |entry: &Entry| entry.record.field("spec").is_some_and(|spec| text(&spec, "/volumeName").is_empty());
        let waiting = snapshot.state.range("persistentvolumeclaims/", None).filter(|(_, entry)| waits(entry));
        work.extend(waiting.map(|(claim, _)| (Controller::VolumeClaim, claim.clone())));
    }
    work.push((Controller::Volume, key));
    work
}

/// The claims that a Pod uses or used.
pub(crate) fn of_pod(event: &Event) -> Vec<Key> {
    let pods = event.before.iter().chain(&event.after).filter(|e| {
        let needle = b"persistentVolumeClaim";
        e.record.segment("spec").is_some_and(|json| json.windows(needle.len()).any(|w| w == needle))
    });
    let pods: Vec<Pod> = pods.filter_map(typed).collect();
    let mut claims: Vec<Key> = pods.iter().flat_map(claims_of).map(|name| Key::new(CLAIMS, event.key.namespace(), name)).collect();
    claims.dedup();
    claims
}

/// A Pod as the scheduler must see it: its volumes' nodes are a demand of its own. `Err` says why it must wait.
pub fn with_volumes<'a>(snapshot: &Snapshot, pod: &'a Pod) -> Result<Cow<'a, Pod>, String> {
    let volumes = volume_terms(snapshot, pod)?;
    if volumes.is_empty() {
        return Ok(Cow::Borrowed(pod));
    }
    let mut object = serde_json::to_value(pod).unwrap_or_default();
    let required = &mut object["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let own = required["nodeSelectorTerms"].as_array().cloned().unwrap_or_else(|| vec![json!({})]);
    // One term of each must hold: every combination is a term.
    let terms = volumes.iter().fold(own, |terms, more| {
        let more: Vec<Value> = more.as_array().cloned().unwrap_or_default();
        terms.iter().flat_map(|a| more.iter().map(|b| both(a, b)).collect::<Vec<_>>()).collect()
    });
    required["nodeSelectorTerms"] = terms.into();
    Ok(Cow::Owned(serde_json::from_value(object).unwrap_or_else(|_| pod.clone())))
}

fn both(a: &Value, b: &Value) -> Value {
    let list = |term: &Value, field: &str| term.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let joined = |field: &str| -> Vec<Value> { list(a, field).into_iter().chain(list(b, field)).collect() };
    json!({"matchExpressions": joined("matchExpressions"), "matchFields": joined("matchFields")})
}

/// The nodes that a Pod's volumes allow, as terms that its own must be combined with; or why it cannot be placed.
fn volume_terms(snapshot: &Snapshot, pod: &Pod) -> Result<Vec<Value>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut all = Vec::new();
    for name in claims_of(pod) {
        let entry =
            snapshot.state.get(&Key::new(CLAIMS, namespace, name)).ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
        let claim = resource(CLAIMS).show(&entry.record, entry.revision);
        if meta::is_terminating(&claim) {
            return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        let volume = claim.pointer("/spec/volumeName").and_then(Value::as_str).unwrap_or_default();
        if volume.is_empty() {
            let class = claim.pointer("/spec/storageClassName").and_then(Value::as_str).unwrap_or_default();
            let class = snapshot.state.get(&Key::new(CLASSES, "", class));
            let waits = class.is_some_and(|c| c.record.field("volumeBindingMode").is_some_and(|m| m == "WaitForFirstConsumer"));
            if !waits {
                return Err("pod has unbound immediate PersistentVolumeClaims".into());
            }
            continue;
        }
        let spec = snapshot.state.get(&Key::new(VOLUMES, "", volume)).and_then(|e| e.record.field("spec"));
        let spec = spec.ok_or_else(|| format!("persistentvolume \"{volume}\" not found"))?;
        if let Some(terms) = spec.pointer("/nodeAffinity/required/nodeSelectorTerms") {
            all.push(terms.clone());
        }
    }
    Ok(all)
}
