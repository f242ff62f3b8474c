//! PUT: the object as the client wants it.

use bytes::Bytes;
use http::{Request, Response};
use skein_object::{Status, meta};

use super::create::{Origin, create};
use super::{Author, Mutation, mutate, object_response, written_response};
use crate::body::{self, FieldValidation};
use crate::route::Target;
use crate::{Body, Context, respond};

pub(super) async fn serve(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let validation = FieldValidation::parse(target.query.get("fieldValidation"))?;
    let mut object = body::decode(&headers, request.body())?;
    let duplicates = body::duplicates(&headers, request.body(), validation);
    let warnings = body::conform(&mut object, &target.resource, validation, duplicates)?;
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
    let mutation = Mutation::of(target, &headers)?;
    let written = match mutate(context, &mutation, |_| Ok(object.clone())).await {
        Err(status) if status.code == 404 && target.resource.made_by_update && target.subresource.is_none() => {
            let created = create(context, target, object, &Origin::Sent(Author::of(target, &headers)?)).await?;
            return Ok(respond::with_warnings(written_response(201, target, created), &warnings));
        }
        written => written?,
    };
    Ok(respond::with_warnings(object_response(200, target, written), &warnings))
}
