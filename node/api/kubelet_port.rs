//! The kubelet's own port, which metrics are scraped from: who asks is known as everywhere, may what roles let him do with
//! `nodes/…` (`pkg/kubelet/server/auth.go`, KEP-2862), and is answered by this node's kubelet.

use bytes::Bytes;
use http::{Method, Request, Response};
use skein_object::Status;

use crate::authenticate::User;
use crate::resources::proxy::forwarded;
use crate::route::Attributes;
use crate::{Body, Context, authorize};

pub(crate) async fn answer(context: &Context, node: &str, user: &User, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    if !user.is_in("system:authenticated") {
        return Err(Status::unauthorized());
    }
    let path = request.uri().path().to_string();
    let verb = verb(request.method());
    let parts = subresources(&path);
    let may = |subresource: &str| {
        let attributes = Attributes::Resource { verb, group: "", resource: "nodes", namespace: "", name: node, subresource, fields: "" };
        authorize::is_allowed(context, user, &attributes)
    };
    if !parts.iter().any(|part| may(part)) {
        let asked = parts.join(" ");
        let why = format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{asked}])", user.name);
        return Err(Status::failure(403, "Forbidden", why));
    }
    let answered = context.kubelets.send(node, forwarded(request, &path, "kubelet")?).await;
    answered.map_err(|why| Status::failure(503, "ServiceUnavailable", why.to_string()))
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// As parts of a node: any of these is leave enough.
fn subresources(path: &str) -> &'static [&'static str] {
    let first = path.split('/').nth(1).unwrap_or_default();
    match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "healthz" => &["healthz", "proxy"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_parts_of_the_node() {
        let check = |path: &str, expected: &[&str]| assert_eq!(subresources(path), expected, "{path}");
        check("/metrics/cadvisor", &["metrics"]);
        check("/stats/summary", &["stats"]);
        check("/pods", &["pods", "proxy"]);
        check("/exec/ns/pod/c", &["proxy"]);
        check("/", &["proxy"]);
    }
}
