//! Resources that are not stored: they are measured when they are read.

use http::Response;
use serde_json::{Value, json};
use skein_object::Status;

use super::metrics;
use crate::negotiate::Form;
use crate::route::Target;
use crate::verbs::list::item;
use crate::{Body, Context, respond};

pub(crate) async fn serve(verb: &str, context: &Context, target: &Target) -> Result<Response<Body>, Status> {
    let objects = match (target.resource.group, target.resource.plural) {
        ("", _) => components(context, target),
        (_, "nodes") => metrics::nodes(context, target).await?,
        _ => metrics::pods(context, target).await?,
    };
    let form = target.form;
    if verb == "get" {
        let found = objects.into_iter().next().ok_or_else(|| Status::not_found(&target.resource, &target.name))?;
        return Ok(respond::json(200, &form.render(&target.resource, found)));
    }
    if let Form::Table(include) = form {
        return Ok(respond::json(200, &respond::table(&target.resource, objects, include, json!({}))));
    }
    let (kind, items) = (format!("{}List", target.resource.kind), objects.into_iter().map(item).collect::<Vec<_>>());
    Ok(respond::json(200, &json!({"kind": kind, "apiVersion": target.resource.api_version(), "metadata": {}, "items": items})))
}

/// What Kubernetes runs as programs of their own: here the leader is all of them, and a quorum is their health.
fn components(context: &Context, target: &Target) -> Vec<Value> {
    let healthy = context.store.has_quorum();
    let (status, message) = if healthy { ("True", "ok") } else { ("False", "no leader is known") };
    let names = ["scheduler", "controller-manager", "etcd-0"].into_iter().filter(|name| target.name.is_empty() || *name == target.name);
    names
        .map(|name| {
            json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
                "conditions": [{"type": "Healthy", "status": status, "message": message}]})
        })
        .collect()
}
