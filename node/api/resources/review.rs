//! Reviews: questions about who somebody is and what he may, asked by creating an object that is never stored.

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use skein_object::field::{Errors, Path};
use skein_object::{Resource, Status};

use crate::authenticate::{API_AUDIENCE, User, verify};
use crate::route::{Attributes, Target};
use crate::{Body, Context, authorize, body, respond};

pub(crate) async fn create(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let mut review = body::decode(&headers, request.body())?;
    body::conform(&mut review, &target.resource, body::FieldValidation::Ignore, Vec::new())?;
    let status = match target.resource.kind {
        "SelfSubjectReview" => json!({"userInfo": target.caller.user.info()}),
        "TokenReview" => token(context, &review).await,
        "SelfSubjectRulesReview" => rules(context, target, &review)?,
        kind => {
            let user = if kind == "SelfSubjectAccessReview" { target.caller.user.clone() } else { subject(&target.resource, &review)? };
            access(context, target, &review, &user)?
        }
    };
    review["kind"] = target.resource.kind.into();
    review["apiVersion"] = target.resource.api_version().into();
    review["metadata"] = review.get("metadata").cloned().unwrap_or_else(|| json!({}));
    review["status"] = status;
    Ok(respond::json(201, &review))
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().into()
}

fn texts(value: &Value, pointer: &str) -> Vec<String> {
    value.pointer(pointer).and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default()
}

/// Whom a review is about.
fn subject(resource: &Resource, review: &Value) -> Result<User, Status> {
    let user = User {
        name: text(review, "/spec/user"),
        uid: text(review, "/spec/uid"),
        groups: texts(review, "/spec/groups"),
        extra: review.pointer("/spec/extra").and_then(|e| serde_json::from_value(e.clone()).ok()).unwrap_or_default(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        let mut errors = Errors::default();
        errors.invalid(&Path::new("spec.user"), "", "at least one of user or group must be specified");
        return Err(Status::invalid(resource, "", errors));
    }
    Ok(user)
}

fn access(context: &Context, target: &Target, review: &Value, user: &User) -> Result<Value, Status> {
    let spec = |pointer: &str| text(review, &format!("/spec/{pointer}"));
    let (resource, path) = (review.pointer("/spec/resourceAttributes"), review.pointer("/spec/nonResourceAttributes"));
    let allowed = match (resource, path) {
        (Some(asked), None) => {
            let at = |field: &str| text(asked, &format!("/{field}"));
            let namespace = if target.namespace.is_empty() { at("namespace") } else { target.namespace.clone() };
            let attributes = Attributes::Resource {
                verb: &at("verb"),
                group: &at("group"),
                resource: &at("resource"),
                namespace: &namespace,
                name: &at("name"),
                subresource: &at("subresource"),
                fields: &requirements(asked),
            };
            authorize::is_allowed(context, user, &attributes)
        }
        (None, Some(_)) => {
            let attributes = Attributes::Path { verb: &spec("nonResourceAttributes/verb"), path: &spec("nonResourceAttributes/path") };
            authorize::is_allowed(context, user, &attributes)
        }
        _ => {
            let mut errors = Errors::default();
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid(&Path::new("spec"), review["spec"].clone(), why);
            return Err(Status::invalid(&target.resource, "", errors));
        }
    };
    Ok(json!({"allowed": allowed}))
}

/// The field selector of an access review (KEP-4601), as a query has it.
fn requirements(asked: &Value) -> String {
    let selector = &asked["fieldSelector"];
    let one = |requirement: &Value| match (requirement["operator"].as_str(), requirement["values"].as_array().map(Vec::as_slice)) {
        (Some("In"), Some([value])) => Some(format!("{}={}", requirement["key"].as_str()?, value.as_str()?)),
        _ => None,
    };
    let listed = selector["requirements"].as_array().into_iter().flatten().filter_map(one).collect::<Vec<_>>().join(",");
    selector["rawSelector"].as_str().map_or(listed, String::from)
}

fn unbelieved(why: &str) -> Value {
    json!({"user": {}, "error": format!("[invalid bearer token, {why}]")})
}

/// All that the asker may in a namespace (`kubectl auth can-i --list`).
fn rules(context: &Context, target: &Target, review: &Value) -> Result<Value, Status> {
    let namespace = text(review, "/spec/namespace");
    if namespace.is_empty() {
        let mut errors = Errors::default();
        errors.required(&Path::new("spec.namespace"), "");
        return Err(Status::invalid(&target.resource, "", errors));
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if target.caller.user.is_in("system:masters") {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rule in context.grants.rules(&context.store, &target.caller.user, &namespace) {
        let list = if rule.non_resource_urls.is_empty() { &mut resources } else { &mut paths };
        list.push(serde_json::to_value(rule).unwrap_or_default());
    }
    Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false}))
}

/// Whether a token is good, and whose it is.
async fn token(context: &Context, review: &Value) -> Value {
    let audiences = texts(review, "/spec/audiences");
    let wanted: Vec<&str> = if audiences.is_empty() { vec![API_AUDIENCE] } else { audiences.iter().map(String::as_str).collect() };
    match verify(context, &text(review, "/spec/token"), &wanted) {
        Ok(claims) => {
            let common: Vec<&String> = claims.aud.iter().filter(|a| wanted.contains(&a.as_str())).collect();
            json!({"authenticated": true, "user": User::of_claims(&claims).info(), "audiences": common})
        }
        // Others than ServiceAccounts' say nothing of audiences: they are for the API.
        Err(_) if wanted.contains(&API_AUDIENCE) => match User::of_token(context, &text(review, "/spec/token"), &wanted).await {
            Ok(user) => json!({"authenticated": true, "user": user.info(), "audiences": [API_AUDIENCE]}),
            Err(why) => unbelieved(&why),
        },
        Err(why) => unbelieved(&why.to_string()),
    }
}
