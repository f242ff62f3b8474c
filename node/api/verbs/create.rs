//! POST: a new object.

use bytes::Bytes;
use http::{Request, Response};
use jiff::Timestamp;
use serde_json::Value;
use skein_command::{Cause, Transaction, Write};
use skein_object::field::Errors;
use skein_object::meta::{self, Birth};
use skein_object::{Key, Status};

use super::{Author, Written, written_response};
use crate::admit::{Action, Admission, restrict};
use crate::body::{self, FieldValidation};
use crate::route::Target;
use crate::{Body, Context, convert, resources, respond, status};

/// Attempts to find a free name for `generateName`, and a free address for a Service.
const ATTEMPTS: usize = 8;

pub(super) async fn serve(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    if !target.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let validation = FieldValidation::parse(target.query.get("fieldValidation"))?;
    let mut object = body::decode(&headers, request.body())?;
    let duplicates = body::duplicates(&headers, request.body(), validation);
    let mut warnings = body::conform(&mut object, &target.resource, validation, duplicates)?;
    warnings.extend(target.resource.warning());
    let created = create(context, target, object, &Origin::Sent(Author::of(target, &headers)?)).await?;
    Ok(respond::with_warnings(written_response(201, target, created), &warnings))
}

/// Where a new object comes from.
pub(super) enum Origin {
    Sent(Author),
    /// Its managers are recorded already.
    Applied,
}

pub(super) async fn create(context: &Context, target: &Target, object: Value, origin: &Origin) -> Result<Written, Status> {
    let resource = &*target.resource;
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
    let version = meta::text(&object, "resourceVersion").to_string();
    if !version.is_empty() && !target.dry_run()? {
        return Err(Status::failure(500, "", "resourceVersion should not be set on objects to be created"));
    }
    let generated = meta::name(&object).is_empty() && !meta::text(&object, "generateName").is_empty();
    let mut last = Status::internal("no attempt was made");
    for _ in 0..ATTEMPTS {
        let mut candidate = object.clone();
        prepare(context, &mut candidate, target, origin)?;
        let key = Key::new(resource.stored(), &target.namespace, meta::name(&candidate));
        let action = Action { operation: "CREATE", resource, kind: None, subresource: "", key: &key, dry_run: target.dry_run()? };
        let admission = Admission::of(context, &target.caller, &action);
        if let Some(admission) = &admission
            && admission.mutate(&mut candidate, &Value::Null).await?
        {
            settle(&mut candidate, target, origin);
        }
        restrict(context, &target.caller, &action, &candidate, &Value::Null)?;
        check(&candidate, target)?;
        resources::judge_creation(context, target, &candidate)?;
        let claims = resources::service::claims(context, resource, &mut candidate, None)?;
        if let Some(admission) = &admission {
            admission.judge(&candidate, &Value::Null).await?;
        }
        let record = convert::stored(context, resource, (&key, None), &candidate).await?;
        let state = context.store.local().state;
        let charges = resources::quota::charges(&state, resource, &key, &candidate, None)?;
        if target.dry_run()? {
            if let Some(refused) = charges.iter().find_map(|charge| resources::quota::refused(&state, resource, &candidate, charge)) {
                return Err(refused);
            }
            if !version.is_empty() {
                meta::edit(&mut candidate).insert("resourceVersion".into(), version.into());
            }
            return dry_run(context, target, &key, candidate).map(Written::Shown);
        }
        let claimed = claims.len();
        let created = charges.iter().cloned().chain([Write::create(&key, record.clone())]);
        let writes = claims.into_iter().chain(created).chain(resources::companions(resource, &candidate)).collect();
        let outcome = context.store.propose(Transaction { epoch: 0, writes }).await.map_err(|e| status::of_store(&e))?;
        match outcome.result() {
            Ok(revision) => {
                if resource.conversion().is_none() && resource.sealed.is_none() {
                    return Ok(Written::Stored(record, revision));
                }
                meta::edit(&mut candidate).insert("resourceVersion".into(), revision.to_string().into());
                return Ok(Written::Shown(candidate));
            }
            Err(refusal) => {
                let at = refusal.write as usize;
                let on_claim = at < claimed;
                if let Some(charge) = at.checked_sub(claimed).and_then(|at| charges.get(at)) {
                    let state = context.store.local().state;
                    last = match resources::quota::refused(&state, resource, &candidate, charge) {
                        Some(refused) => return Err(refused),
                        // It has changed meanwhile.
                        None => Status::conflict(resource, meta::name(&candidate), "the quota has been modified; please try again"),
                    };
                    continue;
                }
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

/// What webhooks changed gets its defaults, and its managers.
fn settle(object: &mut Value, target: &Target, origin: &Origin) {
    target.resource.conform(object);
    target.resource.fill_managed(object);
    if let Origin::Sent(author) = origin {
        meta::edit(object).shift_remove("managedFields");
        author.record(&target.resource, None, object);
    }
    target.resource.fill_defaults(object);
}

/// Everything the server adds to a new object.
fn prepare(context: &Context, object: &mut Value, target: &Target, origin: &Origin) -> Result<(), Status> {
    let suffix = meta::suffix(rand::random);
    let now = meta::time(Timestamp::now());
    let birth = Birth { uid: &uuid::Uuid::new_v4().to_string(), now: &now, suffix: &suffix };
    meta::at_creation(object, &target.resource, &target.namespace, &birth);
    if target.resource.has(skein_object::registry::Subresource::Status)
        && let Some(map) = object.as_object_mut()
    {
        map.shift_remove("status");
    }
    target.resource.fill_managed(object);
    if let Origin::Sent(author) = origin {
        author.record(&target.resource, None, object);
    }
    target.resource.fill_defaults(object);
    resources::admit_creation(context, target, object)
}

fn check(object: &Value, target: &Target) -> Result<(), Status> {
    let mut errors = Errors::default();
    meta::validate(object, &target.resource, &mut errors);
    target.resource.check(object, None, &mut errors);
    resources::check_creation(&target.resource, object, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&target.resource, meta::name(object), errors)) }
}

fn dry_run(context: &Context, target: &Target, key: &Key, object: Value) -> Result<Value, Status> {
    if context.store.local().state.get(key).is_some() {
        return Err(Status::already_exists(&target.resource, key.name()));
    }
    Ok(object)
}
