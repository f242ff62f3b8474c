//! Responses: objects, lists, tables, errors.

use std::io::Write;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, VARY, WARNING};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame};
use jiff::Timestamp;
use serde_json::{Value, json};
use skein_object::table::{Include, definitions, partial, row};
use skein_object::{Resource, Status};

use crate::Body;
use crate::fairness::Sorted;
use crate::negotiate::Form;

impl Form {
    /// One object in this form.
    pub(crate) fn render(self, resource: &Resource, object: Value) -> Value {
        match self {
            Self::Object => object,
            Self::Metadata => partial(&object),
            Self::Table(include) => {
                let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
                table(resource, vec![object], include, json!({"resourceVersion": version}))
            }
        }
    }
}

/// A Table of objects; `metadata` is that of the list.
pub(crate) fn table(resource: &Resource, objects: Vec<Value>, include: Include, metadata: Value) -> Value {
    let columns = resource.columns();
    let now = Timestamp::now();
    let rows: Vec<Value> = objects.into_iter().map(|object| row(&columns, object, include, now)).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions(&columns), "rows": rows})
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

pub(crate) fn bytes(code: u16, content_type: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(content));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A body that is made as it is sent.
pub(crate) fn stream(content_type: &'static str, parts: Box<dyn Iterator<Item = Vec<u8>> + Send>) -> Response<Body> {
    // Bodies must be `Sync`, which an iterator behind a lock is.
    let parts = std::sync::Mutex::new(parts);
    let frames = futures::stream::poll_fn(move |_| {
        let next = parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        std::task::Poll::Ready(next.map(|part| Ok(Frame::data(Bytes::from(part)))))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(crate) fn json(code: u16, value: &Value) -> Response<Body> {
    bytes(code, "application/json", value.to_string())
}

pub(crate) fn status(status: &Status) -> Response<Body> {
    let value = serde_json::to_value(status).unwrap_or_default();
    let mut response = json(status.code, &value);
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

/// What is shorter is not worth the time (`defaultGzipThresholdBytes`).
const GZIP_BYTES_MIN: u64 = 128 << 10;

/// The response, compressed where it is whole and long.
pub(crate) async fn gzipped(response: Response<Body>) -> Result<Response<Body>, Status> {
    let is_long = response.body().size_hint().exact().is_some_and(|bytes| bytes > GZIP_BYTES_MIN);
    if !is_long || response.headers().contains_key(CONTENT_ENCODING) {
        return Ok(response);
    }
    let (mut head, body) = response.into_parts();
    let content = body.collect().await.map_err(Status::internal)?.to_bytes();
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(content.len() / 4), flate2::Compression::fast());
    let compressed = encoder.write_all(&content).and_then(|()| encoder.finish()).map_err(Status::internal)?;
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    Ok(Response::from_parts(head, full(compressed)))
}

/// Says by which FlowSchema and priority level the request was let in.
pub(crate) fn sorted(mut response: Response<Body>, sorted: &Sorted) -> Response<Body> {
    for (name, uid) in [("x-kubernetes-pf-flowschema-uid", &sorted.schema), ("x-kubernetes-pf-prioritylevel-uid", &sorted.level)] {
        if let Ok(uid) = HeaderValue::from_str(uid) {
            response.headers_mut().insert(name, uid);
        }
    }
    response
}

/// Adds `Warning: 299 - "text"` (RFC 7234) for each warning.
pub(crate) fn with_warnings(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for warning in warnings {
        let quoted = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = HeaderValue::from_str(&quoted) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn long_answers_are_compressed_and_come_out_whole() {
        let text = "abc".repeat(100_000);
        let response = gzipped(bytes(200, "text/plain", text.clone())).await.expect("it can be compressed");
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let mut found = String::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut found).expect("gzip");
        assert!(found == text && body.len() < 10_000);
        let short = gzipped(bytes(200, "text/plain", "abc")).await.expect("it is left alone");
        assert!(!short.headers().contains_key(CONTENT_ENCODING));
    }
}
