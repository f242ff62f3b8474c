//! Kubernetes objects in protobuf, as typed clients send them, turned into JSON.
//!
//! The envelope is `k8s\0` and a `runtime.Unknown` with apiVersion, kind and the object's bytes. The messages are those
//! of Kubernetes v1.37 (`schema/`, comments removed). Go's JSON differs from protobuf's in a few places, which are all
//! here: times and quantities are text, some messages are inlined into their parents, absent and zero are the same.

pub mod openapi;

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value as Field};
use serde_json::{Map, Value, json};

/// What every protobuf body of Kubernetes begins with.
const MAGIC: &[u8] = b"k8s\0";

pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kubernetes.bin"));

#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("the body does not begin with k8s\\0")]
    Magic,
    #[error("{0}")]
    Encoding(#[from] prost::DecodeError),
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    Kind { api_version: String, kind: String },
}

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

/// Numbers and flags that are pointers in Go: zero is a value there, and is kept.
const POINTERS: &[&str] = &[
    "replicas",
    "terminationGracePeriodSeconds",
    "gracePeriodSeconds",
    "revisionHistoryLimit",
    "progressDeadlineSeconds",
    "tolerationSeconds",
    "runAsUser",
    "runAsGroup",
    "fsGroup",
    "priority",
    "defaultMode",
    "mode",
    "activeDeadlineSeconds",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "allowPrivilegeEscalation",
    "runAsNonRoot",
    "controller",
    "blockOwnerDeletion",
    "optional",
    "immutable",
    "orphanDependents",
    "readOnlyRootFilesystem",
    "privileged",
    "publishNotReadyAddresses",
    "allocateLoadBalancerNodePorts",
    "shareProcessNamespace",
    "ready",
    "serving",
    "terminating",
];

/// Fields whose message is part of its parent in JSON (`json:",inline"`).
const INLINE: &[&str] = &["volumeSource", "persistentVolumeSource", "localObjectReference", "handler", "ephemeralContainerCommon"];

/// An object in protobuf, as JSON with its apiVersion and kind.
pub fn to_json(body: &[u8]) -> Result<Value, Malformed> {
    let unknown = Unknown::decode(body.strip_prefix(MAGIC).ok_or(Malformed::Magic)?)?;
    let TypeMeta { api_version, kind } = unknown.type_meta.unwrap_or_default();
    let name = message_name(&api_version, &kind);
    let descriptor =
        pool().get_message_by_name(&name).ok_or_else(|| Malformed::Kind { api_version: api_version.clone(), kind: kind.clone() })?;
    let message = DynamicMessage::decode(descriptor, unknown.raw.as_slice())?;
    let mut object = json!({"apiVersion": api_version, "kind": kind});
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), convert(&message)) {
        object.extend(fields);
    }
    Ok(object)
}

/// Whether objects of this kind can be read: every resource that is served must be.
pub fn knows(api_version: &str, kind: &str) -> bool {
    pool().get_message_by_name(&message_name(api_version, kind)).is_some()
}

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).expect("the descriptors were compiled with this crate"))
}

/// `apps/v1`, `Deployment` → `k8s.io.api.apps.v1.Deployment`; options of requests are apimachinery's in every group.
fn message_name(api_version: &str, kind: &str) -> String {
    if kind.ends_with("Options") && kind != "PodLogOptions" {
        return format!("k8s.io.apimachinery.pkg.apis.meta.v1.{kind}");
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let package = match group {
        "apiextensions.k8s.io" => "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions",
        "apiregistration.k8s.io" => "k8s.io.kube_aggregator.pkg.apis.apiregistration",
        _ => &format!("k8s.io.api.{}", group.split('.').next().unwrap_or(group)),
    };
    format!("{package}.{version}.{kind}")
}

fn convert(message: &DynamicMessage) -> Value {
    let descriptor = message.descriptor();
    let text = |name: &str| message.get_field_by_name(name).and_then(|f| f.as_str().map(String::from)).unwrap_or_default();
    let number = |name: &str| message.get_field_by_name(name).and_then(|f| f.as_i64().or(f.as_i32().map(i64::from))).unwrap_or(0);
    match descriptor.full_name() {
        "k8s.io.apimachinery.pkg.apis.meta.v1.Time" | "k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime" => {
            time(number("seconds"), number("nanos"))
        }
        "k8s.io.apimachinery.pkg.api.resource.Quantity" => text("string").into(),
        "k8s.io.apimachinery.pkg.util.intstr.IntOrString" if number("type") == 0 => number("intVal").into(),
        "k8s.io.apimachinery.pkg.util.intstr.IntOrString" => text("strVal").into(),
        "k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1" => raw(message, "Raw"),
        "k8s.io.apimachinery.pkg.runtime.RawExtension" => raw(message, "raw"),
        _ => fields(message),
    }
}

fn fields(message: &DynamicMessage) -> Value {
    let mut map = Map::new();
    for (field, value) in message.fields() {
        let converted = convert_value(value);
        if INLINE.contains(&field.name()) && matches!(field.kind(), Kind::Message(_)) {
            map.extend(converted.as_object().cloned().unwrap_or_default());
        } else if !is_absent(&field, &converted) {
            map.insert(field.name().to_string(), converted);
        }
    }
    Value::Object(map)
}

/// Go writes zero values of fields that are not pointers; in JSON they are left out.
fn is_absent(field: &FieldDescriptor, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0) && !POINTERS.contains(&field.name()),
        Value::Bool(flag) => !flag && !POINTERS.contains(&field.name()),
        Value::Array(list) => list.is_empty(),
        Value::Object(_) => false,
    }
}

