//! `serviceaccounts/token`: a token for a ServiceAccount, for a time, bound to a Pod or Secret where the request says so.

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use skein_object::field::{Errors, Path};
use skein_object::{Key, Resource, Status, meta, registry};
use skein_store::View;

use crate::admit::{admit_part, restrict_part};
use crate::authenticate::Bound;
use crate::route::Target;
use crate::verbs::{to_value, view};
use crate::{Body, Context, body, respond};

/// `TokenRequest` bounds (`pkg/apis/authentication/validation`).
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_DEFAULT: i64 = 3600;

pub(crate) async fn create(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let wish = body::decode(&headers, request.body())?;
    let view = view(context, target).await?;
    let entry = view.state.get(&target.key()).ok_or_else(|| Status::not_found(&target.resource, &target.name))?;
    let account = to_value(&target.resource, entry);
    let seconds = wish.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(SECONDS_DEFAULT);
    check_seconds(seconds)?;
    let bound = bound(&view, &target.namespace, &wish)?;
    let pod = bound.as_ref().filter(|bound| bound.kind == "Pod").map(|bound| Key::new("pods", &target.namespace, &bound.name));
    let pod = pod.and_then(|pod| view.state.show(&pod)).unwrap_or_default();
    restrict_part(context, target, &wish, &pod)?;
    let mut wish = admit_part(context, target, "CREATE", wish, &Value::Null).await?;
    let audience: Vec<String> = wish.pointer("/spec/audiences").and_then(|a| serde_json::from_value(a.clone()).ok()).unwrap_or_default();
    let (token, expires) = context.token_key.issue(&account, &audience, bound.as_ref(), seconds).map_err(Status::internal)?;
    wish["kind"] = "TokenRequest".into();
    wish["apiVersion"] = "authentication.k8s.io/v1".into();
    wish["metadata"] = json!({"name": target.name, "namespace": target.namespace, "creationTimestamp": meta::time(jiff::Timestamp::now())});
    wish["spec"]["expirationSeconds"] = seconds.into();
    if audience.is_empty() {
        wish["spec"]["audiences"] = json!([crate::authenticate::API_AUDIENCE]);
    }
    wish["status"] = json!({"token": token, "expirationTimestamp": meta::time(expires)});
    Ok(respond::json(201, &wish))
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
    if errors.is_empty() {
        return Ok(());
    }
    let message = format!("TokenRequest.authentication.k8s.io \"\" is invalid: {errors}");
    Err(Status::failure(422, "Invalid", message).about(skein_object::status::Details { causes: errors.causes(), ..Default::default() }))
}

fn bound(view: &View, namespace: &str, wish: &Value) -> Result<Option<Bound>, Status> {
    let Some(reference) = wish.pointer("/spec/boundObjectRef").filter(|r| r.is_object()) else { return Ok(None) };
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let find = |plural: &str| -> Result<(&'static Resource, Value), Status> {
        let resource = registry::find("", "v1", plural).expect("the registry has the core group");
        let entry = view.state.get(&Key::new(resource.stored(), namespace, name)).ok_or_else(|| Status::not_found(resource, name))?;
        let object = to_value(resource, entry);
        let found = meta::text(&object, "uid");
        if !uid.is_empty() && uid != found {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict(resource, name, &why));
        }
        Ok((resource, object))
    };
    let plural = match kind {
        "Pod" => "pods",
        "Secret" => "secrets",
        other => return Err(Status::bad_request(format!("cannot bind token to object of type {other}"))),
    };
    let (_, object) = find(plural)?;
    let node = object.pointer("/spec/nodeName").and_then(Value::as_str).map(String::from);
    let node = node.and_then(|node| {
        let entry = view.state.get(&Key::new("nodes", "", &node))?;
        let uid = entry.record.field("metadata")?["uid"].as_str()?.to_string();
        Some((node, uid))
    });
    Ok(Some(Bound { kind: kind.into(), name: name.into(), uid: meta::text(&object, "uid").into(), node }))
}
