//! API groups that another server answers for (APIServices that name a Service): authenticated and authorized here, then
//! sent on with the caller's name in the headers of the front-proxy protocol, under this node's certificate.
//!
//! Who may be such a proxy stands in the ConfigMap `kube-system/extension-apiserver-authentication`: every node is one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::join_all;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use skein_command::Write;
use skein_object::{Key, Status, meta, registry};
use skein_quic::Identity;
use skein_state::State;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::authenticate::User;
use crate::request_info::{RequestInfo, split_stale};
use crate::resources::proxy;
use crate::route::Attributes;
use crate::{Body, Context, authorize, call};

const SERVICES: &str = "apiservices.apiregistration.k8s.io";

/// How long what a server has said of its resources is believed.
const DISCOVERY_LIFETIME: Duration = Duration::from_secs(10);
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);
const DISCOVERY_BYTES_MAX: usize = 8 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the leader looks whether the servers are there.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// What servers have said of their resources, by the APIService's name.
#[derive(Default)]
pub(crate) struct Known(Mutex<HashMap<String, (Instant, Option<Value>)>>);

/// An APIService that names a Service.
pub(crate) struct Backend {
    name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    spec: Value,
    is_available: bool,
}

/// A group and version with the resources that its server tells of; none where it does not answer.
pub(crate) struct Remote {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resources: Option<Vec<Value>>,
}

/// Every APIService that names a Service, for a group and version that this server does not serve itself.
pub(crate) fn all(state: &State) -> Vec<Backend> {
    let mut found: Vec<Backend> = state.show_all(SERVICES).iter().filter_map(Backend::of).collect();
    found.retain(|backend| !registry::all().iter().any(|r| r.group == backend.group && r.version == backend.version));
    let priority = |backend: &Backend, field: &str| -backend.spec[field].as_i64().unwrap_or(0);
    found.sort_by_key(|backend| (priority(backend, "groupPriorityMinimum"), backend.group.clone(), priority(backend, "versionPriority")));
    found
}

pub(crate) fn find(state: &State, group: &str, version: &str) -> Option<Backend> {
    if registry::all().iter().any(|r| r.group == group && r.version == version) {
        return None;
    }
    Backend::of(&state.show(&Key::new(SERVICES, "", &format!("{version}.{group}")))?)
}

// === impl Backend ===

impl Backend {
    fn of(service: &Value) -> Option<Self> {
        let spec = service["spec"].clone();
        let text = |field: &str| spec[field].as_str().unwrap_or_default().to_string();
        if !spec["service"].is_object() || text("group").is_empty() {
            return None;
        }
        let conditions = service["status"]["conditions"].as_array().into_iter().flatten();
        let is_available = { conditions }.any(|c| c["type"] == "Available" && c["status"] == "True");
        Some(Self { name: meta::name(service).into(), group: text("group"), version: text("version"), is_available, spec })
    }

    fn service(&self) -> (&str, &str, u16) {
        let service = &self.spec["service"];
        let text = |field: &str| service[field].as_str().unwrap_or_default();
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        (text("namespace"), text("name"), port)
    }

    fn address(&self, state: &State) -> Result<SocketAddr, String> {
        let (namespace, name, port) = self.service();
        let service =
            state.show(&Key::new("services", namespace, name)).ok_or(format!("service/{name} in {namespace:?} is not present"))?;
        let ip = service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok());
        Ok(SocketAddr::new(ip.ok_or(format!("service/{name} in {namespace:?} has no cluster IP"))?, port))
    }

    async fn connect(
        &self,
        state: &State,
        identity: &Identity,
    ) -> Result<(tokio_rustls::client::TlsStream<TcpStream>, SocketAddr), String> {
        let address = self.address(state)?;
        let (namespace, name, _) = self.service();
        let host = ServerName::try_from(format!("{name}.{namespace}.svc")).map_err(|why| why.to_string())?;
        let connector = TlsConnector::from(Arc::new(self.tls(identity)?));
        let open = async {
            let tcp = TcpStream::connect(address).await.map_err(|why| format!("dial tcp {address}: {why}"))?;
            connector.connect(host, tcp).await.map_err(|why| format!("tls: {why}"))
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, open).await.map_err(|_| format!("dial tcp {address}: i/o timeout"))??;
        Ok((stream, address))
    }

    fn tls(&self, identity: &Identity) -> Result<ClientConfig, String> {
        let said = |why: &dyn std::fmt::Display| why.to_string();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().map_err(|e| said(&e))?;
        let builder = if self.spec["insecureSkipTLSVerify"] == true {
            builder.dangerous().with_custom_certificate_verifier(proxy::unverified(provider))
        } else {
            let bundle = STANDARD.decode(self.spec["caBundle"].as_str().unwrap_or_default()).map_err(|e| said(&e))?;
            builder.with_root_certificates(call::roots(&bundle)?)
        };
        let (chain, key) = identity.chain().and_then(|chain| Ok((chain, identity.key()?))).map_err(|e| said(&e))?;
        builder.with_client_auth_cert(chain, key).map_err(|e| said(&e))
    }
}

