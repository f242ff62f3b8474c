//! Services and EndpointSlices.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{list, one_of, port_number, text};
use crate::field::{Errors, Path};

pub fn service(service: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = service.get("spec").unwrap_or(&Value::Null);
    one_of(spec, "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &path, errors);
    one_of(spec, "sessionAffinity", &["ClientIP", "None"], &path, errors);
    let headless = text(spec, "clusterIP") == "None";
    let kind = text(spec, "type");
    if kind == "ExternalName" {
        if text(spec, "externalName").is_empty() {
            errors.required(&path.child("externalName"), "");
        }
    } else if list(spec, "ports").is_empty() && !headless {
        errors.required(&path.child("ports"), "");
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        errors.invalid(&path.child("clusterIPs").index(0), "None", &format!("may not be set to 'None' for {kind} services"));
    }
    crate::meta::validate_labels(spec.get("selector"), &path.child("selector"), errors);
    ports(spec, &path.child("ports"), errors);
    if let Some(old) = old {
        let (before, after) = (old.pointer("/spec/clusterIP").and_then(Value::as_str).unwrap_or_default(), text(spec, "clusterIP"));
        if !before.is_empty() && kind != "ExternalName" && before != after {
            errors.invalid(&path.child("clusterIPs").index(0), after, "field is immutable");
        }
    }
}

fn ports(spec: &Value, path: &Path, errors: &mut Errors) {
    let ports = list(spec, "ports");
    let (mut names_seen, mut numbers_seen) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(&path.child("name"), "");
            }
        } else if let Err(why) = crate::names::dns1123_label(name) {
            errors.invalid(&path.child("name"), name, &why);
        } else if !names_seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        match port.get("port") {
            None | Some(Value::Null) => errors.required(&path.child("port"), ""),
            Some(number) => port_number(number, &path.child("port"), errors),
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &path, errors);
        port_number(port.get("targetPort").unwrap_or(&Value::Null), &path.child("targetPort"), errors);
        let number = port.get("port").and_then(Value::as_i64).unwrap_or_default();
        if !numbers_seen.insert((text(port, "protocol"), number)) {
            errors.duplicate(&path, serde_json::json!({"port": number, "protocol": text(port, "protocol")}));
        }
    }
}

pub fn endpoint_slice(slice: &Value, old: Option<&Value>, errors: &mut Errors) {
    one_of(slice, "addressType", &["FQDN", "IPv4", "IPv6"], &Path::new(""), errors);
    if let Some(old) = old {
        super::immutable(slice, old, "/addressType", &Path::new("addressType"), errors);
    }
    for (index, endpoint) in list(slice, "endpoints").iter().enumerate() {
        if list(endpoint, "addresses").is_empty() {
            errors.required(&Path::new("endpoints").index(index).child("addresses"), "must contain at least 1 address");
        }
    }
}
