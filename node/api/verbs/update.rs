//! PUT: the object as the client wants it.

use bytes::Bytes;
use http::{Request, Response};
use skein_object::{Status, meta};

use super::{Mutation, mutate, object_response};
use crate::body::{self, FieldValidation};
use crate::route::Target;
use crate::{Body, Context, respond};

pub(super) async fn serve(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let validation = FieldValidation::parse(target.query.get("fieldValidation"))?;
    let mut object = body::decode(&headers, request.body())?;
    let warnings = body::conform(&mut object, target.resource, validation)?;
    let name = meta::name(&object);
    if name != target.name {
        return Err(Status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", target.name)));
    }
    let namespace = meta::text(&object, "namespace");
    if !namespace.is_empty() && namespace != target.namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({namespace} != {})",
            target.namespace
        )));
    }
    let mutation = Mutation { resource: target.resource, key: target.key(), subresource: target.subresource, dry_run: target.dry_run()? };
    let written = mutate(context, &mutation, |_| Ok(object.clone())).await?;
    Ok(respond::with_warnings(object_response(200, target, &headers, written), &warnings))
}
