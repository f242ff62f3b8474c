//! Endpoints: the older form of EndpointSlices, one object for a Service, which many clients still read.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::{Key, registry};

use crate::Mint;
use crate::backends::{Backend, backends, target_reference};
use crate::snapshot::Snapshot;
use crate::write::{create, delete, edit_entry};

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let resource = registry::find("", "v1", "endpoints").expect("the registry has Endpoints");
    let place = Key::new(resource.stored(), key.namespace(), key.name());
    let entry = snapshot.state.get(&place);
    let service = snapshot.services.get(key).filter(|s| s.object.metadata.deletion_timestamp.is_none());
    let Some(service) = service else {
        return entry.and_then(|e| delete(resource, &place, e, &Default::default(), mint)).into_iter().collect();
    };
    let Some(backends) = backends(snapshot, service) else { return Vec::new() };
    let subsets = subsets(&backends);
    let labels = service.object.metadata.labels.clone().unwrap_or_default();
    match entry {
        Some(entry) => {
            let changed = edit_entry(resource, &place, entry, |object| {
                object["subsets"] = subsets;
                for (name, value) in labels {
                    object["metadata"]["labels"][name] = value.into();
                }
            });
            changed.into_iter().collect()
        }
        None => {
            let object = json!({"metadata": {"name": key.name(), "labels": labels}, "subsets": subsets});
            vec![create(resource, key.namespace(), object, mint)]
        }
    }
}

/// Pods with the same ports share a subset.
fn subsets(backends: &[Backend<'_>]) -> Value {
    let mut groups: BTreeMap<String, (Value, Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for backend in backends.iter().filter(|b| !b.terminating) {
        let node = backend.pod.object.spec.as_ref().and_then(|s| s.node_name.clone());
        let address = json!({"ip": backend.address, "nodeName": node, "targetRef": target_reference(backend.pod)});
        let ports = Value::from(backend.ports.clone());
        let group = groups.entry(ports.to_string()).or_insert_with(|| (ports, Vec::new(), Vec::new()));
        if backend.ready { group.1.push(address) } else { group.2.push(address) }
    }
    let subset = |(ports, ready, unready): (Value, Vec<Value>, Vec<Value>)| {
        let mut subset = json!({"ports": ports});
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", unready)] {
            if !addresses.is_empty() {
                subset[field] = addresses.into();
            }
        }
        subset
    };
    groups.into_values().map(subset).collect::<Vec<_>>().into()
}
