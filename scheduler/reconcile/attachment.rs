//! VolumeAttachments: what must be attached to a node for the Pods that are bound there, and what may be detached
//! (`pkg/controller/volume/attachdetach`). A driver's attacher does it.
//!
//! - **Invariant:** a volume for one node only is not attached to a second before it has been detached from the first.
//! - **Invariant:** nothing is detached that the node says is in use, unless the node is said to be out of service, or has
//!   been lost for six minutes and no Pod there needs it: then whoever used it is known to be dead.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use serde_json::json;
use skein_command::{Transaction, Write};
use skein_object::deletion::Wish;
use skein_object::fence::UNREACHABLE;
use skein_object::volume::{ATTACHMENTS, DRIVERS, LOCAL, attachment_name, unique_name};
use skein_object::{Key, registry};
use skein_state::Event;

use crate::claim::{CLAIMS, VOLUMES, claims_of, typed};
use crate::pods_of::is_finished;
use crate::snapshot::{Snapshot, Stored};
use crate::write::{Note, create, delete, event_once};
use crate::{Controller, Mint, Outcome};

const COMPONENT: &str = "attachdetach-controller";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How long a lost node may take to come back and unmount (`maxWaitForUnmountDuration`).
const UNMOUNT_S: u64 = 360;

/// A volume that Pods on a node need attached.
struct Wanted<'a> {
    driver: String,
    handle: String,
    /// Whether it may be on one node only.
    is_exclusive: bool,
    pods: Vec<&'a Stored<Pod>>,
}

/// What a node still has, for all that is known.
#[derive(Default)]
struct Held<'a> {
    volumes: BTreeSet<String>,
    /// For how long, where that ends by itself.
    rest_s: Option<u64>,
    /// The node as it must still be when something is taken from it.
    lost: Option<&'a Stored<Node>>,
}

/// Attaches and detaches what one node's Pods need and need no more.
pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    let node = key.name();
    let wanted = snapshot.nodes.get(key).map(|_| wanted(snapshot, node)).unwrap_or_default();
    let existing = attachments(snapshot);
    let (mut transactions, mut again_ms) = (Vec::new(), None);
    for (volume, wanted) in &wanted {
        let name = attachment_name(&wanted.handle, &wanted.driver, node);
        match existing.get(&name) {
            Some((_, attachment)) => transactions.extend(tell(snapshot, (volume, wanted), attachment, mint)),
            None => transactions.extend(attach(snapshot, node, (volume, wanted), &existing, mint)),
        }
    }
    let held = held(snapshot, key, mint);
    for (attachment_key, attachment) in existing.values().filter(|(_, attachment)| attachment.spec.node_name == node) {
        if !is_own(attachment_key.name()) {
            continue;
        }
        let spec = &attachment.spec;
        let volume = spec.source.persistent_volume_name.as_deref().unwrap_or_default();
        let is_needed = wanted.contains_key(volume);
        let handle = volume_source(snapshot, volume).map(|(_, handle, _)| handle).unwrap_or_default();
        if is_needed {
            continue;
        }
        if held.volumes.contains(&unique_name(&spec.attacher, &handle)) {
            again_ms = held.rest_s.map(|rest| rest * 1000);
            continue;
        }
        let Some(entry) = snapshot.state.get(attachment_key) else { continue };
        let resource = registry::by_key(ATTACHMENTS).expect("the registry has VolumeAttachments");
        transactions.extend(delete(resource, attachment_key, entry, &Wish::default(), mint).map(|mut transaction| {
            transaction.writes.extend(held.lost.map(|node| Write::unchanged(key, node.revision)));
            transaction
        }));
    }
    Outcome { transactions, again_ms }
}

