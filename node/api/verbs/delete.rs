//! DELETE: at once, or step by step where there is a grace period or a finalizer.

use bytes::Bytes;
use http::{Request, Response};
use jiff::Timestamp;
use serde_json::{Value, json};
use skein_command::{Cause, Transaction, Write};
use skein_object::deletion::{Plan, Propagation, Wish, plan};
use skein_object::{Key, Resource, Status, meta};
use skein_state::Entry;

use super::list::Filter;
use super::view;
use crate::admit::{Action, Admission, restrict};
use crate::convert::{self, shown_one};
use crate::route::Target;
use crate::{Body, Context, body, respond, status};

const ATTEMPTS: usize = 32;

/// `metav1.DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Options {
    grace_period_seconds: Option<i64>,
    propagation_policy: Option<String>,
    orphan_dependents: Option<bool>,
    preconditions: Preconditions,
    dry_run: Vec<String>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl Options {
    fn wish(&self) -> Wish {
        let propagation = match (self.propagation_policy.as_deref(), self.orphan_dependents) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some(_), _) => Some(Propagation::Background),
            (None, _) => None,
        };
        Wish { grace_seconds: self.grace_period_seconds, propagation }
    }
}

pub(super) async fn serve(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let options = options(target, request).await?;
    delete(context, target, &target.key(), &options, None).await.map(|value| respond::json(200, &value))
}

/// Deletes one object with `DeleteOptions` that came inside another request, together with another write.
pub(crate) async fn with(context: &Context, target: &Target, options: Value, other: Option<Write>) -> Result<Value, Status> {
    let mut options: Options = serde_json::from_value(options).map_err(|e| Status::bad_request(format!("DeleteOptions: {e}")))?;
    if target.dry_run()? {
        options.dry_run = vec!["All".into()];
    }
    delete(context, target, &target.key(), &options, other).await
}

pub(super) async fn serve_collection(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let options = options(target, request).await?;
    let filter = Filter::of(target)?;
    let view = view(context, target).await?;
    let prefix = Key::prefix(target.resource.stored(), &target.namespace);
    let mut items = Vec::new();
    let all = view.state.range(&prefix, None);
    for (key, entry) in filter.choose(context, &view.state, &target.resource, all).await? {
        match delete(context, target, key, &options, None).await {
            Ok(_) => items.push(shown_one(context, &view.state, &target.resource, (key, entry)).await?),
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let kind = target.resource.list_kind();
    let metadata = json!({"resourceVersion": view.state.revision().to_string()});
    Ok(respond::json(200, &json!({"kind": kind, "apiVersion": target.resource.api_version(), "metadata": metadata, "items": items})))
}

async fn options(target: &Target, request: Request<Bytes>) -> Result<Options, Status> {
    let headers = request.headers().clone();
    let bytes = request.into_body();
    let mut options: Options = if bytes.is_empty() {
        Options::default()
    } else {
        serde_json::from_value(body::decode(&headers, &bytes)?).map_err(|e| Status::bad_request(format!("DeleteOptions: {e}")))?
    };
    if let Some(seconds) = target.query.number("gracePeriodSeconds") {
        options.grace_period_seconds = Some(seconds);
    }
    if let Some(policy) = target.query.get("propagationPolicy") {
        options.propagation_policy = Some(policy.into());
    }
    if target.dry_run()? {
        options.dry_run = vec!["All".into()];
    }
    match options.propagation_policy.as_deref() {
        None | Some("Orphan" | "Background" | "Foreground") => Ok(options),
        Some(other) => Err(Status::bad_request(format!(
            "invalid propagationPolicy {other:?}: must be one of \"Foreground\", \"Background\", \"Orphan\""
        ))),
    }
}

/// Deletes or begins to delete; returns the object while it is still there, and what its kind says when it is gone.
///
/// `other` happens with it or not at all; where it no longer fits, somebody has been quicker, and the client asks again.
async fn delete(context: &Context, target: &Target, key: &Key, options: &Options, other: Option<Write>) -> Result<Value, Status> {
    let resource = &*target.resource;
    let action = Action { operation: "DELETE", resource, kind: None, subresource: "", key, dry_run: !options.dry_run.is_empty() };
    // An eviction was admitted as such.
    let admission = Admission::of(context, &target.caller, &action).filter(|_| target.subresource.is_none());
    let mut fresh = false;
    for _ in 0..ATTEMPTS {
        let view = if fresh { context.store.read().await.map_err(|e| status::of_store(&e))? } else { context.store.local() };
        let Some(entry) = view.state.get(key) else {
            if fresh {
                return Err(Status::not_found(resource, key.name()));
            }
            fresh = true;
            continue;
        };
        let old = shown_one(context, &view.state, resource, (key, entry)).await?;
        check_preconditions(resource, key, &old, entry, &options.preconditions)?;
        if target.subresource.is_none() {
            restrict(context, &target.caller, &action, &Value::Null, &old)?;
        }
        if let Some(admission) = &admission {
            admission.mutate(&mut Value::Null, &old).await?;
            admission.judge(&Value::Null, &old).await?;
        }
        let (write, answer) = match plan(resource, &old, &options.wish(), Timestamp::now()) {
            Plan::Nothing => return Ok(old),
            Plan::Remove => (Write::delete(key, entry.revision), None),
            Plan::Mark(marked) => {
                let record = convert::stored(context, resource, (key, Some(&entry.record)), &marked).await?;
                (Write::update(key, entry.revision, &entry.record, &record), Some(marked))
            }
        };
        let released = if answer.is_none() { crate::resources::service::releases(resource, &old) } else { Vec::new() };
        let writes: Vec<Write> = other.iter().cloned().chain(released).chain([write]).collect();
        if !options.dry_run.is_empty() {
            return Ok(answer.unwrap_or_else(|| gone(resource, old)));
        }
        let outcome = context.store.propose(Transaction { epoch: 0, writes }).await.map_err(|e| status::of_store(&e))?;
        match (outcome.result(), answer) {
            (Ok(revision), Some(mut marked)) => {
                meta::edit(&mut marked).insert("resourceVersion".into(), revision.to_string().into());
                return Ok(marked);
            }
            (Ok(revision), None) => {
                let mut old = old;
                meta::edit(&mut old).insert("resourceVersion".into(), revision.to_string().into());
                return Ok(gone(resource, old));
            }
            (Err(refusal), _) if other.is_some() && refusal.write == 0 => {
                return Err(Status::too_many_requests("the disruption budget has changed meanwhile; please try again", 1));
            }
            (Err(refusal), _) if matches!(refusal.cause(), Cause::Conflict | Cause::NotFound) => fresh = true,
            (Err(refusal), _) => return Err(status::of_refusal(refusal, resource, key)),
        }
    }
    Err(Status::modified(resource, key.name()))
}

/// What is said of an object that is gone.
fn gone(resource: &Resource, object: Value) -> Value {
    if resource.deleted_is_shown {
        return object;
    }
    let status = Status::success(resource, meta::name(&object), meta::text(&object, "uid"));
    serde_json::to_value(status).unwrap_or_default()
}

fn check_preconditions(resource: &Resource, key: &Key, old: &Value, entry: &Entry, wanted: &Preconditions) -> Result<(), Status> {
    let uid = meta::text(old, "uid");
    if let Some(wanted) = wanted.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
        return Err(Status::conflict(resource, key.name(), &why));
    }
    if let Some(wanted) = wanted.resource_version.as_deref().filter(|wanted| *wanted != entry.revision.to_string()) {
        let why =
            format!("Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {}", entry.revision);
        return Err(Status::conflict(resource, key.name(), &why));
    }
    Ok(())
}
