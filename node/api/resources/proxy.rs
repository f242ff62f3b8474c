//! `pods/proxy`, `services/proxy`, `nodes/proxy`: an HTTP request to whoever serves there.
//!
//! A name may say scheme and port: `https:web:8443`, `web:http`, `web`. Pods and endpoints are reached by their addresses,
//! which every node has a way to; nodes by their kubelets. As in Kubernetes, who answers over TLS is not verified.

mod page;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    AUTHORIZATION, CONNECTION, HOST, LOCATION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use skein_object::{Key, Status};
use skein_state::State;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use page::Through;

use crate::route::Target;
use crate::server::Peer;
use crate::verbs::view;
use crate::{Body, Context, respond};

/// What the kubelet is called by whom asks it.
const KUBELET: &str = "kubelet";

/// Who has not taken the connection by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `[SCHEME:]NAME[:PORT]`
#[derive(Debug, PartialEq)]
struct Named<'a> {
    is_tls: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        match text.split(':').collect::<Vec<_>>().as_slice() {
            [name] => Some(Self { is_tls: false, name, port: "" }),
            ["https", name, port] => Some(Self { is_tls: true, name, port }),
            ["http" | "", name, port] | [name, port] => Some(Self { is_tls: false, name, port }),
            _ => None,
        }
    }
}

pub(crate) async fn serve(context: &Context, target: &Target, mut request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let malformed = || Status::bad_request(format!("invalid {} request \"{}\"", target.resource.singular(), target.name));
    let named = Named::parse(&target.name).ok_or_else(malformed)?;
    let state = view(context, target).await?.state;
    let key = Key::new(target.resource.stored(), &target.namespace, named.name);
    let object = state.show(&key).ok_or_else(|| Status::not_found(&target.resource, named.name))?;
    let redirect = with_slash(target, &request);
    if target.resource.plural == "nodes" {
        if let Some(redirect) = redirect {
            return Ok(redirect);
        }
        let through = introduce(&mut request, &target.tail, KUBELET);
        let answer = context.kubelets.send(named.name, forwarded(request, &target.tail, KUBELET)?).await;
        return answer.map(|answer| answered(through, answer)).map_err(|why| unreachable(&why.to_string()));
    }
    let address = match target.resource.plural {
        "pods" => of_pod(&object, &named),
        _ => of_service(&state, &key, &object, &named),
    };
    let address = address.ok_or_else(|| unreachable(&format!("no endpoints available for \"{}\"", target.name)))?;
    if let Some(redirect) = redirect {
        return Ok(redirect);
    }
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(why)) => return Err(unreachable(&format!("error trying to reach service: dial tcp {address}: {why}"))),
        Err(_) => return Err(unreachable(&format!("error trying to reach service: dial tcp {address}: i/o timeout"))),
    };
    let through = introduce(&mut request, &target.tail, &address.to_string());
    // Who serves many hosts by their names is asked by the name that the client used, as Kubernetes does.
    let host = if through.host.is_empty() { through.address.clone() } else { through.host.clone() };
    if !named.is_tls {
        return exchange(stream, request, &target.tail, &host).await.map(|answer| answered(through, answer));
    }
    let name = ServerName::IpAddress(address.ip().into());
    let tls = TlsConnector::from(Arc::new(without_verification()?))
        .connect(name, stream)
        .await
        .map_err(|why| unreachable(&format!("tls: {why}")))?;
    exchange(tls, request, &target.tail, &host).await.map(|answer| answered(through, answer))
}

/// Says in headers for whom a request is sent on, and keeps what its answer is to be rewritten by.
fn introduce(request: &mut Request<Bytes>, tail: &str, address: &str) -> Through {
    let path = request.uri().path().to_string();
    let prefix = path.strip_suffix(tail).unwrap_or(&path).to_string();
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .or(request.uri().host().and(request.uri().authority().map(|a| a.as_str())));
    let through = Through { prefix, host: host.unwrap_or_default().into(), address: address.into() };
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_string());
    let before = request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok());
    let chain = before.map(String::from).into_iter().chain(peer).collect::<Vec<_>>().join(", ");
    for (name, value) in [("x-forwarded-uri", &path), ("x-forwarded-for", &chain)] {
        if let Ok(value) = value.parse::<http::HeaderValue>() {
            request.headers_mut().insert(name, value);
        }
    }
    through
}

/// Where the answer comes from is no origin of its own for a browser.
fn answered(through: Through, mut answer: Response<Body>) -> Response<Body> {
    for name in [ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN]
    {
        answer.headers_mut().remove(name);
    }
    through.answer(answer)
}