fn attach(
    snapshot: &Snapshot,
    node: &str,
    (volume, wanted): (&str, &Wanted<'_>),
    existing: &BTreeMap<String, (Key, VolumeAttachment)>,
    mint: &mut Mint,
) -> Vec<Transaction> {
    let elsewhere = existing.values().find(|(_, a)| a.spec.source.persistent_volume_name.as_deref() == Some(volume));
    if let Some((_, attachment)) = elsewhere.filter(|_| wanted.is_exclusive) {
        let others = self::wanted(snapshot, &attachment.spec.node_name).remove(volume).map(|other| other.pods).unwrap_or_default();
        let tell = |pod: &&Stored<Pod>| {
            let message = format!("Waiting for detach for volume {volume:?} {}", already(pod, &others));
            event_once(snapshot, &note(pod, ("FailedAttachVolume", &message), true), mint)
        };
        return wanted.pods.iter().filter_map(tell).collect();
    }
    let resource = registry::by_key(ATTACHMENTS).expect("the registry has VolumeAttachments");
    let object = json!({
        "metadata": {"name": attachment_name(&wanted.handle, &wanted.driver, node)},
        "spec": {"attacher": wanted.driver, "nodeName": node, "source": {"persistentVolumeName": volume}},
    });
    vec![create(resource, "", object, mint)]
}

/// Who has a volume that a Pod waits for, as far as the Pod's namespace may know (`reportMultiAttachError`).
fn already(pod: &Stored<Pod>, others: &[&Stored<Pod>]) -> String {
    let (local, foreign): (Vec<&Stored<Pod>>, Vec<&Stored<Pod>>) =
        others.iter().copied().partition(|other| other.key.namespace() == pod.key.namespace());
    let names = local.iter().map(|other| other.key.name()).collect::<Vec<_>>().join(", ");
    match (local.len(), foreign.len()) {
        (0, 0) => "Volume is already exclusively attached to one node, waiting on detach before it can be attached to another node".into(),
        (0, count) => format!("Volume is already used by {count} pod(s) in different namespaces"),
        (_, 0) => format!("Volume is already used by pod(s) {names}"),
        (_, count) => format!("Volume is already used by pod(s) {names} and {count} pod(s) in different namespaces"),
    }
}

/// Tells Pods how it goes.
fn tell(snapshot: &Snapshot, (volume, wanted): (&str, &Wanted<'_>), attachment: &VolumeAttachment, mint: &mut Mint) -> Vec<Transaction> {
    let Some(status) = &attachment.status else { return Vec::new() };
    if !status.attached {
        let Some(why) = status.attach_error.as_ref().and_then(|error| error.message.as_deref()) else { return Vec::new() };
        return warn(snapshot, wanted, &format!("AttachVolume.Attach failed for volume {volume:?} : {why}"), mint);
    }
    let message = format!("AttachVolume.Attach succeeded for volume {volume:?}");
    let waiting = wanted.pods.iter().filter(|pod| pod.object.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Pending"));
    waiting.filter_map(|pod| event_once(snapshot, &note(pod, ("SuccessfulAttachVolume", &message), false), mint)).collect()
}

fn warn(snapshot: &Snapshot, wanted: &Wanted<'_>, message: &str, mint: &mut Mint) -> Vec<Transaction> {
    wanted.pods.iter().filter_map(|pod| event_once(snapshot, &note(pod, ("FailedAttachVolume", message), true), mint)).collect()
}

fn note<'a>(pod: &'a Stored<Pod>, (reason, message): (&'a str, &str), warning: bool) -> Note<'a> {
    let uid = pod.object.metadata.uid.as_deref().unwrap_or_default();
    Note { regarding: &pod.key, uid, reason, message: message.into(), component: COMPONENT, warning }
}

/// What Pods on a node need, by the PersistentVolume's name.
fn wanted<'a>(snapshot: &'a Snapshot, node: &str) -> BTreeMap<String, Wanted<'a>> {
    let on_node = |pod: &&Stored<Pod>| pod.object.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node);
    let mut wanted: BTreeMap<String, Wanted<'a>> = BTreeMap::new();
    for pod in snapshot.pods.values().filter(on_node).filter(|pod| !is_finished(&pod.object)) {
        for name in claims_of(&pod.object) {
            let Some(volume) = volume_of_claim(snapshot, &Key::new(CLAIMS, pod.key.namespace(), &name)) else { continue };
            let Some((driver, handle, is_exclusive)) = volume_source(snapshot, &volume) else { continue };
            if !is_attachable(snapshot, &driver) {
                continue;
            }
            let new = || Wanted { driver, handle, is_exclusive, pods: Vec::new() };
            wanted.entry(volume).or_insert_with(new).pods.push(pod);
        }
    }
    wanted
}

fn volume_of_claim(snapshot: &Snapshot, claim: &Key) -> Option<String> {
    let claim = typed::<PersistentVolumeClaim>(snapshot.state.get(claim)?)?;
    let is_bound = claim.status.and_then(|s| s.phase).as_deref() == Some("Bound");
    claim.spec?.volume_name.filter(|name| is_bound && !name.is_empty())
}

/// Driver and handle of a CSI volume, and whether it may be on one node only.
pub(crate) fn volume_source(snapshot: &Snapshot, volume: &str) -> Option<(String, String, bool)> {
    let volume = typed::<PersistentVolume>(snapshot.state.get(&Key::new(VOLUMES, "", volume))?)?.spec?;
    let csi = volume.csi.filter(|csi| csi.driver != LOCAL)?;
    let modes = volume.access_modes.unwrap_or_default();
    let is_exclusive = modes.iter().all(|mode| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod");
    Some((csi.driver, csi.volume_handle, is_exclusive))
}

/// Whether this controller has made an attachment, as its name tells: others' are for them to remove.
fn is_own(name: &str) -> bool {
    name.strip_prefix("csi-").is_some_and(|digest| digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_attachable(snapshot: &Snapshot, driver: &str) -> bool {
    let stated = snapshot.state.get(&Key::new(DRIVERS, "", driver)).and_then(typed::<CSIDriver>);
    stated.and_then(|driver| driver.spec.attach_required) != Some(false)
}

fn attachments(snapshot: &Snapshot) -> BTreeMap<String, (Key, VolumeAttachment)> {
    let prefix = Key::prefix(ATTACHMENTS, "");
    let all = snapshot.state.range(&prefix, None);
    all.filter_map(|(key, entry)| Some((key.name().to_string(), (key.clone(), typed::<VolumeAttachment>(entry)?)))).collect()
}

/// A node that is gone, or said to be out of service, has nothing; one that is lost has what it had for a while.
fn held<'a>(snapshot: &'a Snapshot, key: &Key, mint: &Mint) -> Held<'a> {
    let Some(node) = snapshot.nodes.get(key) else { return Held::default() };
    let taint = |key: &str| node.object.spec.iter().flat_map(|s| s.taints.iter().flatten()).find(|taint| taint.key == key);
    if taint(OUT_OF_SERVICE).is_some() {
        return Held::default();
    }
    let volumes = node.object.status.as_ref().and_then(|s| s.volumes_in_use.clone()).unwrap_or_default().into_iter().collect();
    let Some(since) = taint(UNREACHABLE).and_then(|taint| taint.time_added.as_ref()) else {
        return Held { volumes, ..Held::default() };
    };
    let lost_s = u64::try_from(mint.now.as_second() - since.0.as_second()).unwrap_or(0);
    match UNMOUNT_S.checked_sub(lost_s).filter(|rest| *rest > 0) {
        Some(rest) => Held { volumes, rest_s: Some(rest), lost: None },
        None => Held { lost: Some(node), ..Held::default() },
    }
}

/// The nodes that must look: where the Pod is, or all where the volume's Pods are.
pub(crate) fn interested(snapshot: &Snapshot, event: &Event) -> Vec<(Controller, Key)> {
    let has_attachments = || snapshot.state.range(&Key::prefix(ATTACHMENTS, ""), None).next().is_some();
    let work = |node: &str| (Controller::Attachment, Key::new("nodes", "", node));
    let entries = || event.before.iter().chain(&event.after);
    match event.key.resource() {
        "pods" if !crate::claim::of_pod(event).is_empty() => {
            let specs = entries().filter_map(|entry| entry.record.field("spec"));
            let mut nodes: Vec<_> = specs.filter_map(|spec| spec["nodeName"].as_str().filter(|name| !name.is_empty()).map(work)).collect();
            nodes.dedup();
            nodes
        }
        "nodes" if has_attachments() => vec![work(event.key.name())],
        ATTACHMENTS => {
            // Where it was needed, and where somebody waits for it to be detached.
            let changed = event.after.is_none();
            let specs = entries().filter_map(|entry| entry.record.field("spec"));
            let own = specs.filter_map(|spec| spec["nodeName"].as_str().map(work)).take(1);
            own.chain(snapshot.nodes.keys().filter(|_| changed).map(|node| work(node.name()))).collect()
        }
        CLAIMS => {
            let users = snapshot.pods_in(event.key.namespace()).filter(|pod| claims_of(&pod.object).any(|name| name == event.key.name()));
            users.filter_map(|pod| pod.object.spec.as_ref()?.node_name.as_deref().map(work)).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;
    use skein_object::Record;
    use skein_state::{Entry, State};

    use super::*;
    use crate::Liveness;

    const NOW: i64 = 1_800_000_000;

    fn node(taints: &Value) -> Value {
        json!({"metadata": {"name": "n"}, "spec": {"taints": taints}, "status": {"volumesInUse": [unique_name("d.example.com", "h")]}})
    }

    fn lost_for(seconds: i64) -> Value {
        let since = jiff::Timestamp::from_second(NOW - seconds).expect("a time").to_string();
        json!([{"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": since}])
    }

    /// An attached volume that the node says is in use, and no Pod: how many transactions come of it, and when it is looked at
    /// again.
    fn check(node: &Value, expected: (usize, Option<u64>)) {
        let volume = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "d.example.com", "volumeHandle": "h"}}});
        let name = attachment_name("h", "d.example.com", "n");
        let attachment = json!({"metadata": {"name": name, "uid": "u"}, "spec": {"attacher": "d.example.com", "nodeName": "n",
            "source": {"persistentVolumeName": "v"}}, "status": {"attached": true}});
        let mut state = State::default();
        for (key, object) in
            [(Key::new("nodes", "", "n"), node), (Key::new(VOLUMES, "", "v"), &volume), (Key::new(ATTACHMENTS, "", &name), &attachment)]
        {
            state.restore(key, Entry { revision: 5, record: Arc::new(Record::from_value(object)) });
        }
        let mut mint = Mint::new(jiff::Timestamp::from_second(NOW).expect("a time"), 1, Liveness::default());
        let key = Key::new("nodes", "", "n");
        let outcome = reconcile(&Snapshot::of(&state), &key, &mut mint);
        assert_eq!((outcome.transactions.len(), outcome.again_ms), expected, "{node}");
        let is_lost = node.to_string().contains(UNREACHABLE);
        for transaction in outcome.transactions.iter().filter(|_| is_lost) {
            assert!(transaction.writes.contains(&Write::unchanged(&key, 5)), "the node is still lost");
        }
    }

    #[test]
    fn a_lost_node_keeps_a_volume_for_six_minutes() {
        check(&node(&json!([])), (0, None));
        check(&node(&json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}])), (1, None));
        check(&node(&lost_for(10)), (0, Some(350_000)));
        check(&node(&lost_for(360)), (1, None));
        check(&node(&lost_for(-5)), (0, Some(360_000)));
    }
}
