//! PersistentVolumeClaims and PersistentVolumes: a claim gets a volume that fits, or one is made for it on the node of
//! the first Pod that uses it; a volume that its claim has left is given back.
//!
//! The built-in provisioner's volumes are directories on a node. That node's kubelet makes them, and removes them before
//! the volume's object goes.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::deletion::Wish;
use skein_object::quantity::Quantity;
use skein_object::selector::Selector;
use skein_object::volume::{CLAIM_PROTECTION, DIRECTORY, LOCAL, NODE, VOLUME_PROTECTION};
use skein_object::{Key, Resource, meta, registry};
use skein_state::{Entry, Event};

use crate::garbage::without_finalizer;
use crate::pods_of::is_finished;
use crate::snapshot::Snapshot;
use crate::write::{create, delete, edit_entry};
use crate::{Controller, Mint};
use crate::{claim_waits, ephemeral_volume};

pub(crate) const CLAIMS: &str = "persistentvolumeclaims";
pub(crate) const VOLUMES: &str = "persistentvolumes";
/// What a class says that makes no volumes itself.
pub(crate) const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The node for which a volume is to be made: the scheduler's annotation of a claim.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const CLASSES: &str = "storageclasses.storage.k8s.io";

pub(crate) fn resource(stored: &str) -> &'static Resource {
    registry::by_key(stored).expect("the registry has claims and volumes")
}

pub(crate) fn typed<T>(entry: &Entry) -> Option<T>
where
    T: k8s_openapi::Resource + serde::de::DeserializeOwned,
{
    entry.record.typed::<T>(entry.revision)
}

/// The claims that a Pod uses: those that it names, and those that are made for it.
pub(crate) fn claims_of(pod: &Pod) -> impl Iterator<Item = Cow<'_, str>> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|volume| match &volume.persistent_volume_claim {
        Some(claim) => Some(Cow::Borrowed(claim.claim_name.as_str())),
        None => volume.ephemeral.as_ref().map(|_| Cow::Owned(ephemeral_volume::claim_name(pod, &volume.name))),
    })
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
    let class = class_of(snapshot, &claim);
    // Where a claim waits for its first Pod, the scheduler chooses, unless a volume says that it is for this claim.
    let waits = class.is_some_and(waits_for_consumer);
    if let Some((volume_key, volume)) = fitting(snapshot, key, &claim)
        .find(|(_, volume)| !waits || volume.record.field("spec").is_some_and(|spec| spec["claimRef"].is_object()))
    {
        return bind(key, entry, volume_key, volume);
    }
    let node = users().find_map(|pod| pod.object.spec.as_ref()?.node_name.clone().filter(|n| !n.is_empty()));
    let local = local_class(snapshot, &claim);
    if let (Some(class), Some(node)) = (local, node) {
        return vec![provision(key, &claim, class, &node, mint)];
    }
    let asked = class.filter(|_| local.is_none()).and_then(|class| ask_provisioner((key, entry), class, waits));
    asked.into_iter().chain(claim_waits::tell(snapshot, (key, &claim), class, users(), mint)).collect()
}

/// Writes into a claim who is to make a volume for it, once it is known where (`pv_controller.go`, `setClaimProvisioner`).
fn ask_provisioner((key, entry): (&Key, &Entry), class: &Entry, waits: bool) -> Option<Transaction> {
    let provisioner = class.record.field("provisioner")?;
    if provisioner == NO_PROVISIONER {
        return None;
    }
    edit_entry(resource(CLAIMS), key, entry, |claim| {
        let annotations = meta::edit(claim).entry("annotations").or_insert_with(|| json!({}));
        let is_placed = annotations.get(SELECTED_NODE).is_some();
        if waits && !is_placed {
            return;
        }
        for name in ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"] {
            annotations[name] = provisioner.clone();
        }
    })
}

