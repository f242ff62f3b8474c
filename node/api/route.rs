//! From a path to what is asked: `/api/v1/namespaces/NS/pods/NAME/log` and the like.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, Response};
use skein_object::query::pairs;
use skein_object::registry::Subresource;
use skein_object::selector::FieldSelector;
use skein_object::{Key, Resource, Status};

use crate::admit::{Caller, Warnings};
use crate::authenticate::User;
use crate::metrics::Asked;
use crate::negotiate::{Form, Media};
use crate::request_info::split_stale;
use crate::verbs::{self, Consistency};
use crate::websocket::Websocket;
use crate::{Body, Context, aggregate, authenticate, authorize, body, discovery, negotiate, openapi, respond};

const STALE_WARNING: &str = "stale read: answered from this node's own replica, which may lag behind the cluster";

/// What an authorizer looks at.
pub(crate) enum Attributes<'a> {
    Path { verb: &'a str, path: &'a str },
    Resource { verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str, name: &'a str, subresource: &'a str, fields: &'a str },
}

/// A request for a resource, taken apart.
pub(crate) struct Target {
    pub(crate) resource: Arc<Resource>,
    pub(crate) namespace: String,
    /// Empty for a collection.
    pub(crate) name: String,
    pub(crate) subresource: Option<Subresource>,
    /// What follows `proxy` in the path.
    pub(crate) tail: String,
    pub(crate) query: Query,
    pub(crate) consistency: Consistency,
    pub(crate) caller: Caller,
    /// What the answer's objects look like.
    pub(crate) form: Form,
    /// How they are encoded.
    pub(crate) media: Media,
}

/// Query parameters, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

// === impl Query ===

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(pairs(text).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.get(name)?.parse().ok()
    }
}

// === impl Target ===