/// Where to look for what is served at `/`, so that relative links lead on from there.
fn with_slash(target: &Target, request: &Request<Bytes>) -> Option<Response<Body>> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if !target.tail.is_empty() || !is_read || request.headers().contains_key(UPGRADE) {
        return None;
    }
    let query = request.uri().query().map_or(String::new(), |query| format!("?{query}"));
    let mut response = Response::new(respond::full(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(LOCATION, format!("{}/{query}", request.uri().path()).parse().ok()?);
    Some(response)
}

fn unreachable(why: &str) -> Status {
    Status::failure(503, "ServiceUnavailable", why)
}

/// The port that is named, or the first that the Pod states, or 80.
fn of_pod(pod: &Value, named: &Named<'_>) -> Option<SocketAddr> {
    let address: IpAddr = pod.pointer("/status/podIP")?.as_str()?.parse().ok()?;
    let ports = pod.pointer("/spec/containers")?.as_array()?.iter().filter_map(|c| c["ports"].as_array()).flatten();
    let stated = { ports }.find(|port| named.port.is_empty() || port["name"] == named.port).and_then(|port| port["containerPort"].as_u64());
    let port = named.port.parse().ok().or_else(|| stated.and_then(|port| u16::try_from(port).ok()));
    Some(SocketAddr::new(address, port.or_else(|| named.port.is_empty().then_some(80))?))
}

/// A ready endpoint of a Service's port: by the port's name or number, or its only one.
fn of_service(state: &State, key: &Key, service: &Value, named: &Named<'_>) -> Option<SocketAddr> {
    let ports = service.pointer("/spec/ports")?.as_array()?;
    let meant = |port: &&Value| port["name"] == named.port || port["port"].as_u64().map(|n| n.to_string()).as_deref() == Some(named.port);
    let port = match (named.port, ports.as_slice()) {
        ("", [one]) => one,
        ("", many) => many.iter().find(|port| port["name"].as_str().unwrap_or_default().is_empty())?,
        _ => ports.iter().find(meant)?,
    };
    let name = port["name"].as_str().unwrap_or_default();
    let prefix = Key::prefix("endpointslices.discovery.k8s.io", key.namespace());
    let slices = state.range(&prefix, None).filter_map(|(_, entry)| entry.record.typed::<EndpointSlice>(entry.revision));
    let of_service = |slice: &EndpointSlice| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|l| l.get("kubernetes.io/service-name")).is_some_and(|service| service == key.name())
    };
    slices.filter(of_service).find_map(|slice| {
        let port = slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or_default() == name)?.port?;
        let ready = slice.endpoints.iter().flatten().find(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))?;
        Some(SocketAddr::new(ready.addresses.first()?.parse().ok()?, u16::try_from(port).ok()?))
    })
}

/// The request as the other end gets it: its own path, and nothing that is for the API alone.
pub(crate) fn forwarded(request: Request<Bytes>, tail: &str, host: &str) -> Result<Request<Body>, Status> {
    let (mut head, body) = request.into_parts();
    let path = if tail.is_empty() { "/" } else { tail };
    let query = head.uri.query().map_or(String::new(), |query| format!("?{query}"));
    head.uri = format!("{path}{query}").parse::<Uri>().map_err(|why| Status::bad_request(why.to_string()))?;
    for name in [AUTHORIZATION, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    if !head.headers.contains_key(UPGRADE) {
        head.headers.remove(CONNECTION);
    }
    head.headers.insert(HOST, host.parse().map_err(Status::internal)?);
    head.version = http::Version::HTTP_11;
    Ok(Request::from_parts(head, respond::full(body)))
}

pub(crate) async fn exchange<T>(stream: T, mut request: Request<Bytes>, tail: &str, host: &str) -> Result<Response<Body>, Status>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |why: hyper::Error| unreachable(&format!("error trying to reach service: {why}"));
    let client = hyper::upgrade::on(&mut request);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(connection.with_upgrades());
    let mut answer = sender.send_request(forwarded(request, tail, host)?).await.map_err(failed)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let served = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(client), Ok(served)) = tokio::join!(client, served) {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(served)).await;
            }
        });
    } else {
        drop_hops(answer.headers_mut());
    }
    Ok(answer.map(|body| body.map_err(std::io::Error::other).boxed()))
}

/// Headers that are about one connection only (RFC 9110, section 7.6.1).
fn drop_hops(headers: &mut HeaderMap) {
    for name in [CONNECTION, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

fn without_verification() -> Result<ClientConfig, Status> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = unverified(Arc::clone(&provider));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(Status::internal)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Believes whoever answers.
pub(crate) fn unverified(provider: Arc<rustls::crypto::CryptoProvider>) -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
    Arc::new(Unverified(provider))
}

/// Takes any certificate, but wants its key to be there.
#[derive(Debug)]
struct Unverified(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_say_scheme_and_port() {
        let check = |text: &str, expected: Option<(bool, &str, &str)>| {
            assert_eq!(Named::parse(text), expected.map(|(is_tls, name, port)| Named { is_tls, name, port }), "{text}");
        };
        check("web", Some((false, "web", "")));
        check("web:80", Some((false, "web", "80")));
        check("https:web:8443", Some((true, "web", "8443")));
        check("http:web:http", Some((false, "web", "http")));
        check("a:b:c:d", None);
    }

    #[test]
    fn a_pod_is_asked_at_its_first_port_or_the_one_that_is_named() {
        let pod = json!({"status": {"podIP": "10.0.0.1"}, "spec": {"containers": [{"ports": [{"containerPort": 8080, "name": "a"}, {"containerPort": 9, "name": "b"}]}]}});
        let check = |port: &str, expected: Option<&str>| {
            let found = of_pod(&pod, &Named { is_tls: false, name: "p", port });
            assert_eq!(found.map(|a| a.to_string()).as_deref(), expected);
        };
        check("", Some("10.0.0.1:8080"));
        check("b", Some("10.0.0.1:9"));
        check("1234", Some("10.0.0.1:1234"));
        check("c", None);
    }
}
