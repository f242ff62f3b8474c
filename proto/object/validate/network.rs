//! Rules of Ingresses (`pkg/apis/networking/validation`).

use serde_json::Value;

use super::{list, text};
use crate::field::{Errors, Path};
use crate::names;

pub fn ingress(ingress: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let Some(spec) = ingress.get("spec") else { return };
    let path = Path::new("spec");
    if list(spec, "rules").is_empty() && spec.get("defaultBackend").is_none_or(Value::is_null) {
        errors.invalid(&path, Value::Null, "either `defaultBackend` or `rules` must be specified");
    }
    for (index, rule) in list(spec, "rules").iter().enumerate() {
        let path = path.child("rules").index(index);
        let host = text(rule, "host");
        if !host.is_empty() && host.parse::<std::net::IpAddr>().is_ok() {
            errors.invalid(&path.child("host"), host, "must be a DNS name, not an IP address");
        } else if !host.is_empty()
            && let Err(why) = names::subdomain(host.strip_prefix("*.").unwrap_or(host))
        {
            errors.invalid(&path.child("host"), host, &why);
        }
        let Some(http) = rule.get("http") else { continue };
        let path = path.child("http").child("paths");
        if list(http, "paths").is_empty() {
            errors.required(&path, "");
        }
        for (index, entry) in list(http, "paths").iter().enumerate() {
            validate_path(entry, &path.index(index), errors);
        }
    }
}

fn validate_path(entry: &Value, path: &Path, errors: &mut Errors) {
    let (location, kind) = (text(entry, "path"), text(entry, "pathType"));
    match kind {
        "" => errors.required(&path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" if !location.starts_with('/') => {
            errors.invalid(&path.child("path"), location, "must be an absolute path");
        }
        "Exact" | "Prefix" | "ImplementationSpecific" => {}
        other => errors.unsupported(&path.child("pathType"), other, &["Exact", "Prefix", "ImplementationSpecific"]),
    }
    let backend = entry.get("backend").cloned().unwrap_or_default();
    let path = path.child("backend");
    if let Some(service) = backend.get("service") {
        if text(service, "name").is_empty() {
            errors.required(&path.child("service").child("name"), "");
        }
        let port = service.get("port").cloned().unwrap_or_default();
        if text(&port, "name").is_empty() && port.get("number").and_then(Value::as_i64).unwrap_or(0) == 0 {
            errors.required(&path.child("service").child("port"), "port name or number is required");
        }
    }
}