impl Target {
    pub(crate) fn key(&self) -> Key {
        Key::new(self.resource.stored(), &self.namespace, &self.name)
    }

    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        match self.query.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(Status::bad_request(format!(
                "Invalid value: [{other:?}]: dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }
}

/// Answers one request.
pub(crate) async fn dispatch(context: Context, user: User, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let full = request.uri().path().to_string();
    let (path, consistency) = split_stale(&full);
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let response = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => {
            let find = |plural: &str| context.catalog.find(&context.store.local().state, "", version, plural);
            let caller = Caller { user, warnings: Warnings::default() };
            let mut target = target(&find, rest, query, consistency, caller)?;
            target.tail = tail_of(path, &parts);
            serve_resource(context, target, request).await?
        }
        ["apis", group, version, ..] if let Some(backend) = aggregate::find(&context.store.local().state, group, version) => {
            aggregate::serve(&context, &user, &backend, request).await?
        }
        ["apis", group, version, rest @ ..] if !rest.is_empty() => {
            let find = |plural: &str| context.catalog.find(&context.store.local().state, group, version, plural);
            let caller = Caller { user, warnings: Warnings::default() };
            let mut target = target(&find, rest, query, consistency, caller)?;
            target.tail = tail_of(path, &parts);
            serve_resource(context, target, request).await?
        }
        _ => {
            let verb = request.method().as_str().to_lowercase();
            let attributes = Attributes::Path { verb: &verb, path };
            authorize::check(&context, &user, &attributes)?;
            serve_path(context, &user, &parts, request).await?
        }
    };
    let warnings = if consistency == Consistency::Stale { vec![STALE_WARNING.to_string()] } else { Vec::new() };
    Ok(respond::with_warnings(response, &warnings))
}

async fn serve_path(context: Context, user: &User, parts: &[&str], request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers();
    let served = || context.catalog.all(&context.store.local().state);
    match parts {
        ["api"] => Ok(discovery::core(headers, &served())),
        ["apis"] => Ok(discovery::groups(headers, &served(), &aggregate::remotes(&context).await)),
        ["api", version] => discovery::resources("", version, &served()),
        ["apis", group] if has_group(&context, group, &served()) => discovery::group(group, &served(), &aggregate::remotes(&context).await),
        ["apis", group, version] if served().iter().any(|r| r.group == *group && r.version == *version) => {
            discovery::resources(group, version, &served())
        }
        ["openapi", "v2"] => Ok(openapi::v2::serve(headers, &context.store.local().state, &served())),
        ["openapi", "v3"] => Ok(openapi::index(&served(), &aggregate::all(&context.store.local().state))),
        ["openapi", "v3", "apis", group, version] if let Some(backend) = aggregate::find(&context.store.local().state, group, version) => {
            aggregate::forward(&context, user, &backend, request).await
        }
        ["openapi", "v3", rest @ ..] => openapi::document(rest, &served()),
        [".well-known", "openid-configuration"] => Ok(respond::json(200, &authenticate::configuration())),
        ["openid", "v1", "jwks"] => {
            Ok(respond::bytes(200, "application/jwk-set+json", authenticate::jwks(&context.store.local().state).to_string()))
        }
        ["metrics"] => Ok(context.metrics.show(&context.store, &context.fairness)),
        ["version"] => Ok(discovery::version()),
        ["healthz" | "livez", ..] => Ok(respond::bytes(200, "text/plain; charset=utf-8", "ok")),
        ["readyz", ..] if context.store.has_quorum() => Ok(respond::bytes(200, "text/plain; charset=utf-8", "ok")),
        ["readyz", ..] => {
            Ok(respond::bytes(500, "text/plain; charset=utf-8", "[-]quorum failed: no leader is known\nreadyz check failed\n"))
        }
        ["skein", "v1", "status"] => Ok(respond::json(200, &context.cluster.status().await)),
        ["skein", "v1", "backup"] => Ok(respond::stream("application/octet-stream", context.cluster.backup().await?)),
        ["skein", "v1", "join"] if request.method() == Method::POST => {
            let join = body::decode(&request.headers().clone(), request.body())?;
            Ok(respond::json(200, &context.cluster.join(join).await?))
        }
        ["skein", "v1", "renew"] if request.method() == Method::POST => {
            let renewal = body::decode(&request.headers().clone(), request.body())?;
            Ok(respond::json(200, &context.cluster.renew(renewal).await?))
        }
        ["skein", "v1", "tokens"] if request.method() == Method::POST => {
            let wish = body::decode(&request.headers().clone(), request.body())?;
            Ok(respond::json(201, &context.cluster.create_token(wish).await?))
        }
        ["skein", "v1", "authority"] if request.method() == Method::POST => {
            let wish = body::decode(&request.headers().clone(), request.body())?;
            Ok(respond::json(200, &context.cluster.authority(wish).await?))
        }
        _ => Ok(respond::bytes(404, "text/plain; charset=utf-8", "404 page not found\n")),
    }
}

fn has_group(context: &Context, group: &str, served: &[Arc<Resource>]) -> bool {
    let is_remote = || aggregate::all(&context.store.local().state).iter().any(|backend| backend.group == group);
    served.iter().any(|resource| resource.group == group) || is_remote()
}

fn target(
    find: &dyn Fn(&str) -> Option<Arc<Resource>>,
    rest: &[&str],
    query: Query,
    consistency: Consistency,
    caller: Caller,
) -> Result<Target, Status> {
    let (resource, namespace, name, subresource) = match rest {
        // `namespaces/NS/...` is a namespace's content, but for the subresources of the Namespace itself.
        ["namespaces", namespace, plural, tail @ ..] if find(plural).is_some_and(|r| r.namespaced) => {
            (find(plural), *namespace, tail.first().copied().unwrap_or_default(), tail.get(1))
        }
        [plural, tail @ ..] => (find(plural), "", tail.first().copied().unwrap_or_default(), tail.get(1)),
        [] => return Err(Status::page_not_found()),
    };
    let resource = resource.ok_or_else(Status::page_not_found)?;
    let depth_max = if namespace.is_empty() { 3 } else { 5 };
    let is_proxy = subresource.is_some_and(|text| *text == Subresource::Proxy.name());
    if (rest.len() > depth_max && !is_proxy) || (resource.namespaced && namespace.is_empty() && !name.is_empty()) {
        return Err(Status::page_not_found());
    }
    let subresource = match subresource {
        Some(text) => Some(resource.subresource(text).ok_or_else(Status::page_not_found)?),
        None => None,
    };
    Ok(Target {
        resource,
        namespace: namespace.into(),
        name: name.into(),
        subresource,
        tail: String::new(),
        query,
        consistency,
        caller,
        form: Form::Object,
        media: Media::Json,
    })
}

/// What follows `proxy`, which comes after the name: a namespace or an object may be called so, too.
fn tail_of(path: &str, parts: &[&str]) -> String {
    let prefix = if parts.first() == Some(&"api") { 2 } else { 3 };
    let named = if parts.get(prefix) == Some(&"namespaces") && parts.len() > prefix + 4 { 4 } else { 2 };
    path.match_indices('/').nth(prefix + named + 1).map(|(at, _)| path[at..].to_string()).unwrap_or_default()
}

/// Kubernetes' verb of a request: it depends on the method, on whether there is a name, and on `?watch`.
fn verb_of(method: &Method, target: &Target) -> Option<&'static str> {
    let one = !target.name.is_empty();
    Some(match *method {
        Method::GET | Method::HEAD if one && !target.query.flag("watch") => "get",
        Method::GET if target.query.flag("watch") => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT if one => "update",
        Method::PATCH if one => "patch",
        Method::DELETE if one => "delete",
        Method::DELETE => "deletecollection",
        // Only whoever may do anything may ask what is served behind a proxy.
        Method::OPTIONS if target.subresource == Some(Subresource::Proxy) => "",
        _ => return None,
    })
}

async fn serve_resource(context: Context, mut target: Target, mut request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let verb = verb_of(request.method(), &target).ok_or_else(Status::method_not_allowed)?;
    let fields = target.query.get("fieldSelector").unwrap_or_default();
    // A list or a watch of one object is about that object (apiserver's `RequestInfo`).
    let selected = FieldSelector::parse(fields).ok().filter(|_| target.name.is_empty());
    let attributes = Attributes::Resource {
        verb,
        group: target.resource.group,
        resource: target.resource.plural,
        namespace: &target.namespace,
        name: selected.as_ref().and_then(FieldSelector::name).unwrap_or(&target.name),
        subresource: target.subresource.map(Subresource::name).unwrap_or_default(),
        fields,
    };
    authorize::check(&context, &target.caller.user, &attributes)?;
    if target.subresource.is_none() && !target.resource.verbs().contains(&verb) {
        return Err(Status::method_not_allowed());
    }
    let is_watch = verb == "watch";
    let media = match target.subresource {
        // They say themselves what they send.
        Some(Subresource::Log | Subresource::Exec | Subresource::Attach | Subresource::PortForward | Subresource::Proxy) => Media::Json,
        _ => {
            let (media, form) = negotiate::accepted(request.headers(), &target.resource, target.query.get("includeObject"), is_watch)?;
            (target.form, target.media) = (form, media);
            media
        }
    };
    let warnings = target.caller.warnings.clone();
    let (metrics, begin) = (Arc::clone(&context.metrics), Instant::now());
    let asked = Asked {
        verb,
        group: target.resource.group,
        version: target.resource.version,
        resource: target.resource.plural,
        subresource: target.subresource.map(Subresource::name).unwrap_or_default(),
    };
    let is_stream = is_watch || target.subresource == Some(Subresource::Log);
    let websocket = if is_stream { Websocket::asked(&mut request, is_watch)? } else { None };
    let answer = verbs::serve(verb, context, target, request).await;
    // A refusal has warnings too.
    let response = answer.unwrap_or_else(|status| respond::status(&status));
    let response = media.encode(response, &metrics).await?;
    metrics.answered(&asked, response.status().as_u16(), begin.elapsed());
    let response = match websocket {
        Some(websocket) if response.status().is_success() => websocket.carry(response),
        _ => response,
    };
    Ok(respond::with_warnings(response, &warnings.take()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_paths_apart() {
        let caller = Caller { user: User { name: "u".into(), ..User::default() }, warnings: Warnings::default() };
        let check = |rest: &[&str], expected: Option<(&str, &str, &str, Option<Subresource>)>| {
            let find = |plural: &str| skein_object::registry::find("", "v1", plural).cloned();
            let found = target(&find, rest, Query::default(), Consistency::Linearizable, caller.clone()).ok();
            let found = found.as_ref().map(|t| (t.resource.plural, t.namespace.as_str(), t.name.as_str(), t.subresource));
            assert_eq!(found, expected, "{rest:?}");
        };
        check(&["pods"], Some(("pods", "", "", None)));
        check(&["namespaces", "n", "pods"], Some(("pods", "n", "", None)));
        check(&["namespaces", "n", "pods", "p", "log"], Some(("pods", "n", "p", Some(Subresource::Log))));
        check(&["namespaces", "n"], Some(("namespaces", "", "n", None)));
        check(&["namespaces", "n", "status"], Some(("namespaces", "", "n", Some(Subresource::Status))));
        check(&["namespaces", "n", "nonsense"], None);
        check(&["pods", "p"], None);
        check(&["nodes", "a", "status"], Some(("nodes", "", "a", Some(Subresource::Status))));
    }

    #[test]
    fn decodes_queries() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&watch=1&x=");
        assert_eq!((query.get("labelSelector"), query.flag("watch"), query.get("x")), (Some("a=b,c"), true, None));
    }
}
