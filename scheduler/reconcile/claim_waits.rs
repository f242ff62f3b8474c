//! Why a claim has no volume yet, as an Event of it says (`pkg/controller/volume/persistentvolume`).

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use skein_command::Transaction;
use skein_object::Key;
use skein_object::volume::LOCAL;
use skein_state::Entry;

use crate::Mint;
use crate::claim::{NO_PROVISIONER, SELECTED_NODE, waits_for_consumer};
use crate::pods_of::is_finished;
use crate::snapshot::{Snapshot, Stored};
use crate::write::{Note, event_once};

const COMPONENT: &str = "persistentvolume-controller";

struct Why {
    reason: &'static str,
    message: String,
    is_warning: bool,
}

impl Why {
    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), is_warning: false }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), is_warning: true }
    }
}

/// Tells once why `claim` waits; `users` are the Pods that name it.
pub(crate) fn tell<'a>(
    snapshot: &Snapshot,
    (key, claim): (&Key, &PersistentVolumeClaim),
    class: Option<&Entry>,
    users: impl Iterator<Item = &'a Stored<Pod>>,
    mint: &mut Mint,
) -> Option<Transaction> {
    let Why { reason, message, is_warning } = why(claim, class, users)?;
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    event_once(snapshot, &Note { regarding: key, uid, reason, message, component: COMPONENT, warning: is_warning }, mint)
}

fn why<'a>(claim: &PersistentVolumeClaim, class: Option<&Entry>, users: impl Iterator<Item = &'a Stored<Pod>>) -> Option<Why> {
    let spec = claim.spec.as_ref()?;
    let named = spec.storage_class_name.as_deref().unwrap_or_default();
    let Some(class) = class else {
        return Some(match named {
            "" => Why::normal("FailedBinding", "no persistent volumes available for this claim and no storage class is set"),
            _ => Why::warning("ProvisioningFailed", format!("storageclass.storage.k8s.io {named:?} not found")),
        });
    };
    let provisioner = class.record.field("provisioner").unwrap_or_default();
    let provisioner = provisioner.as_str().unwrap_or_default();
    if provisioner == LOCAL && spec.volume_mode.as_deref() == Some("Block") {
        let why = format!("Failed to provision volume with StorageClass {named:?}: {LOCAL} does not support volumeMode Block");
        return Some(Why::warning("ProvisioningFailed", why));
    }
    let is_placed = claim.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(SELECTED_NODE));
    if waits_for_consumer(class) && !is_placed {
        let is_unplaced =
            |pod: &Pod| pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default().is_empty() && !is_finished(pod);
        let waiting: Vec<&str> = users.filter(|pod| is_unplaced(&pod.object)).map(|pod| pod.key.name()).collect();
        return Some(match waiting.as_slice() {
            [] => Why::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            [one] => Why::normal("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
            many => Why::normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", many.join(","))),
        });
    }
    if provisioner == LOCAL {
        return None;
    }
    if provisioner == NO_PROVISIONER {
        return Some(Why::warning("ProvisioningFailed", format!("no volume plugin matched name: {NO_PROVISIONER}")));
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. \
         If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    Some(Why::normal("ExternalProvisioning", message))
}
