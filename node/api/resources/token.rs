//! `serviceaccounts/token`: a token for a ServiceAccount, for a time, bound to a Pod or Secret where the request says so.

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use skein_object::field::{Errors, Path};
use skein_object::status::Details;
use skein_object::{Key, Resource, Status, meta, registry};
use skein_store::View;

use crate::admit::{admit_part, restrict_part};
use crate::authenticate::{Bound, TokenClaims};
use crate::route::Target;
use crate::verbs::{to_value, view};
use crate::{Body, Context, body, respond};

/// `TokenRequest` bounds (`pkg/apis/authentication/validation`).
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_DEFAULT: i64 = 3600;

pub(crate) async fn create(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let mut wish = body::decode(&headers, request.body())?;
    check_place(target, &wish)?;
    let view = view(context, target).await?;
    let entry = view.state.get(&target.key()).ok_or_else(|| Status::not_found(&target.resource, &target.name))?;
    let account = to_value(&target.resource, entry);
    let uid = meta::text(&account, "uid").to_string();
    let asked = meta::text(&wish, "uid");
    if !asked.is_empty() && asked != uid {
        let why = format!("the UID in the token request ({asked}) does not match the UID of the service account ({uid})");
        return Err(conflict("authentication.k8s.io", "TokenRequest", &target.name, &why));
    }
    let seconds = wish.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(SECONDS_DEFAULT);
    check_seconds(seconds)?;
    let pod = wish.pointer("/spec/boundObjectRef").filter(|reference| reference["kind"] == "Pod");
    let pod = pod.and_then(|pod| view.state.show(&Key::new("pods", &target.namespace, pod["name"].as_str()?)));
    restrict_part(context, target, &wish, &pod.unwrap_or_default())?;
    wish = admit_part(context, target, "CREATE", wish, &Value::Null).await?;
    let bound = bound(&view, target, &wish)?;
    let audience: Vec<String> = wish.pointer("/spec/audiences").and_then(|a| serde_json::from_value(a.clone()).ok()).unwrap_or_default();
    let claims = TokenClaims::new(&account, &audience, bound.as_ref(), seconds);
    let token = context.cluster.sign(&claims).await?;
    wish["kind"] = "TokenRequest".into();
    wish["apiVersion"] = "authentication.k8s.io/v1".into();
    let now = meta::time(jiff::Timestamp::now());
    wish["metadata"] = json!({"name": target.name, "namespace": target.namespace, "uid": uid, "creationTimestamp": now});
    wish["spec"]["expirationSeconds"] = seconds.into();
    if audience.is_empty() {
        wish["spec"]["audiences"] = json!([crate::authenticate::API_AUDIENCE]);
    }
    wish["status"] = json!({"token": token, "expirationTimestamp": meta::time(claims.expires())});
    Ok(respond::json(201, &wish))
}

/// Whoever says for which ServiceAccount the token is to be means that of the path.
fn check_place(target: &Target, wish: &Value) -> Result<(), Status> {
    let mut errors = Errors::default();
    for (field, is, detail) in [
        ("name", &target.name, "must match the service account name if specified"),
        ("namespace", &target.namespace, "must match the service account namespace if specified"),
    ] {
        let said = meta::text(wish, field);
        if !said.is_empty() && said != is {
            errors.invalid(&Path::new("metadata").child(field), said, detail);
        }
    }
    invalid(&target.name, &errors)
}

fn invalid(name: &str, errors: &Errors) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    let message = format!("TokenRequest.authentication.k8s.io \"{name}\" is invalid: {errors}");
    Err(Status::failure(422, "Invalid", message).about(Details { causes: errors.causes(), ..Details::default() }))
}

fn conflict(group: &str, kind: &str, name: &str, why: &str) -> Status {
    let of = if group.is_empty() { kind.to_string() } else { format!("{kind}.{group}") };
    let message = format!("Operation cannot be fulfilled on {of} \"{name}\": {why}");
    Status::failure(409, "Conflict", message).about(Details {
        name: name.into(),
        group: group.into(),
        kind: kind.into(),
        ..Details::default()
    })
}

fn check_seconds(seconds: i64) -> Result<(), Status> {
    let mut errors = Errors::default();
    let path = Path::new("spec.expirationSeconds");
    if seconds < SECONDS_MIN {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > SECONDS_MAX {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    invalid("", &errors)
}

/// What the token is to end with: a Pod of the ServiceAccount, a Secret or a Node.
fn bound(view: &View, target: &Target, wish: &Value) -> Result<Option<Bound>, Status> {
    let Some(reference) = wish.pointer("/spec/boundObjectRef").filter(|r| r.is_object()) else { return Ok(None) };
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind, name, uid) = (text("apiVersion"), text("kind"), text("name"), text("uid"));
    let plural = match kind {
        "Pod" => "pods",
        "Secret" => "secrets",
        "Node" => "nodes",
        _ => "",
    };
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = registry::find("", "v1", plural).filter(|_| group.is_empty());
    let resource =
        resource.ok_or_else(|| Status::bad_request(format!("cannot bind token to object of type {group}/{version}, Kind={kind}")))?;
    let find = |resource: &Resource, namespace: &str, name: &str| {
        view.state.get(&Key::new(resource.stored(), namespace, name)).map(|entry| to_value(resource, entry))
    };
    let namespace = if resource.namespaced { target.namespace.as_str() } else { "" };
    let object = find(resource, namespace, name).ok_or_else(|| Status::not_found(resource, name))?;
    if kind == "Pod" && object["spec"]["serviceAccountName"] != target.name.as_str() {
        let account = &target.name;
        let why = format!("cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name.");
        return Err(Status::bad_request(why));
    }
    let found = meta::text(&object, "uid");
    if !uid.is_empty() && uid != found {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(conflict("", kind, name, &why));
    }
    let node = object.pointer("/spec/nodeName").and_then(Value::as_str).map(|node| {
        let known = registry::find("", "v1", "nodes").and_then(|nodes| find(nodes, "", node)).unwrap_or_default();
        (node.to_string(), meta::text(&known, "uid").to_string())
    });
    Ok(Some(Bound { kind: kind.into(), name: name.into(), uid: found.into(), node }))
}
