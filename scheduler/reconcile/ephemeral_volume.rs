//! Claims that a Pod has for itself: made from the template in its volume, and gone with it (KEP-1698).

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::Key;
use skein_state::Event;

use crate::Mint;
use crate::claim::{CLAIMS, resource};
use crate::pods_of::is_finished;
use crate::snapshot::Snapshot;
use crate::write::{Note, create, event_once};

/// What the claim of a Pod's volume is called.
pub(crate) fn claim_name(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.metadata.name.as_deref().unwrap_or_default())
}

/// Makes the claims of one Pod.
pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let Some(stored) = snapshot.pods.get(key) else { return Vec::new() };
    let pod = &stored.object;
    if pod.metadata.deletion_timestamp.is_some() || is_finished(pod) {
        return Vec::new();
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let mut transactions = Vec::new();
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let Some(template) = volume.ephemeral.as_ref().and_then(|own| own.volume_claim_template.as_ref()) else { continue };
        let claim = Key::new(CLAIMS, key.namespace(), &claim_name(pod, &volume.name));
        if let Some(entry) = snapshot.state.get(&claim) {
            let found = resource(CLAIMS).show(&entry.record, entry.revision);
            let owners = found.pointer("/metadata/ownerReferences").and_then(Value::as_array);
            if !owners.into_iter().flatten().any(|owner| owner["controller"] == true && owner["uid"] == uid) {
                let message = format!("PVC {:?} was not created for pod {:?} (pod is not owner)", claim_path(&claim), claim_path(key));
                let note =
                    Note { regarding: key, uid, reason: "ClaimNotOwned", message, component: "ephemeral-volume-controller", warning: true };
                transactions.extend(event_once(snapshot, &note, mint));
            }
            continue;
        }
        let mut metadata = serde_json::to_value(&template.metadata).unwrap_or_default();
        if !metadata.is_object() {
            metadata = json!({});
        }
        metadata["name"] = claim.name().into();
        metadata["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Pod", "name": key.name(), "uid": uid,
            "controller": true, "blockOwnerDeletion": true}]);
        let spec: Value = serde_json::to_value(&template.spec).unwrap_or_default();
        transactions.push(create(resource(CLAIMS), key.namespace(), json!({"metadata": metadata, "spec": spec}), mint));
    }
    transactions
}

/// A Pod that has volumes for itself.
pub(crate) fn of_pod(event: &Event) -> Option<Key> {
    let word = b"volumeClaimTemplate";
    let spec = event.after.as_ref()?.record.segment("spec")?;
    spec.windows(word.len()).any(|window| window == word).then(|| event.key.clone())
}

fn claim_path(key: &Key) -> String {
    format!("{}/{}", key.namespace(), key.name())
}
