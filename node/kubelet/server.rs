//! What the kubelet answers the API, on whichever node that is, and whoever asks at its own port:
//! `/containerLogs/NAMESPACE/POD/CONTAINER`, the streams `/exec/…`, `/attach/…` and `/portForward/NAMESPACE/POD`, which
//! it hands on to the runtime's own server, `/pods`, and what is to be scraped: `/metrics…` and `/stats/summary`.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use prost::Message;
use skein_cri::ContainerState;
use skein_object::Key;
use skein_object::query::pairs;
use skein_store::{Duplex, Handle as Store};

use crate::cri::{CONTAINER_NAME, Runtime};
use crate::logs::{self, Query};
use crate::{Options, machine, metrics, stream, summary};

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// Serves HTTP/1.1 on one stream from another node (or this one) until it ends.
pub async fn serve(options: Arc<Options>, store: Store, stream: Box<dyn Duplex>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (options, store) = (Arc::clone(&options), store.clone());
        async move { Ok::<_, Infallible>(answer(&options, &store, request).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

async fn answer(options: &Options, store: &Store, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_string();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        ["exec" | "attach" | "portForward", ..] => match Box::pin(stream::hand_on(options, store, &parts, request)).await {
            Ok(response) => response,
            Err((code, why)) => plain(code, why),
        },
        ["containerLogs", namespace, pod, container] => {
            let query = query(request.uri().query().unwrap_or_default());
            match container_logs(options, store, &Key::new("pods", namespace, pod), container, query).await {
                Ok(body) => Response::new(body),
                Err(why) => plain(StatusCode::BAD_REQUEST, why),
            }
        }
        ["stats", "usage"] => match options.stats.newest() {
            Some(usage) => Response::new(Full::new(Bytes::from(usage.encode_to_vec())).map_err(|never| match never {}).boxed()),
            None => plain(StatusCode::SERVICE_UNAVAILABLE, "nothing has been measured yet".into()),
        },
        ["stats", "summary"] | ["metrics", ..] => Box::pin(measured(options, store, &parts)).await,
        ["pods"] => json(&pods(options, store)),
        ["healthz"] => plain(StatusCode::OK, "ok".into()),
        _ => plain(StatusCode::NOT_FOUND, "404 page not found".into()),
    }
}

/// What was measured last, as it is asked for.
async fn measured(options: &Options, store: &Store, parts: &[&str]) -> Response<Body> {
    let Some(look) = options.stats.look() else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "nothing has been measured yet".into());
    };
    let state = store.local().state;
    match parts {
        ["stats", "summary"] => json(&summary::summary(options, &state, &look, &summary::volumes(options, &state).await)),
        ["metrics"] => text(metrics::own(&look, &options.name, &summary::volumes(options, &state).await)),
        ["metrics", "resource"] => text(metrics::resource(&look)),
        ["metrics", "cadvisor"] => text(metrics::cadvisor(&look, &options.cgroup_root, machine::size())),
        ["metrics", "probes"] => text(String::new()),
        _ => plain(StatusCode::NOT_FOUND, "404 page not found".into()),
    }
}

/// The Pods of this node, as a list.
fn pods(options: &Options, store: &Store) -> serde_json::Value {
    let resource = skein_object::registry::by_key("pods").expect("the registry has Pods");
    let state = store.local().state;
    let all = state.range("pods/", None).map(|(_, entry)| resource.show(&entry.record, entry.revision));
    let here: Vec<serde_json::Value> = all.filter(|pod| pod["spec"]["nodeName"] == options.name.as_str()).collect();
    serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": here})
}

fn json(value: &serde_json::Value) -> Response<Body> {
    typed("application/json", value.to_string())
}

fn text(page: String) -> Response<Body> {
    typed("text/plain; version=0.0.4; charset=utf-8", page)
}

