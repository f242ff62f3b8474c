//! The one way in which an existing object changes: read, compute, propose on the condition that it is still what was
//! read; again when it is not.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use serde_json::Value;
use skein_command::{Cause, Transaction, Write};
use skein_object::field::Errors;
use skein_object::registry::Subresource;
use skein_object::{Key, Resource, Status, deletion, meta};
use skein_state::Entry;

use super::Author;
use crate::admit::{Action, Admission, Caller, restrict};
use crate::route::Target;
use crate::{Context, convert, resources, status};

/// Attempts of a write that names no version. Each lost to another write that succeeded, so somebody makes progress.
const ATTEMPTS: usize = 32;

const CATCH_UP: Duration = Duration::from_secs(3);

/// What is being changed, and how the change is to be taken.
pub(crate) struct Mutation {
    pub(crate) resource: Arc<Resource>,
    pub(crate) key: Key,
    /// Which part a client may change: the status alone, or all but the status.
    pub(crate) subresource: Option<Subresource>,
    pub(crate) dry_run: bool,
    /// For whom the fields that change are recorded; `None` where the change has recorded that already.
    pub(crate) author: Option<Author>,
    pub(crate) caller: Caller,
    /// The change was admitted as what it came as: a Scale, a Binding.
    pub(crate) is_admitted: bool,
}

impl Mutation {
    pub(crate) fn of(target: &Target, headers: &HeaderMap) -> Result<Self, Status> {
        Ok(Self {
            resource: Arc::clone(&target.resource),
            key: target.key(),
            subresource: target.subresource,
            dry_run: target.dry_run()?,
            author: Some(Author::of(target, headers)?),
            caller: target.caller.clone(),
            is_admitted: false,
        })
    }

    fn action(&self) -> Action<'_> {
        let subresource = self.subresource.map(Subresource::name).unwrap_or_default();
        Action { operation: "UPDATE", resource: &self.resource, kind: None, subresource, key: &self.key, dry_run: self.dry_run }
    }
}

/// Changes the object with `change`, which sees its current version; returns the object as written.
///
/// A `resourceVersion` in the changed object that differs from the current one is a conflict.
pub(crate) async fn mutate(
    context: &Context,
    mutation: &Mutation,
    mut change: impl FnMut(&Value) -> Result<Value, Status>,
) -> Result<Value, Status> {
    let resource = &*mutation.resource;
    let mut fresh = false;
    for _ in 0..ATTEMPTS {
        let view = if fresh { context.store.read().await.map_err(|e| status::of_store(&e))? } else { context.store.local() };
        let Some(entry) = view.state.get(&mutation.key) else {
            if fresh {
                return Err(Status::not_found(resource, mutation.key.name()));
            }
            fresh = true;
            continue;
        };
        let old = convert::shown_one(context, &view.state, resource, (&mutation.key, entry)).await?;
        let mut changed = match change(&old) {
            // What does not fit may fit what this node has not seen yet.
            Err(_) if !fresh => {
                fresh = true;
                continue;
            }
            changed => changed?,
        };
        if let Some(stale) = stale_version(&changed, entry.revision)? {
            // The client may have read from a node that is ahead of this one.
            if stale > entry.revision && !fresh {
                fresh = true;
                continue;
            }
            return Err(Status::modified(resource, mutation.key.name()));
        }
        let action = mutation.action();
        let admission = Admission::of(context, &mutation.caller, &action).filter(|_| !mutation.is_admitted);
        if let Some(admission) = &admission {
            admission.mutate(&mut changed, &old).await?;
        }
        let new = settle(mutation, changed, &old)?;
        restrict(context, &mutation.caller, &action, &new, &old)?;
        match mutation.subresource {
            None => resources::admit_update(context, resource, &new, &old)?,
            Some(Subresource::Status) => resources::may_write_status(context, &mutation.caller, resource, (&new, &old))?,
            Some(_) => {}
        }
        if let Some(admission) = &admission {
            admission.judge(&new, &old).await?;
        }
        match write(context, mutation, entry, &old, new, fresh).await? {
            Step::Done(object) => return Ok(object),
            Step::Again => fresh = true,
            Step::CatchUp(revision) => drop(context.store.wait_revision(revision, CATCH_UP).await),
        }
    }
    Err(Status::modified(resource, mutation.key.name()))
}

enum Step {
    Done(Value),
    /// Read consistently and try again.
    Again,
    /// Somebody wrote this revision first: wait for it and try again.
    CatchUp(u64),
}

/// The version that the client based its change on, if it is not the current one.
fn stale_version(changed: &Value, revision: u64) -> Result<Option<u64>, Status> {
    let wanted = meta::text(changed, "resourceVersion");
    if wanted.is_empty() || wanted == "0" {
        return Ok(None);
    }
    let malformed = |_| Status::failure(500, "", format!("strconv.ParseUint: parsing {wanted:?}: invalid syntax"));
    let wanted = wanted.parse().map_err(malformed)?;
    Ok((wanted != revision).then_some(wanted))
}

