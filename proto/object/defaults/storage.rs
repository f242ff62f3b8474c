//! Defaults of volumes, claims and classes.

use serde_json::{Map, Value, json};

use super::{default, fill, object};

pub fn claim(claim: &mut Value) {
    if let Some(spec) = object(claim, "spec") {
        default(spec, "volumeMode", "Filesystem");
        // A limit without a request is the request (SetDefaults_ResourceList).
        if let Some(resources) = spec.get_mut("resources").and_then(Value::as_object_mut)
            && let Some(limits) = resources.get("limits").cloned()
        {
            default(resources, "requests", limits);
        }
    }
    if let Some(status) = object(claim, "status") {
        fill(status, "phase", "Pending");
    }
}

pub fn volume(volume: &mut Value) {
    if let Some(spec) = object(volume, "spec") {
        fill(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", "Filesystem");
        if let Some(path) = spec.get_mut("hostPath").and_then(Value::as_object_mut) {
            default(path, "type", "");
        }
    }
    if let Some(status) = object(volume, "status") {
        fill(status, "phase", "Pending");
    }
}

pub fn class(class: &mut Value) {
    if let Some(map) = class.as_object_mut() {
        default(map, "reclaimPolicy", "Delete");
        default(map, "volumeBindingMode", "Immediate");
    }
}

pub fn csi_driver(driver: &mut Value) {
    let Some(spec) = object(driver, "spec") else { return };
    default(spec, "attachRequired", true);
    default(spec, "podInfoOnMount", false);
    default(spec, "storageCapacity", false);
    default(spec, "requiresRepublish", false);
    default(spec, "seLinuxMount", false);
    default(spec, "preventPodSchedulingIfMissing", false);
    default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
    }
}

/// Requests are there, if only as null, wherever devices are asked for.
pub fn resource_claim(claim: &mut Value) {
    if let Some(spec) = object(claim, "spec") {
        devices(spec);
    }
}

pub fn resource_claim_template(template: &mut Value) {
    let Some(spec) = object(template, "spec") else { return };
    default(spec, "metadata", json!({}));
    default(spec, "spec", json!({}));
    if let Some(spec) = spec.get_mut("spec").and_then(Value::as_object_mut) {
        devices(spec);
    }
}

fn devices(spec: &mut Map<String, Value>) {
    default(spec, "devices", json!({}));
    if let Some(devices) = spec.get_mut("devices").and_then(Value::as_object_mut) {
        devices.entry("requests").or_insert(Value::Null);
    }
}

/// Without drivers there is no list.
pub fn csi_node(node: &mut Value) {
    if let Some(drivers) = node.pointer_mut("/spec/drivers").filter(|drivers| **drivers == json!([])) {
        *drivers = Value::Null;
    }
}