fn typed(kind: &'static str, content: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(content)).map_err(|never| match never {}).boxed());
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

async fn container_logs(options: &Options, store: &Store, key: &Key, container: &str, query: Query) -> Result<Body, String> {
    let pod = pod(store, key)?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let runtime = Runtime::new(&options.runtime_endpoint);
    let mut found: Vec<_> = runtime.containers(Some(&uid)).await.map_err(|e| e.to_string())?;
    found.retain(|c| c.labels.get(CONTAINER_NAME).is_some_and(|name| name == container));
    found.sort_by_key(|c| std::cmp::Reverse(c.metadata.as_ref().map_or(0, |m| m.attempt)));
    let wanted = if query.previous { found.get(1) } else { found.first() };
    let Some(wanted) = wanted else {
        return Err(if query.previous {
            format!("previous terminated container \"{container}\" in pod \"{}\" not found", key.name())
        } else {
            let reason = waiting_reason(&pod, container);
            format!("container \"{container}\" in pod \"{}\" is waiting to start: {reason}", key.name())
        });
    };
    let attempt = wanted.metadata.as_ref().map_or(0, |m| m.attempt);
    let path = logs::directory(&options.directory, &pod).join(logs::file(container, attempt));
    let id = wanted.id.clone();
    let alive = Box::new(move || -> futures::future::BoxFuture<'static, bool> {
        let (runtime, id) = (runtime.clone(), id.clone());
        Box::pin(async move { runtime.container_status(&id).await.is_ok_and(|s| s.state == i32::from(ContainerState::ContainerRunning)) })
    });
    let frames = logs::read(path, query, alive).map(|chunk| chunk.map(Frame::data));
    let frames: std::pin::Pin<Box<dyn futures::Stream<Item = std::io::Result<Frame<Bytes>>> + Send + Sync>> =
        Box::pin(SyncStream(frames.boxed().into()));
    Ok(BodyExt::boxed(StreamBody::new(frames)))
}

pub(crate) fn pod(store: &Store, key: &Key) -> Result<Pod, String> {
    let view = store.local();
    let found = view.state.get(key).and_then(|e| e.record.typed::<Pod>(e.revision));
    found.ok_or_else(|| format!("pod \"{}\" not found", key.name()))
}

/// A stream behind a lock that nobody contends for: hyper's boxed bodies must be `Sync`, streams seldom are.
struct SyncStream<T>(std::sync::Mutex<futures::stream::BoxStream<'static, T>>);

impl<T> futures::Stream for SyncStream<T> {
    type Item = T;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<T>> {
        let stream = self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        stream.as_mut().poll_next(context)
    }
}

fn waiting_reason(pod: &Pod, container: &str) -> String {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()));
    let status = statuses.into_iter().find(|s| s.name == container);
    let waiting = status.and_then(|s| s.state.as_ref()).and_then(|s| s.waiting.as_ref());
    match waiting.and_then(|w| w.reason.clone()) {
        Some(reason) if reason.contains("Pull") => "trying and failing to pull image".into(),
        Some(reason) => reason,
        None => "ContainerCreating".into(),
    }
}

fn query(text: &str) -> Query {
    let get = |name: &str| pairs(text).find(|(key, _)| key == name).map(|(_, value)| value);
    let flag = |name: &str| get(name).is_some_and(|v| v == "true" || v == "1");
    let since_seconds = get("sinceSeconds").and_then(|s| s.parse::<i64>().ok());
    let since_time = get("sinceTime").and_then(|t| t.parse::<Timestamp>().ok());
    Query {
        follow: flag("follow"),
        previous: flag("previous"),
        timestamps: flag("timestamps"),
        tail: get("tailLines").and_then(|n| n.parse().ok()),
        limit_bytes: get("limitBytes").and_then(|n| n.parse().ok()),
        since: since_time.or_else(|| Timestamp::now().checked_sub(SignedDuration::from_secs(since_seconds?)).ok()),
    }
}

fn plain(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed());
    *response.status_mut() = code;
    response
}
