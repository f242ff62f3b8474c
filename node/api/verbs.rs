//! The verbs, one file each, and what they share.

mod author;
mod create;
pub(crate) mod delete;
mod get;
pub(crate) mod list;
mod mutate;
mod options;
mod page;
mod patch;
mod update;
mod watch;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;
use skein_object::registry::{Serving, Subresource};
use skein_object::{Record, Resource, Status, meta};
use skein_state::Entry;
use skein_store::View;

pub(crate) use author::Author;
pub(crate) use mutate::{Mutation, mutate};
pub(crate) use watch::encoded::Encoded;

use crate::negotiate::Form;
use crate::respond;
use crate::route::Target;
use crate::{Body, Context, resources, status};

/// How long a read waits for a revision that this node has not applied yet.
const REVISION_PATIENCE: Duration = Duration::from_secs(3);

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Consistency {
    /// Everything acknowledged before the request is seen.
    Linearizable,
    /// The local replica, whatever it has.
    Stale,
}

pub(crate) async fn serve(verb: &str, context: Context, target: Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    if target.resource.stored() == resources::certificate::REQUESTS && matches!(verb, "update" | "patch") {
        resources::certificate::may_decide(&context, &target)?;
    }
    match (target.subresource, verb) {
        (None, "get" | "list") if target.resource.serving == Serving::Measured => resources::measured::serve(verb, &context, &target).await,
        (Some(Subresource::Log), "get") => resources::log::get(&context, &target, request).await,
        (Some(Subresource::Exec | Subresource::Attach | Subresource::PortForward), "get" | "create") => {
            resources::stream::serve(&context, &target, request).await
        }
        (Some(Subresource::Proxy), _) => resources::proxy::serve(&context, &target, request).await,
        (Some(Subresource::Scale), _) => resources::scale::serve(verb, &context, &target, request).await,
        (Some(Subresource::Token), "create") => resources::token::create(&context, &target, request).await,
        (Some(Subresource::Binding), "create") => resources::binding::create(&context, &target, request).await,
        (Some(Subresource::Eviction), "create") => resources::eviction::create(&context, &target, request).await,
        (Some(part), "get" | "update" | "patch") if is_part_of_object(part) => serve_object(verb, &context, &target, request).await,
        (Some(_), _) => Err(Status::method_not_allowed()),
        (None, "get" | "update" | "patch") => serve_object(verb, &context, &target, request).await,
        (None, "list") => list::serve(&context, &target).await,
        (None, "watch") => watch::serve(&context, &target).await,
        (None, "create") if target.resource.plural == "bindings" => resources::binding::create_named(&context, target, request).await,
        (None, "create") if target.resource.serving == Serving::Asked => resources::review::create(&context, &target, request).await,
        (None, "create") => create::serve(&context, &target, request).await,
        (None, "delete") => delete::serve(&context, &target, request).await,
        (None, "deletecollection") => delete::serve_collection(&context, &target, request).await,
        (None, _) => Err(Status::method_not_allowed()),
    }
}

/// Whether a subresource is the object itself, of which only a part can be written there.
fn is_part_of_object(subresource: Subresource) -> bool {
    use Subresource::{Approval, EphemeralContainers, Finalize, Resize, Status};
    matches!(subresource, Status | Finalize | Approval | EphemeralContainers | Resize)
}

async fn serve_object(verb: &str, context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    match verb {
        "get" => get::serve(context, target).await,
        "update" => update::serve(context, target, request).await,
        _ => patch::serve(context, target, request).await,
    }
}

/// The state to answer a read from: `resourceVersion` unset means current, `0` whatever is there, `N` not older than N.
pub(crate) async fn view(context: &Context, target: &Target) -> Result<View, Status> {
    let wanted = target.query.get("resourceVersion");
    match (target.consistency, wanted) {
        (Consistency::Stale, _) | (_, Some("0")) => Ok(context.store.local()),
        (_, None) => context.store.read().await.map_err(|e| status::of_store(&e)),
        (_, Some(text)) => at_least(context, parse_version(text)?).await,
    }
}

pub(crate) async fn at_least(context: &Context, revision: u64) -> Result<View, Status> {
    match context.store.wait_revision(revision, REVISION_PATIENCE).await {
        Some(view) => Ok(view),
        None => Err(status::too_large_version(revision, context.store.local().state.revision())),
    }
}

pub(crate) fn parse_version(text: &str) -> Result<u64, Status> {
    text.parse().map_err(|_| {
        Status::failure(
            400,
            "BadRequest",
            format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"),
        )
    })
}

pub(crate) fn to_value(resource: &Resource, entry: &Entry) -> Value {
    resource.show(&entry.record, entry.revision)
}

/// An object that was written.
pub(crate) enum Written {
    /// As it rests; whoever asked for no more gets its bytes.
    Stored(Record, u64),
    Shown(Value),
}

/// What was written, in the form that the client asked for.
pub(crate) fn written_response(code: u16, target: &Target, written: Written) -> Response<Body> {
    let resource = &target.resource;
    match written {
        Written::Stored(record, revision) if target.form == Form::Object && resource.is_shown_as_stored() => {
            respond::bytes(code, "application/json", record.to_json(&resource.api_version(), resource.kind, revision))
        }
        Written::Stored(record, revision) => object_response(code, target, resource.show(&record, revision)),
        Written::Shown(object) => object_response(code, target, object),
    }
}

/// That an object that is written to a path is the one that the path names.
fn named_as_its_path(object: &Value, target: &Target) -> Result<(), Status> {
    let (name, namespace) = (meta::name(object), meta::text(object, "namespace"));
    if name.is_empty() {
        let why = format!("the name of the object ({} based on URL) was undeterminable: name must be provided", target.name);
        return Err(Status::bad_request(why));
    }
    if name != target.name {
        return Err(Status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", target.name)));
    }
    if !namespace.is_empty() && namespace != target.namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(why));
    }
    Ok(())
}

/// One object in the form that the client asked for.
pub(crate) fn object_response(code: u16, target: &Target, object: Value) -> Response<Body> {
    respond::json(code, &target.form.render(&target.resource, object))
}
