//! Services: their ClusterIPs and node ports.
//!
//! Uniqueness is a key in the state: a Service is written in one transaction with the keys of what it claims, each on
//! the condition that it is absent. Two nodes that choose the same address at the same time cannot both succeed.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use skein_command::{Expect, Write};
use skein_object::claim::{self, CLUSTER_IPS};
use skein_object::field::{Errors, Path};
use skein_object::{Key, Record, Resource, Status, meta};

use crate::Context;

const NODE_PORT_MIN: u16 = 30_000;
const NODE_PORT_MAX: u16 = 32_767;

/// Random draws before the range counts as full.
const DRAWS: usize = 256;

/// An IPv4 range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    first: u32,
    size: u32,
}

// === impl Range ===

impl Range {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let bits: u32 = prefix.parse().ok().filter(|b| (8..=30).contains(b))?;
        let size = 1u32 << (32 - bits);
        Some(Self { first: u32::from(address.parse::<Ipv4Addr>().ok()?) & !(size - 1), size })
    }

    fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address).wrapping_sub(self.first) < self.size
    }

    /// A random address above the first sixteen, which stay free for addresses that are chosen by hand.
    fn draw(self) -> Ipv4Addr {
        Ipv4Addr::from(self.first + rand::random_range(16.min(self.size - 2)..self.size - 1))
    }
}

/// What a Service claims beyond what `old` has, filled into the object; nothing for other kinds.
pub(crate) fn claims(context: &Context, resource: &Resource, service: &mut Value, old: Option<&Value>) -> Result<Vec<Write>, Status> {
    if resource.stored() != "services" {
        return Ok(Vec::new());
    }
    let before = old.map(claimed_keys).unwrap_or_default();
    let owner = format!("{}/{}", meta::text(service, "namespace"), meta::name(service));
    let state = context.store.local().state;
    let is_free = |key: &Key| state.get(key).is_none();
    fill_cluster_ip(context, resource, service, old, &is_free)?;
    fill_node_ports(service, &is_free);
    let now = claimed_keys(service);
    let claim = |key: &Key| Write::create(key, Record::from_value(&json!({"metadata": {"name": key.name()}, "service": owner})));
    let new = now.iter().filter(|key| !before.contains(key)).map(claim);
    let gone = before.iter().filter(|key| !now.contains(key)).map(release);
    Ok(new.chain(gone).collect())
}

/// What a Service that is deleted gives back.
pub(crate) fn releases(resource: &Resource, service: &Value) -> Vec<Write> {
    if resource.stored() != "services" {
        return Vec::new();
    }
    claimed_keys(service).iter().map(release).collect()
}

/// Whether another address may be tried: the client named none.
pub(crate) fn may_retry(service: &Value) -> bool {
    text(service, "/spec/clusterIP").is_empty()
}

pub(crate) fn taken(resource: &Resource, service: &Value) -> Status {
    let mut errors = Errors::default();
    let address = text(service, "/spec/clusterIP");
    errors.invalid(&Path::new("spec.clusterIPs").index(0), json!([address]), "failed to allocate IP: provided IP is already allocated");
    Status::invalid(resource, meta::name(service), errors)
}

fn release(key: &Key) -> Write {
    Write { expect: Some(Expect::Present(true)), ..Write::delete(key, 0) }
}

fn claimed_keys(service: &Value) -> Vec<Key> {
    claim::of_service(&service["spec"])
}

fn fill_cluster_ip(
    context: &Context,
    resource: &Resource,
    service: &mut Value,
    old: Option<&Value>,
    is_free: &dyn Fn(&Key) -> bool,
) -> Result<(), Status> {
    let external = text(service, "/spec/type") == "ExternalName";
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    if external {
        spec.shift_remove("clusterIP");
        spec.shift_remove("clusterIPs");
        return Ok(());
    }
    let mut address = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_string();
    if address.is_empty() {
        address = old.map(|old| text(old, "/spec/clusterIP").to_string()).unwrap_or_default();
    }
    let range = context.cluster_ip_range;
    if address.is_empty() {
        let drawn = (0..DRAWS).map(|_| range.draw().to_string()).find(|a| is_free(&Key::new(CLUSTER_IPS, "", a)));
        address = drawn.ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
    } else if address != "None" && !address.parse().is_ok_and(|a| range.contains(a)) {
        let mut errors = Errors::default();
        errors.invalid(
            &Path::new("spec.clusterIPs").index(0),
            json!([address]),
            "failed to allocate IP: the provided network does not match the current range",
        );
        return Err(Status::invalid(resource, meta::name(service), errors));
    }
    spec.insert("clusterIPs".into(), json!([address]));
    spec.insert("clusterIP".into(), address.into());
    Ok(())
}

fn fill_node_ports(service: &mut Value, is_free: &dyn Fn(&Key) -> bool) {
    let wanted = matches!(text(service, "/spec/type"), "NodePort" | "LoadBalancer");
    let ports = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten();
    for port in ports.filter_map(Value::as_object_mut) {
        if !wanted {
            port.shift_remove("nodePort");
            continue;
        }
        if port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) > 0 {
            continue;
        }
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
        let draws = (0..DRAWS).map(|_| rand::random_range(NODE_PORT_MIN..=NODE_PORT_MAX));
        if let Some(number) = { draws }.find(|number| is_free(&claim::node_port(protocol, u64::from(*number)))) {
            port.insert("nodePort".into(), number.into());
        }
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_they_draw() {
        let range = Range::parse("10.96.0.0/16").expect("a range");
        assert!((0..1000).all(|_| range.contains(range.draw())));
        assert!(!range.contains(Ipv4Addr::new(10, 97, 0, 1)));
        assert_eq!(Range::parse("10.96.0.0"), None);
    }
}
