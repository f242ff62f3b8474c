//! FlowSchemas: whether the priority level that each leads to is there.

use serde_json::json;
use skein_command::Transaction;
use skein_object::meta::set_condition;
use skein_object::{Key, meta, registry};

use crate::Mint;
use crate::snapshot::Snapshot;
use crate::write::edit_entry;

pub(crate) const SCHEMAS: &str = "flowschemas.flowcontrol.apiserver.k8s.io";
pub(crate) const LEVELS: &str = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &Mint) -> Vec<Transaction> {
    let (Some(entry), Some(resource)) = (snapshot.state.get(key), registry::by_key(SCHEMAS)) else { return Vec::new() };
    let level = entry.record.field("spec").and_then(|spec| spec["priorityLevelConfiguration"]["name"].as_str().map(String::from));
    let level = level.unwrap_or_default();
    let is_there = snapshot.state.get(&Key::new(LEVELS, "", &level)).is_some();
    let (status, reason, end) =
        if is_there { ("False", "Found", "and it exists") } else { ("True", "NotFound", "but there is no such object") };
    let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {end}");
    let now = meta::time(mint.now);
    let condition = json!({"type": "Dangling", "status": status, "lastTransitionTime": now, "reason": reason, "message": message});
    edit_entry(resource, key, entry, |schema| set_condition(schema, condition)).into_iter().collect()
}

/// A level that comes or goes concerns the schemas that lead to it, of which there are few.
pub(crate) fn all(snapshot: &Snapshot) -> Vec<Key> {
    snapshot.state.range(&Key::prefix(SCHEMAS, ""), None).map(|(key, _)| key.clone()).collect()
}