/// Volumes that are meant for this claim, or else those that are free and give what it asks for, the smallest first.
pub(crate) fn fitting<'a>(snapshot: &'a Snapshot, key: &Key, claim: &PersistentVolumeClaim) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
    let spec = claim.spec.clone().unwrap_or_default();
    let wanted = amount(spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("storage")).map(|q| q.0.as_str()));
    let modes = spec.access_modes.unwrap_or_default();
    let class = spec.storage_class_name.unwrap_or_default();
    let selector = spec.selector.as_ref().map(Selector::from_label_selector);
    let kind = |mode: Option<String>| mode.unwrap_or_else(|| "Filesystem".into());
    let wanted_kind = kind(spec.volume_mode);
    let mut found: Vec<(Quantity, &Key, &Entry)> = Vec::new();
    for (volume_key, entry) in snapshot.state.range("persistentvolumes/", None) {
        let Some(volume) = typed::<PersistentVolume>(entry) else { continue };
        let Some(offered) = volume.spec.filter(|_| volume.metadata.deletion_timestamp.is_none()) else { continue };
        let capacity = amount(offered.capacity.as_ref().and_then(|c| c.get("storage")).map(|q| q.0.as_str()));
        if let Some(reference) = &offered.claim_ref {
            let is_for = |field: &Option<String>, value: &str| field.as_deref() == Some(value);
            let other = reference.uid.as_ref().is_some_and(|uid| Some(uid) != claim.metadata.uid.as_ref());
            if is_for(&reference.name, key.name()) && is_for(&reference.namespace, key.namespace()) && !other {
                found = vec![(capacity, volume_key, entry)];
                break;
            }
            continue;
        }
        let has_modes = modes.iter().all(|mode| offered.access_modes.iter().flatten().any(|own| own == mode));
        let is_selected = selector.as_ref().is_none_or(|selector| selector.matches_optional(volume.metadata.labels.as_ref()));
        let is_alike = offered.storage_class_name.unwrap_or_default() == class && kind(offered.volume_mode) == wanted_kind;
        if is_alike && has_modes && is_selected && capacity >= wanted {
            found.push((capacity, volume_key, entry));
        }
    }
    found.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    found.into_iter().map(|(_, key, entry)| (key, entry))
}

pub(crate) fn amount(text: Option<&str>) -> Quantity {
    text.and_then(|t| t.parse().ok()).unwrap_or_default()
}

/// A claim's class.
pub(crate) fn class_of<'a>(snapshot: &'a Snapshot, claim: &PersistentVolumeClaim) -> Option<&'a Entry> {
    let name = claim.spec.as_ref()?.storage_class_name.as_deref().unwrap_or_default();
    snapshot.state.get(&Key::new(CLASSES, "", name))
}

/// A claim's class, where the built-in provisioner serves it: with directories, not with devices.
pub(crate) fn local_class<'a>(snapshot: &'a Snapshot, claim: &PersistentVolumeClaim) -> Option<&'a Entry> {
    if claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block") {
        return None;
    }
    class_of(snapshot, claim).filter(|class| class.record.field("provisioner").is_some_and(|provisioner| provisioner == LOCAL))
}

/// Whether a class gives claims their volumes only when a Pod is placed.
pub(crate) fn waits_for_consumer(class: &Entry) -> bool {
    class.record.field("volumeBindingMode").is_some_and(|mode| mode == "WaitForFirstConsumer")
}

/// What the volume that is made for a claim is called.
pub(crate) fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// The part of a volume's specification that its claim shows.
pub(crate) fn volume_spec(claim: &PersistentVolumeClaim) -> Value {
    let spec = claim.spec.clone().unwrap_or_default();
    let storage = spec.resources.and_then(|r| r.requests).and_then(|r| r.get("storage").cloned());
    json!({"capacity": {"storage": storage}, "accessModes": spec.access_modes})
}

/// Writes into a claim which volume it has.
pub(crate) fn take(claim: &mut Value, volume: &str, offered: &Value) {
    claim["spec"]["volumeName"] = volume.into();
    let annotations = meta::edit(claim).entry("annotations").or_insert_with(|| json!({}));
    annotations["pv.kubernetes.io/bind-completed"] = "yes".into();
    // What is on a volume grows after the volume: of one that others expand, its node says when (`pv_controller.go`).
    if claim["status"]["phase"] != "Bound" || offered["csi"]["driver"] == LOCAL {
        claim["status"]["capacity"] = offered["capacity"].clone();
    }
    claim["status"]["phase"] = "Bound".into();
    claim["status"]["accessModes"] = offered["accessModes"].clone();
}

/// Writes claim and volume into one another, each as far as it is not said yet.
pub(crate) fn bind(key: &Key, claim: &Entry, volume_key: &Key, volume: &Entry) -> Vec<Transaction> {
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
pub(crate) fn provision(key: &Key, claim: &PersistentVolumeClaim, class: &Entry, node: &str, mint: &mut Mint) -> Transaction {
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
        let says = |json: &[u8], word: &[u8]| json.windows(word.len()).any(|window| window == word);
        e.record.segment("spec").is_some_and(|json| says(json, b"persistentVolumeClaim") || says(json, b"\"ephemeral\""))
    });
    let pods: Vec<Pod> = pods.filter_map(typed).collect();
    let mut claims: Vec<Key> = pods.iter().flat_map(claims_of).map(|name| Key::new(CLAIMS, event.key.namespace(), &name)).collect();
    claims.dedup();
    claims
}