/// Isolates status from specification, fills in defaults and metadata, validates.
fn settle(mutation: &Mutation, mut changed: Value, old: &Value) -> Result<Value, Status> {
    let resource = &*mutation.resource;
    let keeps_status = resource.has(Subresource::Status) && mutation.subresource.is_none();
    if matches!(mutation.subresource, Some(Subresource::Status | Subresource::Approval)) {
        let mut object = old.clone();
        object["status"] = changed.get("status").cloned().unwrap_or_default();
        if meta::comes_with_status(resource) {
            object["metadata"] = changed.get("metadata").cloned().unwrap_or_default();
            let kept = match resource.plural {
                "pods" => "ownerReferences",
                "deployments" => "labels",
                _ => "",
            };
            match meta::get(old, kept).cloned() {
                Some(value) => drop(meta::edit(&mut object).insert(kept.into(), value)),
                None => drop(meta::edit(&mut object).shift_remove(kept)),
            }
        } else {
            // The version that the client read, and who manages what, come with the status.
            carry(&changed, &mut object, &["resourceVersion", "managedFields"]);
        }
        changed = object;
    } else if mutation.subresource == Some(Subresource::EphemeralContainers) {
        let mut object = old.clone();
        object["spec"]["ephemeralContainers"] = changed.pointer("/spec/ephemeralContainers").cloned().unwrap_or_default();
        carry(&changed, &mut object, &["resourceVersion"]);
        changed = object;
    } else if mutation.subresource == Some(Subresource::Resize) {
        let metadata = changed.clone();
        changed = skein_object::resize::taken(changed, old);
        carry(&metadata, &mut changed, &["resourceVersion"]);
    } else if keeps_status && let Some(map) = changed.as_object_mut() {
        match old.get("status") {
            Some(status) => map.insert("status".into(), status.clone()),
            None => map.shift_remove("status"),
        };
    }
    if mutation.subresource.is_none() {
        resource.carry_over(&mut changed, old);
    }
    resource.fill_defaults(&mut changed);
    if let Some(author) = &mutation.author {
        author.record(resource, Some(old), &mut changed);
    }
    let mut errors = Errors::default();
    meta::validate_update(&changed, old, &mut errors);
    meta::at_update(&mut changed, old, resource);
    meta::validate(&changed, resource, &mut errors);
    match mutation.subresource {
        None => resource.check(&changed, Some(old), &mut errors),
        Some(Subresource::EphemeralContainers) => skein_object::validate::pod::ephemeral(&changed, old, &mut errors),
        Some(Subresource::Resize) => skein_object::resize::validate(&changed, old, &mut errors),
        Some(Subresource::Status) => {
            resource.check_status(&changed, old, &mut errors);
            resources::check_status(resource, &changed, old, &mut errors);
        }
        Some(_) => {}
    }
    if errors.is_empty() { Ok(changed) } else { Err(Status::invalid(resource, mutation.key.name(), errors)) }
}

/// Makes fields of the metadata what they are in another object, there or not.
fn carry(from: &Value, to: &mut Value, fields: &[&str]) {
    for field in fields {
        match meta::get(from, field) {
            Some(value) => meta::edit(to).insert((*field).into(), value.clone()),
            None => meta::edit(to).shift_remove(*field),
        };
    }
}

async fn write(context: &Context, mutation: &Mutation, entry: &Entry, old: &Value, mut new: Value, fresh: bool) -> Result<Step, Status> {
    let (resource, key) = (&*mutation.resource, &mutation.key);
    let claims = resources::service::claims(context, resource, &mut new, Some(old))?;
    let record = convert::stored(context, resource, (key, Some(&entry.record)), &new).await?;
    if mutation.dry_run {
        meta::edit(&mut new).insert("resourceVersion".into(), entry.revision.to_string().into());
        return Ok(Step::Done(new));
    }
    let ends = deletion::ends_with(resource, &new);
    if !ends && record.changes_from(&entry.record).is_empty() {
        // Nothing to write; but only a consistent read may say so.
        return Ok(if fresh { Step::Done(old.clone()) } else { Step::Again });
    }
    let charges = if matches!(mutation.subresource, None | Some(Subresource::Resize)) && !ends {
        resources::quota::charges(&context.store.local().state, resource, key, &new, Some(old))?
    } else {
        Vec::new()
    };
    let last = if ends { Write::delete(key, entry.revision) } else { Write::update(key, entry.revision, &entry.record, &record) };
    let claimed = claims.len();
    let writes = claims.into_iter().chain(charges.iter().cloned()).chain([last]).collect();
    let outcome = context.store.propose(Transaction { epoch: 0, writes }).await.map_err(|e| status::of_store(&e))?;
    match outcome.result() {
        Ok(revision) => {
            meta::edit(&mut new).insert("resourceVersion".into(), revision.to_string().into());
            Ok(Step::Done(new))
        }
        Err(refusal) if (refusal.write as usize) < claimed => Err(resources::service::taken(resource, &new)),
        Err(refusal) if (refusal.write as usize) < claimed + charges.len() => {
            let state = context.store.local().state;
            let charge = &charges[refusal.write as usize - claimed];
            resources::quota::refused(&state, resource, &new, charge).map_or(Ok(Step::Again), Err)
        }
        Err(refusal) => match refusal.cause() {
            Cause::Conflict => Ok(Step::CatchUp(refusal.found)),
            Cause::NotFound => Err(Status::not_found(resource, key.name())),
            _ => Err(status::of_refusal(refusal, resource, key)),
        },
    }
}
