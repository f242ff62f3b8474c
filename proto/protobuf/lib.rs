//! Kubernetes objects in protobuf, as typed clients send and ask for them, and the JSON that they stand for.
//!
//! The envelope is `k8s\0` and a `runtime.Unknown` with apiVersion, kind and the object's bytes. The messages are those
//! of Kubernetes v1.37 (`schema/`, comments removed). Where Go's JSON differs from protobuf's, [`message`] knows: times
//! and quantities are text, some messages are inlined into their parents, zero is left out unless it says something.
//!
//! ```text
//!   protobuf ── decode ──▶ JSON      message: the tables that both follow
//!   protobuf ◀── encode ── JSON
//! ```

mod decode;
mod encode;
mod message;
pub mod openapi;

use std::borrow::Cow;

use prost::Message as _;
use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use encode::Fields;
use message::Message;

/// What every protobuf body of Kubernetes begins with.
const MAGIC: &[u8] = b"k8s\0";

pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Events, each with its length before it.
pub const WATCH_CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("the body does not begin with k8s\\0")]
    Magic,
    #[error("{0}")]
    Encoding(#[from] prost::DecodeError),
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    Kind { api_version: String, kind: String },
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

/// What an object says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said<'a> {
    #[serde(borrow)]
    api_version: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

/// `metav1.WatchEvent` as its JSON is written.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// An object in protobuf, as JSON with its apiVersion and kind.
pub fn to_json(body: &[u8]) -> Result<Value, Malformed> {
    let unknown = Unknown::decode(body.strip_prefix(MAGIC).ok_or(Malformed::Magic)?)?;
    let TypeMeta { api_version, kind } = unknown.type_meta.unwrap_or_default();
    let message = find(&api_version, &kind)?;
    let mut object = json!({"apiVersion": api_version, "kind": kind});
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), decode::message(message, &unknown.raw, 0)?) {
        object.extend(fields);
    }
    Ok(object)
}

/// An object's JSON, in protobuf.
pub fn from_json(text: &[u8]) -> Result<Vec<u8>, Malformed> {
    let said: Said<'_> = serde_json::from_slice(text)?;
    let message = find(&said.api_version, &said.kind)?;
    let mut out = Vec::with_capacity(text.len());
    out.extend_from_slice(MAGIC);
    encode::delimited(1, &mut out, |out| {
        encode::bytes(1, said.api_version.as_bytes(), out);
        encode::bytes(2, said.kind.as_bytes(), out);
        Ok::<_, Malformed>(())
    })?;
    encode::delimited(2, &mut out, |out| Fields { message, out }.deserialize(&mut serde_json::Deserializer::from_slice(text)))?;
    // contentEncoding and contentType, which Go writes although they say nothing.
    encode::bytes(3, b"", &mut out);
    encode::bytes(4, b"", &mut out);
    Ok(out)
}

/// A watch's event in JSON, as one frame of a stream in protobuf: its length, and the event without an envelope.
pub fn event_from_json(text: &[u8]) -> Result<Vec<u8>, Malformed> {
    let event: Event<'_> = serde_json::from_slice(text)?;
    let object = from_json(event.object.get().as_bytes())?;
    let mut out = vec![0; 4];
    encode::bytes(1, event.kind.as_bytes(), &mut out);
    encode::delimited(2, &mut out, |out| {
        encode::bytes(1, &object, out);
        Ok::<_, Malformed>(())
    })?;
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

/// Whether objects of this kind have a form in protobuf: every built-in resource has.
pub fn knows(api_version: &str, kind: &str) -> bool {
    find(api_version, kind).is_ok()
}

fn find(api_version: &str, kind: &str) -> Result<&'static Message, Malformed> {
    let found = Message::named(&message_name(api_version, kind));
    found.ok_or_else(|| Malformed::Kind { api_version: api_version.into(), kind: kind.into() })
}

