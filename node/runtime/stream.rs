//! The streaming server: exec, attach and port-forward over websocket and SPDY, as CRI's `Exec`, `Attach` and
//! `PortForward` announce them.
//!
//! A URL is good for one connection and one minute. It listens on the node's loopback only: the kubelet is its client,
//! and hands on what the API's client speaks.

mod port_forward;
mod process;
mod remote_command;
mod spdy;
mod websocket;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use skein_cri as v1;
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tracing::debug;

use crate::pods::Pods;
use crate::{Error, Options, io};

/// How long an announced stream waits for its client (as in Kubernetes' streaming server).
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// Where the protocol above SPDY is agreed on.
const VERSION: &str = "x-stream-protocol-version";

const GONE: &str = "the stream was fetched already, or its time is over";

/// What was announced and has not been fetched yet. A cheap clone.
#[derive(Clone)]
pub(crate) struct Streams {
    address: SocketAddr,
    waiting: Arc<Mutex<HashMap<String, (Instant, Wanted)>>>,
}

pub(crate) enum Wanted {
    Exec(v1::ExecRequest),
    Attach(v1::AttachRequest),
    PortForward(v1::PortForwardRequest),
}

// === impl Streams ===

impl Streams {
    /// Announces a stream; returns its URL.
    pub(crate) fn expect(&self, kind: &str, wanted: Wanted) -> String {
        let token = uuid::Uuid::new_v4().simple().to_string();
        let url = format!("http://{}/{kind}/{token}", self.address);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (since, _)| since.elapsed() < TOKEN_LIFETIME);
        waiting.insert(token, (Instant::now(), wanted));
        url
    }

    fn take(&self, token: &str) -> Option<Wanted> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(token).filter(|(since, _)| since.elapsed() < TOKEN_LIFETIME).map(|(_, wanted)| wanted)
    }
}

pub(crate) async fn serve(options: &Options, pods: Arc<Pods>) -> Result<Streams, Error> {
    let listener = TcpListener::bind((options.streaming_address, 0)).await.map_err(io("cannot listen for streams"))?;
    let address = listener.local_addr().map_err(io("cannot listen for streams"))?;
    let streams = Streams { address, waiting: Arc::default() };
    let server = streams.clone();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let (streams, pods) = (server.clone(), Arc::clone(&pods));
            let service = service_fn(move |request| {
                let answer = answer(&streams, &pods, request);
                async move { Ok::<_, Infallible>(answer) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
        }
    });
    Ok(streams)
}

/// Switches to websocket and serves the stream, or says why not.
fn answer(streams: &Streams, pods: &Arc<Pods>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    if names(request.headers(), UPGRADE.as_str()).any(|u| u.eq_ignore_ascii_case(spdy::NAME)) {
        return over_spdy(streams, pods, request);
    }
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let Some(key) = key.filter(|_| names(request.headers(), UPGRADE.as_str()).any(|u| u.eq_ignore_ascii_case("websocket"))) else {
        return refused(StatusCode::BAD_REQUEST, "Upgrade request required");
    };
    let offered: Vec<&str> = names(request.headers(), SEC_WEBSOCKET_PROTOCOL.as_str()).collect();
    let Some(protocol) = websocket::choose(&offered) else {
        return refused(StatusCode::FORBIDDEN, "none of the offered subprotocols is known");
    };
    let token = request.uri().path().rsplit('/').next().unwrap_or_default();
    let Some(wanted) = streams.take(token) else {
        return refused(StatusCode::NOT_FOUND, GONE);
    };
    let pods = Arc::clone(pods);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        if let Wanted::PortForward(asked) = &wanted {
            let ports: Vec<u16> = asked.port.iter().filter_map(|port| u16::try_from(*port).ok()).collect();
            if let Some(network) = network(&pods, &asked.pod_sandbox_id) {
                let _ = port_forward::over_websocket(network, &ports, socket).await;
            }
            return;
        }
        if let Err(why) = remote_command::over_websocket(&pods, wanted, socket, protocol).await {
            debug!(%why, "a stream broke off");
        }
    });
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&key).expect("base64 is a header's value"));
    if !protocol.name().is_empty() {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol.name()));
    }
    response
}

fn refused(code: StatusCode, why: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(why.as_bytes())));
    *response.status_mut() = code;
    response
}

/// Switches to SPDY and serves the stream, or says why not.
fn over_spdy(streams: &Streams, pods: &Arc<Pods>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let token = request.uri().path().rsplit('/').next().unwrap_or_default();
    let Some(wanted) = streams.take(token) else { return refused(StatusCode::NOT_FOUND, GONE) };
    let upgrade = hyper::upgrade::on(&mut request);
    let protocol = if let Wanted::PortForward(asked) = &wanted {
        let Some(network) = network(pods, &asked.pod_sandbox_id) else { return refused(StatusCode::NOT_FOUND, "the Pod has no network") };
        upgraded(upgrade, move |connection| port_forward::over_spdy(network, connection));
        port_forward::PROTOCOL
    } else {
        let Some(version) = remote_command::Version::choose(names(request.headers(), VERSION)) else {
            return refused(StatusCode::FORBIDDEN, "none of the offered protocols is known");
        };
        let pods = Arc::clone(pods);
        upgraded(upgrade, move |connection| async move { remote_command::over_spdy(&pods, wanted, connection, version).await });
        version.name
    };
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static(spdy::NAME));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(VERSION, HeaderValue::from_static(protocol));
    response
}

/// Serves a connection once it is upgraded.
fn upgraded<F>(upgrade: OnUpgrade, serve: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static)
where
    F: Future<Output = std::io::Result<()>> + Send,
{
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        if let Err(why) = serve(TokioIo::new(upgraded)).await {
            debug!(%why, "a stream broke off");
        }
    });
}

fn network(pods: &Pods, id: &str) -> Option<Arc<port_forward::Network>> {
    let namespace = pods.network_namespace(id)?;
    Some(Arc::new(port_forward::Network { namespace, pod: id.into() }))
}

/// The values of a header that is a list.
fn names<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}
