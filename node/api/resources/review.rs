//! `selfsubjectaccessreviews`: what `kubectl auth can-i` asks.

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use skein_object::Status;

use crate::route::{Attributes, Target};
use crate::{Body, authorize, body, respond};

pub(crate) async fn create(target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let mut review = body::decode(&headers, request.body())?;
    body::conform(&mut review, target.resource, body::FieldValidation::Ignore)?;
    let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
    let allowed = if review.pointer("/spec/resourceAttributes").is_some() {
        let at = |field: &str| text(&format!("/spec/resourceAttributes/{field}"));
        let (verb, group, resource) = (at("verb"), at("group"), at("resource"));
        let (namespace, name, subresource) = (at("namespace"), at("name"), at("subresource"));
        let attributes = Attributes::Resource {
            verb: &verb,
            group: &group,
            resource: &resource,
            namespace: &namespace,
            name: &name,
            subresource: &subresource,
        };
        authorize::is_allowed(&target.user, &attributes)
    } else if review.pointer("/spec/nonResourceAttributes").is_some() {
        let (verb, path) = (text("/spec/nonResourceAttributes/verb"), text("/spec/nonResourceAttributes/path"));
        authorize::is_allowed(&target.user, &Attributes::Path { verb: &verb, path: &path })
    } else {
        let message = "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec: Invalid value: {}: exactly one of nonResourceAttributes or resourceAttributes must be specified";
        return Err(Status::failure(422, "Invalid", message));
    };
    review["kind"] = target.resource.kind.into();
    review["apiVersion"] = target.resource.api_version().into();
    review["status"] = json!({"allowed": allowed});
    Ok(respond::json(201, &review))
}
