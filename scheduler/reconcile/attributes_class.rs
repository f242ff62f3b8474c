//! A VolumeAttributesClass stays until no claim and no volume names it (`pkg/controller/volume/vacprotection`).

use serde_json::Value;
use skein_command::Transaction;
use skein_object::Key;
use skein_state::Entry;

use crate::garbage::without_finalizer;
use crate::snapshot::Snapshot;

pub(crate) const CLASSES: &str = "volumeattributesclasses.storage.k8s.io";
const PROTECTION: &str = "kubernetes.io/vac-protection";

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key) -> Vec<Transaction> {
    let Some(entry) = snapshot.state.get(key).filter(|entry| is_ending(entry)) else { return Vec::new() };
    if is_used(snapshot, key.name()) { Vec::new() } else { without_finalizer(snapshot, key, entry, PROTECTION).into_iter().collect() }
}

/// Deleted, and held by nothing but this.
fn is_ending(entry: &Entry) -> bool {
    let metadata = entry.record.field("metadata").unwrap_or_default();
    metadata["deletionTimestamp"].is_string() && metadata["finalizers"].as_array().is_some_and(|list| list.iter().any(|f| f == PROTECTION))
}

fn is_used(snapshot: &Snapshot, class: &str) -> bool {
    let names = |entry: &Entry, field: &str, pointers: &[&str]| {
        let part = entry.record.field(field);
        part.is_some_and(|part| pointers.iter().any(|pointer| part.pointer(pointer).and_then(Value::as_str) == Some(class)))
    };
    let by_claim = |entry: &Entry| {
        names(entry, "spec", &["/volumeAttributesClassName"])
            || names(entry, "status", &["/currentVolumeAttributesClassName", "/modifyVolumeStatus/targetVolumeAttributesClassName"])
    };
    let claims = snapshot.state.range("persistentvolumeclaims/", None);
    let volumes = snapshot.state.range("persistentvolumes/", None);
    { claims }.any(|(_, entry)| by_claim(entry)) || { volumes }.any(|(_, entry)| names(entry, "spec", &["/volumeAttributesClassName"]))
}

/// The classes that wait for a claim or a volume to let them go.
pub(crate) fn ending(snapshot: &Snapshot) -> Vec<Key> {
    let prefix = Key::prefix(CLASSES, "");
    snapshot.state.range(&prefix, None).filter(|(_, entry)| is_ending(entry)).map(|(key, _)| key.clone()).collect()
}
