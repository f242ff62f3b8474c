//! PATCH: a change to whatever the object is now.

use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;
use skein_object::{Status, meta, patch};

use super::{Mutation, mutate, object_response};
use crate::body::{self, FieldValidation};
use crate::route::Target;
use crate::{Body, Context, respond, status};

pub(super) async fn serve(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let kind = kind(body::content_type(&headers))?;
    let validation = FieldValidation::parse(target.query.get("fieldValidation"))?;
    let bytes = request.into_body();
    let patch: Value = serde_json::from_slice(&bytes).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    let mutation = Mutation { resource: target.resource, key: target.key(), subresource: target.subresource, dry_run: target.dry_run()? };
    let mut warnings = Vec::new();
    let written = mutate(context, &mutation, |old| {
        let mut base = old.clone();
        // A patch that names no version applies to any.
        meta::edit(&mut base).shift_remove("resourceVersion");
        let mut patched = patch::apply(kind, &base, &patch).map_err(|e| status::of_patch(&e, target.resource, &target.name))?;
        warnings = body::conform(&mut patched, target.resource, validation)?;
        Ok(patched)
    })
    .await?;
    Ok(respond::with_warnings(object_response(200, target, &headers, written), &warnings))
}

fn kind(content_type: &str) -> Result<patch::Kind, Status> {
    match content_type {
        "application/json-patch+json" => Ok(patch::Kind::Json),
        "application/merge-patch+json" => Ok(patch::Kind::Merge),
        "application/strategic-merge-patch+json" => Ok(patch::Kind::Strategic),
        other => {
            let accepted = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";
            Err(Status::failure(
                415,
                "UnsupportedMediaType",
                format!("the body of the request was in an unknown format - accepted media types include: {accepted} (got {other})"),
            ))
        }
    }
}
