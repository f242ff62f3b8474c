//! DELETE: at once, or step by step where there is a grace period or a finalizer.

use http::{Request, Response};
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use skein_command::{Cause, Transaction, Write};
use skein_object::{Key, Record, Resource, Status, meta};
use skein_state::Entry;

use super::list::Filter;
use super::{to_value, view};
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

pub(super) async fn serve(context: &Context, target: &Target, request: Request<Incoming>) -> Result<Response<Body>, Status> {
    let options = options(target, request).await?;
    delete(context, target.resource, &target.key(), &options).await.map(|value| respond::json(200, &value))
}

/// Deletes one object with `DeleteOptions` that came inside another request.
pub(crate) async fn one(context: &Context, target: &Target, options: Value) -> Result<Value, Status> {
    let options: Options = serde_json::from_value(options).map_err(|e| Status::bad_request(format!("DeleteOptions: {e}")))?;
    delete(context, target.resource, &target.key(), &options).await
}

pub(super) async fn serve_collection(context: &Context, target: &Target, request: Request<Incoming>) -> Result<Response<Body>, Status> {
    let options = options(target, request).await?;
    let filter = Filter::of(target)?;
    let view = view(context, target).await?;
    let prefix = Key::prefix(target.resource.qualified(), &target.namespace);
    let mut items = Vec::new();
    for (key, entry) in view.state.range(&prefix, None).filter(|(_, entry)| filter.matches(target.resource, entry)) {
        match delete(context, target.resource, key, &options).await {
            Ok(_) => items.push(to_value(target.resource, entry)),
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let kind = format!("{}List", target.resource.kind);
    let metadata = json!({"resourceVersion": view.state.revision().to_string()});
    Ok(respond::json(200, &json!({"kind": kind, "apiVersion": target.resource.api_version(), "metadata": metadata, "items": items})))
}

async fn options(target: &Target, request: Request<Incoming>) -> Result<Options, Status> {
    let headers = request.headers().clone();
    let bytes = body::read(request.into_body()).await?;
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
        Some(other) => Err(Status::bad_request(format!("invalid propagationPolicy {other:?}: must be one of \"Foreground\", \"Background\", \"Orphan\""))),
    }
}

/// Deletes or begins to delete; returns the object while it is still there, a Status when it is gone.
async fn delete(context: &Context, resource: &'static Resource, key: &Key, options: &Options) -> Result<Value, Status> {
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
        let old = to_value(resource, entry);
        check_preconditions(resource, key, &old, entry, &options.preconditions)?;
        let plan = plan(resource, &old, options, Timestamp::now());
        let (write, answer) = match plan {
            Plan::Nothing => return Ok(old),
            Plan::Remove => (Write::delete(key, entry.revision), None),
            Plan::Mark(marked) => (Write::update(key, entry.revision, &entry.record, &Record::from_value(&marked)), Some(marked)),
        };
        let writes = if answer.is_none() { crate::resources::service::releases(resource, &old).into_iter().chain([write]).collect() } else { vec![write] };
        if !options.dry_run.is_empty() {
            return Ok(answer.unwrap_or(old));
        }
        let outcome = context.store.propose(Transaction { epoch: 0, writes }).await.map_err(|e| status::of_store(&e))?;
        match (outcome.result(), answer) {
            (Ok(revision), Some(mut marked)) => {
                meta::edit(&mut marked).insert("resourceVersion".into(), revision.to_string().into());
                return Ok(marked);
            }
            (Ok(_), None) => {
                let gone = Status::success(resource, key.name(), meta::text(&old, "uid"));
                return Ok(serde_json::to_value(gone).unwrap_or_default());
            }
            (Err(refusal), _) if matches!(refusal.cause(), Cause::Conflict | Cause::NotFound) => fresh = true,
            (Err(refusal), _) => return Err(status::of_refusal(refusal, resource, key)),
        }
    }
    Err(Status::modified(resource, key.name()))
}

fn check_preconditions(resource: &Resource, key: &Key, old: &Value, entry: &Entry, wanted: &Preconditions) -> Result<(), Status> {
    let uid = meta::text(old, "uid");
    if let Some(wanted) = wanted.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
        return Err(Status::conflict(resource, key.name(), &why));
    }
    if let Some(wanted) = wanted.resource_version.as_deref().filter(|wanted| *wanted != entry.revision.to_string()) {
        let why = format!("Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {}", entry.revision);
        return Err(Status::conflict(resource, key.name(), &why));
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    Remove,
    Mark(Value),
}

