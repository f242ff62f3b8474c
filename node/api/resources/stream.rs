//! `pods/exec`, `pods/attach`, `pods/portforward`: the client's connection, upgraded, joined with one to the kubelet
//! that runs the Pod. What is spoken on it (websocket, SPDY) is between the client and the container runtime, but for
//! SPDY inside a websocket, which is unwrapped here.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skein_object::Status;
use skein_object::query::pairs;
use skein_object::registry::Subresource;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::admit::{admit_part, kind_of};
use crate::resources::container;
use crate::route::Target;
use crate::verbs::view;
use crate::{Body, Context, respond, websocket};

/// The subprotocol of a websocket that carries SPDY.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

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
    admit_part(context, target, "CONNECT", options(target, request.uri().query().unwrap_or_default()), &Value::Null).await?;
    let uri = format!("{path}?{}", request.uri().query().unwrap_or_default());
    let mut forward = Request::builder().method(request.method()).uri(uri).body(respond::full("")).map_err(Status::internal)?;
    let tunnel = tunnelled(target, request.headers());
    if tunnel.is_some() {
        spdy_handshake(forward.headers_mut());
    } else {
        copy_handshake(request.headers(), forward.headers_mut());
    }
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
    match &tunnel {
        Some(key) => websocket::handshake(key, Some(TUNNEL), response.headers_mut()),
        None => copy_handshake(answer.headers(), response.headers_mut()),
    }
    let kubelet = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        if let (Ok(client), Ok(kubelet)) = tokio::join!(client, kubelet) {
            if tunnel.is_some() {
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None).await;
                return carry(socket, TokioIo::new(kubelet)).await;
            }
            // Either end may hang up: then so does the other.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(kubelet)).await;
        }
    });
    Ok(response)
}

/// What is asked of the connection, as admission sees it: `PodExecOptions` and the like.
fn options(target: &Target, query: &str) -> Value {
    let mut options = json!({"apiVersion": "v1", "kind": target.subresource.and_then(kind_of).map(|kind| kind.kind)});
    let command: Vec<String> = pairs(query).filter(|(name, _)| name == "command").map(|(_, value)| value).collect();
    if !command.is_empty() {
        options["command"] = command.into();
    }
    for (name, value) in pairs(query) {
        match name.as_str() {
            "ports" => options["ports"] = value.split(',').filter_map(|port| port.parse::<u16>().ok()).collect(),
            "container" => options["container"] = value.into(),
            "stdin" | "stdout" | "stderr" | "tty" => options[name] = matches!(value.as_str(), "true" | "1").into(),
            _ => {}
        }
    }
    options
}

/// The key of a client that speaks SPDY inside a websocket (KEP-4006); the kubelet gets the SPDY alone.
fn tunnelled(target: &Target, headers: &HeaderMap) -> Option<String> {
    let is_meant = target.subresource == Some(Subresource::PortForward) && websocket::offers(headers).contains(&TUNNEL);
    headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_meant).map(|key| derive_accept_key(key.as_bytes()))
}

fn spdy_handshake(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert("x-stream-protocol-version", HeaderValue::from_static("portforward.k8s.io"));
}

/// The bytes of binary messages one way, as they come; what comes back as messages the other way.
async fn carry<C, K>(client: WebSocketStream<C>, kubelet: K)
where
    C: AsyncRead + AsyncWrite + Unpin,
    K: AsyncRead + AsyncWrite,
{
    let (mut sink, mut source) = client.split();
    let (mut from, mut to) = tokio::io::split(kubelet);
    let upwards = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) if to.write_all(&bytes).await.is_ok() && to.flush().await.is_ok() => {}
                Message::Ping(_) | Message::Pong(_) => {}
                _ => return,
            }
        }
    };
    let downwards = async {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    };
    tokio::select! {
        () = upwards => {}
        () = downwards => {}
    }
}

fn copy_handshake(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from.iter().filter(|(name, _)| is_of_the_handshake(name)) {
        to.append(name, value.clone());
    }
}
