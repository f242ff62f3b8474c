//! Columns of volumes, classes and devices.

use serde_json::Value;

use super::{Cell, Column, age, column, flag, formatted, items, joined, name, text_or, wide};

const UNSET: &str = "<unset>";

pub(crate) fn claim() -> Vec<Column> {
    vec![
        name(),
        column("Status", "string", |o, _| {
            if crate::meta::is_terminating(o) { "Terminating".into() } else { text_or(o, "/status/phase", "").into() }
        }),
        column("Volume", "string", |o, _| text_or(o, "/spec/volumeName", "").into()),
        column("Capacity", "string", |o, _| bound(o, text_or(o, "/status/capacity/storage", "")).into()),
        column("Access Modes", "string", |o, _| bound(o, access_modes(o, "/status/accessModes")).into()),
        column("StorageClass", "string", |o, _| text_or(o, "/spec/storageClassName", "").into()),
        column("VolumeAttributesClass", "string", |o, _| text_or(o, "/spec/volumeAttributesClassName", UNSET).into()),
        age(),
        wide("VolumeMode", "string", |o, _| text_or(o, "/spec/volumeMode", UNSET).into()),
    ]
}

fn bound(claim: &Value, text: String) -> String {
    if text_or(claim, "/spec/volumeName", "").is_empty() { String::new() } else { text }
}

fn access_modes(object: &Value, pointer: &str) -> String {
    let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    joined(items(object, pointer).iter().map(|m| short(m).to_string()))
}

pub(crate) fn volume() -> Vec<Column> {
    vec![
        name(),
        column("Capacity", "string", |o, _| text_or(o, "/spec/capacity/storage", "").into()),
        column("Access Modes", "string", |o, _| access_modes(o, "/spec/accessModes").into()),
        column("Reclaim Policy", "string", |o, _| text_or(o, "/spec/persistentVolumeReclaimPolicy", "").into()),
        column("Status", "string", |o, _| {
            if crate::meta::is_terminating(o) { "Terminating".into() } else { text_or(o, "/status/phase", "").into() }
        }),
        column("Claim", "string", |o, _| match o.pointer("/spec/claimRef") {
            None => "".into(),
            Some(claim) => format!("{}/{}", text_or(claim, "/namespace", ""), text_or(claim, "/name", "")).into(),
        }),
        column("StorageClass", "string", |o, _| text_or(o, "/spec/storageClassName", "").into()),
        column("VolumeAttributesClass", "string", |o, _| text_or(o, "/spec/volumeAttributesClassName", UNSET).into()),
        column("Reason", "string", |o, _| text_or(o, "/status/reason", "").into()),
        age(),
        wide("VolumeMode", "string", |o, _| text_or(o, "/spec/volumeMode", UNSET).into()),
    ]
}

fn marked_name(class: &Value) -> Value {
    let default = class.pointer("/metadata/annotations/storageclass.kubernetes.io~1is-default-class").and_then(Value::as_str);
    let name = crate::meta::name(class);
    if default == Some("true") { format!("{name} (default)").into() } else { name.into() }
}

pub(crate) fn class() -> Vec<Column> {
    vec![
        Column { cell: Cell::Known(|o, _| marked_name(o)), ..name() },
        column("Provisioner", "string", |o, _| text_or(o, "/provisioner", "").into()),
        column("ReclaimPolicy", "string", |o, _| text_or(o, "/reclaimPolicy", "Delete").into()),
        column("VolumeBindingMode", "string", |o, _| text_or(o, "/volumeBindingMode", "Immediate").into()),
        column("AllowVolumeExpansion", "string", |o, _| flag(o, "/allowVolumeExpansion", false)),
        age(),
    ]
}

pub(crate) fn csi_driver() -> Vec<Column> {
    vec![
        name(),
        column("AttachRequired", "boolean", |o, _| flag(o, "/spec/attachRequired", true)),
        column("PodInfoOnMount", "boolean", |o, _| flag(o, "/spec/podInfoOnMount", false)),
        column("StorageCapacity", "boolean", |o, _| flag(o, "/spec/storageCapacity", false)),
        column("TokenRequests", "string", |o, _| {
            let audiences = joined(items(o, "/spec/tokenRequests").iter().map(|t| text_or(t, "/audience", "")));
            if audiences.is_empty() { UNSET.into() } else { audiences.into() }
        }),
        column("RequiresRepublish", "boolean", |o, _| flag(o, "/spec/requiresRepublish", false)),
        column("Modes", "string", |o, _| {
            let modes = joined(items(o, "/spec/volumeLifecycleModes").iter().map(|m| m.as_str().unwrap_or_default().into()));
            if modes.is_empty() { "<none>".into() } else { modes.into() }
        }),
        age(),
    ]
}

pub(crate) fn csi_node() -> Vec<Column> {
    vec![name(), column("Drivers", "integer", |o, _| items(o, "/spec/drivers").len().into()), age()]
}

pub(crate) fn attachment() -> Vec<Column> {
    vec![
        name(),
        formatted("name", column("Attacher", "string", |o, _| text_or(o, "/spec/attacher", "").into())),
        column("PV", "string", |o, _| text_or(o, "/spec/source/persistentVolumeName", "").into()),
        column("Node", "string", |o, _| text_or(o, "/spec/nodeName", "").into()),
        column("Attached", "boolean", |o, _| flag(o, "/status/attached", false)),
        age(),
    ]
}

pub(crate) fn attributes_class() -> Vec<Column> {
    vec![name(), column("DriverName", "string", |o, _| text_or(o, "/driverName", "").into()), age()]
}

pub(crate) fn device_taint_rule() -> Vec<Column> {
    vec![
        name(),
        column("Key", "string", |o, _| text_or(o, "/spec/taint/key", "").into()),
        column("Value", "string", |o, _| text_or(o, "/spec/taint/value", "").into()),
        column("Effect", "string", |o, _| text_or(o, "/spec/taint/effect", "").into()),
        column("TimeAdded", "string", |o, now| super::since(&text_or(o, "/spec/taint/timeAdded", ""), now).into()),
        age(),
    ]
}

pub(crate) fn resource_claim() -> Vec<Column> {
    vec![
        name(),
        column("State", "string", |o, _| {
            let mut states = Vec::new();
            if crate::meta::is_terminating(o) {
                states.push("deleted");
            }
            if o.pointer("/status/allocation").is_none() {
                states.push("pending");
            } else {
                states.push("allocated");
                if !items(o, "/status/reservedFor").is_empty() {
                    states.push("reserved");
                }
            }
            states.join(",").into()
        }),
        age(),
    ]
}

pub(crate) fn resource_slice() -> Vec<Column> {
    vec![
        name(),
        column("Node", "string", |o, _| text_or(o, "/spec/nodeName", UNSET).into()),
        column("Driver", "string", |o, _| text_or(o, "/spec/driver", "").into()),
        column("Pool", "string", |o, _| text_or(o, "/spec/pool/name", "").into()),
        age(),
    ]
}

pub(crate) fn version_migration() -> Vec<Column> {
    vec![
        formatted("", name()),
        column("Resource", "string", |o, _| {
            let (resource, group) = (text_or(o, "/spec/resource/resource", ""), text_or(o, "/spec/resource/group", ""));
            if group.is_empty() { resource.into() } else { format!("{resource}.{group}").into() }
        }),
        column("Status", "string", |o, _| {
            let holds = items(o, "/status/conditions").iter().find(|c| c["status"] == "True");
            holds.map(|c| text_or(c, "/type", "")).unwrap_or_default().into()
        }),
    ]
}
