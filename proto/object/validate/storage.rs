//! Rules of volumes, claims and classes (`pkg/apis/core/validation`, `pkg/apis/storage/validation`).

use serde_json::{Value, json};

use super::{immutable, list, text};
use crate::field::{Errors, Path};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub fn claim(claim: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = claim.get("spec").cloned().unwrap_or_default();
    let path = Path::new("spec");
    access_modes(&spec, &path, "at least 1 access mode is required", errors);
    let storage = spec.pointer("/resources/requests/storage").and_then(Value::as_str);
    match storage.map(str::parse::<crate::quantity::Quantity>) {
        None => errors.required(&path.child("resources").key("storage"), ""),
        Some(Ok(amount)) if amount.milli() <= 0 => {
            let path = path.child("resources").key("storage");
            errors.invalid(&path, storage.unwrap_or_default(), "must be greater than zero");
        }
        Some(_) => {}
    }
    let Some(old) = old else { return };
    let fixed = |claim: &Value| {
        let mut spec = claim.get("spec").cloned().unwrap_or_default();
        if let Some(spec) = spec.as_object_mut() {
            for free in ["resources", "volumeName", "volumeAttributesClassName"] {
                spec.shift_remove(free);
            }
        }
        spec
    };
    let moved = !text(&old["spec"], "volumeName").is_empty() && old["spec"]["volumeName"] != spec["volumeName"];
    if moved || fixed(claim) != fixed(old) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.forbidden(&path, why);
    }
    let amount = |claim: &Value| {
        let text = claim.pointer("/spec/resources/requests/storage").and_then(Value::as_str);
        text.and_then(|t| t.parse::<crate::quantity::Quantity>().ok()).unwrap_or_default()
    };
    if amount(claim) < amount(old) {
        errors.forbidden(&path.child("resources").child("requests").child("storage"), "field can not be less than status.capacity");
    }
}

fn access_modes(spec: &Value, path: &Path, none: &str, errors: &mut Errors) {
    let path = path.child("accessModes");
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        errors.required(&path, none);
    }
    for mode in modes.iter().filter(|m| !ACCESS_MODES.iter().any(|known| m == known)) {
        errors.unsupported(&path, mode.clone(), ACCESS_MODES);
    }
    if modes.len() > 1 && modes.contains(&json!("ReadWriteOncePod")) {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

pub fn capacity(capacity: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let class = text(capacity, "storageClassName");
    if let Err(why) = crate::names::subdomain(class) {
        errors.invalid(&Path::new("storageClassName"), class, &why);
    }
}

pub fn attachment(attachment: &Value, _old: Option<&Value>, errors: &mut Errors) {
    super::required(attachment, &[("spec.attacher", "")], errors);
    let spec = attachment.get("spec").cloned().unwrap_or_default();
    if let Err(why) = crate::names::subdomain(text(&spec, "nodeName")) {
        errors.invalid(&Path::new("spec.nodeName"), text(&spec, "nodeName"), &why);
    }
    let one_source = ["inlineVolumeSpec", "persistentVolumeName"].iter().filter(|f| spec["source"].get(**f).is_some()).count() == 1;
    if !one_source {
        errors.required(&Path::new("spec.source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
    }
}

pub fn volume(volume: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = volume.get("spec").cloned().unwrap_or_default();
    let path = Path::new("spec");
    access_modes(&spec, &path, "", errors);
    let capacity = spec.get("capacity").and_then(Value::as_object).filter(|amounts| !amounts.is_empty());
    if capacity.is_none() {
        errors.required(&path.child("capacity"), "");
    }
    if capacity.is_none_or(|amounts| amounts.len() > 1 || !amounts.contains_key("storage")) {
        errors.unsupported(&path.child("capacity"), spec.get("capacity").cloned().unwrap_or_default(), &["storage"]);
    }
    const PLAIN: &[&str] = &[
        "capacity",
        "accessModes",
        "persistentVolumeReclaimPolicy",
        "volumeMode",
        "storageClassName",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "volumeAttributesClassName",
    ];
    let sources = spec.as_object().into_iter().flatten().filter(|(field, _)| !PLAIN.contains(&field.as_str())).count();
    if sources == 0 {
        errors.required(&path, "must specify a volume type");
    }
    if sources > 1 {
        errors.forbidden(&path, "may not specify more than 1 volume type");
    }
    if spec.get("local").is_some() && spec.get("nodeAffinity").is_none() {
        errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
    }
}

pub fn class(class: &Value, old: Option<&Value>, errors: &mut Errors) {
    if text(class, "provisioner").is_empty() {
        errors.required(&Path::new("provisioner"), "");
    }
    if !matches!(text(class, "reclaimPolicy"), "Delete" | "Retain") {
        errors.unsupported(&Path::new("reclaimPolicy"), text(class, "reclaimPolicy"), &["Delete", "Retain"]);
    }
    if !matches!(text(class, "volumeBindingMode"), "Immediate" | "WaitForFirstConsumer") {
        errors.unsupported(&Path::new("volumeBindingMode"), text(class, "volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
    }
    let Some(old) = old else { return };
    if class.get("parameters") != old.get("parameters") {
        errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
    }
    if class.get("provisioner") != old.get("provisioner") {
        errors.forbidden(&Path::new("provisioner"), "updates to provisioner are forbidden.");
    }
    if class.get("reclaimPolicy") != old.get("reclaimPolicy") {
        errors.forbidden(&Path::new("reclaimPolicy"), "updates to reclaimPolicy are forbidden.");
    }
    immutable(class, old, "/volumeBindingMode", &Path::new("volumeBindingMode"), errors);
}
