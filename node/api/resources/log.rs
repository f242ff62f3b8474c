//! `pods/log`: asked of the kubelet that runs the Pod.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use skein_object::Status;

use crate::resources::container;
use crate::route::Target;
use crate::verbs::view;
use crate::{Body, Context, respond};

pub(crate) async fn get(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let view = view(context, target).await?;
    let entry = view.state.get(&target.key()).ok_or_else(|| Status::not_found(&target.resource, &target.name))?;
    let pod = entry.record.to_value("v1", "Pod", entry.revision);
    let container = container(&pod, target)?;
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        return Ok(respond::bytes(200, "text/plain", ""));
    }
    let query = request.uri().query().unwrap_or_default();
    let uri = format!("/containerLogs/{}/{}/{container}?{query}", target.namespace, target.name);
    let forward = Request::get(uri).body(respond::full("")).map_err(Status::internal)?;
    let answer = context
        .kubelets
        .send(node, forward)
        .await
        .map_err(|why| Status::internal(format!("cannot reach the kubelet of node {node}: {why}")))?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    // The kubelet explains in plain words; Kubernetes wraps them as a bad request.
    let words = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    Err(Status::bad_request(String::from_utf8_lossy(&words).trim().to_string()))
}