/// `rest.BeforeDelete` and the generic store's finalizers, as one decision.
fn plan(resource: &Resource, old: &Value, options: &Options, now: Timestamp) -> Plan {
    let grace = grace_period(resource, old, options);
    let mut marked = old.clone();
    let finalizers = finalizers(old, options);
    let held = !finalizers.is_empty() || (resource.plural == "namespaces" && old.pointer("/spec/finalizers/0").is_some());
    if grace == 0 && !held {
        return Plan::Remove;
    }
    let current = meta::get(old, "deletionGracePeriodSeconds").and_then(Value::as_i64);
    let began = meta::is_terminating(old);
    let metadata = meta::edit(&mut marked);
    if finalizers.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), json!(finalizers));
    }
    // A second deletion may only shorten the grace period.
    if !began || current.is_some_and(|current| grace < current) {
        let at = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
        metadata.insert("deletionTimestamp".into(), at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        if resource.has_generation {
            let generation = meta::generation(old) + 1;
            meta::edit(&mut marked).insert("generation".into(), generation.into());
        }
    }
    if resource.plural == "namespaces" {
        marked["status"]["phase"] = "Terminating".into();
    }
    if marked == *old { Plan::Nothing } else { Plan::Mark(marked) }
}

/// Only Pods have one; it is 0 for those that no node holds and those that have ended.
fn grace_period(resource: &Resource, old: &Value, options: &Options) -> i64 {
    if resource.plural != "pods" {
        return 0;
    }
    let unheld = old.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().is_empty();
    let ended = matches!(old.pointer("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
    if unheld || ended {
        return 0;
    }
    let stated = old.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    options.grace_period_seconds.or(stated).unwrap_or(30).max(0)
}

fn finalizers(old: &Value, options: &Options) -> Vec<String> {
    const OWN: [&str; 2] = ["orphan", "foregroundDeletion"];
    let mut finalizers: Vec<String> = meta::finalizers(old).into_iter().map(Into::into).collect();
    let wanted = match (options.propagation_policy.as_deref(), options.orphan_dependents) {
        (Some("Orphan"), _) | (None, Some(true)) => Some("orphan"),
        (Some("Foreground"), _) => Some("foregroundDeletion"),
        (Some(_), _) => None,
        (None, _) => return finalizers,
    };
    finalizers.retain(|f| !OWN.contains(&f.as_str()));
    finalizers.extend(wanted.map(String::from));
    finalizers
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_object::registry;

    fn check(kind: &str, object: Value, options: Options, expected: &str) {
        let resource = registry::find("", "v1", kind).expect("a core resource");
        let got = match plan(resource, &object, &options, Timestamp::UNIX_EPOCH) {
            Plan::Nothing => "nothing".into(),
            Plan::Remove => "remove".into(),
            Plan::Mark(marked) => format!("mark {} {:?}", meta::text(&marked, "deletionTimestamp"), meta::finalizers(&marked)),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn gives_pods_their_grace_and_finalizers_their_say() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "a", "terminationGracePeriodSeconds": 30}});
        check("pods", pod.clone(), Options::default(), "mark 1970-01-01T00:00:30Z []");
        check("pods", pod, Options { grace_period_seconds: Some(0), ..Options::default() }, "remove");
        check("pods", json!({"metadata": {"name": "p"}, "spec": {}}), Options::default(), "remove");
        check("configmaps", json!({"metadata": {"name": "c"}}), Options::default(), "remove");
        check("configmaps", json!({"metadata": {"finalizers": ["a/b"]}}), Options::default(), "mark 1970-01-01T00:00:00Z [\"a/b\"]");
        let orphan = Options { propagation_policy: Some("Orphan".into()), ..Options::default() };
        check("configmaps", json!({"metadata": {}}), orphan, "mark 1970-01-01T00:00:00Z [\"orphan\"]");
        check("namespaces", json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}}), Options::default(), "mark 1970-01-01T00:00:00Z []");
    }
}
