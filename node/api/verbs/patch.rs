//! PATCH: a change to whatever the object is now.

use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;
use skein_object::status::Details;
use skein_object::{Status, managed, meta, patch};

use super::create::{self, Origin};
use super::{Author, Mutation, mutate, named_as_its_path, object_response, written_response};
use crate::body::{self, FieldValidation};
use crate::route::Target;
use crate::{Body, Context, respond, status};

/// Attempts of an apply that finds the object gone or come meanwhile.
const ATTEMPTS: usize = 4;

enum Kind {
    Patch(patch::Kind),
    Apply,
}

pub(super) async fn serve(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    match kind(target, body::content_type(request.headers()))? {
        Kind::Patch(kind) => patched(context, target, request, kind).await,
        Kind::Apply => applied(context, target, request).await,
    }
}

async fn patched(context: &Context, target: &Target, request: Request<Bytes>, kind: patch::Kind) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let validation = FieldValidation::parse(target.query.get("fieldValidation"))?;
    let patch: Value = serde_json::from_slice(request.body()).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    let duplicates = body::duplicates(&headers, request.body(), validation);
    let mutation = Mutation::of(target, &headers)?;
    let mut warnings = Vec::new();
    let written = mutate(context, &mutation, |old| {
        let shape = target.resource.shape();
        let mut patched = patch::apply(kind, old, &patch, shape).map_err(|e| status::of_patch(&e))?;
        warnings = body::conform(&mut patched, &target.resource, validation, duplicates.clone())?;
        named_as_its_path(&patched, target)?;
        Ok(patched)
    })
    .await?;
    Ok(respond::with_warnings(object_response(200, target, written), &warnings))
}

/// Server-side apply: the object is made where it is missing.
async fn applied(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let validation = FieldValidation::parse(target.query.get("fieldValidation"))?;
    let author = Author::of_apply(target, &headers)?;
    let mut config: Value =
        serde_yaml_ng::from_slice(request.body()).map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
    let stated = config.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if stated != target.resource.api_version() {
        let expected = target.resource.api_version();
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {stated}, expected: {expected}"
        )));
    }
    if meta::get(&config, "managedFields").is_some_and(|m| m.as_array().is_none_or(|m| !m.is_empty())) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let name = meta::name(&config);
    if !name.is_empty() && name != target.name {
        return Err(Status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", target.name)));
    }
    declared(&config, target)?;
    body::twice_in_yaml(request.body(), validation)?;
    let mut warnings = body::conform(&mut config, &target.resource, validation, Vec::new())?;
    meta::edit(&mut config).insert("name".into(), target.name.clone().into());
    let force = target.query.flag("force");
    let mutation = Mutation { author: None, ..Mutation::of(target, &headers)? };
    let mut last = Status::modified(&target.resource, &target.name);
    for _ in 0..ATTEMPTS {
        let updated = mutate(context, &mutation, |live| author.apply(&target.resource, Some(live), &config, force)).await;
        match updated {
            Ok(written) => return Ok(respond::with_warnings(object_response(200, target, written), &warnings)),
            Err(status) if status.code == 404 && target.subresource.is_none() => {}
            Err(status) => return Err(status),
        }
        if !meta::text(&config, "uid").is_empty() {
            let why =
                format!("uid mismatch: the provided object specified uid {}, and no existing object was found", meta::text(&config, "uid"));
            return Err(Status::conflict(&target.resource, &target.name, &why));
        }
        let fresh = author.apply(&target.resource, None, &config, force)?;
        match create::create(context, target, fresh, &Origin::Applied).await {
            Ok(created) => {
                warnings.extend(target.resource.warning());
                return Ok(respond::with_warnings(written_response(201, target, created), &warnings));
            }
            Err(status) if status.reason == "AlreadyExists" => last = status,
            Err(status) => return Err(status),
        }
    }
    Err(last)
}

/// An applier owns what it states, so it can state only what there is.
fn declared(config: &Value, target: &Target) -> Result<(), Status> {
    let resource = &target.resource;
    let Some(why) = resource.shape().and_then(|shape| managed::undeclared(config, shape, resource.custom.is_some())) else { return Ok(()) };
    let version = format!("{}/{}", resource.group, resource.version);
    let what = format!("{}/{}; {version}, Kind={}", target.namespace, target.name, resource.kind);
    Err(Status::failure(500, "", format!("failed to create typed patch object ({what}): {why}")))
}

fn kind(target: &Target, content_type: &str) -> Result<Kind, Status> {
    let is_custom = target.resource.custom.is_some();
    match content_type {
        "application/json-patch+json" => Ok(Kind::Patch(patch::Kind::Json)),
        "application/merge-patch+json" => Ok(Kind::Patch(patch::Kind::Merge)),
        "application/strategic-merge-patch+json" if !is_custom => Ok(Kind::Patch(patch::Kind::Strategic)),
        "application/apply-patch+yaml" => Ok(Kind::Apply),
        _ => Err(Status::failure(415, "UnsupportedMediaType", "415: Unsupported Media Type").about(Details::default())),
    }
}
