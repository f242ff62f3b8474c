//! How controllers write: whole new objects, changed fields, deletions, events.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skein_command::{Transaction, Write};
use skein_object::deletion::{Plan, Wish, plan};
use skein_object::meta::set_condition;
use skein_object::{Key, Record, Resource, registry};
use skein_state::Entry;

use crate::Mint;
use crate::snapshot::{Snapshot, Stored};

/// Changes an object as a tree; nothing when the change has no effect.
pub(crate) fn edit<T>(stored: &Stored<T>, change: impl FnOnce(&mut Value)) -> Option<Transaction> {
    let resource = registry::by_key(stored.key.resource())?;
    edit_entry(resource, &stored.key, &stored.entry(), change)
}

pub(crate) fn edit_entry(resource: &Resource, key: &Key, entry: &Entry, change: impl FnOnce(&mut Value)) -> Option<Transaction> {
    let old = entry.record.to_value(&resource.api_version(), resource.kind, entry.revision);
    let mut new = old.clone();
    change(&mut new);
    if new != old {
        resource.settle(&mut new);
    }
    if new == old {
        return None;
    }
    skein_object::meta::at_update(&mut new, &old, resource);
    Some(Write::update(key, entry.revision, &entry.record, &Record::from_value(&new).marked_like(&entry.record)).into())
}

/// Begins or completes the deletion of an object of a built-in kind.
pub(crate) fn remove<T>(stored: &Stored<T>, mint: &Mint) -> Option<Transaction> {
    delete(registry::by_key(stored.key.resource())?, &stored.key, &stored.entry(), &Wish::default(), mint)
}

/// Begins or completes a deletion.
pub(crate) fn delete(resource: &Resource, key: &Key, entry: &Entry, wish: &Wish, mint: &Mint) -> Option<Transaction> {
    let old = entry.record.to_value(&resource.api_version(), resource.kind, entry.revision);
    match plan(resource, &old, wish, mint.now) {
        Plan::Nothing => None,
        Plan::Remove => Some(Write::delete(key, entry.revision).into()),
        Plan::Mark(marked) => {
            Some(Write::update(key, entry.revision, &entry.record, &Record::from_value(&marked).marked_like(&entry.record)).into())
        }
    }
}

/// A new object, with what the server adds to one; the resource must be in the registry.
pub(crate) fn create(resource: &Resource, namespace: &str, mut object: Value, mint: &mut Mint) -> Transaction {
    let (uid, now, suffix) = (mint.uid(), mint.time(), mint.suffix());
    let birth = skein_object::meta::Birth { uid: &uid, now: &now, suffix: &suffix };
    skein_object::meta::at_creation(&mut object, resource, namespace, &birth);
    resource.fill_defaults(&mut object);
    let key = Key::new(resource.stored(), namespace, skein_object::meta::name(&object));
    Write::create(&key, Record::from_value(&object)).into()
}

/// What an Event is about and says.
pub struct Note<'a> {
    pub regarding: &'a Key,
    pub uid: &'a str,
    pub reason: &'a str,
    pub message: String,
    pub component: &'a str,
    pub warning: bool,
}

/// A Kubernetes Event. A plain creation: series and limits are to come.
pub fn event(note: &Note<'_>, mint: &mut Mint) -> Transaction {
    let name = format!("{}.{:x}{}", note.regarding.name(), mint.now.as_nanosecond(), mint.suffix());
    event_named(note, name, mint)
}

fn event_named(note: &Note<'_>, name: String, mint: &mut Mint) -> Transaction {
    let resource = registry::find("", "v1", "events").expect("the registry has events");
    let about = registry::by_key(note.regarding.resource());
    let namespace = if note.regarding.namespace().is_empty() { "default" } else { note.regarding.namespace() };
    let time = mint.time();
    let object = json!({
        "metadata": {"name": name},
        "involvedObject": {
            "kind": about.map(|r| r.kind), "apiVersion": about.map(|r| r.api_version()),
            "namespace": note.regarding.namespace(), "name": note.regarding.name(), "uid": note.uid,
        },
        "reason": note.reason, "message": note.message, "type": if note.warning { "Warning" } else { "Normal" },
        "source": {"component": note.component}, "reportingComponent": note.component, "reportingInstance": "",
        "firstTimestamp": time, "lastTimestamp": time, "count": 1, "eventTime": null,
    });
    create(resource, namespace, object, mint)
}

/// An Event about what happens again and again: told once, until it has been forgotten.
pub(crate) fn event_once(snapshot: &Snapshot, note: &Note<'_>, mint: &mut Mint) -> Option<Transaction> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (note.uid, note.reason, &note.message).hash(&mut hasher);
    let name = format!("{}.{:016x}", note.regarding.name(), hasher.finish());
    if snapshot.state.get(&Key::new("events", note.regarding.namespace(), &name)).is_some() {
        return None;
    }
    Some(event_named(note, name, mint))
}

/// Binds a Pod to a node, as `pods/binding` does.
pub fn bind(pod: &Stored<Pod>, node: &str, mint: &Mint) -> Option<Transaction> {
    let now = mint.time();
    edit(pod, |object| {
        object["spec"]["nodeName"] = node.into();
        if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
            status.shift_remove("nominatedNodeName");
        }
        set_condition(object, json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}));
    })
}

/// Keeps room on a node for a Pod that waits for something else before it can be bound there (KEP-5278).
pub fn nominate(pod: &Stored<Pod>, node: &str) -> Option<Transaction> {
    edit(pod, |object| object["status"]["nominatedNodeName"] = node.into())
}

/// Writes why a Pod has no node, and the one that is made free for it.
pub fn unschedulable(pod: &Stored<Pod>, why: &str, nominated: Option<&str>, mint: &Mint) -> Option<Transaction> {
    let now = mint.time();
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why, "lastProbeTime": null, "lastTransitionTime": now});
    edit(pod, |object| {
        set_condition(object, condition);
        if let Some(node) = nominated {
            object["status"]["nominatedNodeName"] = node.into();
        }
    })
}
