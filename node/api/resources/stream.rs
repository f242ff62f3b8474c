//! `pods/exec`, `pods/attach`, `pods/portforward`: the client's connection, upgraded, joined with one to the kubelet
//! that runs the Pod. What is spoken on it (websocket, SPDY) is between the client and the container runtime.

use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use skein_object::Status;
use skein_object::registry::Subresource;

use crate::resources::container;
use crate::route::Target;
use crate::verbs::view;
use crate::{Body, Context, respond};

/// What of the client's headers the other end needs: which protocol, and its handshake.
fn is_of_the_handshake(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("sec-websocket-") || name.starts_with("x-stream-") || [CONNECTION, UPGRADE].iter().any(|n| n == name)
}

pub(crate) async fn serve(context: &Context, target: &Target, mut request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let view = view(context, target).await?;
    let entry = view.state.get(&target.key()).ok_or_else(|| Status::not_found(&target.resource, &target.name))?;
    let pod = entry.record.to_value("v1", "Pod", entry.revision);
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", target.name)));
    }
    let path = match target.subresource {
        Some(Subresource::PortForward) => format!("/portForward/{}/{}", target.namespace, target.name),
        Some(other) => format!("/{}/{}/{}/{}", other.name(), target.namespace, target.name, container(&pod, target)?),
        None => return Err(Status::page_not_found()),
    };
    if !request.headers().contains_key(UPGRADE) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let uri = format!("{path}?{}", request.uri().query().unwrap_or_default());
    let mut forward = Request::builder().method(request.method()).uri(uri).body(respond::full("")).map_err(Status::internal)?;
    copy_handshake(request.headers(), forward.headers_mut());
    let client = hyper::upgrade::on(&mut request);
    let answered = context.kubelets.send(node, forward).await;
    let mut answer = answered.map_err(|why| Status::internal(format!("cannot reach the kubelet of node {node}: {why}")))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = answer.status().as_u16();
        let words = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).trim().to_string();
        return Err(if code >= 500 { Status::internal(words) } else { Status::bad_request(words) });
    }
    let mut response = Response::new(respond::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    copy_handshake(answer.headers(), response.headers_mut());
    let kubelet = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        if let (Ok(client), Ok(kubelet)) = tokio::join!(client, kubelet) {
            // Either end may hang up: then so does the other.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(kubelet)).await;
        }
    });
    Ok(response)
}

fn copy_handshake(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from.iter().filter(|(name, _)| is_of_the_handshake(name)) {
        to.append(name, value.clone());
    }
}
