//! Ingresses, their classes and NetworkPolicies (`pkg/apis/networking/validation`).

use std::net::IpAddr;

use serde_json::Value;

use super::at::At;
use super::{label_selector, prefixed_path};
use crate::field::{Errors, Path, Problem};
use crate::names;

pub fn ingress(ingress: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = ingress.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    if at.count("rules") == 0 && at.given("defaultBackend").is_none() {
        errors.invalid(
            &at.path,
            at.value.get("rules").cloned().unwrap_or_default(),
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if let Some(default) = at.given("defaultBackend") {
        backend(&default, errors);
    }
    for rule in at.each("rules") {
        let host = rule.str("host");
        if host.parse::<IpAddr>().is_ok() {
            errors.invalid(&rule.child("host"), host, "must be a DNS name, not an IP address");
        }
        rule.named("host", host_name, errors);
        let Some(http) = rule.given("http") else { continue };
        http.require(&["paths"], errors);
        http.each("paths").for_each(|one| ingress_path(&one, errors));
    }
    for tls in at.each("tls") {
        for host in tls.each("hosts") {
            errors.judge(&host.path, host.value.clone(), host_name(host.value.as_str().unwrap_or_default()));
        }
        tls.named("secretName", names::subdomain, errors);
    }
    at.named("ingressClassName", names::subdomain, errors);
}

fn host_name(host: &str) -> names::Verdict {
    if host.contains('*') { names::wildcard(host) } else { names::subdomain(host) }
}

fn ingress_path(at: &At<'_>, errors: &mut Errors) {
    let path = at.str("path");
    match at.str("pathType") {
        "" => return errors.required(&at.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                errors.invalid(&at.child("path"), path, "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| path.contains(**part)) {
                errors.invalid(&at.child("path"), path, &format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].iter().filter(|end| path.ends_with(**end)) {
                errors.invalid(&at.child("path"), path, &format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                errors.invalid(&at.child("path"), path, "must be an absolute path");
            }
        }
        other => errors.unsupported(&at.child("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(&at.given("backend").unwrap_or(At { value: &Value::Null, path: at.child("backend") }), errors);
}

fn backend(at: &At<'_>, errors: &mut Errors) {
    match (at.given("resource"), at.given("service")) {
        (Some(_), Some(_)) => errors.invalid(&at.path, "", "cannot set both resource and service backends"),
        (None, None) => errors.invalid(&at.path, "", "resource or service backend is required"),
        (Some(resource), None) => reference(&resource, errors),
        (None, Some(service)) => {
            service.require_named("name", names::dns1123_label, errors);
            let port = service.given("port").unwrap_or(At { value: &Value::Null, path: service.child("port") });
            match (port.str("name"), port.int("number")) {
                ("", 0) => errors.required(&at.path, "port name or number is required"),
                ("", _) => port.in_range("number", 1..=65535, errors),
                (_, 0) => port.named("name", names::port_name, errors),
                _ => errors.invalid(&at.path, "", "cannot set both port name & port number"),
            }
        }
    }
}

/// An object of any group, by its kind and name.
fn reference(at: &At<'_>, errors: &mut Errors) {
    if let Some(group) = at.given("apiGroup") {
        errors.judge(&group.path, group.value.clone(), names::subdomain(group.value.as_str().unwrap_or_default()));
    }
    at.require_named("kind", names::path_segment, errors);
    at.require_named("name", names::path_segment, errors);
}

pub fn ingress_class(class: &Value, old: Option<&Value>, errors: &mut Errors) {
    const CONTROLLER_BYTES_MAX: usize = 250;
    let spec = class.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    if at.str("controller").len() > CONTROLLER_BYTES_MAX {
        errors.add(&at.child("controller"), Problem::TooLong(CONTROLLER_BYTES_MAX));
    }
    prefixed_path(&at, "controller", errors);
    if let Some(old) = old {
        super::immutable(class, old, "/spec/controller", &at.child("controller"), errors);
    }
    let Some(parameters) = at.given("parameters") else { return };
    reference(&parameters, errors);
    let namespace = parameters.given("namespace");
    match parameters.str("scope") {
        "" => errors.required(&parameters.child("scope"), ""),
        "Namespace" => match namespace {
            None => errors.required(&parameters.child("namespace"), "`parameters.scope` is set to 'Namespace'"),
            Some(name) => errors.judge(&name.path, name.value.clone(), names::dns1123_label(name.value.as_str().unwrap_or_default())),
        },
        "Cluster" => {
            if let Some(namespace) = namespace {
                errors.forbidden(&namespace.path, "`parameters.scope` is set to 'Cluster'");
            }
        }
        other => errors.unsupported(&parameters.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

pub fn ip_address(address: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = address.get("spec").cloned().unwrap_or_default();
    let Some(parent) = At::new(&spec, &Path::new("spec")).given("parentRef") else {
        return errors.required(&Path::new("spec").child("parentRef"), "");
    };
    parent.require(&["resource", "name"], errors);
    parent.named("group", names::subdomain, errors);
    for field in ["resource", "namespace", "name"] {
        parent.named(field, names::path_segment, errors);
    }
}

pub fn service_cidr(range: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = range.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    if at.count("cidrs") == 0 {
        errors.required(&at.child("cidrs"), "at least one CIDR required");
    }
    if at.count("cidrs") > 2 {
        errors.invalid(&at.child("cidrs"), at.value["cidrs"].clone(), "may only hold up to 2 values");
    }
    for one in at.each("cidrs") {
        cidr(one.value.as_str().unwrap_or_default(), &one.path, errors);
    }
}

pub fn policy(policy: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = policy.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    if let Some(selector) = at.given("podSelector") {
        label_selector(selector.value, &selector.path, errors);
    }
    for (way, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in at.each(way) {
            rule.each("ports").for_each(|port| policy_port(&port, errors));
            rule.each(peers).for_each(|peer| policy_peer(&peer, errors));
        }
    }
    if at.count("policyTypes") > 2 {
        errors.invalid(&at.child("policyTypes"), at.value["policyTypes"].clone(), "may not specify more than two policyTypes");
        return;
    }
    for kind in at.each("policyTypes").filter(|kind| kind.value != "Ingress" && kind.value != "Egress") {
        errors.unsupported(&kind.path, kind.value.clone(), &["Ingress", "Egress"]);
    }
}

fn policy_port(at: &At<'_>, errors: &mut Errors) {
    at.supported("protocol", &["TCP", "UDP", "SCTP"], errors);
    let end = at.given("endPort").and_then(|end| end.value.as_i64());
    let mut wrong_end = |end: i64, why: &str| errors.invalid(&at.child("endPort"), end, why);
    match (at.given("port").map(|port| port.value), end) {
        (None, Some(end)) => wrong_end(end, "may not be specified when `port` is not specified"),
        (Some(Value::String(_)), Some(end)) => wrong_end(end, "may not be specified when `port` is non-numeric"),
        (Some(port), Some(end)) => {
            if end < port.as_i64().unwrap_or_default() {
                wrong_end(end, "must be greater than or equal to `port`");
            }
            at.in_range("endPort", 1..=65535, errors);
        }
        (_, None) => {}
    }
    if at.given("port").is_some() {
        at.port("port", errors);
    }
}

fn policy_peer(at: &At<'_>, errors: &mut Errors) {
    let selectors: Vec<At<'_>> = ["podSelector", "namespaceSelector"].iter().filter_map(|field| at.given(field)).collect();
    for selector in &selectors {
        label_selector(selector.value, &selector.path, errors);
    }
    match at.given("ipBlock") {
        None if selectors.is_empty() => errors.required(&at.path, "must specify a peer"),
        None => {}
        Some(block) => {
            if !selectors.is_empty() {
                errors.forbidden(&at.path, "may not specify both ipBlock and another peer");
            }
            block.require(&["cidr"], errors);
            if block.str("cidr").is_empty() {
                return;
            }
            let Some(whole) = cidr(block.str("cidr"), &block.child("cidr"), errors) else { return };
            for except in block.each("except") {
                let text = except.value.as_str().unwrap_or_default();
                let is_subset = |part: (IpAddr, u8)| whole.1 < part.1 && masked(part.0, whole.1) == masked(whole.0, whole.1);
                if cidr(text, &except.path, errors).is_some_and(|part| !is_subset(part)) {
                    errors.invalid(&except.path, text, "must be a strict subset of `cidr`");
                }
            }
        }
    }
}

/// A network, which has no bits beyond its prefix (`IsValidCIDRForLegacyField`).
pub(super) fn cidr(text: &str, path: &Path, errors: &mut Errors) -> Option<(IpAddr, u8)> {
    let parsed = text.split_once('/').and_then(|(ip, length)| Some((ip.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?)));
    let fits = |(ip, length): &(IpAddr, u8)| *length <= if ip.is_ipv4() { 32 } else { 128 };
    let Some((ip, length)) = parsed.filter(fits) else {
        errors.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        return None;
    };
    if masked(ip, length) != ip {
        errors.invalid(path, text, "must not have bits set beyond the prefix length");
    }
    Some((ip, length))
}

fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::from((ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)).to_be_bytes()),
    }
}
