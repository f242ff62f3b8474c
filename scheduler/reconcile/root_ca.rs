//! Every namespace has the cluster's CA in the ConfigMap `kube-root-ca.crt`, for Pods that call the API.
//!
//! The founding node writes the first one, in `kube-system`; the others are copies of it.

use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::{Key, registry};

use crate::Mint;
use crate::snapshot::{Snapshot, ties};
use crate::write::{create, edit_entry};

pub(crate) const NAME: &str = "kube-root-ca.crt";

pub(crate) const HOME: &str = "kube-system";

const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let resource = registry::find("", "v1", "configmaps").expect("the registry has ConfigMaps");
    let at = |namespace: &str| Key::new(resource.stored(), namespace, NAME);
    let (Some(namespace), Some(original)) = (snapshot.state.get(key), snapshot.state.get(&at(HOME))) else { return Vec::new() };
    if ties(&namespace.record).deletion_timestamp.is_some() || key.name() == HOME {
        return Vec::new();
    }
    let data = original.record.field("data").unwrap_or(Value::Null);
    match snapshot.state.get(&at(key.name())) {
        Some(entry) => edit_entry(resource, &at(key.name()), entry, |map| map["data"] = data).into_iter().collect(),
        None => {
            let metadata = json!({"name": NAME, "annotations": {"kubernetes.io/description": DESCRIPTION}});
            vec![create(resource, key.name(), json!({"metadata": metadata, "data": data}), mint)]
        }
    }
}
