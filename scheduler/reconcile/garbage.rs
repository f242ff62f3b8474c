//! Garbage collection by ownerReferences: dependents go when their owners have gone; owners that are deleted in the
//! foreground wait for their dependents; owners that orphan set them free first.

use serde_json::Value;
use skein_command::Transaction;
use skein_object::Key;
use skein_object::deletion::{Propagation, Wish};
use skein_state::Entry;

use crate::Mint;
use crate::snapshot::{Snapshot, Ties, ties};
use crate::write::{delete, edit_entry};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let Some(entry) = snapshot.state.get(key) else { return Vec::new() };
    let own = ties(&entry.record);
    let terminating = own.deletion_timestamp.is_some();
    if terminating && own.finalizers.iter().any(|f| f == ORPHAN) {
        return orphan(snapshot, key, entry, &own);
    }
    if terminating && own.finalizers.iter().any(|f| f == FOREGROUND) {
        return foreground(snapshot, key, entry, &own);
    }
    if terminating || own.owner_references.is_empty() {
        return Vec::new();
    }
    let owner_is_there = |uid: &str| snapshot.by_uid(uid).is_some();
    let going_first =
        own.owner_references.iter().any(|owner| snapshot.by_uid(&owner.uid).is_some_and(|key| waits_in_foreground(snapshot, key)));
    if own.owner_references.iter().any(|owner| owner_is_there(&owner.uid)) && !going_first {
        return Vec::new();
    }
    if going_first && let Some(freed) = out_of_circle(snapshot, key, entry, &own) {
        return vec![freed];
    }
    let propagation = if going_first { Propagation::Foreground } else { Propagation::Background };
    let Some(resource) = snapshot.resource(key) else { return Vec::new() };
    delete(&resource, key, entry, &Wish { grace_seconds: None, propagation: Some(propagation) }, mint).into_iter().collect()
}

/// Objects that own each other in a circle would wait for each other for ever: the one that is reached by both ends
/// keeps its owners no longer.
fn out_of_circle(snapshot: &Snapshot, key: &Key, entry: &Entry, own: &Ties) -> Option<Transaction> {
    let waits = |dependent: &Key| waits_in_foreground(snapshot, dependent);
    if !own.owner_references.iter().any(|owner| owner.block_owner_deletion) || !snapshot.dependents(&own.uid).any(waits) {
        return None;
    }
    edit_entry(&*snapshot.resource(key)?, key, entry, |object| {
        for owner in object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
            owner["blockOwnerDeletion"] = false.into();
        }
    })
}

fn waits_in_foreground(snapshot: &Snapshot, key: &Key) -> bool {
    let ties = snapshot.state.get(key).map(|entry| ties(&entry.record));
    ties.is_some_and(|t| t.deletion_timestamp.is_some() && t.finalizers.iter().any(|f| f == FOREGROUND))
}

fn foreground(snapshot: &Snapshot, key: &Key, entry: &Entry, own: &Ties) -> Vec<Transaction> {
    let blocks = |dependent: &Key| {
        let ties = snapshot.state.get(dependent).map(|e| ties(&e.record)).unwrap_or_default();
        ties.owner_references.iter().any(|owner| owner.uid == own.uid && owner.block_owner_deletion)
    };
    if snapshot.dependents(&own.uid).any(blocks) {
        return Vec::new();
    }
    without_finalizer(snapshot, key, entry, FOREGROUND).into_iter().collect()
}

fn orphan(snapshot: &Snapshot, key: &Key, entry: &Entry, own: &Ties) -> Vec<Transaction> {
    let mut transactions = Vec::new();
    for dependent in snapshot.dependents(&own.uid) {
        let (Some(found), Some(resource)) = (snapshot.state.get(dependent), snapshot.resource(dependent)) else { continue };
        transactions.extend(edit_entry(&resource, dependent, found, |object| {
            if let Some(owners) = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) {
                owners.retain(|owner| owner["uid"] != own.uid.as_str());
            }
        }));
    }
    if transactions.is_empty() {
        transactions.extend(without_finalizer(snapshot, key, entry, ORPHAN));
    }
    transactions
}

/// Takes our finalizer off; when it was the last, the object is removed instead.
pub(crate) fn without_finalizer(snapshot: &Snapshot, key: &Key, entry: &Entry, finalizer: &str) -> Option<Transaction> {
    let resource = snapshot.resource(key)?;
    let mut object = entry.record.to_value(&resource.api_version(), resource.kind, entry.revision);
    if let Some(finalizers) = object.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
        finalizers.retain(|f| f != finalizer);
    }
    if skein_object::deletion::ends_with(&resource, &object) {
        return Some(skein_command::Write::delete(key, entry.revision).into());
    }
    edit_entry(&resource, key, entry, |current| *current = object)
}
