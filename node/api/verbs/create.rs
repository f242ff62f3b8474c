//! POST: a new object.

use bytes::Bytes;
use http::{Request, Response};
use jiff::Timestamp;
use serde_json::Value;
use skein_command::{Cause, Transaction, Write};
use skein_object::field::Errors;
use skein_object::meta::{self, Birth};
use skein_object::{Key, Record, Status};

use super::{object_response, to_value};
use crate::body::{self, FieldValidation, OBJECT_BYTES_MAX};
use crate::route::Target;
use crate::{Body, Context, resources, respond, status};

/// Attempts to find a free name for `generateName`, and a free address for a Service.
const ATTEMPTS: usize = 8;

pub(super) async fn serve(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    if !target.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let validation = FieldValidation::parse(target.query.get("fieldValidation"))?;
    let mut object = body::decode(&headers, request.body())?;
    let warnings = body::conform(&mut object, target.resource, validation)?;
    let created = create(context, target, object).await?;
    Ok(respond::with_warnings(object_response(201, target, &headers, created), &warnings))
}

async fn create(context: &Context, target: &Target, object: Value) -> Result<Value, Status> {
    let resource = target.resource;
    let named = meta::text(&object, "namespace");
    if resource.namespaced && target.namespace.is_empty() {
        return Err(Status::bad_request("namespace is required"));
    }
    if resource.namespaced && !named.is_empty() && named != target.namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({named} != {})",
            target.namespace
        )));
    }
    if !meta::text(&object, "resourceVersion").is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let generated = meta::name(&object).is_empty() && !meta::text(&object, "generateName").is_empty();
    let mut last = Status::internal("no attempt was made");
    for _ in 0..ATTEMPTS {
        let mut candidate = object.clone();
        prepare(&mut candidate, target);
        let claims = resources::service::claims(context, resource, &mut candidate, None)?;
        check(&candidate, target)?;
        let record = Record::from_value(&candidate);
        if record.size() > OBJECT_BYTES_MAX {
            return Err(Status::too_large(format!(
                "Request is too large: the object has {} bytes, the limit is {OBJECT_BYTES_MAX}",
                record.size()
            )));
        }
        let key = Key::new(resource.qualified(), &target.namespace, meta::name(&candidate));
        if target.dry_run()? {
            return dry_run(context, target, &key, candidate);
        }
        let claimed = claims.len();
        let writes = claims.into_iter().chain([Write::create(&key, record)]).collect();
        let outcome = context.store.propose(Transaction { epoch: 0, writes }).await.map_err(|e| status::of_store(&e))?;
        match outcome.result() {
            Ok(revision) => {
                meta::edit(&mut candidate).insert("resourceVersion".into(), revision.to_string().into());
                return Ok(to_value(
                    resource,
                    &skein_state::Entry { revision, record: std::sync::Arc::new(Record::from_value(&candidate)) },
                ));
            }
            Err(refusal) => {
                let on_claim = (refusal.write as usize) < claimed;
                last = if on_claim { resources::service::taken(resource, &candidate) } else { status::of_refusal(refusal, resource, &key) };
                let retry = refusal.cause() == Cause::AlreadyExists && (generated || on_claim && resources::service::may_retry(&object));
                if !retry {
                    return Err(last);
                }
            }
        }
    }
    Err(last)
}

/// Everything the server adds to a new object.
fn prepare(object: &mut Value, target: &Target) {
    let suffix: String = (0..5).map(|_| SUFFIX_ALPHABET[rand::random_range(0..SUFFIX_ALPHABET.len())] as char).collect();
    let now = meta::time(Timestamp::now());
    let birth = Birth { uid: &uuid::Uuid::new_v4().to_string(), now: &now, suffix: &suffix };
    meta::at_creation(object, target.resource, &target.namespace, &birth);
    if target.resource.has(skein_object::registry::Subresource::Status)
        && let Some(map) = object.as_object_mut()
    {
        map.shift_remove("status");
    }
    (target.resource.default)(object);
    resources::admit_creation(target.resource, object);
}

fn check(object: &Value, target: &Target) -> Result<(), Status> {
    let mut errors = Errors::default();
    meta::validate(object, target.resource, &mut errors);
    (target.resource.validate)(object, None, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(target.resource, meta::name(object), errors)) }
}

fn dry_run(context: &Context, target: &Target, key: &Key, object: Value) -> Result<Value, Status> {
    if context.store.local().state.get(key).is_some() {
        return Err(Status::already_exists(target.resource, key.name()));
    }
    Ok(object)
}

/// Without vowels and look-alikes: apimachinery's `rand.String`.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
