//! Services of type LoadBalancer get an address from a pool, and a node that announces it.
//!
//! The pool is the ConfigMap `kube-system/load-balancer`, `addresses: 192.0.2.10-192.0.2.20, 198.51.100.0/28`; where
//! there is none, such Services wait, as they do on a Kubernetes without a cloud. An address is a key in the state, made
//! in one transaction with the Service's status, so no two Services ever have the same; it names the node, which stays
//! the same while it is alive (and has an endpoint, where the Service's traffic policy is Local).

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use skein_command::{Transaction, Write};
use skein_object::claim::LOAD_BALANCER_IPS as ADDRESSES;
use skein_object::{Key, Record, registry};
use skein_state::{Entry, Event, State};

use crate::Mint;
use crate::snapshot::Snapshot;
use crate::write::{Note, edit_entry, event, event_once};

const OWNED: &str = "loadbalancerips.skein.dev/";

const POOL: (&str, &str) = ("kube-system", "load-balancer");
const COMPONENT: &str = "service-controller";
const SLICES: &str = "endpointslices.discovery.k8s.io";

/// Which Services must be looked at because of an event.
pub(crate) fn interested(snapshot: &Snapshot, event: &Event) -> Vec<Key> {
    let key = &event.key;
    match key.resource() {
        "services" => {
            let balanced = |entry: &Option<Entry>| entry.as_ref().is_some_and(is_balanced);
            if balanced(&event.before) || balanced(&event.after) { vec![key.clone()] } else { Vec::new() }
        }
        "nodes" => all(&snapshot.state),
        "configmaps" if (key.namespace(), key.name()) == POOL => all(&snapshot.state),
        SLICES => {
            let service = event.subject().and_then(|entry| crate::labels_of(entry).get("kubernetes.io/service-name").cloned());
            let service = service.map(|name| Key::new("services", key.namespace(), &name));
            service.filter(|service| snapshot.state.get(service).is_some_and(is_balanced)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn is_balanced(entry: &Entry) -> bool {
    entry.record.field("spec").is_some_and(|spec| spec["type"] == "LoadBalancer")
}

fn all(state: &State) -> Vec<Key> {
    state.range("services/", None).filter(|(_, entry)| is_balanced(entry)).map(|(key, _)| key.clone()).collect()
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let state = &snapshot.state;
    let service = state.get(key).and_then(|entry| Some((entry, entry.record.typed::<Service>(entry.revision)?)));
    let owned = owned(state, key);
    let Some((entry, service)) = service.filter(|(_, service)| wants_address(service)) else {
        let freed = owned.iter().map(|(address, entry)| Transaction::from(Write::delete(address, entry.revision)));
        return freed.chain(state.get(key).and_then(|entry| told(key, entry, None))).collect();
    };
    let address = match owned.first() {
        Some((address, _)) => address.name().to_string(),
        None => match choose(state, &service) {
            Ok(Some(address)) => address,
            Ok(None) => return Vec::new(),
            Err(why) => return event_once(snapshot, &note(key, &service, "SyncLoadBalancerFailed", why, true), mint).into_iter().collect(),
        },
    };
    let now = owned.first().and_then(|(_, entry)| entry.record.field("node")).and_then(|node| node.as_str().map(String::from));
    let node = announcer(snapshot, key, &service, &address, now.as_deref());
    let place = Key::new(ADDRESSES, "", &address);
    let record =
        Record::from_value(&json!({"metadata": {"name": address}, "service": format!("{}/{}", key.namespace(), key.name()), "node": node}));
    let claim = match owned.first() {
        Some((_, known)) if *known.record == record => None,
        Some((_, known)) => Some(Write::update(&place, known.revision, &known.record, &record)),
        None => Some(Write::create(&place, record)),
    };
    let status = told(key, entry, Some(&address));
    let mut writes: Vec<Write> = claim.into_iter().collect();
    if let Some(status) = status {
        writes.extend(status.writes);
        let note = note(key, &service, "EnsuredLoadBalancer", "Ensured load balancer".into(), false);
        writes.extend(event(&note, mint).writes);
    }
    if writes.is_empty() { Vec::new() } else { vec![Transaction { epoch: 0, writes }] }
}

/// The Service is somebody else's where it names a class.
fn wants_address(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    service.metadata.deletion_timestamp.is_none()
        && spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none())
}

fn owned<'a>(state: &'a State, service: &Key) -> Vec<(&'a Key, &'a Entry)> {
    let owner = json!(format!("{}/{}", service.namespace(), service.name()));
    let of_service = |(_, entry): &(&Key, &Entry)| entry.record.field("service").as_ref() == Some(&owner);
    state.range(OWNED, None).filter(of_service).collect()
}

/// Writes the address into the status, or takes out what stood there.
fn told(key: &Key, entry: &Entry, address: Option<&str>) -> Option<Transaction> {
    let has_own = entry.record.field("spec").is_some_and(|spec| spec["type"] == "LoadBalancer" && spec["loadBalancerClass"].is_string());
    if address.is_none() && has_own {
        return None;
    }
    edit_entry(registry::by_key("services")?, key, entry, |service| {
        service["status"]["loadBalancer"] = match address {
            Some(address) => json!({"ingress": [{"ip": address, "ipMode": "VIP"}]}),
            None => json!({}),
        };
    })
}

/// A free address: the one that is asked for, or the first of the pool. `None` where there is no pool.
fn choose(state: &State, service: &Service) -> Result<Option<String>, String> {
    let Some(pool) = state.get(&Key::new("configmaps", POOL.0, POOL.1)).and_then(|entry| entry.record.field("data")) else {
        return Ok(None);
    };
    let text = pool["addresses"].as_str().unwrap_or_default();
    let ranges = text.split([',', ' ', '\n']).filter(|part| !part.trim().is_empty()).map(|part| range(part.trim()));
    let ranges =
        ranges.collect::<Result<Vec<_>, _>>().map_err(|why| format!("Error syncing load balancer: the pool is malformed: {why}"))?;
    let is_free = |address: &Ipv4Addr| state.get(&Key::new(ADDRESSES, "", &address.to_string())).is_none();
    let mut addresses = ranges.iter().flat_map(|(first, last)| (*first..=*last).map(Ipv4Addr::from));
    let wanted = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.clone()).filter(|ip| !ip.is_empty());
    match wanted {
        None => match addresses.find(is_free) {
            Some(address) => Ok(Some(address.to_string())),
            None => Err("Error syncing load balancer: no address of the pool is free".into()),
        },
        Some(wanted) => match addresses.find(|address| address.to_string() == wanted) {
            Some(address) if is_free(&address) => Ok(Some(wanted)),
            Some(_) => Err(format!("Error syncing load balancer: address {wanted} is in use")),
            None => Err(format!("Error syncing load balancer: address {wanted} is not in the pool")),
        },
    }
}

/// `192.0.2.1`, `192.0.2.1-192.0.2.9`, `192.0.2.0/28`
fn range(text: &str) -> Result<(u32, u32), String> {
    let malformed = || format!("{text:?} is no address, no range and no CIDR");
    let number = |text: &str| text.trim().parse::<Ipv4Addr>().map(u32::from).map_err(|_| malformed());
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (number(first)?, number(last)?);
        return if first <= last { Ok((first, last)) } else { Err(malformed()) };
    }
    let Some((base, bits)) = text.split_once('/') else { return number(text).map(|only| (only, only)) };
    let bits: u32 = bits.parse().ok().filter(|bits| (8..=32).contains(bits)).ok_or_else(malformed)?;
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    let base = number(base)?;
    Ok((base & mask, base | !mask))
}

