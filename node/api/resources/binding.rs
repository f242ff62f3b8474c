//! `pods/binding`: a scheduler assigns a Pod to a node.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use skein_object::registry::Subresource;
use skein_object::{Status, meta};

use crate::admit::admit_part;
use crate::route::Target;
use crate::verbs::{Mutation, mutate};
use crate::{Body, Context, body, respond};

/// `bindings`: the same, with the Pod's name in the body only.
pub(crate) async fn create_named(context: &Context, mut target: Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let binding = body::decode(request.headers(), request.body())?;
    target.name = meta::name(&binding).into();
    target.resource = Arc::clone(skein_object::registry::find("", "v1", "pods").expect("the registry has Pods"));
    target.subresource = Some(Subresource::Binding);
    create(context, &target, request).await
}

pub(crate) async fn create(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let binding = body::decode(&headers, request.body())?;
    let node = binding.pointer("/target/name").and_then(Value::as_str).unwrap_or_default().to_string();
    if node.is_empty() {
        return Err(Status::failure(422, "Invalid", format!("Binding \"{}\" is invalid: target.name: Required value", target.name)));
    }
    let binding = admit_part(context, target, "CREATE", binding, &Value::Null).await?;
    let node = binding.pointer("/target/name").and_then(Value::as_str).map_or(node, String::from);
    let mutation = Mutation { is_admitted: true, ..Mutation::of(target, &headers)? };
    mutate(context, &mutation, |pod| bind(target, pod, &node)).await?;
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::json(201, &done))
}

fn bind(target: &Target, pod: &Value, node: &str) -> Result<Value, Status> {
    let current = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    let refuse = |why: &str| Err(Status::conflict(&target.resource, &target.name, why));
    if meta::is_terminating(pod) {
        return refuse(&format!("pod {} is being deleted, cannot be assigned to a host", target.name));
    }
    if !current.is_empty() {
        return refuse(&format!("pod {} is already assigned to node \"{current}\"", target.name));
    }
    let mut bound = pod.clone();
    bound["spec"]["nodeName"] = node.into();
    Ok(bound)
}
