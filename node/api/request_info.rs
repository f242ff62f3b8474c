//! What a path is about, told from its form alone: `/apis/GROUP/VERSION/namespaces/NS/RESOURCE/NAME/SUBRESOURCE`
//! (apiserver's `RequestInfo`).

use std::borrow::Cow;

use http::{Method, Uri};

use crate::route::Query;
use crate::verbs::Consistency;

/// The path prefix under which everything is read from the local replica.
const STALE: &str = "/stale";

/// Empty where the path does not say it; without a resource it is a path and nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestInfo<'a> {
    pub(crate) path: &'a str,
    pub(crate) verb: &'static str,
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
}

// === impl RequestInfo ===

impl<'a> RequestInfo<'a> {
    pub(crate) fn of(method: &Method, uri: &'a Uri) -> Self {
        let (path, _) = split_stale(uri.path());
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => ("", "", &[][..]),
        };
        let at = |list: &[&'a str], index: usize| list.get(index).copied().unwrap_or_default();
        // A namespace's own subresources are not resources in it.
        let (namespace, rest) = match rest {
            ["namespaces", _, "status" | "finalize"] => ("", rest),
            ["namespaces", namespace, _, ..] => (*namespace, &rest[2..]),
            ["namespaces", namespace] => (*namespace, rest),
            _ => ("", rest),
        };
        let mut info =
            Self { path, verb: "", group, version, namespace, resource: at(rest, 0), name: at(rest, 1), subresource: at(rest, 2) };
        info.verb = info.verb_of(method, Query::parse(uri.query().unwrap_or_default()).flag("watch"));
        info
    }

    /// `pods/log`, `pods`: as rules name it.
    pub(crate) fn full_resource(&self) -> Cow<'a, str> {
        match self.subresource {
            "" => self.resource.into(),
            subresource => format!("{}/{subresource}", self.resource).into(),
        }
    }

    /// Whether the answer is there for as long as somebody listens.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.subresource, "attach" | "exec" | "log" | "portforward" | "proxy")
    }

    fn verb_of(&self, method: &Method, is_watch: bool) -> &'static str {
        match (method, self.resource.is_empty(), self.name.is_empty()) {
            (&Method::GET, false, _) if is_watch => "watch",
            (&Method::GET | &Method::HEAD, false, true) => "list",
            (&Method::GET | &Method::HEAD, ..) => "get",
            (&Method::POST, false, _) => "create",
            (&Method::PUT, false, _) => "update",
            (&Method::PATCH, ..) => "patch",
            (&Method::DELETE, false, true) => "deletecollection",
            (&Method::DELETE, ..) => "delete",
            (&Method::POST, ..) => "post",
            (&Method::PUT, ..) => "put",
            _ => "options",
        }
    }
}

/// The path as Kubernetes knows it, and how fresh the answer must be.
pub(crate) fn split_stale(path: &str) -> (&str, Consistency) {
    match path.strip_prefix(STALE) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => (rest, Consistency::Stale),
        _ => (path, Consistency::Linearizable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_what_they_are_about() {
        let check = |method: Method, path: &str, expected: [&str; 6]| {
            let uri = path.parse().expect("a path");
            let info = RequestInfo::of(&method, &uri);
            assert_eq!([info.verb, info.group, info.namespace, info.resource, info.name, info.subresource], expected, "{path}");
        };
        check(Method::GET, "/api/v1/pods", ["list", "", "", "pods", "", ""]);
        check(Method::GET, "/api/v1/namespaces/n/pods/p/log", ["get", "", "n", "pods", "p", "log"]);
        check(Method::PUT, "/api/v1/namespaces/n/finalize", ["update", "", "", "namespaces", "n", "finalize"]);
        check(Method::GET, "/api/v1/namespaces/n", ["get", "", "n", "namespaces", "n", ""]);
        check(Method::DELETE, "/apis/apps/v1/namespaces/n/deployments", ["deletecollection", "apps", "n", "deployments", "", ""]);
        check(Method::GET, "/apis/x.example/v1", ["get", "x.example", "", "", "", ""]);
        check(Method::GET, "/stale/api/v1/namespaces/n/secrets/s", ["get", "", "n", "secrets", "s", ""]);
        check(Method::GET, "/stales/api/v1/pods", ["get", "", "", "", "", ""]);
        check(Method::GET, "/healthz", ["get", "", "", "", "", ""]);
    }
}
