//! Rules of APIServices (`kube-aggregator`).

use serde_json::Value;

use super::at::At;
use super::text;
use crate::field::{Errors, Path};
use crate::{meta, names};

pub fn api_service(service: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = service.get("spec").cloned().unwrap_or_default();
    let (group, version, path) = (text(&spec, "group"), text(&spec, "version"), Path::new("spec"));
    let wanted = format!("{version}.{group}");
    if !meta::name(service).is_empty() && meta::name(service) != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.invalid(&Path::new("metadata.name"), meta::name(service), &why);
    }
    if group.is_empty() && version != "v1" {
        errors.required(&path.child("group"), "only v1 may have an empty group and it better be legacy kube");
    }
    let at = At::new(&spec, &path);
    at.named("group", names::subdomain, errors);
    errors.judge(&path.child("version"), version, names::dns1035_label(version));
    if let Some(service) = at.given("service") {
        service.require(&["name", "namespace"], errors);
        if service.given("port").is_some() && !(1..=65535).contains(&service.int("port")) {
            let why = "port is not valid: must be between 1 and 65535, inclusive";
            errors.invalid(&service.child("port"), service.int("port"), why);
        }
    }
    for (field, most) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let value = spec.get(field).and_then(Value::as_i64).unwrap_or(0);
        if value <= 0 || value > most {
            errors.invalid(&path.child(field), value, &format!("must be positive and less than {most}"));
        }
    }
}
