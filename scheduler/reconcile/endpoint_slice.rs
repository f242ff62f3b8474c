//! EndpointSlices: where a Service's Pods are, in slices of at most 100 (KEP-752).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::{Key, registry};

use crate::Mint;
use crate::backends::{Backend, backends, target_reference};
use crate::snapshot::{Snapshot, Stored};
use crate::write::{create, delete, edit_entry};

const ENDPOINTS_MAX: usize = 100;
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGER: &str = "endpointslice.kubernetes.io/managed-by";

/// What a controller wants of the slices of a Service.
pub(crate) struct Wanted {
    /// Who keeps them: the value of `endpointslice.kubernetes.io/managed-by`. Slices of others are left alone.
    pub(crate) manager: &'static str,
    /// Besides those that name the Service and the manager.
    pub(crate) labels: Value,
    pub(crate) annotations: Value,
    pub(crate) owner: Value,
    pub(crate) slices: Vec<Slice>,
}

pub(crate) struct Slice {
    pub(crate) address_type: &'static str,
    pub(crate) ports: Value,
    pub(crate) endpoints: Value,
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let service = snapshot.services.get(key).filter(|s| s.object.metadata.deletion_timestamp.is_none());
    // Of a Service that is gone the garbage collector takes the slices: they are owned by it.
    let Some(service) = service else { return Vec::new() };
    let Some(backends) = backends(snapshot, service) else { return Vec::new() };
    let owner = json!({"apiVersion": "v1", "kind": "Service", "name": key.name(),
        "uid": service.object.metadata.uid, "controller": true, "blockOwnerDeletion": true});
    let slices = slices(service, &backends);
    write(snapshot, key, Wanted { manager: MANAGED_BY, labels: labels(service), annotations: Value::Null, owner, slices }, mint)
}

/// Makes the slices of a Service that a manager keeps what they should be.
pub(crate) fn write(snapshot: &Snapshot, service: &Key, wanted: Wanted, mint: &mut Mint) -> Vec<Transaction> {
    let resource = registry::find("discovery.k8s.io", "v1", "endpointslices").expect("the registry has EndpointSlices");
    let Wanted { manager, mut labels, annotations, owner, slices } = wanted;
    labels[SERVICE_NAME] = service.name().into();
    labels[MANAGER] = manager.into();
    let mut existing: Vec<(Key, Value)> = own_slices(snapshot, service, manager);
    let mut transactions = Vec::new();
    for Slice { address_type, ports, endpoints } in slices {
        let mut wanted = json!({"addressType": address_type, "endpoints": endpoints, "ports": ports});
        resource.settle(&mut wanted);
        // A slice of the same ports is used again, so that an endpoint that comes or goes changes one object.
        let same = existing.iter().position(|(_, slice)| slice["ports"] == wanted["ports"] && slice["addressType"] == address_type);
        match same.map(|at| existing.remove(at)) {
            Some((slice, _)) => {
                let Some(entry) = snapshot.state.get(&slice) else { continue };
                let changed = edit_entry(resource, &slice, entry, |object| {
                    object["endpoints"] = wanted["endpoints"].take();
                    object["metadata"]["labels"] = labels.clone();
                    if !annotations.is_null() {
                        object["metadata"]["annotations"] = annotations.clone();
                    }
                });
                transactions.extend(changed);
            }
            None => {
                wanted["metadata"] = json!({"generateName": format!("{}-", service.name()), "labels": labels, "ownerReferences": [owner]});
                if !annotations.is_null() {
                    wanted["metadata"]["annotations"] = annotations.clone();
                }
                transactions.push(create(resource, service.namespace(), wanted, mint));
            }
        }
    }
    for (slice, _) in existing {
        let entry = snapshot.state.get(&slice);
        transactions.extend(entry.and_then(|e| delete(resource, &slice, e, &Default::default(), mint)));
    }
    transactions
}

fn own_slices(snapshot: &Snapshot, service: &Key, manager: &str) -> Vec<(Key, Value)> {
    let slices = snapshot.slices_of(service);
    let values = slices.map(|(key, entry)| (key.clone(), entry.record.to_value("discovery.k8s.io/v1", "EndpointSlice", entry.revision)));
    values.filter(|(_, slice)| slice["metadata"]["labels"][MANAGER] == manager).collect()
}