fn convert_value(value: &Field) -> Value {
    match value {
        Field::List(list) => Value::Array(list.iter().map(convert_value).collect()),
        Field::Map(map) => {
            Value::Object(map.iter().map(|(key, item)| (key.as_str().unwrap_or_default().to_string(), convert_value(item))).collect())
        }
        Field::Message(message) => convert(message),
        Field::Bool(flag) => (*flag).into(),
        Field::I32(number) => (*number).into(),
        Field::I64(number) => (*number).into(),
        Field::U32(number) => (*number).into(),
        Field::U64(number) => (*number).into(),
        Field::F32(number) => (*number).into(),
        Field::F64(number) => (*number).into(),
        Field::String(text) => text.clone().into(),
        Field::Bytes(bytes) => STANDARD.encode(bytes).into(),
        Field::EnumNumber(number) => (*number).into(),
    }
}

fn raw(message: &DynamicMessage, name: &str) -> Value {
    let bytes = message.get_field_by_name(name).and_then(|f| f.as_bytes().cloned()).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

fn time(seconds: i64, nanos: i64) -> Value {
    let at = jiff::Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0)).ok().filter(|_| seconds != 0);
    at.map_or(Value::Null, |at| at.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enveloped(api_version: &str, kind: &str, object: &DynamicMessage) -> Vec<u8> {
        let type_meta = Some(TypeMeta { api_version: api_version.into(), kind: kind.into() });
        let unknown = Unknown { type_meta, raw: object.encode_to_vec() };
        [MAGIC, &unknown.encode_to_vec()].concat()
    }

    #[test]
    fn reads_what_typed_clients_send() {
        let mut map = DynamicMessage::new(pool().get_message_by_name("k8s.io.api.core.v1.ConfigMap").expect("a message"));
        let mut metadata =
            DynamicMessage::new(pool().get_message_by_name("k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("a message"));
        metadata.set_field_by_name("name", Field::String("a".into()));
        metadata.set_field_by_name("generateName", Field::String(String::new()));
        metadata.set_field_by_name("generation", Field::I64(0));
        map.set_field_by_name("metadata", Field::Message(metadata));
        let json = to_json(&enveloped("v1", "ConfigMap", &map)).expect("a ConfigMap");
        assert_eq!(json, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}));
    }

    #[test]
    fn inlines_and_writes_text() {
        let mut value = DynamicMessage::new(pool().get_message_by_name("k8s.io.api.core.v1.Probe").expect("a message"));
        let mut handler = DynamicMessage::new(pool().get_message_by_name("k8s.io.api.core.v1.ProbeHandler").expect("a message"));
        let mut get = DynamicMessage::new(pool().get_message_by_name("k8s.io.api.core.v1.HTTPGetAction").expect("a message"));
        let mut port =
            DynamicMessage::new(pool().get_message_by_name("k8s.io.apimachinery.pkg.util.intstr.IntOrString").expect("a message"));
        port.set_field_by_name("intVal", Field::I32(80));
        get.set_field_by_name("port", Field::Message(port));
        handler.set_field_by_name("httpGet", Field::Message(get));
        value.set_field_by_name("handler", Field::Message(handler));
        assert_eq!(convert(&value), json!({"httpGet": {"port": 80}}));
    }

    #[test]
    fn refuses_what_is_not_kubernetes_protobuf() {
        assert!(matches!(to_json(b"{}"), Err(Malformed::Magic)));
        let empty = DynamicMessage::new(pool().get_message_by_name("k8s.io.api.core.v1.ConfigMap").expect("a message"));
        assert!(matches!(to_json(&enveloped("v1", "Nonsense", &empty)), Err(Malformed::Kind { .. })));
    }
}
