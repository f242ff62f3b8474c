//! Services, Endpoints and EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::at::{At, ip};
use super::{immutable, network};
use crate::field::{Errors, Path, Problem};
use crate::names;

pub fn service(service: &Value, old: Option<&Value>, errors: &mut Errors) {
    const KINDS: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    let path = Path::new("spec");
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let at = At::new(spec, &path);
    let kind = at.str("type");
    at.one_of("type", &KINDS, errors);
    let is_headless = at.str("clusterIP") == "None";
    if kind == "ExternalName" {
        for field in ["clusterIPs", "ipFamilies"].into_iter().filter(|field| at.count(field) > 0) {
            errors.forbidden(&at.child(field), "may not be set for ExternalName services");
        }
        if at.given("ipFamilyPolicy").is_some() {
            errors.forbidden(&at.child("ipFamilyPolicy"), "may not be set for ExternalName services");
        }
        let name = at.str("externalName").trim_end_matches('.');
        if name.is_empty() {
            errors.required(&at.child("externalName"), "");
        } else {
            errors.judge(&at.child("externalName"), name, names::subdomain(name));
        }
    } else {
        if at.count("ports") == 0 && !is_headless {
            errors.required(&at.child("ports"), "");
        }
        addresses(&at, old.is_none(), errors);
    }
    if is_headless && matches!(kind, "NodePort" | "LoadBalancer") {
        errors.invalid(&at.child("clusterIPs").index(0), "None", &format!("may not be set to 'None' for {kind} services"));
    }
    crate::meta::validate_labels(spec.get("selector"), &at.child("selector"), errors);
    ports(&at, kind, errors);
    affinity(&at, errors);
    for address in at.each("externalIPs") {
        let before = errors.len();
        let text = address.value.as_str().unwrap_or_default();
        ip(text, &address.path, errors);
        if errors.len() == before {
            endpoint_ip(text, &address.path, errors);
        }
    }
    load_balancer(&at, kind, errors);
    traffic(&at, kind, errors);
    if let Some(old) = old {
        let (before, after) = (old.pointer("/spec/clusterIP").and_then(Value::as_str).unwrap_or_default(), at.str("clusterIP"));
        if !before.is_empty() && kind != "ExternalName" && before != after {
            errors.invalid(&at.child("clusterIPs").index(0), json!([after]), "may not change once set");
        }
    }
}

/// `ValidateServiceClusterIPsRelatedFields`
fn addresses(at: &At<'_>, is_new: bool, errors: &mut Errors) {
    let (path, shown) = (at.child("clusterIPs"), || at.value.get("clusterIPs").cloned().unwrap_or_default());
    let all: Vec<At<'_>> = at.each("clusterIPs").collect();
    if is_new && at.str("clusterIP").is_empty() && !all.is_empty() {
        errors.invalid(&path, shown(), "must be empty when `clusterIP` is not specified");
    }
    if is_new && all.first().is_some_and(|first| !at.str("clusterIP").is_empty() && first.value != at.str("clusterIP")) {
        errors.invalid(&path, shown(), "first value must match `clusterIP`");
    }
    for (index, family) in at.each("ipFamilies").enumerate() {
        if family.value != "IPv4" && family.value != "IPv6" {
            errors.unsupported(&family.path, family.value.clone(), &["IPv4", "IPv6"]);
        }
        if at.each("ipFamilies").take(index).any(|before| before.value == family.value) {
            errors.duplicate(&family.path, family.value.clone());
        }
    }
    at.supported("ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"], errors);
    for (index, one) in all.iter().enumerate() {
        match one.value.as_str().unwrap_or_default() {
            "None" if index == 0 && all.len() > 1 => errors.invalid(&path, shown(), "'None' must be the first and only value"),
            "None" if index == 0 => {}
            text => ip(text, &one.path, errors),
        }
    }
    for (index, (one, family)) in all.iter().zip(at.each("ipFamilies")).enumerate() {
        let (Ok(address), Some(family)) = (one.value.as_str().unwrap_or_default().parse::<IpAddr>(), family.value.as_str()) else {
            continue;
        };
        if matches!((address, family), (IpAddr::V4(_), "IPv6") | (IpAddr::V6(_), "IPv4")) {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.invalid(&one.path, one.value.clone(), &why);
        }
    }
    // One that was not said is the first of the other field.
    if all.is_empty() && !matches!(at.str("clusterIP"), "" | "None") {
        ip(at.str("clusterIP"), &path.index(0), errors);
    }
    if all.len() > 2 {
        errors.invalid(&path, shown(), "may only hold up to 2 values");
    }
}