fn labels(service: &Stored<Service>) -> Value {
    let mut labels = json!({});
    let own = service.object.metadata.labels.iter().flatten();
    for (name, value) in own.filter(|(name, _)| name.as_str() != "service.kubernetes.io/headless") {
        labels[name] = value.clone().into();
    }
    if service.object.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels["service.kubernetes.io/headless"] = "".into();
    }
    labels
}

/// Ports and endpoints of each slice: Pods may give the same named port different numbers, and then share no slice.
fn slices(service: &Stored<Service>, backends: &[Backend<'_>]) -> Vec<Slice> {
    let mut groups: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for backend in backends {
        let ports = Value::from(backend.ports.clone());
        groups.entry(ports.to_string()).or_insert_with(|| (ports, Vec::new())).1.push(endpoint(service, backend));
    }
    let slice = |ports: Value, endpoints: Value| Slice { address_type: "IPv4", ports, endpoints };
    if groups.is_empty() {
        // A Service without Pods has one empty slice, as in Kubernetes.
        return vec![slice(json!([]), json!([]))];
    }
    let slices = groups.into_values().flat_map(|(ports, endpoints)| {
        let chunks: Vec<_> = endpoints.chunks(ENDPOINTS_MAX).map(|chunk| slice(ports.clone(), chunk.into())).collect();
        chunks
    });
    slices.collect()
}

fn endpoint(service: &Stored<Service>, backend: &Backend<'_>) -> Value {
    let spec = backend.pod.object.spec.as_ref();
    let mut endpoint = json!({
        "addresses": [backend.address],
        "conditions": {"ready": backend.ready, "serving": backend.serving, "terminating": backend.terminating},
        "nodeName": spec.and_then(|s| s.node_name.clone()), "targetRef": target_reference(backend.pod),
    });
    let hostname = spec.and_then(|s| s.hostname.clone());
    if let Some(hostname) = hostname.filter(|_| spec.and_then(|s| s.subdomain.as_deref()) == Some(service.key.name())) {
        endpoint["hostname"] = hostname.into();
    }
    endpoint
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skein_command::Action;
    use skein_object::Record;
    use skein_state::{Entry, State};

    use super::*;
    use crate::Liveness;

    /// What is written for a Service of these Pods, over and over, until nothing is.
    fn rounds(pods: &[Value]) -> usize {
        let mut state = State::default();
        let service = json!({"metadata": {"name": "w", "namespace": "d", "uid": "u"},
            "spec": {"selector": {"app": "w"}, "ports": [{"port": 80, "protocol": "TCP"}]}});
        let objects = std::iter::once(("services/d/w".to_string(), &service))
            .chain(pods.iter().enumerate().map(|(index, pod)| (format!("pods/d/{index}"), pod)));
        for (index, (key, object)) in objects.enumerate() {
            let record = Arc::new(Record::from_value(object));
            state.restore(Key::parse(&key).expect("a key"), Entry { revision: index as u64 + 1, record });
        }
        for round in 0..10 {
            let mut mint = Mint::new(jiff::Timestamp::UNIX_EPOCH, round, Liveness::default());
            let transactions = reconcile(&Snapshot::of(&state), &Key::new("services", "d", "w"), &mut mint);
            if transactions.is_empty() {
                return round as usize;
            }
            for write in transactions.into_iter().flat_map(|transaction| transaction.writes) {
                let Some(Action::Put(record)) = write.action else { panic!("{} is not made", write.key) };
                state.restore(Key::parse(&write.key).expect("a key"), Entry { revision: 100 + round, record: Arc::new(record) });
            }
        }
        10
    }

    #[test]
    fn what_is_written_is_what_is_wanted() {
        assert_eq!(rounds(&[]), 1, "without Pods");
        let pod = json!({"metadata": {"name": "0", "namespace": "d", "uid": "p", "labels": {"app": "w"}}, "spec": {"nodeName": "n", "containers": []},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(rounds(&[pod]), 1, "with one");
    }
}
