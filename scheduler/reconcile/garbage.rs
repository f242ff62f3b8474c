//! Garbage collection by ownerReferences: dependents go when their owners have gone; owners that are deleted in the
//! foreground wait for their dependents; owners that orphan set them free first.

use serde_json::Value;
use skein_command::Transaction;
use skein_object::Key;
use skein_object::deletion::{Propagation, Wish};
use skein_state::Entry;

use crate::Mint;
use crate::snapshot::{Owner, Snapshot, Ties, ties};
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
    let standings: Vec<Standing> = own.owner_references.iter().map(|owner| standing(snapshot, owner)).collect();
    if standings.contains(&Standing::Unknown) || standings.iter().all(|standing| *standing == Standing::Stays) {
        return Vec::new();
    }
    if standings.contains(&Standing::Stays) {
        return of_those_who_stay(snapshot, key, entry).into_iter().collect();
    }
    let goes_first = standings.contains(&Standing::Waits) && snapshot.dependents(&own.uid).next().is_some();
    if goes_first && let Some(freed) = out_of_circle(snapshot, key, entry, &own) {
        return vec![freed];
    }
    let propagation = if goes_first { Propagation::Foreground } else { Propagation::Background };
    let Some(resource) = snapshot.resource(key) else { return Vec::new() };
    delete(&resource, key, entry, &Wish { grace_seconds: None, propagation: Some(propagation) }, mint).into_iter().collect()
}

/// How an owner stands, seen from what it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Stays,
    /// It is being deleted, and waits until what it owns has gone.
    Waits,
    Gone,
    /// Nobody knows such objects here: it may be there, behind the aggregation layer.
    Unknown,
}

fn standing(snapshot: &Snapshot, owner: &Owner) -> Standing {
    match snapshot.by_uid(&owner.uid) {
        Some(key) if waits_in_foreground(snapshot, key) => Standing::Waits,
        Some(_) => Standing::Stays,
        None if snapshot.knows_kind(&owner.api_version, &owner.kind) => Standing::Gone,
        None => Standing::Unknown,
    }
}

/// Whoever has one owner that stays is kept, and no other owner waits for it.
fn of_those_who_stay(snapshot: &Snapshot, key: &Key, entry: &Entry) -> Option<Transaction> {
    edit_entry(&*snapshot.resource(key)?, key, entry, |object| {
        let stays = |owner: &Value| {
            let owner: Owner = serde_json::from_value(owner.clone()).unwrap_or_default();
            standing(snapshot, &owner) == Standing::Stays
        };
        if let Some(owners) = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) {
            owners.retain(stays);
        }
    })
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use skein_command::{Command, LEVEL};
    use skein_object::Record;
    use skein_state::{Position, State, apply};

    use super::*;
    use crate::Liveness;

    /// A ConfigMap with owners (kind, uid), beside ConfigMaps `stays` and `waits`: its owners' uids afterwards, if it is
    /// still there.
    fn check(owners: &[(&str, &str)], expected: Option<&[&str]>) {
        let mut state = State::default();
        let mut put = |name: &str, mut metadata: Value| {
            (metadata["name"], metadata["namespace"]) = (name.into(), "a".into());
            let record = Record::from_value(&json!({"metadata": metadata}));
            state.restore(Key::new("configmaps", "a", name), Entry { revision: 1, record: Arc::new(record) });
        };
        let references: Vec<Value> = owners
            .iter()
            .map(|(kind, uid)| json!({"apiVersion": "v1", "kind": kind, "name": uid, "uid": uid, "blockOwnerDeletion": true}))
            .collect();
        put("stays", json!({"uid": "stays"}));
        put("waits", json!({"uid": "waits", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FOREGROUND]}));
        put("owned", json!({"uid": "owned", "ownerReferences": references}));
        let key = Key::new("configmaps", "a", "owned");
        let mut mint = Mint::new(jiff::Timestamp::UNIX_EPOCH, 7, Liveness::default());
        let transactions = reconcile(&Snapshot::of(&state), &key, &mut mint);
        let command = Command { level: LEVEL, id: None, transactions };
        let (state, ..) = apply(&state, &command, Position { term: 1, index: 1 });
        let left = state.get(&key).map(|entry| {
            let metadata = entry.record.field("metadata").unwrap_or_default();
            let uid = |owner: &Value| owner["uid"].as_str().unwrap_or_default().to_string();
            metadata["ownerReferences"].as_array().into_iter().flatten().map(uid).collect::<Vec<_>>()
        });
        let expected = expected.map(|uids| uids.iter().map(|uid| (*uid).to_string()).collect());
        assert_eq!(left, expected, "{owners:?}");
    }

    #[test]
    fn one_owner_that_stays_is_enough() {
        let (stays, waits, gone, unknown) = (("ConfigMap", "stays"), ("ConfigMap", "waits"), ("Secret", "gone"), ("Flunder", "far"));
        check(&[stays], Some(&["stays"]));
        check(&[stays, waits], Some(&["stays"]));
        check(&[gone, stays, waits], Some(&["stays"]));
        check(&[gone], None);
        check(&[waits], None);
        check(&[gone, waits], None);
        check(&[unknown], Some(&["far"]));
        check(&[gone, unknown], Some(&["gone", "far"]));
    }
}
