//! The one map from errors to Kubernetes' Status.

use skein_command::{Cause, Refusal};
use skein_object::managed::{Conflict, conflict_message};
use skein_object::{Key, Resource, Status, patch};
use skein_state::Compacted;

/// What a node without a quorum tells its clients: the way out that it offers.
const NO_QUORUM: &str = "the cluster has no quorum: this node cannot reach a majority of the voters, so writes and consistent reads have no answer; \
     use the kubeconfig context \"stale\" to read this node's own replica, or resourceVersion=0";

pub(crate) fn of_store(error: &skein_store::Error) -> Status {
    match error {
        skein_store::Error::Timeout(_) => Status::timeout(NO_QUORUM),
        skein_store::Error::Refused(why) => Status::too_large(format!("Request entity too large: {why}")),
        skein_store::Error::Stopped(_) | skein_store::Error::Log(_) => Status::internal(error),
    }
}

/// A transaction that `apply` refused. Conflicts that the server may retry do not come here.
pub(crate) fn of_refusal(refusal: Refusal, resource: &Resource, key: &Key) -> Status {
    match refusal.cause() {
        Cause::AlreadyExists => Status::already_exists(resource, key.name()),
        Cause::NotFound => Status::not_found(resource, key.name()),
        Cause::Conflict | Cause::Fenced => Status::modified(resource, key.name()),
        Cause::NamespaceNotFound => Status::not_found(namespaces(), key.namespace()),
        Cause::NamespaceTerminating => terminating(resource, key),
        Cause::Malformed | Cause::UnknownLevel | Cause::QuotaExceeded => {
            Status::internal(format!("the command was refused: {:?}", refusal.cause()))
        }
    }
}

fn terminating(resource: &Resource, key: &Key) -> Status {
    let why = format!("unable to create new content in namespace {} because it is being terminated", key.namespace());
    let mut status = Status::forbidden(resource, key.name(), &why);
    if let Some(details) = &mut status.details {
        let message = format!("namespace {} is being terminated", key.namespace());
        details.causes.push(skein_object::status::Cause {
            reason: "NamespaceTerminating".into(),
            message,
            field: "metadata.namespace".into(),
        });
    }
    status
}

fn namespaces() -> &'static Resource {
    skein_object::registry::find("", "v1", "namespaces").expect("the registry has namespaces")
}

/// A node that does not vote has the key of what is sealed from one that does, and only while it runs.
pub(crate) fn no_key() -> Status {
    Status::failure(503, "ServiceUnavailable", "this node has not been given the key of Secrets yet, by a node that votes: try again")
}

pub(crate) fn of_patch(error: &patch::Error) -> Status {
    match error {
        patch::Error::Malformed(why) => Status::bad_request(why.clone()),
        // Kubernetes says no more to the client either.
        patch::Error::Unprocessable(why) => {
            tracing::debug!(%why, "a patch does not fit");
            Status::failure(422, "Invalid", "the server rejected our request due to an error in our request")
                .about(skein_object::status::Details::default())
        }
        patch::Error::Unknown(why) => Status::failure(500, "", why.clone()),
    }
}

/// Fields that other managers own and an apply would change.
pub(crate) fn of_conflicts(conflicts: &[Conflict]) -> Status {
    let cause = |conflict: &Conflict| skein_object::status::Cause {
        reason: "FieldManagerConflict".into(),
        message: format!("conflict with {}", conflict.manager),
        field: conflict.path.clone(),
    };
    let causes = conflicts.iter().map(cause).collect();
    Status::failure(409, "Conflict", conflict_message(conflicts)).about(skein_object::status::Details { causes, ..Default::default() })
}

pub(crate) fn of_compaction(compacted: Compacted) -> Status {
    Status::expired(compacted.to_string())
}

/// A resourceVersion that this node has not reached within its patience.
pub(crate) fn too_large_version(asked: u64, current: u64) -> Status {
    let mut status = Status::timeout(format!("Too large resource version: {asked}, current: {current}"));
    let cause = skein_object::status::Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        field: String::new(),
    };
    status.details = Some(skein_object::status::Details { causes: vec![cause], retry_after_seconds: Some(1), ..Default::default() });
    status
}