/// Answers a request for a group that another server has.
pub(crate) async fn serve(context: &Context, user: &User, backend: &Backend, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    authorize::check(context, user, &attributes(&RequestInfo::of(request.method(), request.uri())))?;
    forward(context, user, backend, request).await
}

/// Sends a request on, in the name of its caller.
pub(crate) async fn forward(
    context: &Context,
    user: &User,
    backend: &Backend,
    mut request: Request<Bytes>,
) -> Result<Response<Body>, Status> {
    let unavailable = |why: String| Status::failure(503, "ServiceUnavailable", format!("error trying to reach service: {why}"));
    if !backend.is_available {
        return Err(Status::failure(503, "ServiceUnavailable", "service unavailable"));
    }
    sign(request.headers_mut(), user);
    let path = split_stale(request.uri().path()).0.to_string();
    let identity = context.identity.borrow().clone();
    let state = context.store.local().state;
    let (stream, address) = backend.connect(&state, &identity).await.map_err(unavailable)?;
    proxy::exchange(stream, request, &path, &address.to_string()).await
}

/// Asks other servers in the name of a user. A cheap clone.
#[derive(Clone)]
pub struct Servers(Context);

// === impl Servers ===

impl Servers {
    pub(crate) fn new(context: Context) -> Self {
        Self(context)
    }

    /// What the server of the first of a group's versions that there is answers to a GET of a path below it.
    pub async fn get(&self, user: &str, (group, versions): (&str, &[&str]), path: &str) -> Result<Value, String> {
        let state = self.0.store.local().state;
        let backend = versions.iter().find_map(|version| find(&state, group, version));
        let backend =
            backend.ok_or_else(|| format!("no {} metrics API ({group}) registered", group.split('.').next().unwrap_or_default()))?;
        let uri = format!("/apis/{group}/{}/{path}", backend.version);
        let request = Request::get(uri).body(Bytes::new()).map_err(|why| why.to_string())?;
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"].map(String::from).into();
        let user = User { name: user.into(), groups, ..User::default() };
        let answer = forward(&self.0, &user, &backend, request).await.map_err(|status| status.message)?;
        let is_good = answer.status().is_success();
        let content = Limited::new(answer.into_body(), DISCOVERY_BYTES_MAX).collect().await.map_err(|why| why.to_string())?;
        let content: Value = serde_json::from_slice(&content.to_bytes()).map_err(|why| why.to_string())?;
        if is_good { Ok(content) } else { Err(content["message"].as_str().unwrap_or("unknown").into()) }
    }
}

/// The caller, in the headers of the front-proxy protocol, and nobody else.
fn sign(headers: &mut HeaderMap, user: &User) {
    let others: Vec<HeaderName> =
        headers.keys().filter(|n| ["x-remote-", "impersonate-"].iter().any(|p| n.as_str().starts_with(p))).cloned().collect();
    others.iter().chain([&AUTHORIZATION]).for_each(|name| drop(headers.remove(name)));
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    user.groups.iter().for_each(|group| add("x-remote-group", group));
    for (key, values) in &user.extra {
        // Keys hold slashes, which no header's name may.
        let name = format!("x-remote-extra-{}", key.replace('%', "%25").replace('/', "%2f"));
        values.iter().for_each(|value| add(&name, value));
    }
}

/// What a path is about, as the authorizer sees it.
fn attributes<'a>(info: &RequestInfo<'a>) -> Attributes<'a> {
    let RequestInfo { path, verb, group, namespace, resource, name, subresource, .. } = *info;
    match resource {
        "" => Attributes::Path { verb, path },
        _ => Attributes::Resource { verb, group, resource, namespace, name, subresource, fields: "" },
    }
}

/// All groups that other servers have, with their resources.
pub(crate) async fn remotes(context: &Context) -> Vec<Remote> {
    let backends = all(&context.store.local().state);
    let asked = backends.iter().map(|backend| async {
        let list = resources(context, backend).await;
        let resources = list.and_then(|list| list["resources"].as_array().cloned());
        Remote { group: backend.group.clone(), version: backend.version.clone(), resources }
    });
    join_all(asked).await
}

/// The `APIResourceList` of a server, not older than [`DISCOVERY_LIFETIME`].
async fn resources(context: &Context, backend: &Backend) -> Option<Value> {
    let known = |context: &Context| {
        let known = context.aggregated.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&backend.name).filter(|(since, _)| since.elapsed() < DISCOVERY_LIFETIME).cloned()
    };
    if let Some((_, list)) = known(context) {
        return list;
    }
    let list = if backend.is_available { discover(context, backend).await.ok() } else { None };
    let mut all = context.aggregated.0.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, (since, _)| since.elapsed() < DISCOVERY_LIFETIME);
    all.insert(backend.name.clone(), (Instant::now(), list.clone()));
    list
}

