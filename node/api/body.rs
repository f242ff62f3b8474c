//! Request bodies: read within bounds, decoded from JSON or YAML, checked against the schema.

mod duplicates;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use skein_object::{Resource, Status, registry};

/// Kubernetes' limit for a request body (`MaxRequestBodyBytes`).
pub(crate) const BODY_BYTES_MAX: usize = 3 << 20;

/// Who shows no credentials has little to say: a join request.
pub(crate) const ANONYMOUS_BYTES_MAX: usize = 64 << 10;

/// What is too much is read and thrown away up to this, so that the client hears why instead of a broken connection.
const DRAIN_BYTES_MAX: usize = 64 << 20;

/// An object at rest is at most this large; etcd's limit, on which users rely.
pub(crate) const OBJECT_BYTES_MAX: usize = 3 << 19;

/// `?fieldValidation=`: what happens to fields that the schema does not have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Status> {
        match text {
            None | Some("" | "Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(Status::failure(
                422,
                "Invalid",
                format!(
                    " \"\" is invalid: fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
                ),
            )),
        }
    }
}

pub(crate) async fn read(body: Incoming, bytes_max: usize) -> Result<Bytes, Status> {
    let mut body = Limited::new(body, DRAIN_BYTES_MAX);
    let mut content = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let data = match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(_)) => continue,
            Err(why) if why.is::<http_body_util::LengthLimitError>() => break,
            Err(why) => return Err(Status::bad_request(format!("cannot read the request's body: {why}"))),
        };
        length += data.len();
        if length <= bytes_max {
            content.extend_from_slice(&data);
        }
    }
    if length > bytes_max {
        return Err(Status::too_large(format!("Request entity too large: limit is {bytes_max}")));
    }
    Ok(content.into())
}

pub(crate) fn content_type(headers: &http::HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Decodes JSON or YAML by its content type.
pub(crate) fn decode(headers: &http::HeaderMap, bytes: &[u8]) -> Result<Value, Status> {
    let malformed =
        |why: &dyn std::fmt::Display| Status::bad_request(format!("the object provided is unrecognized (must be of type Object): {why}"));
    let value: Value = match content_type(headers) {
        "" | "application/json" | "*/*" => serde_json::from_slice(bytes).map_err(|e| malformed(&e))?,
        skein_protobuf::CONTENT_TYPE => skein_protobuf::to_json(bytes).map_err(|e| malformed(&e))?,
        "application/yaml" => serde_yaml_ng::from_slice(bytes).map_err(|e| malformed(&e))?,
        other => return Err(Status::unsupported_media_type(other)),
    };
    if value.is_object() { Ok(value) } else { Err(malformed(&"not an object")) }
}

/// Fields of a JSON body that are there more than once, as `duplicate field "…"`; the last one counts.
pub(crate) fn duplicates(headers: &http::HeaderMap, bytes: &[u8], validation: FieldValidation) -> Vec<String> {
    let is_json = matches!(content_type(headers), "" | "*/*") || content_type(headers).ends_with("json");
    if is_json && validation != FieldValidation::Ignore { duplicates::of(bytes) } else { Vec::new() }
}

/// Refuses YAML that names a field twice, where that is asked for.
pub(crate) fn twice_in_yaml(bytes: &[u8], validation: FieldValidation) -> Result<(), Status> {
    match duplicates::in_yaml(bytes).filter(|_| validation == FieldValidation::Strict) {
        Some(why) => {
            let why = format!("error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {why}");
            Err(Status::bad_request(why))
        }
        None => Ok(()),
    }
}

/// Checks that the body is of the resource's kind and fits its schema; returns warnings about what was dropped.
/// `duplicates` are what is wrong with its fields already.
pub(crate) fn conform(
    value: &mut Value,
    resource: &Resource,
    validation: FieldValidation,
    duplicates: Vec<String>,
) -> Result<Vec<String>, Status> {
    let (api_version, kind) = (resource.api_version(), resource.kind);
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
    let (got_version, got_kind) = (text("apiVersion"), text("kind"));
    if (!got_kind.is_empty() && got_kind != kind) || (!got_version.is_empty() && got_version != api_version) {
        let short = got_version.rsplit('/').next().unwrap_or_default();
        let version = if got_version.is_empty() { &api_version } else { &got_version };
        let why = if registry::by_kind(version, &got_kind).is_some() {
            format!("converting ({short}.{got_kind}) to (core.{kind}): unknown conversion")
        } else {
            format!("no kind \"{got_kind}\" is registered for version \"{version}\" in scheme \"pkg/runtime/scheme.go:111\"")
        };
        return Err(Status::bad_request(format!("{got_kind} in version {short:?} cannot be handled as a {kind}: {why}")));
    }
    let findings = resource.conform(value);
    let prefix = format!("{kind} in version {:?} cannot be handled as a {kind}", resource.version);
    // Go's decoder tells of the first one.
    if let Some(why) = findings.mismatched.first() {
        return Err(Status::bad_request(format!("{prefix}: {why}")));
    }
    // What says nothing of its kind is of the one that its path names.
    value["apiVersion"] = api_version.into();
    value["kind"] = kind.into();
    let unknown = findings.unknown.iter().map(|field| format!("unknown field \"{field}\""));
    let unknown: Vec<String> = unknown.chain(duplicates).collect();
    match validation {
        FieldValidation::Strict if !unknown.is_empty() => {
            Err(Status::bad_request(format!("{prefix}: strict decoding error: {}", unknown.join(", "))))
        }
        FieldValidation::Warn => Ok(unknown),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_body_is_decoded_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..256),
            text in "[{}\\[\\]\"\\\\:,&*!|>a-c0-9 \n\\-]{0,64}",
        ) {
            for kind in ["application/json", "application/yaml", skein_protobuf::CONTENT_TYPE] {
                let headers = http::HeaderMap::from_iter([(CONTENT_TYPE, http::HeaderValue::from_static(kind))]);
                // Protobuf's bodies begin with four bytes that say so.
                for body in [bytes.as_slice(), text.as_bytes(), &[b"k8s\0", bytes.as_slice()].concat()] {
                    let _ = decode(&headers, body);
                    let _ = duplicates(&headers, body, FieldValidation::Strict);
                    let _ = twice_in_yaml(body, FieldValidation::Strict);
                }
            }
        }
    }

    #[test]
    fn every_resource_can_be_sent_as_protobuf() {
        let served = skein_object::registry::all().iter().filter(|r| r.serving != skein_object::registry::Serving::Measured);
        let unknown: Vec<&str> = served.filter(|r| !skein_protobuf::knows(&r.api_version(), r.kind)).map(|r| r.kind).collect();
        assert!(unknown.is_empty(), "their messages are missing in proto/protobuf/schema: {unknown:?}");
    }
}
