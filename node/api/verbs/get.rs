//! GET of one object: in the usual form a copy of bytes.

use http::Response;
use skein_object::Status;

use super::{object_response, view};
use crate::convert::shown_one;
use crate::negotiate::Form;
use crate::route::Target;
use crate::{Body, Context, respond};

pub(super) async fn serve(context: &Context, target: &Target) -> Result<Response<Body>, Status> {
    let view = view(context, target).await?;
    let key = target.key();
    let entry = view.state.get(&key).ok_or_else(|| Status::not_found(&target.resource, &target.name))?;
    if target.form == Form::Object && target.resource.is_shown_as_stored() {
        let json = entry.record.to_json(&target.resource.api_version(), target.resource.kind, entry.revision);
        return Ok(respond::bytes(200, "application/json", json));
    }
    Ok(object_response(200, target, shown_one(context, &view.state, &target.resource, (&key, entry)).await?))
}