async fn discover(context: &Context, backend: &Backend) -> Result<Value, String> {
    let aggregator = User { name: "system:kube-aggregator".into(), groups: vec!["system:masters".into()], ..User::default() };
    let path = format!("/apis/{}/{}", backend.group, backend.version);
    let asked = async {
        let mut request = Request::get(&path).header("accept", "application/json").body(Bytes::new()).map_err(|why| why.to_string())?;
        sign(request.headers_mut(), &aggregator);
        let identity = context.identity.borrow().clone();
        let (stream, address) = backend.connect(&context.store.local().state, &identity).await?;
        let answer = proxy::exchange(stream, request, &path, &address.to_string()).await.map_err(|status| status.message)?;
        if !answer.status().is_success() {
            return Err(format!("bad status from https://{address}{path}: {}", answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), DISCOVERY_BYTES_MAX).collect().await.map_err(|why| why.to_string())?.to_bytes();
        serde_json::from_slice(&body).map_err(|why| why.to_string())
    };
    let failed = |why: String| format!("failing or missing response from {path}: {why}");
    tokio::time::timeout(DISCOVERY_TIMEOUT, asked).await.unwrap_or_else(|_| Err("context deadline exceeded".into())).map_err(failed)
}

/// While this node leads, tells of each APIService whether its server is there (the condition `Available`).
pub(crate) async fn watch_availability(context: Context) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        if !context.store.leadership().is_self {
            continue;
        }
        let state = context.store.local().state;
        let services = state.show_all(SERVICES);
        join_all(services.iter().map(|service| tell(&context, &state, service))).await;
    }
}

async fn tell(context: &Context, state: &State, service: &Value) {
    let (status, reason, message) = match Backend::of(service) {
        None => ("True", "Local", "Local APIServices are always available".to_string()),
        Some(backend) => match standing(context, state, &backend).await {
            Ok(()) => ("True", "Passed", "all checks passed".to_string()),
            Err((reason, why)) => ("False", reason, why),
        },
    };
    let resource = registry::by_key(SERVICES).expect("the registry has APIServices");
    let key = Key::new(SERVICES, "", meta::name(service));
    let Some(entry) = state.get(&key) else { return };
    let mut new = service.clone();
    let old = service["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Available");
    if old.is_some_and(|old| old["status"] == status && old["reason"] == reason && old["message"] == message) {
        return;
    }
    let since = old.filter(|old| old["status"] == status).map(|old| old["lastTransitionTime"].clone());
    let since = since.unwrap_or_else(|| meta::time(Timestamp::now()).into());
    new["status"]["conditions"] =
        json!([{"type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": since}]);
    let write = Write::update(&key, entry.revision, &entry.record, &resource.record(&new));
    // Whoever changed it meanwhile is looked at in the next round.
    if let Err(why) = context.store.propose(write.into()).await {
        tracing::debug!(%key, %why, "the availability is not told");
    }
}

/// Whether a server answers, in the words of Kubernetes' availability controller.
async fn standing(context: &Context, state: &State, backend: &Backend) -> Result<(), (&'static str, String)> {
    let (namespace, name, _) = backend.service();
    if state.get(&Key::new("services", namespace, name)).is_none() {
        return Err(("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    }
    discover(context, backend).await.map(drop).map_err(|why| ("FailedDiscoveryCheck", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_authorized_by_what_they_are_about() {
        let check = |method: &str, path: &str, expected: &str| {
            let uri = path.parse().expect("a path");
            let info = RequestInfo::of(&method.parse().expect("a method"), &uri);
            let text = match attributes(&info) {
                Attributes::Path { verb, path } => format!("{verb} {path}"),
                Attributes::Resource { verb, group, resource, namespace, name, subresource, .. } => {
                    format!("{verb} {group} {resource} {namespace} {name} {subresource}")
                }
            };
            assert_eq!(text.trim_end(), expected, "{method} {path}");
        };
        check("GET", "/apis/x.example/v1", "get /apis/x.example/v1");
        check("GET", "/apis/x.example/v1/things", "list x.example things");
        check("GET", "/apis/x.example/v1/things?watch=1", "watch x.example things");
        check("GET", "/apis/x.example/v1/namespaces/a/things/b", "get x.example things a b");
        check("PATCH", "/apis/x.example/v1/namespaces/a/things/b/status", "patch x.example things a b status");
        check("DELETE", "/apis/x.example/v1/namespaces/a/things", "deletecollection x.example things a");
    }

    #[test]
    fn nobody_says_who_he_is_but_this_node() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-remote-user", "root"), ("impersonate-group", "system:masters"), ("authorization", "Bearer x"), ("accept", "*/*")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut user = User { name: "ada".into(), groups: vec!["devs".into(), "all".into()], ..User::default() };
        user.extra.insert("example.com/key".into(), vec!["v".into()]);
        sign(&mut headers, &user);
        let shown: Vec<String> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap_or_default())).collect();
        assert_eq!(
            shown,
            ["accept: */*", "x-remote-user: ada", "x-remote-group: devs", "x-remote-group: all", "x-remote-extra-example.com%2fkey: v"]
        );
    }
}
