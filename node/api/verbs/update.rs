//! PUT: the object as the client wants it.

use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;
use skein_object::{Status, meta};

use super::create::{Origin, create};
use super::{Author, Mutation, mutate, named_as_its_path, object_response, written_response};
use crate::body::{self, FieldValidation};
use crate::route::Target;
use crate::{Body, Context, respond};

pub(super) async fn serve(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let validation = FieldValidation::parse(target.query.get("fieldValidation"))?;
    let mut object = body::decode(&headers, request.body())?;
    let duplicates = body::duplicates(&headers, request.body(), validation);
    let warnings = body::conform(&mut object, &target.resource, validation, duplicates)?;
    named_as_its_path(&object, target)?;
    if target.resource.namespaced && meta::text(&object, "namespace").is_empty() {
        meta::edit(&mut object).insert("namespace".into(), target.namespace.clone().into());
    }
    let mutation = Mutation::of(target, &headers)?;
    let replaced = |old: &Value| same_object(&object, old, target).map(|()| object.clone());
    let written = match mutate(context, &mutation, replaced).await {
        Err(status) if status.code == 404 && target.resource.made_by_update && target.subresource.is_none() => {
            let created = create(context, target, object, &Origin::Sent(Author::of(target, &headers)?)).await?;
            return Ok(respond::with_warnings(written_response(201, target, created), &warnings));
        }
        written => written?,
    };
    Ok(respond::with_warnings(object_response(200, target, written), &warnings))
}

/// That an update by uid is of the object that it was read from, and not of one that came after it by the same name.
fn same_object(object: &Value, old: &Value, target: &Target) -> Result<(), Status> {
    let (wanted, uid) = (meta::text(object, "uid"), meta::text(old, "uid"));
    if wanted.is_empty() || wanted == uid {
        return Ok(());
    }
    let (resource, name) = (&target.resource, &target.name);
    let namespace = if resource.namespaced { format!("{}/", target.namespace) } else { String::new() };
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: /{}/{namespace}{name}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}",
        resource.plural
    );
    Err(Status::conflict(resource, name, &why))
}
