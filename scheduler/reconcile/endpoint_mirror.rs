//! EndpointSlices of Endpoints that a user keeps, for a Service without a selector: whoever routes looks at slices only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};
use skein_command::Transaction;
use skein_object::{Key, meta};

use crate::Mint;
use crate::endpoint_slice::{Slice, Wanted, write};
use crate::snapshot::Snapshot;
use crate::write::{Note, event_once};

const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";

/// Addresses of a subset that are mirrored (`--mirroring-max-endpoints-per-subset`).
const ADDRESSES_MAX: usize = 1000;

const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// Annotations that are about the Endpoints themselves.
const OWN_ANNOTATIONS: [&str; 2] = ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let nothing = |manager| Wanted { manager, labels: json!({}), annotations: Value::Null, owner: Value::Null, slices: Vec::new() };
    let Some(endpoints) = mirrored(snapshot, key) else { return write(snapshot, key, nothing(MANAGED_BY), mint) };
    let (slices, skipped) = slices(&endpoints["subsets"]);
    let mut annotations = endpoints["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    let wanted = Wanted {
        manager: MANAGED_BY,
        labels: endpoints["metadata"]["labels"].as_object().cloned().unwrap_or_default().into(),
        annotations: if annotations.is_empty() { Value::Null } else { annotations.into() },
        owner: json!({"apiVersion": "v1", "kind": "Endpoints", "name": key.name(), "uid": endpoints["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true}),
        slices,
    };
    let mut transactions = write(snapshot, key, wanted, mint);
    if skipped > 0 {
        let note = Note {
            regarding: &Key::new("endpoints", key.namespace(), key.name()),
            uid: meta::text(&endpoints, "uid"),
            reason: "TooManyAddressesToMirror",
            message: format!(
                "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
            ),
            component: "endpoint-slice-mirroring-controller",
            warning: true,
        };
        transactions.extend(event_once(snapshot, &note, mint));
    }
    transactions
}

/// The Endpoints of a Service that has no selector, if its slices are to follow them.
fn mirrored(snapshot: &Snapshot, key: &Key) -> Option<Value> {
    let service = snapshot.services.get(key).filter(|s| s.object.metadata.deletion_timestamp.is_none())?;
    if service.object.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|selector| !selector.is_empty()) {
        return None;
    }
    let entry = snapshot.state.get(&Key::new("endpoints", key.namespace(), key.name()))?;
    let endpoints = entry.record.to_value("v1", "Endpoints", entry.revision);
    let metadata = &endpoints["metadata"];
    let is_mirrored = metadata["labels"][SKIP] != "true" && metadata["annotations"][LEADER].is_null();
    (is_mirrored && metadata["deletionTimestamp"].is_null()).then_some(endpoints)
}

/// One slice for each set of ports and family of addresses, and how many addresses were too many.
fn slices(subsets: &Value) -> (Vec<Slice>, usize) {
    let mut groups: BTreeMap<(&'static str, String), (Value, Vec<Value>)> = BTreeMap::new();
    let mut skipped = 0;
    for subset in subsets.as_array().into_iter().flatten() {
        let ports: Value = subset["ports"].as_array().into_iter().flatten().map(port).collect::<Vec<_>>().into();
        let addresses = [("addresses", true), ("notReadyAddresses", false)].into_iter().flat_map(|(field, ready)| {
            let list = subset[field].as_array().into_iter().flatten();
            list.map(move |address| (address, ready))
        });
        let valid: Vec<_> = addresses.filter_map(|(address, ready)| endpoint(address, ready)).collect();
        skipped += valid.len().saturating_sub(ADDRESSES_MAX);
        for (family, endpoint) in valid.into_iter().take(ADDRESSES_MAX) {
            groups.entry((family, ports.to_string())).or_insert_with(|| (ports.clone(), Vec::new())).1.push(endpoint);
        }
    }
    let slice =
        |((address_type, _), (ports, endpoints)): (_, (Value, Vec<Value>))| Slice { address_type, ports, endpoints: endpoints.into() };
    (groups.into_iter().map(slice).collect(), skipped)
}

fn port(port: &Value) -> Value {
    let mut mirrored = json!({"name": port["name"].as_str().unwrap_or_default(), "port": port["port"],
        "protocol": port["protocol"].as_str().unwrap_or("TCP")});
    if let Some(app) = port["appProtocol"].as_str() {
        mirrored["appProtocol"] = app.into();
    }
    mirrored
}

fn endpoint(address: &Value, ready: bool) -> Option<(&'static str, Value)> {
    let ip: IpAddr = address["ip"].as_str()?.parse().ok()?;
    let mut endpoint = Map::new();
    endpoint.insert("addresses".into(), json!([ip.to_string()]));
    endpoint.insert("conditions".into(), json!({"ready": ready}));
    for field in ["nodeName", "hostname", "targetRef"] {
        if !address[field].is_null() && address[field] != "" {
            endpoint.insert(field.into(), address[field].clone());
        }
    }
    Some((if ip.is_ipv4() { "IPv4" } else { "IPv6" }, endpoint.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_same_ports_and_family_share_a_slice() {
        let subsets = json!([
            {"ports": [{"port": 80, "protocol": "TCP"}], "addresses": [{"ip": "10.1.2.3", "nodeName": "a"}, {"ip": "fd00::1"}],
             "notReadyAddresses": [{"ip": "10.1.2.4", "hostname": "db"}]},
            {"ports": [{"name": "x", "port": 81, "appProtocol": "http"}], "addresses": [{"ip": "10.1.2.5"}]},
        ]);
        let (slices, skipped) = slices(&subsets);
        let shown: Vec<_> = slices.iter().map(|s| json!([s.address_type, s.ports, s.endpoints])).collect();
        let plain = json!([{"name": "", "port": 80, "protocol": "TCP"}]);
        let expected = [
            json!(["IPv4", plain, [
                {"addresses": ["10.1.2.3"], "conditions": {"ready": true}, "nodeName": "a"},
                {"addresses": ["10.1.2.4"], "conditions": {"ready": false}, "hostname": "db"}]]),
            json!(["IPv4", [{"name": "x", "port": 81, "protocol": "TCP", "appProtocol": "http"}],
                [{"addresses": ["10.1.2.5"], "conditions": {"ready": true}}]]),
            json!(["IPv6", plain, [{"addresses": ["fd00::1"], "conditions": {"ready": true}}]]),
        ];
        assert_eq!((shown.as_slice(), skipped), (expected.as_slice(), 0));
    }

    #[test]
    fn a_slice_holds_a_thousand() {
        let many: Vec<Value> = (0..1002).map(|n| json!({"ip": format!("10.0.{}.{}", n / 256, n % 256)})).collect();
        let (slices, skipped) = slices(&json!([{"ports": [{"port": 80}], "addresses": many}]));
        assert_eq!((slices.len(), slices[0].endpoints.as_array().map(Vec::len), skipped), (1, Some(ADDRESSES_MAX), 2));
    }
}
