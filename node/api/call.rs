//! Calls of other servers: of a webhook, in a Service or at a URL, trusted by the bundle that its configuration carries;
//! and of whatever is at a URL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use skein_object::Key;
use skein_state::State;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An answer is at most this large.
const ANSWER_BYTES_MAX: usize = 3 << 20;

/// Where a webhook is: how it is called in its certificate, where it listens, what is asked.
struct Place {
    name: String,
    host: String,
    port: u16,
    path: String,
    /// As it stands in errors.
    shown: String,
}

/// Asks the webhook of a `clientConfig`; `Err` says why there is no answer.
pub(crate) async fn post(state: &State, client: &Value, seconds: u64, review: &Value) -> Result<Value, String> {
    let place = place(state, client)?;
    let shown = format!("Post \"{}?timeout={seconds}s\"", place.shown);
    match tokio::time::timeout(Duration::from_secs(seconds), exchange(&place, client, review, seconds)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => Err(format!("{shown}: {why}")),
        Err(_) => Err(format!("{shown}: context deadline exceeded")),
    }
}

fn place(state: &State, client: &Value) -> Result<Place, String> {
    if let Some(url) = client["url"].as_str() {
        return place_of(url);
    }
    let service = &client["service"];
    let text = |field: &str| service[field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
    let path = format!("/{}", text("path").trim_start_matches('/'));
    let dns = format!("{name}.{namespace}.svc");
    let shown = format!("https://{dns}:{port}{path}");
    let found = state.show(&Key::new("services", namespace, name)).ok_or_else(|| format!("service \"{name}\" not found"))?;
    let host = found.pointer("/spec/clusterIP").and_then(Value::as_str).filter(|ip| !ip.is_empty() && *ip != "None");
    let host = host.ok_or_else(|| format!("service \"{name}\" has no cluster IP"))?.to_string();
    Ok(Place { name: dns, host, port, path, shown })
}

fn place_of(url: &str) -> Result<Place, String> {
    let rest = url.strip_prefix("https://").ok_or_else(|| format!("{url:?} is not an https URL"))?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| format!("{url:?} has no valid port"))?),
        _ => (authority, 443),
    };
    let host = host.trim_matches(['[', ']']).to_string();
    Ok(Place { name: host.clone(), host, port, path: path.into(), shown: url.into() })
}

async fn exchange(place: &Place, client: &Value, review: &Value, seconds: u64) -> Result<Value, String> {
    let request = Request::post(format!("{}?timeout={seconds}s", place.path))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(|why| why.to_string())?;
    ask(place, &Arc::new(trust(client)?), request).await
}

/// What is at an https URL, as JSON.
pub(crate) async fn get(url: &str, client: &Arc<ClientConfig>) -> Result<Value, String> {
    let place = place_of(url)?;
    let request = Request::get(&place.path).body(Full::new(Bytes::new())).map_err(|why| why.to_string())?;
    ask(&place, client, request).await
}

async fn ask(place: &Place, client: &Arc<ClientConfig>, mut request: Request<Full<Bytes>>) -> Result<Value, String> {
    let said = |why: &dyn std::fmt::Display| why.to_string();
    let name = ServerName::try_from(place.name.clone()).map_err(|why| said(&why))?;
    let connector = TlsConnector::from(Arc::clone(client));
    let mut addresses = tokio::net::lookup_host((place.host.as_str(), place.port)).await.map_err(|why| said(&why))?;
    let address: SocketAddr = addresses.next().ok_or_else(|| format!("lookup {}: no such host", place.host))?;
    let tcp = TcpStream::connect(address).await.map_err(|why| format!("dial tcp {address}: {why}"))?;
    let tls = connector.connect(name, tcp).await.map_err(|why| format!("tls: {why}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|why| said(&why))?;
    tokio::spawn(connection);
    let host = HeaderValue::from_str(&format!("{}:{}", place.name, place.port)).map_err(|why| said(&why))?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    let response = sender.send_request(request).await.map_err(|why| said(&why))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|why| said(&why))?.to_bytes();
    if !status.is_success() {
        return Err(format!("the server answered {status}: {}", String::from_utf8_lossy(&body).chars().take(200).collect::<String>()));
    }
    serde_json::from_slice(&body).map_err(|why| format!("couldn't decode the answer: {why}"))
}

/// The certificates of `caBundle`; nobody is trusted without.
fn trust(client: &Value) -> Result<ClientConfig, String> {
    let bundle = STANDARD.decode(client["caBundle"].as_str().unwrap_or_default()).map_err(|why| format!("caBundle: {why}"))?;
    trusting(roots(&bundle).map_err(|why| format!("caBundle: {why}"))?)
}

/// The certificates of a bundle in PEM.
pub(crate) fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|why| why.to_string())?;
        roots.add(certificate).map_err(|why| why.to_string())?;
    }
    Ok(roots)
}

pub(crate) fn trusting(roots: RootCertStore) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|why| why.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
