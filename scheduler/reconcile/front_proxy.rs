//! Whom the servers of aggregated APIs believe when they are told who asks: every node, by its certificate.
//!
//! They read the ConfigMap `kube-system/extension-apiserver-authentication`, as they do on Kubernetes.

use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::{Key, registry};

use crate::Mint;
use crate::root_ca::{HOME, NAME as ROOT_CA};
use crate::snapshot::Snapshot;
use crate::write::{create, edit_entry};

const NAME: &str = "extension-apiserver-authentication";

pub(crate) fn key() -> Key {
    Key::new("configmaps", HOME, NAME)
}

pub(crate) fn reconcile(snapshot: &Snapshot, mint: &mut Mint) -> Vec<Transaction> {
    let resource = registry::find("", "v1", "configmaps").expect("the registry has ConfigMaps");
    let authority = snapshot.state.get(&Key::new("configmaps", HOME, ROOT_CA)).and_then(|entry| entry.record.field("data"));
    let Some(authority) = authority.and_then(|data| data["ca.crt"].as_str().map(String::from)) else { return Vec::new() };
    let nodes = snapshot.state.range("nodes/", None).map(|(key, _)| format!("system:node:{}", key.name()));
    let list = |texts: Vec<String>| Value::from(json!(texts).to_string());
    let headers = |name: &str| list(vec![name.to_string()]);
    let data = json!({
        "client-ca-file": authority,
        "requestheader-allowed-names": list(nodes.collect()),
        "requestheader-client-ca-file": authority,
        "requestheader-extra-headers-prefix": headers("X-Remote-Extra-"),
        "requestheader-group-headers": headers("X-Remote-Group"),
        "requestheader-uid-headers": headers("X-Remote-Uid"),
        "requestheader-username-headers": headers("X-Remote-User"),
    });
    match snapshot.state.get(&key()) {
        Some(entry) => edit_entry(resource, &key(), entry, |map| map["data"] = data).into_iter().collect(),
        None => vec![create(resource, HOME, json!({"metadata": {"name": NAME}, "data": data}), mint)],
    }
}