/// The node that announces an address: the one that does, while it may; else one that its hash leads to, so that
/// addresses are spread.
fn announcer(snapshot: &Snapshot, key: &Key, service: &Service, address: &str, now: Option<&str>) -> Option<String> {
    let is_local = service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local");
    let serving = if is_local { Some(serving(snapshot, key)) } else { None };
    let nodes =
        snapshot.state.range("nodes/", None).filter_map(|(key, entry)| Some((key.name(), entry.record.typed::<Node>(entry.revision)?)));
    let able: Vec<&str> = nodes
        .filter(|(name, node)| is_able(node) && serving.as_ref().is_none_or(|serving| serving.contains(*name)))
        .map(|(name, _)| name)
        .collect();
    if let Some(now) = now.filter(|now| able.contains(now)) {
        return Some(now.into());
    }
    able.into_iter().max_by_key(|name| hash(address, name)).map(String::from)
}

fn hash(address: &str, node: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (address, node).hash(&mut hasher);
    hasher.finish()
}

fn is_able(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let excluded =
        node.metadata.labels.iter().flatten().any(|(label, _)| label == "node.kubernetes.io/exclude-from-external-load-balancers");
    !excluded && { conditions }.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Nodes with an endpoint that is ready.
fn serving(snapshot: &Snapshot, service: &Key) -> BTreeSet<String> {
    let own = snapshot.slices_of(service).filter_map(|(_, entry)| entry.record.typed::<EndpointSlice>(entry.revision));
    let endpoints = own.flat_map(|slice| slice.endpoints.unwrap_or_default());
    let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    ready.filter_map(|endpoint| endpoint.node_name).collect()
}

fn note<'a>(key: &'a Key, service: &'a Service, reason: &'a str, message: String, warning: bool) -> Note<'a> {
    Note { regarding: key, uid: service.metadata.uid.as_deref().unwrap_or_default(), reason, message, component: COMPONENT, warning }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::Liveness;

    fn state(objects: &[(&str, Value)]) -> State {
        let mut state = State::default();
        for (index, (key, object)) in objects.iter().enumerate() {
            let record = Arc::new(Record::from_value(object));
            state.restore(Key::parse(key).expect("a key"), Entry { revision: index as u64 + 1, record });
        }
        state
    }

    fn pool(addresses: &str) -> (&'static str, Value) {
        ("configmaps/kube-system/load-balancer", json!({"metadata": {"name": "load-balancer"}, "data": {"addresses": addresses}}))
    }

    fn node(ready: &str) -> Value {
        json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn service(spec: Value) -> Value {
        let mut service = json!({"metadata": {"name": "w", "namespace": "d", "uid": "u"}, "spec": {"type": "LoadBalancer"}});
        service["spec"].as_object_mut().expect("a map").extend(spec.as_object().cloned().unwrap_or_default());
        service
    }

    /// The keys that are written, the address in the status, and the reason of an Event.
    fn check(objects: &[(&str, Value)], expected: &[&str]) {
        let state = state(objects);
        let now = jiff::Timestamp::from_second(1000).expect("a time");
        let mut mint = Mint::new(now, 1, Liveness::default());
        let transactions = reconcile(&Snapshot::of(&state), &Key::new("services", "d", "w"), &mut mint);
        let writes = transactions.iter().flat_map(|t| &t.writes).map(|write| write.key.split('.').next().unwrap_or_default().to_string());
        let found: Vec<String> = writes.map(|key| key.trim_start_matches("loadbalancerips").to_string()).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        let keys: Vec<String> = transactions.iter().flat_map(|t| &t.writes).map(|write| write.key.clone()).collect();
        assert!(keys.iter().zip(expected).all(|(key, wanted)| key.starts_with(wanted)), "{keys:?}");
    }

    #[test]
    fn an_address_comes_with_the_status() {
        let name = ("services/d/w", service(json!({})));
        let claim = |ip: &str| format!("loadbalancerips.skein.dev/{ip}");
        let nodes = ("nodes/a", node("True"));
        check(&[name.clone(), nodes.clone()], &[]);
        check(&[name.clone(), nodes.clone(), pool("192.0.2.8/30")], &[&claim("192.0.2.8"), "services/d/w", "events/d/w"]);
        let taken = ("loadbalancerips.skein.dev/192.0.2.8", json!({"metadata": {"name": "192.0.2.8"}, "service": "d/other", "node": "a"}));
        check(&[name.clone(), taken.clone(), pool("192.0.2.8-192.0.2.9")], &[&claim("192.0.2.9"), "services/d/w", "events/d/w"]);
        check(&[name.clone(), taken.clone(), pool("192.0.2.8")], &["events/d/w"]);
        check(&[name, pool("nonsense")], &["events/d/w"]);
        let asked = ("services/d/w", service(json!({"loadBalancerIP": "192.0.2.9"})));
        check(&[asked.clone(), pool("192.0.2.0/24")], &[&claim("192.0.2.9"), "services/d/w", "events/d/w"]);
        check(&[asked, pool("192.0.2.1")], &["events/d/w"]);
    }

    #[test]
    fn an_address_moves_with_its_node_and_goes_with_its_service() {
        let mine = ("loadbalancerips.skein.dev/192.0.2.8", json!({"metadata": {"name": "192.0.2.8"}, "service": "d/w", "node": "a"}));
        let mut done = service(json!({}));
        done["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.8", "ipMode": "VIP"}]}});
        let known = ("services/d/w", done);
        let address = "loadbalancerips.skein.dev/192.0.2.8";
        check(&[known.clone(), mine.clone(), ("nodes/a", node("True")), ("nodes/b", node("True"))], &[]);
        check(&[known.clone(), mine.clone(), ("nodes/a", node("Unknown")), ("nodes/b", node("True"))], &[address]);
        check(std::slice::from_ref(&mine), &[address]);
        let (key, mut plain) = known;
        plain["spec"]["type"] = "ClusterIP".into();
        check(&[(key, plain), mine], &[address, "services/d/w"]);
    }
}
