//! ControllerRevisions: the templates that a set has had, for Pods of an older one and for `kubectl rollout undo`
//! (`pkg/controller/history`).

use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::{Key, registry};

use crate::Mint;
use crate::snapshot::Snapshot;
use crate::write::{create, delete, edit_entry};

pub(crate) const REVISIONS: &str = "controllerrevisions.apps";

/// The label by which Pods and revisions are told apart.
pub(crate) const LABEL: &str = "controller-revision-hash";

/// How many revisions that nobody uses are kept, where a set does not say.
const LIMIT: usize = 10;

/// A set and its template as it is now.
pub(crate) struct Current<'a> {
    pub(crate) set: &'a Key,
    pub(crate) uid: &'a str,
    /// The set as an owner.
    pub(crate) reference: Value,
    pub(crate) template: &'a Value,
    /// What the revision of this template is called.
    pub(crate) name: &'a str,
    /// The value of [`LABEL`].
    pub(crate) label: &'a str,
    pub(crate) limit: Option<i32>,
}

/// By which label a template's Pods are known: that of an equal template which was there before, however its fields are
/// ordered, else a new one.
pub(crate) fn label_of(snapshot: &Snapshot, uid: &str, template: &Value, new: impl FnOnce() -> String) -> String {
    let known = snapshot.dependents(uid).filter(|key| key.resource() == REVISIONS).filter_map(|key| snapshot.state.get(key));
    let label = |entry: &skein_state::Entry| {
        let (metadata, mut data) = (entry.record.field("metadata")?, entry.record.field("data")?);
        let kept = data.pointer_mut("/spec/template")?;
        kept.as_object_mut()?.shift_remove("$patch");
        (kept == template).then(|| metadata["labels"][LABEL].as_str().map(String::from)).flatten()
    };
    known.into_iter().find_map(label).unwrap_or_else(new)
}

/// Writes down the template where that has not been done, makes it the newest, and drops old ones that are not used.
pub(crate) fn keep(snapshot: &Snapshot, current: &Current<'_>, is_used: impl Fn(&str) -> bool, mint: &mut Mint) -> Vec<Transaction> {
    let resource = registry::by_key(REVISIONS).expect("the registry has revisions");
    let mut known: Vec<(i64, &Key)> = Vec::new();
    for key in snapshot.dependents(current.uid).filter(|key| key.resource() == REVISIONS) {
        let revision = snapshot.state.get(key).and_then(|e| e.record.field("revision")).and_then(|r| r.as_i64());
        known.push((revision.unwrap_or(0), key));
    }
    known.sort();
    let newest = known.last().map_or(0, |(revision, _)| *revision);
    let mut transactions = Vec::new();
    match known.iter().find(|(_, key)| key.name() == current.name) {
        // A template that was there before is the newest again.
        Some((revision, key)) if *revision < newest => {
            let entry = snapshot.state.get(key);
            transactions
                .extend(entry.and_then(|entry| edit_entry(resource, key, entry, |object| object["revision"] = (newest + 1).into())));
        }
        Some(_) => {}
        None => {
            let mut data = current.template.clone();
            data["$patch"] = "replace".into();
            let mut labels = current.template["metadata"]["labels"].clone();
            labels[LABEL] = current.label.into();
            let metadata = json!({"name": current.name, "ownerReferences": [current.reference], "labels": labels});
            // Clients compare it with a template of their own byte by byte, in the order that Go writes maps in.
            data.sort_all_objects();
            let object = json!({"metadata": metadata, "revision": newest + 1, "data": {"spec": {"template": data}}});
            transactions.push(create(resource, current.set.namespace(), object, mint));
        }
    }
    let limit = current.limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(LIMIT);
    let unused = |key: &&Key| key.name() != current.name && !is_used(key.name());
    let old: Vec<&Key> = known.iter().map(|(_, key)| *key).filter(unused).collect();
    for key in old.iter().take(old.len().saturating_sub(limit)) {
        transactions.extend(snapshot.state.get(key).and_then(|entry| delete(resource, key, entry, &Default::default(), mint)));
    }
    transactions
}
