//! Services that every node serves itself: `default/kubernetes` (the API) and `kube-system/kube-dns`. Behind them are
//! all nodes that are alive; each node leads to itself first.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::{Key, registry};

use crate::Mint;
use crate::snapshot::Snapshot;
use crate::write::{create, edit_entry};

/// Namespace and name of each.
const SERVICES: [(&str, &str); 2] = [("default", "kubernetes"), ("kube-system", "kube-dns")];

pub(crate) fn keys() -> impl Iterator<Item = Key> {
    SERVICES.iter().map(|(namespace, name)| Key::new("services", namespace, name))
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let Some(service) = snapshot.services.get(key) else { return Vec::new() };
    let ports = ports(&service.object);
    let nodes = ready_nodes(snapshot);
    let endpoints: Vec<Value> = nodes
        .iter()
        .map(
            |(node, ip)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true, "serving": true, "terminating": false}}),
        )
        .collect();
    let addresses: Vec<Value> = nodes.iter().map(|(node, ip)| json!({"ip": ip, "nodeName": node})).collect();
    let subsets = if addresses.is_empty() { json!([]) } else { json!([{"addresses": addresses, "ports": ports}]) };
    let slice = json!({
        "metadata": {"name": key.name(), "labels": {"kubernetes.io/service-name": key.name()}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    });
    let old = json!({"metadata": {"name": key.name(), "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}, "subsets": subsets});
    let mut transactions = Vec::new();
    for (group, plural, object, fields) in
        [("discovery.k8s.io", "endpointslices", slice, &["endpoints", "ports"][..]), ("", "endpoints", old, &["subsets"])]
    {
        let resource = registry::find(group, "v1", plural).expect("the registry has both");
        let place = Key::new(resource.stored(), key.namespace(), key.name());
        match snapshot.state.get(&place) {
            Some(entry) => transactions.extend(edit_entry(resource, &place, entry, |stored| {
                for field in fields {
                    stored[*field] = object[*field].clone();
                }
            })),
            None => transactions.push(create(resource, key.namespace(), object, mint)),
        }
    }
    transactions
}

fn ports(service: &Service) -> Value {
    let number = |port: &ServicePort| match port.target_port {
        Some(IntOrString::Int(number)) => number,
        _ => port.port,
    };
    let of = |port: &ServicePort| json!({"name": port.name, "protocol": port.protocol.as_deref().unwrap_or("TCP"), "port": number(port)});
    service.spec.iter().flat_map(|s| s.ports.iter().flatten()).map(of).collect::<Vec<_>>().into()
}

fn ready_nodes(snapshot: &Snapshot) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (key, node) in &snapshot.nodes {
        let Some(status) = &node.object.status else { continue };
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let address = status.addresses.iter().flatten().find(|a| a.type_ == "InternalIP");
        if let Some(address) = address.filter(|_| ready) {
            found.push((key.name().to_string(), address.address.clone()));
        }
    }
    found
}
