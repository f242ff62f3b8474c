//! `scale`: the replicas of a workload, as autoscaling/v1 `Scale`.

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use skein_object::scale::{self, Scale};
use skein_object::{Resource, Status, meta, patch};

use crate::admit::admit_part;
use crate::route::Target;
use crate::verbs::{Mutation, mutate, view};
use crate::{Body, Context, body, convert, respond, status};

pub(crate) async fn serve(verb: &str, context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    if verb == "get" {
        let view = view(context, target).await?;
        let key = target.key();
        let entry = view.state.get(&key).ok_or_else(|| Status::not_found(&target.resource, &target.name))?;
        let object = convert::shown_one(context, &view.state, &target.resource, (&key, entry)).await?;
        return Ok(respond::json(200, &scale_of(&target.resource, &object)));
    }
    let headers = request.headers().clone();
    let kind = match (verb, body::content_type(&headers)) {
        ("update", _) => None,
        ("patch", "application/json-patch+json") => Some(patch::Kind::Json),
        ("patch", _) => Some(patch::Kind::Merge),
        _ => return Err(Status::method_not_allowed()),
    };
    let bytes = request.into_body();
    let wanted: Value = match kind {
        None => body::decode(&headers, &bytes)?,
        Some(_) => serde_json::from_slice(&bytes).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?,
    };
    let stated = |old: &Value| match kind {
        None => Ok(wanted.clone()),
        Some(kind) => patch::apply(kind, &scale_of(&target.resource, old), &wanted, None).map_err(|e| status::of_patch(&e)),
    };
    let admitted = admitted(context, target, &stated).await?;
    let mutation = Mutation { subresource: None, is_admitted: true, ..Mutation::of(target, &headers)? };
    let written = mutate(context, &mutation, |old| {
        let mut scale = stated(old)?;
        if let Some(replicas) = &admitted {
            scale["spec"]["replicas"] = replicas.clone();
        }
        scaled(old, &scale, target)
    })
    .await?;
    Ok(respond::json(200, &scale_of(&target.resource, &written)))
}

/// The replicas that admission makes of a Scale, where it changes them.
async fn admitted(
    context: &Context,
    target: &Target,
    stated: &(dyn Fn(&Value) -> Result<Value, Status> + Sync),
) -> Result<Option<Value>, Status> {
    let state = context.store.local().state;
    let key = target.key();
    let Some(entry) = state.get(&key) else { return Ok(None) };
    let object = convert::shown_one(context, &state, &target.resource, (&key, entry)).await?;
    let (old, mut new) = (scale_of(&target.resource, &object), stated(&object)?);
    new["kind"] = "Scale".into();
    new["apiVersion"] = "autoscaling/v1".into();
    let replicas = new["spec"]["replicas"].clone();
    let taken = admit_part(context, target, "UPDATE", new, &old).await?["spec"]["replicas"].clone();
    Ok((taken != replicas).then_some(taken))
}

fn scaled(old: &Value, scale: &Value, target: &Target) -> Result<Value, Status> {
    let stated = scale.pointer("/spec/replicas").cloned().unwrap_or(json!(0));
    let Some(replicas) = stated.as_i64().filter(|n| *n >= 0) else {
        let message = format!(
            "Scale.autoscaling \"{}\" is invalid: spec.replicas: Invalid value: {stated}: must be greater than or equal to 0",
            target.name
        );
        return Err(Status::failure(422, "Invalid", message));
    };
    let mut new = old.clone();
    scale::set(&target.resource, &mut new, replicas);
    let version = meta::get(scale, "resourceVersion").cloned();
    match version {
        Some(version) => meta::edit(&mut new).insert("resourceVersion".into(), version),
        None => meta::edit(&mut new).shift_remove("resourceVersion"),
    };
    Ok(new)
}

fn scale_of(resource: &Resource, object: &Value) -> Value {
    let metadata: serde_json::Map<String, Value> = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
        .iter()
        .filter_map(|field| Some(((*field).to_string(), meta::get(object, field)?.clone())))
        .collect();
    let Scale { wanted, found, selector } = scale::of(resource, object);
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": wanted},
        "status": {"replicas": found, "selector": selector},
    })
}
