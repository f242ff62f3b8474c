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