/// `apps/v1`, `Deployment` → `k8s.io.api.apps.v1.Deployment`; what belongs to no group is apimachinery's in every one.
fn message_name(api_version: &str, kind: &str) -> String {
    let is_meta = kind == "Status" || (kind.ends_with("Options") && kind != "PodLogOptions");
    if is_meta || api_version == "meta.k8s.io/v1" {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// To protobuf and back.
    fn returned(object: &Value) -> Value {
        let bytes = from_json(object.to_string().as_bytes()).unwrap_or_else(|why| panic!("{why}: {object}"));
        to_json(&bytes).unwrap_or_else(|why| panic!("{why}: {object}"))
    }

    fn enveloped(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = Some(TypeMeta { api_version: api_version.into(), kind: kind.into() });
        [MAGIC, &Unknown { type_meta, raw: raw.to_vec() }.encode_to_vec()].concat()
    }

    #[test]
    fn reads_what_typed_clients_send() {
        // metadata {name: "a", generateName: "", generation: 0}: Go writes empty values.
        let json = to_json(&enveloped("v1", "ConfigMap", b"\x0a\x07\x0a\x01a\x12\x00\x38\x00")).expect("a ConfigMap");
        assert_eq!(json, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}));
    }

    #[test]
    fn json_returns_as_it_went() {
        let metadata = json!({"name": "a", "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"k": "v", "": ""},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {"f:x": {}}}}]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {
            "terminationGracePeriodSeconds": 0, "priority": 0, "hostNetwork": true,
            "volumes": [{"name": "v", "hostPath": {"path": "/x", "type": ""}}, {"name": "c", "configMap": {"name": "c", "defaultMode": 420}}],
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 5},
                "readinessProbe": {"httpGet": {"port": "http"}},
                "envFrom": [{"secretRef": {"name": "s"}}], "securityContext": {"privileged": false}}],
            "ephemeralContainers": [{"name": "e", "image": "i", "targetContainerName": "c"}]},
            "status": {"containerStatuses": [{"name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": ""}]}});
        assert_eq!(returned(&pod), pod);
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"},
            "spec": {"renewTime": "2026-01-02T03:04:05.000006Z", "leaseTransitions": 0}});
        assert_eq!(returned(&lease), lease);
        let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "a"},
            "webhooks": [{"name": "w", "clientConfig": {"caBundle": "AAE="}, "rules": [
                {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "*"}]}]});
        assert_eq!(returned(&hook), hook);
        let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "a"}, "spec": {"rules": [
            {"host": "h", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}});
        assert_eq!(returned(&ingress), ingress);
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false, "minProperties": 0, "required": ["a"],
            "properties": {"a": {"type": "array", "items": {"type": "number", "maximum": 1.5, "minimum": 1.0}, "default": [1, {"x": null}]},
                "b": {"type": "object", "additionalProperties": true}, "c": {"additionalProperties": {"type": "string", "enum": ["x"]}}}});
        let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "a"},
            "spec": {"group": "g", "scope": "Cluster", "names": {"plural": "p", "kind": "P"},
                "versions": [{"name": "v1", "served": false, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        assert_eq!(returned(&crd), crd);
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
            "spec": {"user": "u", "extra": {"k": ["a", "b"], "l": []}}, "status": {"allowed": false}});
        assert_eq!(returned(&review), review);
        let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 404,
            "details": {"name": "x", "causes": [{"reason": "r"}]}});
        assert_eq!(returned(&status), status);
    }

    #[test]
    fn lists_and_events_have_their_frames() {
        let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"},
            "items": [{"metadata": {"name": "a"}, "data": {"k": "v"}, "binaryData": {"b": "AAE="}}]});
        assert_eq!(returned(&list), list);
        let frame = event_from_json(br#"{"type":"ADDED","object":{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}}"#)
            .expect("an event");
        assert_eq!(u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize, frame.len() - 4);
        assert_eq!(&frame[4..11], b"\x0a\x05ADDED");
    }

    #[test]
    fn refuses_what_it_cannot_carry() {
        assert!(matches!(to_json(b"{}"), Err(Malformed::Magic)));
        assert!(matches!(to_json(&enveloped("v1", "Nonsense", b"")), Err(Malformed::Kind { .. })));
        assert!(matches!(from_json(br#"{"apiVersion": "x.example/v1", "kind": "Widget"}"#), Err(Malformed::Kind { .. })));
        assert!(to_json(&enveloped("v1", "ConfigMap", b"\x0a\x7f")).is_err(), "cut off");
        assert!(matches!(from_json(br#"{"apiVersion": "v1", "kind": "Pod", "spec": {"priority": "x"}}"#), Err(Malformed::Json(_))));
    }
}