fn ports(at: &At<'_>, kind: &str, errors: &mut Errors) {
    let count = at.count("ports");
    let (mut names_seen, mut numbers_seen, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in at.each("ports") {
        let (name, protocol) = (port.str("name"), port.str("protocol"));
        if name.is_empty() && count > 1 {
            errors.required(&port.child("name"), "");
        }
        port.named("name", names::dns1123_label, errors);
        if !name.is_empty() && !names_seen.insert(name) {
            errors.duplicate(&port.child("name"), name);
        }
        port.port("port", errors);
        port.one_of("protocol", &["SCTP", "TCP", "UDP"], errors);
        if port.given("targetPort").is_some() {
            port.port("targetPort", errors);
        }
        port.named("appProtocol", names::qualified_name, errors);
        let (number, node_port) = (port.int("port"), port.int("nodePort"));
        if node_port != 0 && kind == "ClusterIP" {
            errors.forbidden(&port.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            errors.duplicate(&port.child("nodePort"), node_port);
        }
        if !numbers_seen.insert((protocol, number)) {
            errors.duplicate(&port.path, json!({"port": number, "protocol": protocol}));
        }
    }
}

fn affinity(at: &At<'_>, errors: &mut Errors) {
    const SECONDS_MAX: i64 = 86_400;
    at.one_of("sessionAffinity", &["ClientIP", "None"], errors);
    let config = at.given("sessionAffinityConfig");
    match (at.str("sessionAffinity"), config) {
        ("None", Some(config)) => errors.forbidden(&config.path, "must not be set when session affinity is None"),
        ("ClientIP", config) => {
            let when = "when session affinity type is ClientIP";
            let path = at.child("sessionAffinityConfig");
            let client = config.as_ref().and_then(|config| config.given("clientIP"));
            match (config, client) {
                (None, _) => errors.required(&path, when),
                (Some(_), None) => errors.required(&path.child("clientIP"), when),
                (Some(_), Some(client)) if client.given("timeoutSeconds").is_none() => {
                    errors.required(&client.child("timeoutSeconds"), when);
                }
                (Some(_), Some(client)) => {
                    let why = format!("must be greater than 0 and less than {SECONDS_MAX}");
                    client.number("timeoutSeconds", 1..=SECONDS_MAX, &why, errors);
                }
            }
        }
        _ => {}
    }
}

fn load_balancer(at: &At<'_>, kind: &str, errors: &mut Errors) {
    let is_balancer = kind == "LoadBalancer";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let path = at.child("LoadBalancerSourceRanges");
    if at.count("loadBalancerSourceRanges") > 0 && !is_balancer {
        errors.forbidden(&path, only);
    }
    for (index, range) in at.each("loadBalancerSourceRanges").enumerate() {
        network::cidr(range.value.as_str().unwrap_or_default().trim(), &path.index(index), errors);
    }
    if at.given("allocateLoadBalancerNodePorts").is_some() && !is_balancer {
        errors.forbidden(&at.child("allocateLoadBalancerNodePorts"), only);
    }
    if at.given("loadBalancerClass").is_some() {
        if is_balancer {
            errors.judge(&at.child("loadBalancerClass"), at.str("loadBalancerClass"), names::qualified_name(at.str("loadBalancerClass")));
        } else {
            errors.forbidden(&at.child("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'");
        }
    }
}

fn traffic(at: &At<'_>, kind: &str, errors: &mut Errors) {
    let is_external = matches!(kind, "NodePort" | "LoadBalancer") || kind == "ClusterIP" && at.count("externalIPs") > 0;
    let policy = at.str("externalTrafficPolicy");
    if is_external {
        at.supported("externalTrafficPolicy", &["Cluster", "Local"], errors);
    } else if !policy.is_empty() {
        errors.invalid(&at.child("externalTrafficPolicy"), policy, "may only be set for externally-accessible services");
    }
    let health = at.int("healthCheckNodePort");
    if health != 0 && (kind != "LoadBalancer" || policy != "Local") {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(&at.child("healthCheckNodePort"), health, why);
    }
    at.supported("internalTrafficPolicy", &["Cluster", "Local"], errors);
    at.supported("trafficDistribution", &["PreferClose", "PreferSameZone", "PreferSameNode"], errors);
}

/// `ValidateEndpointIP`: an address that others can reach.
fn endpoint_ip(text: &str, path: &Path, errors: &mut Errors) {
    let Ok(ip) = text.parse::<IpAddr>() else { return errors.invalid(path, text, "must be a valid IP address") };
    let (is_link_local, is_link_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        errors.invalid(path, text, &format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if is_link_local {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if is_link_multicast {
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

pub fn endpoints(endpoints: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let at = At::new(endpoints, &Path::new(""));
    for subset in at.each("subsets") {
        if subset.count("addresses") == 0 && subset.count("notReadyAddresses") == 0 {
            errors.required(&subset.path, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ["addresses", "notReadyAddresses"].iter().flat_map(|field| subset.each(field)) {
            ip(address.str("ip"), &address.child("ip"), errors);
            endpoint_ip(address.str("ip"), &address.child("ip"), errors);
            address.named("hostname", names::dns1123_label, errors);
            address.named("nodeName", names::subdomain, errors);
        }
        for port in subset.each("ports") {
            if subset.count("ports") > 1 && port.str("name").is_empty() {
                errors.required(&port.child("name"), "");
            }
            port.named("name", names::dns1123_label, errors);
            port.port("port", errors);
            port.one_of("protocol", &["SCTP", "TCP", "UDP"], errors);
            port.named("appProtocol", names::qualified_name, errors);
        }
    }
}

pub fn endpoint_slice(slice: &Value, old: Option<&Value>, errors: &mut Errors) {
    const ENDPOINTS_MAX: usize = 1000;
    const ADDRESSES_MAX: usize = 100;
    const PORTS_MAX: usize = 20_000;
    let at = At::new(slice, &Path::new(""));
    at.one_of("addressType", &["FQDN", "IPv4", "IPv6"], errors);
    if let Some(old) = old {
        immutable(slice, old, "/addressType", &Path::new("addressType"), errors);
    }
    too_many(&at, "endpoints", ENDPOINTS_MAX, errors);
    for endpoint in at.each("endpoints") {
        if endpoint.count("addresses") == 0 {
            errors.required(&endpoint.child("addresses"), "");
        }
        too_many(&endpoint, "addresses", ADDRESSES_MAX, errors);
        for address in endpoint.each("addresses") {
            slice_address(at.str("addressType"), &address, errors);
        }
        endpoint.named("nodeName", names::subdomain, errors);
        endpoint.named("hostname", names::dns1123_label, errors);
        if let Some(hints) = endpoint.given("hints") {
            for (zones, kind) in [("forZones", "zones"), ("forNodes", "nodes")] {
                for (index, one) in hints.each(zones).enumerate() {
                    let name = one.str("name");
                    if hints.each(zones).take(index).any(|before| before.str("name") == name) {
                        errors.duplicate(&one.child("name"), name);
                    }
                    if kind == "zones" {
                        errors.judge(&one.child("name"), name, names::label_value(name));
                    } else {
                        errors.judge(&one.child("name"), name, names::subdomain(name));
                    }
                }
            }
        }
    }
    too_many(&at, "ports", PORTS_MAX, errors);
    for (index, port) in at.each("ports").enumerate() {
        let name = port.str("name");
        if at.each("ports").take(index).any(|before| before.str("name") == name) {
            errors.duplicate(&port.child("name"), name);
        }
        port.named("name", names::dns1123_label, errors);
        port.one_of("protocol", &["SCTP", "TCP", "UDP"], errors);
        port.named("appProtocol", names::qualified_name, errors);
    }
}

fn slice_address(kind: &str, address: &At<'_>, errors: &mut Errors) {
    let text = address.value.as_str().unwrap_or_default();
    match kind {
        "IPv4" | "IPv6" => {
            let before = errors.len();
            ip(text, &address.path, errors);
            let is_other_family = text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() != (kind == "IPv4"));
            if is_other_family {
                errors.invalid(&address.path, text, &format!("must be an {kind} address"));
            }
            if errors.len() == before {
                endpoint_ip(text, &address.path, errors);
            }
        }
        "FQDN" => {
            errors.judge(&address.path, text, names::subdomain(text));
            if !text.contains('.') {
                errors.invalid(&address.path, text, "should be a domain with at least two segments separated by dots");
            }
        }
        _ => {}
    }
}

fn too_many(at: &At<'_>, field: &str, most: usize, errors: &mut Errors) {
    let found = at.count(field);
    if found > most {
        errors.add(&at.child(field), Problem::TooMany { found, most });
    }
}
