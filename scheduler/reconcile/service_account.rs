//! Every namespace has a ServiceAccount `default`.

use serde_json::json;
use skein_command::Transaction;
use skein_object::{Key, registry};

use crate::Mint;
use crate::snapshot::{Snapshot, ties};
use crate::write::create;

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let Some(namespace) = snapshot.state.get(key) else { return Vec::new() };
    let account = Key::new("serviceaccounts", key.name(), "default");
    if ties(&namespace.record).deletion_timestamp.is_some() || snapshot.state.get(&account).is_some() {
        return Vec::new();
    }
    let resource = registry::find("", "v1", "serviceaccounts").expect("the registry has service accounts");
    vec![create(resource, key.name(), json!({"metadata": {"name": "default"}}), mint)]
}
