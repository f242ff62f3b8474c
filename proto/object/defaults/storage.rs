//! Defaults of volumes, claims and classes.

use serde_json::{Map, Value, json};

use super::{default, each, fill, object};

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

/// What a claim is filled from is said in two fields, which tell the same where both can (KEP-1495).
pub fn prepare_claim(claim: &mut Value) {
    let Some(spec) = claim.get_mut("spec").and_then(Value::as_object_mut) else { return };
    prepare_source(spec);
}

pub(super) fn prepare_source(spec: &mut Map<String, Value>) {
    let text = |source: &Value, field: &str| source.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_known = |source: &Value| {
        matches!(
            (text(source, "apiGroup").as_str(), text(source, "kind").as_str()),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    if spec.get("dataSource").is_some_and(|source| !is_known(source)) {
        spec.shift_remove("dataSource");
    }
    // Sources in other namespaces are a feature that Kubernetes v1.37 has switched off.
    if spec.get("dataSourceRef").is_some_and(|source| !text(source, "namespace").is_empty()) {
        spec.shift_remove("dataSourceRef");
    }
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => drop(spec.insert("dataSourceRef".into(), source)),
        (None, Some(source)) => drop(spec.insert("dataSource".into(), source)),
        _ => {}
    }
}

pub fn volume(volume: &mut Value) {
    if let Some(spec) = object(volume, "spec") {
        fill(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", "Filesystem");
        super::pod::volume_source(spec);
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
        for request in each(devices, "requests") {
            request.get_mut("exactly").and_then(Value::as_object_mut).into_iter().for_each(device_request);
            each(request, "firstAvailable").for_each(device_request);
        }
    }
}

/// One device, where nothing else is said (SetDefaults_ExactDeviceRequest).
fn device_request(request: &mut Map<String, Value>) {
    fill(request, "allocationMode", "ExactCount");
    if request.get("allocationMode") == Some(&json!("ExactCount")) {
        fill(request, "count", 1);
    }
    for toleration in each(request, "tolerations") {
        fill(toleration, "operator", "Equal");
    }
}

/// Fields of a feature that Kubernetes v1.37 has switched off; what is said there is not kept.
pub fn forget_derived_attributes(claim: &mut Value) {
    for pointer in ["/spec/devices", "/spec/spec/devices"] {
        let Some(devices) = claim.pointer_mut(pointer).and_then(Value::as_object_mut) else { continue };
        for request in each(devices, "requests") {
            let exactly = request.get_mut("exactly").and_then(Value::as_object_mut);
            exactly.into_iter().for_each(|request| drop(request.shift_remove("derivedAttributes")));
            each(request, "firstAvailable").for_each(|request| drop(request.shift_remove("derivedAttributes")));
        }
    }
}

/// Without drivers there is no list.
pub fn csi_node(node: &mut Value) {
    if let Some(drivers) = node.pointer_mut("/spec/drivers").filter(|drivers| **drivers == json!([])) {
        *drivers = Value::Null;
    }
}
