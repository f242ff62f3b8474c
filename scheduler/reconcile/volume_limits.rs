//! What the scheduler must know of CSI drivers: which are on a node, how many volumes each can take, and which it has
//! (`plugins/nodevolumelimits`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, VolumeAttachment};
use skein_object::Key;
use skein_object::volume::{ATTACHMENTS, DRIVERS, LOCAL};
use skein_place::Held;
use skein_state::Entry;

use crate::attachment::volume_source;
use crate::claim::{CLAIMS, claims_of, class_of, typed};
use crate::snapshot::Snapshot;

/// The drivers of a node, each with the number of volumes that it can take.
pub fn drivers(node: Option<&Entry>) -> BTreeMap<String, Option<usize>> {
    let drivers = node.and_then(typed::<CSINode>).map(|node| node.spec.drivers).unwrap_or_default();
    let limit = |count: i32| usize::try_from(count).unwrap_or(0);
    drivers.into_iter().map(|driver| (driver.name, driver.allocatable.and_then(|a| a.count).map(limit))).collect()
}

/// The volumes that are attached to a node.
pub fn attached(snapshot: &Snapshot, node: &str) -> BTreeSet<Held> {
    let prefix = Key::prefix(ATTACHMENTS, "");
    let all = snapshot.state.range(&prefix, None).filter_map(|(_, entry)| typed::<VolumeAttachment>(entry));
    let here = all.filter(|attachment| attachment.spec.node_name == node);
    here.filter_map(|attachment| held_volume(snapshot, attachment.spec.source.persistent_volume_name.as_deref()?)).collect()
}

/// The drivers' volumes that a Pod needs on its node. One that is not made yet goes by its claim's name.
pub fn held(snapshot: &Snapshot, pod: &Pod) -> BTreeSet<Held> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let of_claim = |name: &str| {
        let claim = snapshot.state.get(&Key::new(CLAIMS, namespace, name)).and_then(typed::<PersistentVolumeClaim>)?;
        let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|volume| !volume.is_empty());
        match volume {
            Some(volume) => held_volume(snapshot, volume),
            None => {
                let provisioner = class_of(snapshot, &claim)?.record.field("provisioner")?;
                let driver = provisioner.as_str().filter(|driver| *driver != LOCAL && !driver.starts_with("kubernetes.io/"))?;
                Some(Held { driver: driver.into(), handle: format!("{namespace}/{name}") })
            }
        }
    };
    claims_of(pod).filter_map(|name| of_claim(&name)).collect()
}

fn held_volume(snapshot: &Snapshot, volume: &str) -> Option<Held> {
    volume_source(snapshot, volume).map(|(driver, handle, _)| Held { driver, handle })
}

/// The drivers without which a Pod must not come to a node.
pub(crate) fn required(snapshot: &Snapshot, volumes: &BTreeSet<Held>) -> BTreeSet<String> {
    let is_required = |driver: &String| {
        let stated = snapshot.state.get(&Key::new(DRIVERS, "", driver)).and_then(|entry| entry.record.field("spec"));
        stated.is_some_and(|spec| spec["preventPodSchedulingIfMissing"] == true)
    };
    volumes.iter().map(|volume| volume.driver.clone()).filter(is_required).collect()
}
