//! Streams to containers: the runtime names a URL of its own server, and the connection is handed on to it.

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use skein_cri::{self as v1, ContainerState};
use skein_object::Key;
use skein_object::query::pairs;
use skein_store::Handle as Store;
use tokio::net::TcpStream;

use crate::Options;
use crate::cri::{CONTAINER_NAME, Runtime};
use crate::server::{Body, pod};

type Refusal = (StatusCode, String);

/// Answers with the runtime's own answer; when it switches protocols, the two connections become one.
pub(crate) async fn hand_on(
    options: &Options,
    store: &Store,
    parts: &[&str],
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let url = runtime_url(options, store, parts, request.uri().query().unwrap_or_default()).await?;
    let failed = |why: &dyn std::fmt::Display| (StatusCode::INTERNAL_SERVER_ERROR, format!("the runtime's streaming server: {why}"));
    let uri: Uri = url.parse().map_err(|why| failed(&why))?;
    let authority = uri.authority().ok_or_else(|| failed(&"no host in its URL"))?.to_string();
    let stream = TcpStream::connect(&authority).await.map_err(|why| failed(&why))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|why| failed(&why))?;
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut forward = Request::builder().method(request.method()).uri(path).body(Empty::<Bytes>::new()).map_err(|why| failed(&why))?;
    *forward.headers_mut() = request.headers().clone();
    forward.headers_mut().insert(HOST, authority.parse().map_err(|why| failed(&why))?);
    let caller = hyper::upgrade::on(&mut request);
    let mut answer = sender.send_request(forward).await.map_err(|why| failed(&why))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let runtime = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(caller), Ok(runtime)) = tokio::join!(caller, runtime) {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(caller), &mut TokioIo::new(runtime)).await;
            }
        });
        let (head, _) = answer.into_parts();
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
        return Ok(Response::from_parts(head, body));
    }
    Ok(answer.map(|body| body.map_err(std::io::Error::other).boxed()))
}

async fn runtime_url(options: &Options, store: &Store, parts: &[&str], query: &str) -> Result<String, Refusal> {
    let not_found = |why: String| (StatusCode::NOT_FOUND, why);
    let runtime = Runtime::new(&options.runtime_endpoint);
    let query = Query(query);
    let asked = match parts {
        ["portForward", namespace, name] => {
            let pod = pod(store, &Key::new("pods", namespace, name)).map_err(not_found)?;
            let sandboxes = runtime.sandboxes(pod.metadata.uid.as_deref()).await.map_err(internal)?;
            let ready = sandboxes.into_iter().find(|s| s.state == i32::from(v1::PodSandboxState::SandboxReady));
            let ready = ready.ok_or_else(|| not_found(format!("not found (\"{namespace}/{name}\")")))?;
            // Only clients that speak websocket say their ports here.
            let ports = query.all("port").into_iter().chain(query.all("ports")).filter_map(|port| port.parse().ok()).collect();
            runtime.port_forward_url(&ready.id, ports).await
        }
        [kind, namespace, name, container] => {
            let pod = pod(store, &Key::new("pods", namespace, name)).map_err(not_found)?;
            let container_id = running(&runtime, &pod, container).await?;
            let tty = query.flag("tty");
            let (stdin, stdout, stderr) = (query.flag("stdin"), query.flag("stdout"), query.flag("stderr") && !tty);
            if *kind == "attach" {
                runtime.attach_url(v1::AttachRequest { container_id, stdin, tty, stdout, stderr }).await
            } else {
                runtime.exec_url(v1::ExecRequest { container_id, cmd: query.all("command"), tty, stdin, stdout, stderr }).await
            }
        }
        _ => return Err(not_found("404 page not found".into())),
    };
    asked.map_err(internal)
}

fn internal(why: crate::Error) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, why.to_string())
}

/// The id of the container that runs now under this name.
async fn running(runtime: &Runtime, pod: &Pod, container: &str) -> Result<String, Refusal> {
    let all = runtime.containers(pod.metadata.uid.as_deref()).await.map_err(internal)?;
    let mut named = all.into_iter().filter(|c| c.labels.get(CONTAINER_NAME).is_some_and(|name| name == container));
    let found = named.find(|c| c.state == i32::from(ContainerState::ContainerRunning));
    found.map(|c| c.id).ok_or_else(|| (StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))
}

/// A query in which a name may occur several times.
struct Query<'a>(&'a str);

// === impl Query ===

impl Query<'_> {
    fn all(&self, name: &str) -> Vec<String> {
        pairs(self.0).filter(|(key, _)| key == name).map(|(_, value)| value).collect()
    }

    fn flag(&self, name: &str) -> bool {
        self.all(name).iter().any(|v| v == "true" || v == "1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_command_from_a_query() {
        let query = Query("command=sh&command=-c&command=echo+%22a%2Bb%22&stdin=true&tty=false");
        assert_eq!(query.all("command"), ["sh", "-c", "echo \"a+b\""]);
        assert!(query.flag("stdin") && !query.flag("tty") && !query.flag("stdout"));
    }
}
