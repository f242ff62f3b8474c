//! What a client wants answers to look like, by its `Accept` header (RFC 9110, section 12.5.1), as apiserver reads it.
//!
//! Everything is answered in JSON; what wants YAML or protobuf is turned into that on its way out. Only a watch makes its
//! events itself, once for all who watch.

use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use skein_object::registry::Serving;
use skein_object::table::Include;
use skein_object::{Resource, Status};

use crate::metrics::Metrics;
use crate::{Body, respond};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Media {
    Json,
    Yaml,
    Protobuf,
}

/// What objects are turned into.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    Object,
    Table(Include),
    Metadata,
}

/// One of the ranges in an `Accept` header.
#[derive(Default)]
struct Range<'a> {
    media: &'a str,
    quality: f32,
    kind: Option<&'a str>,
    is_meta: bool,
    stream: Option<&'a str>,
}

/// How many objects an answer holds, where it is not one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Objects(pub(crate) usize);

/// The first range that can be served, of those that the client likes best.
pub(crate) fn accepted(headers: &HeaderMap, resource: &Resource, include: Option<&str>, is_watch: bool) -> Result<(Media, Form), Status> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges: Vec<Range<'_>> = values.flat_map(|value| value.split(',')).map(Range::parse).filter(|r| !r.media.is_empty()).collect();
    if ranges.is_empty() {
        return Ok((Media::Json, Form::Object));
    }
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(a.media.matches('*').count().cmp(&b.media.matches('*').count())));
    let found = ranges.iter().find_map(|range| {
        // An answer that is no object of a store has no other form.
        let form = range.form(include).filter(|form| *form == Form::Object || resource.serving != Serving::Asked)?;
        let media = range.media()?;
        let is_possible = match media {
            Media::Json => true,
            Media::Yaml => !is_watch,
            // Custom resources have no messages, but their metadata has one; tables are not in protobuf.
            Media::Protobuf if form == Form::Object => skein_protobuf::knows(&resource.api_version(), resource.kind),
            Media::Protobuf => form == Form::Metadata,
        };
        (is_possible && range.stream.is_none_or(|stream| stream == "watch")).then_some((media, form))
    });
    found.ok_or_else(|| {
        let media = match is_watch {
            true => format!("{JSON};stream=watch, {}", skein_protobuf::WATCH_CONTENT_TYPE),
            false => format!("{JSON}, {YAML}, {}", skein_protobuf::CONTENT_TYPE),
        };
        Status::failure(406, "NotAcceptable", format!("only the following media types are accepted: {media}"))
    })
}

// === impl Range ===

impl<'a> Range<'a> {
    /// `application/json;as=Table;v=v1;g=meta.k8s.io;q=0.9`
    fn parse(text: &'a str) -> Self {
        let (mut group, mut version) = ("", "");
        let mut parts = text.split(';').map(str::trim);
        let mut range = Self { media: parts.next().unwrap_or_default(), quality: 1.0, ..Self::default() };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "as" => range.kind = Some(value),
                "g" => group = value,
                "v" => version = value,
                "q" => range.quality = value.parse().unwrap_or(1.0),
                "stream" if !value.is_empty() => range.stream = Some(value),
                _ => {}
            }
        }
        range.is_meta = group == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
        range
    }

    fn media(&self) -> Option<Media> {
        match self.media {
            "*/*" | "application/*" | JSON => Some(Media::Json),
            YAML => Some(Media::Yaml),
            skein_protobuf::CONTENT_TYPE => Some(Media::Protobuf),
            _ => None,
        }
    }

    fn form(&self, include: Option<&str>) -> Option<Form> {
        match self.kind {
            None => Some(Form::Object),
            Some("Table") if self.is_meta => Some(Form::Table(match include {
                Some("None") => Include::None,
                Some("Object") => Include::Object,
                _ => Include::Metadata,
            })),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if self.is_meta => Some(Form::Metadata),
            Some(_) => None,
        }
    }
}

// === impl Media ===

impl Media {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Protobuf => "protobuf",
        }
    }

    /// What a watch says that it is.
    pub(crate) fn of_watch(self) -> &'static str {
        if self == Self::Protobuf { skein_protobuf::WATCH_CONTENT_TYPE } else { JSON }
    }

    /// An event of a watch, which is a line of JSON, as this.
    pub(crate) fn event(self, line: Bytes) -> Result<Bytes, Status> {
        match self {
            Self::Protobuf => skein_protobuf::event_from_json(&line).map(Bytes::from).map_err(Status::internal),
            Self::Json | Self::Yaml => Ok(line),
        }
    }

    /// An answer in JSON, as this; one that is in another encoding already stays so.
    pub(crate) async fn encode(self, response: Response<Body>, metrics: &Metrics) -> Result<Response<Body>, Status> {
        let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == JSON);
        match self {
            Self::Json => Ok(response),
            _ if !is_json => Ok(response),
            Self::Yaml | Self::Protobuf => {
                let (mut head, body) = response.into_parts();
                let content = body.collect().await.map_err(Status::internal)?.to_bytes();
                let begin = Instant::now();
                let encoded = match self {
                    Self::Yaml => yaml(&content)?,
                    _ => match skein_protobuf::from_json(&content) {
                        Ok(encoded) => encoded,
                        // Of a custom resource: a client that takes protobuf alone was refused before.
                        Err(skein_protobuf::Malformed::Kind { .. }) => return Ok(Response::from_parts(head, respond::full(content))),
                        Err(why) => return Err(Status::internal(why)),
                    },
                };
                metrics.encoded(self, head.extensions.get().map_or(1, |Objects(count)| *count), begin);
                head.headers.remove(CONTENT_LENGTH);
                head.headers
                    .insert(CONTENT_TYPE, HeaderValue::from_static(if self == Self::Yaml { YAML } else { skein_protobuf::CONTENT_TYPE }));
                Ok(Response::from_parts(head, respond::full(encoded)))
            }
        }
    }
}

fn yaml(json: &[u8]) -> Result<Vec<u8>, Status> {
    let value: Value = serde_json::from_slice(json).map_err(Status::internal)?;
    serde_yaml_ng::to_string(&value).map(String::into_bytes).map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_range_that_can_be_served() {
        let pods = skein_object::registry::find("", "v1", "pods").expect("pods");
        let table = Form::Table(Include::Metadata);
        let check = |accept: &str, is_watch: bool, expected: Option<(Media, Form)>| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).expect("a value"))]);
            assert_eq!(accepted(&headers, pods, None, is_watch).ok(), expected, "{accept}");
        };
        check("", false, Some((Media::Json, Form::Object)));
        check("*/*", false, Some((Media::Json, Form::Object)));
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", false, Some((Media::Json, table)));
        check("application/json;as=Table;g=other,application/json", false, Some((Media::Json, Form::Object)));
        check("application/vnd.kubernetes.protobuf,application/json", false, Some((Media::Protobuf, Form::Object)));
        check("application/vnd.kubernetes.protobuf;q=0.5,application/json", false, Some((Media::Json, Form::Object)));
        check("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io, */*", false, Some((Media::Json, Form::Object)));
        check("application/vnd.kubernetes.protobuf;stream=watch", true, Some((Media::Protobuf, Form::Object)));
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            false,
            Some((Media::Protobuf, Form::Metadata)),
        );
        check("*/*,application/yaml", false, Some((Media::Yaml, Form::Object)));
        check("application/yaml", true, None);
        check("text/html", false, None);
    }
}
