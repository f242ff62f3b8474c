//! How an object is deleted: at once, or step by step where there is a grace period or a finalizer. One decision for
//! the API, the controllers and garbage collection (`rest.BeforeDelete` and the generic store).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::custom::DEFINITIONS;
use crate::{Resource, meta};

/// Holds a custom resource definition that is being deleted until its objects are gone.
pub const CUSTOM_RESOURCE_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What becomes of the objects that the deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wish {
    pub grace_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// It is being deleted already, and nothing about that changes.
    Nothing,
    Remove,
    /// The object with its deletion timestamp.
    Mark(Value),
}

pub fn plan(resource: &Resource, old: &Value, wish: &Wish, now: Timestamp) -> Plan {
    let grace = grace_seconds(resource, old, wish);
    let finalizers = finalizers(resource, old, wish);
    let held = !finalizers.is_empty() || (resource.stored() == "namespaces" && old.pointer("/spec/finalizers/0").is_some());
    if grace == 0 && !held {
        return Plan::Remove;
    }
    let mut marked = old.clone();
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
        metadata.insert("deletionTimestamp".into(), meta::time(at).into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        if resource.has_generation {
            metadata.insert("generation".into(), (meta::generation(old) + 1).into());
        }
    }
    if resource.stored() == "namespaces" {
        marked["status"]["phase"] = "Terminating".into();
    }
    if marked == *old { Plan::Nothing } else { Plan::Mark(marked) }
}

/// Whether an update is the last act of a deletion: nothing holds the object any more.
pub fn ends_with(resource: &Resource, object: &Value) -> bool {
    let graceful = meta::get(object, "deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) > 0;
    let held =
        !meta::finalizers(object).is_empty() || (resource.stored() == "namespaces" && object.pointer("/spec/finalizers/0").is_some());
    meta::is_terminating(object) && !graceful && !held
}

/// Only Pods have one; it is 0 for those that no node holds and those that have ended.
fn grace_seconds(resource: &Resource, old: &Value, wish: &Wish) -> i64 {
    if resource.stored() != "pods" {
        return 0;
    }
    let unheld = old.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().is_empty();
    let ended = matches!(old.pointer("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
    if unheld || ended {
        return 0;
    }
    let stated = old.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    wish.grace_seconds.or(stated).unwrap_or(30).max(0)
}

fn finalizers(resource: &Resource, old: &Value, wish: &Wish) -> Vec<String> {
    let mut finalizers: Vec<String> = meta::finalizers(old).into_iter().map(Into::into).collect();
    if resource.stored() == DEFINITIONS && !meta::is_terminating(old) {
        finalizers.push(CUSTOM_RESOURCE_CLEANUP.into());
    }
    let Some(propagation) = wish.propagation else { return finalizers };
    finalizers.retain(|f| f != "orphan" && f != "foregroundDeletion");
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push("foregroundDeletion".into()),
        Propagation::Orphan => finalizers.push("orphan".into()),
    }
    finalizers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    fn check(kind: &str, object: Value, wish: Wish, expected: &str) {
        let resource = registry::find("", "v1", kind).expect("a core resource");
        let got = match plan(resource, &object, &wish, Timestamp::UNIX_EPOCH) {
            Plan::Nothing => "nothing".into(),
            Plan::Remove => "remove".into(),
            Plan::Mark(marked) => format!("mark {} {:?}", meta::text(&marked, "deletionTimestamp"), meta::finalizers(&marked)),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn gives_pods_their_grace_and_finalizers_their_say() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "a", "terminationGracePeriodSeconds": 30}});
        check("pods", pod.clone(), Wish::default(), "mark 1970-01-01T00:00:30Z []");
        check("pods", pod, Wish { grace_seconds: Some(0), ..Wish::default() }, "remove");
        check("pods", json!({"metadata": {"name": "p"}, "spec": {}}), Wish::default(), "remove");
        check("configmaps", json!({"metadata": {"name": "c"}}), Wish::default(), "remove");
        check("configmaps", json!({"metadata": {"finalizers": ["a/b"]}}), Wish::default(), "mark 1970-01-01T00:00:00Z [\"a/b\"]");
        let orphan = Wish { propagation: Some(Propagation::Orphan), ..Wish::default() };
        check("configmaps", json!({"metadata": {}}), orphan, "mark 1970-01-01T00:00:00Z [\"orphan\"]");
        check(
            "namespaces",
            json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}}),
            Wish::default(),
            "mark 1970-01-01T00:00:00Z []",
        );
    }
}
