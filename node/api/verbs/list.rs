//! LIST: one consistent snapshot, whole or page by page.

use http::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use skein_object::selector::{FieldSelector, Labels, Selector};
use skein_object::{Key, Resource, Status};
use skein_state::{Entry, State};

use super::page::Page;
use super::{options, to_value};
use crate::negotiate::{Form, Objects};
use crate::route::Target;
use crate::{Body, Context, convert, respond};

/// Which objects a list or a watch is about.
pub(crate) struct Filter {
    pub(super) labels: Selector,
    pub(super) fields: FieldSelector,
}

// === impl Filter ===

impl Filter {
    pub(crate) fn of(target: &Target) -> Result<Self, Status> {
        let malformed = |e: skein_object::selector::Malformed| Status::bad_request(e.to_string());
        let labels = Selector::parse(target.query.get("labelSelector").unwrap_or_default()).map_err(malformed)?;
        let mut text = target.query.get("fieldSelector").unwrap_or_default().to_string();
        if !target.name.is_empty() {
            // A watch on one object's path.
            text = format!("metadata.name={}", target.name);
        }
        let fields = FieldSelector::parse(&text).map_err(malformed)?;
        let known = |field: &str| matches!(field, "metadata.name" | "metadata.namespace") || target.resource.selectable.contains(&field);
        if let Some(unknown) = fields.fields().find(|field| !known(field)) {
            return Err(Status::bad_request(unsupported(&target.resource, unknown)));
        }
        Ok(Self { labels, fields })
    }

    /// What can be told without the object's fields.
    pub(crate) fn matches_labels(&self, entry: &Entry) -> bool {
        self.labels.is_everything() || self.labels.matches(&labels_of(entry))
    }

    /// Whether it looks at fields that another version may have elsewhere, so that objects are converted first.
    pub(super) fn is_of_version(&self, resource: &Resource) -> bool {
        resource.conversion().is_some() && self.fields.fields().any(|field| !field.starts_with("metadata."))
    }

    /// Those of some objects that it matches.
    pub(super) async fn choose<'a>(
        &self,
        context: &Context,
        state: &State,
        resource: &Resource,
        candidates: impl Iterator<Item = (&'a Key, &'a Entry)>,
    ) -> Result<Vec<(&'a Key, &'a Entry)>, Status> {
        if !self.is_of_version(resource) {
            return Ok(candidates.filter(|(_, entry)| self.matches(resource, entry)).collect());
        }
        let candidates: Vec<(&Key, &Entry)> = candidates.filter(|(_, entry)| self.matches_labels(entry)).collect();
        let objects = convert::shown(context, state, resource, &candidates).await?;
        let chosen = candidates.into_iter().zip(objects).filter(|(_, object)| self.fields.matches(object));
        Ok(chosen.map(|(candidate, _)| candidate).collect())
    }

    pub(super) fn matches(&self, resource: &Resource, entry: &Entry) -> bool {
        self.matches_labels(entry) && (self.fields.is_everything() || self.fields.matches(&to_value(resource, entry)))
    }
}

/// Resources with fields of their own to select by have other words than those without.
fn unsupported(resource: &Resource, field: &str) -> String {
    match resource.kind {
        "Job" => format!("field label \"{field}\" not supported for Job"),
        "Namespace" | "Secret" => format!("field label not supported: {field}"),
        _ if !resource.selectable.is_empty() && resource.group != "apps" => format!("field label not supported: {field}"),
        _ => format!("\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
    }
}

fn labels_of(entry: &Entry) -> Labels {
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        labels: Labels,
    }
    let metadata = entry.record.segment("metadata").and_then(|json| serde_json::from_slice::<Metadata>(json).ok());
    metadata.map(|m| m.labels).unwrap_or_default()
}

pub(super) async fn serve(context: &Context, target: &Target) -> Result<Response<Body>, Status> {
    let filter = Filter::of(target)?;
    let limit = target.query.number("limit").filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    options::of_list(&target.query)?;
    let here = Page::of(context, target).await?;
    let state = &here.state;
    let prefix = Key::prefix(target.resource.stored(), &target.namespace);
    let all = state.range(&prefix, here.after.as_deref());
    let mut matching: Box<dyn Iterator<Item = (&Key, &Entry)> + Send> = if filter.is_of_version(&target.resource) {
        Box::new(filter.choose(context, state, &target.resource, all).await?.into_iter())
    } else {
        Box::new(all.filter(|(_, entry)| filter.matches(&target.resource, entry)))
    };
    let page: Vec<(&Key, &Entry)> = matching.by_ref().take(limit).collect();
    let remaining = if page.len() == limit { matching.count() } else { 0 };
    let mut metadata = json!({"resourceVersion": here.revision.to_string()});
    if remaining > 0
        && let Some((last, _)) = page.last()
    {
        metadata["continue"] = here.token(last).into();
        if filter.labels.is_everything() && filter.fields.is_everything() {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    let mut response = if target.form == Form::Object && target.resource.is_shown_as_stored() {
        as_stored(target, &page, &metadata)
    } else {
        let objects = convert::shown(context, state, &target.resource, &page).await?;
        render(&target.resource, target.form, objects, &metadata)
    };
    response.extensions_mut().insert(Objects(page.len()));
    Ok(response)
}

/// The bytes as they rest.
fn as_stored(target: &Target, page: &[(&Key, &Entry)], metadata: &Value) -> Response<Body> {
    let mut out = head(&target.resource, metadata);
    for (index, (_, entry)) in page.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match target.resource.custom {
            Some(_) => out.extend(entry.record.to_json(&target.resource.api_version(), target.resource.kind, entry.revision)),
            None => entry.record.write_item(entry.revision, &mut out),
        }
    }
    out.extend_from_slice(b"]}");
    respond::bytes(200, "application/json", out)
}

fn head(resource: &Resource, metadata: &Value) -> Vec<u8> {
    let (kind, version) = (resource.list_kind(), resource.api_version());
    format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata},"items":["#).into_bytes()
}

fn render(resource: &Resource, form: Form, objects: Vec<Value>, metadata: &Value) -> Response<Body> {
    match form {
        Form::Object => {
            // Those of types that the server was built with go without; the others are what they say they are.
            let shown = |object: Value| if resource.custom.is_some() { object } else { item(object) };
            let items: Vec<String> = objects.into_iter().map(|object| shown(object).to_string()).collect();
            let mut out = head(resource, metadata);
            out.extend_from_slice(items.join(",").as_bytes());
            out.extend_from_slice(b"]}");
            respond::bytes(200, "application/json", out)
        }
        Form::Table(include) => respond::json(200, &respond::table(resource, objects, include, metadata.clone())),
        Form::Metadata => {
            let items: Vec<Value> = objects.iter().map(skein_object::table::partial).collect();
            respond::json(
                200,
                &json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items}),
            )
        }
    }
}

/// An item of a list, which says kind and version once for all.
pub(crate) fn item(mut object: Value) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove("kind");
        map.shift_remove("apiVersion");
    }
    object
}
