//! CustomResourceDefinitions: their names are accepted unless another in the group has them, then they are established;
//! one that is deleted takes its objects along (apiextensions-apiserver, `naming`, `establish`, `finalizer`).

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::custom::{self, DEFINITIONS};
use skein_object::deletion::{CUSTOM_RESOURCE_CLEANUP as CLEANUP, Wish};
use skein_object::meta::set_condition;
use skein_object::{Key, meta};

use crate::Mint;
use crate::garbage::without_finalizer;
use crate::snapshot::Snapshot;
use crate::write::{delete, edit_entry};

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let (Some(entry), Some(resource)) = (snapshot.state.get(key), snapshot.resource(key)) else { return Vec::new() };
    let definition = resource.show(&entry.record, entry.revision);
    if meta::is_terminating(&definition) {
        if !meta::finalizers(&definition).contains(&CLEANUP) {
            return Vec::new();
        }
        let left = clear(snapshot, key, mint);
        return left.unwrap_or_else(|| without_finalizer(snapshot, key, entry, CLEANUP).into_iter().collect());
    }
    let conflict = conflict(snapshot, key, &definition);
    let now = mint.time();
    let settled = edit_entry(&resource, key, entry, |object| settle(object, conflict.as_deref(), &now));
    settled.into_iter().collect()
}

/// Deletes the objects of a definition; `None` when there are none.
fn clear(snapshot: &Snapshot, key: &Key, mint: &Mint) -> Option<Vec<Transaction>> {
    let prefix = Key::prefix(key.name(), "");
    let mut objects = snapshot.state.range(&prefix, None).peekable();
    objects.peek()?;
    let resource = snapshot.custom_resources().find(|r| r.stored() == key.name())?;
    Some(objects.filter_map(|(key, entry)| delete(resource, key, entry, &Wish::default(), mint)).collect())
}

/// The name that an established definition of the same group has already, if any.
fn conflict(snapshot: &Snapshot, key: &Key, definition: &Value) -> Option<String> {
    let group = definition.pointer("/spec/group");
    let own = names(&definition["spec"]["names"]);
    let prefix = Key::prefix(DEFINITIONS, "");
    let others = snapshot.state.range(&prefix, None).filter(|(other, _)| *other != key);
    let taken = others.filter_map(|(_, entry)| {
        let other = entry.record.to_value("", "", entry.revision);
        (other.pointer("/spec/group") == group && custom::is_established(&other)).then(|| names(&other["status"]["acceptedNames"]))
    });
    let taken: BTreeSet<String> = taken.flatten().collect();
    own.intersection(&taken).next().cloned()
}

fn names(names: &Value) -> BTreeSet<String> {
    let single = ["plural", "singular", "kind", "listKind"].iter().filter_map(|field| names.get(*field));
    let short = names.get("shortNames").and_then(Value::as_array).into_iter().flatten();
    single.chain(short).filter_map(Value::as_str).map(String::from).collect()
}

fn settle(definition: &mut Value, conflict: Option<&str>, now: &str) {
    let stored = definition["spec"]["versions"].as_array().into_iter().flatten().find(|v| v["storage"] == true);
    let stored = stored.map(|v| v["name"].clone()).unwrap_or_default();
    if let Some(name) = conflict {
        let message = format!("{name:?} is already in use");
        set_condition(definition, condition("NamesAccepted", "False", "NamesConflict", &message, now));
        if !custom::is_established(definition) {
            set_condition(definition, condition("Established", "False", "NotAccepted", "not all names are accepted", now));
        }
        return;
    }
    set_condition(definition, condition("NamesAccepted", "True", "NoConflicts", "no conflicts found", now));
    let established = condition("Established", "True", "InitialNamesAccepted", "the initial names have been accepted", now);
    set_condition(definition, established);
    definition["status"]["acceptedNames"] = definition["spec"]["names"].clone();
    let versions = &mut definition["status"]["storedVersions"];
    match versions.as_array_mut() {
        Some(versions) if versions.contains(&stored) => {}
        Some(versions) => versions.push(stored),
        None => *versions = json!([stored]),
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, now: &str) -> Value {
    json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message})
}
