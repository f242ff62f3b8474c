//! The Pods of a set: which are its own, which it should adopt, how many to make or remove. Shared by ReplicaSets and
//! ReplicationControllers, which differ in their selector only.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::admission::{self, Surroundings};
use skein_object::meta::set_condition;
use skein_object::selector::Selector;
use skein_object::{Key, Resource, registry};
use skein_state::Event;

use crate::snapshot::{Snapshot, Stored, owners};
use crate::write::{Note, create, edit, event, event_once, remove};
use crate::{Controller, Mint, Outcome, resource_quota};

/// At most so many Pods are made in one pass: they are one log entry.
const BURST: usize = 500;

/// A Pod that admission refused is tried again after this long.
pub(crate) const REFUSED_AGAIN_MS: u64 = 1000;

/// A set as this module sees it.
pub(crate) struct Set<'a> {
    pub(crate) key: &'a Key,
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) metadata: &'a ObjectMeta,
    pub(crate) selector: Selector,
    pub(crate) replicas: usize,
    pub(crate) min_ready_seconds: i64,
    /// The Pod template as JSON.
    pub(crate) template: Value,
    pub(crate) component: &'static str,
}

/// The counts in a set's status.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) replicas: usize,
    pub(crate) fully_labeled: usize,
    pub(crate) ready: usize,
    pub(crate) available: usize,
    pub(crate) terminating: usize,
    /// Why a Pod could not be made.
    pub(crate) failure: Option<String>,
}

/// Who must look when a Pod changes: its owners, and sets that might adopt one without owner.
pub(crate) fn controllers(snapshot: &Snapshot, event: &Event) -> Vec<(Controller, Key)> {
    let controller = |key: &Key| match key.resource() {
        "replicasets.apps" => Some(Controller::ReplicaSet),
        "replicationcontrollers" => Some(Controller::ReplicationController),
        "daemonsets.apps" => Some(Controller::DaemonSet),
        "jobs.batch" => Some(Controller::Job),
        "statefulsets.apps" => Some(Controller::StatefulSet),
        _ => None,
    };
    let owners = owners(event);
    if !owners.is_empty() {
        return owners.into_iter().filter_map(|key| Some((controller(&key)?, key))).collect();
    }
    let sets = all_in(&snapshot.replica_sets, event).chain(all_in(&snapshot.replication_controllers, event));
    let sets = sets.chain(all_in(&snapshot.jobs, event)).chain(all_in(&snapshot.stateful_sets, event));
    sets.chain(all_in(&snapshot.daemon_sets, event)).filter_map(|key| Some((controller(key)?, key.clone()))).collect()
}

/// The objects in an event's namespace.
fn all_in<'a, T>(objects: &'a BTreeMap<Key, Stored<T>>, event: &'a Event) -> impl Iterator<Item = &'a Key> {
    let namespace = event.key.namespace();
    // A key's order is that of its text, so all of a namespace are neighbours in a map of one resource.
    let first = objects.keys().next().map(|key| Key::new(key.resource(), namespace, ""));
    let from = first.into_iter().flat_map(|first| objects.range(first..));
    from.map(|(key, _)| key).take_while(move |key| key.namespace() == namespace)
}

/// Brings the number of Pods to what the set asks for; returns the counts as they are now.
pub(crate) fn manage(snapshot: &Snapshot, set: &Set<'_>, mint: &mut Mint) -> (Outcome, Counts) {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let mut outcome = Outcome::default();
    let mut active: Vec<&Stored<Pod>> = Vec::new();
    let mut counts = Counts::default();
    let prefix = Key::new("pods", set.key.namespace(), "");
    let in_namespace = snapshot.pods.range(prefix..).take_while(|(key, _)| key.namespace() == set.key.namespace());
    for (_, pod) in in_namespace {
        let owner = controller_of(&pod.object);
        if owner.is_none()
            && set.selector.matches_optional(pod.object.metadata.labels.as_ref())
            && is_active(&pod.object)
            && set.metadata.deletion_timestamp.is_none()
        {
            outcome.transactions.extend(adopt(pod, &reference(set)));
        } else if owner != Some(uid) {
            continue;
        } else if pod.object.metadata.deletion_timestamp.is_some() {
            counts.terminating += 1;
            continue;
        } else if !set.selector.matches_optional(pod.object.metadata.labels.as_ref()) {
            // Its labels were changed by hand: the set lets it go.
            outcome.transactions.extend(release(pod));
            continue;
        }
        if is_active(&pod.object) {
            active.push(pod);
        }
    }
    count(&active, set, mint, &mut counts, &mut outcome);
    if set.metadata.deletion_timestamp.is_none() {
        if active.len() < set.replicas {
            for _ in active.len()..set.replicas.min(active.len() + BURST) {
                if let Err(why) = make(snapshot, set, mint, &mut outcome.transactions) {
                    outcome.again_ms = Some(REFUSED_AGAIN_MS);
                    counts.failure = Some(why);
                    break;
                }
            }
        } else {
            shrink(set, &mut active, mint, &mut outcome.transactions);
        }
    }
    (outcome, counts)
}

/// Who claims Pods, and how.
pub(crate) struct Claimant<'a> {
    pub(crate) uid: Option<&'a str>,
    pub(crate) selector: Selector,
    /// What is written into Pods that it adopts.
    pub(crate) reference: Value,
}

/// The Pods that a set keeps: its own, and those without owner that it selects. Whom it selects no more it lets go.
pub(crate) fn claim<'a>(
    pods: impl Iterator<Item = &'a Stored<Pod>>,
    claimant: &Claimant<'_>,
    transactions: &mut Vec<Transaction>,
) -> Vec<&'a Stored<Pod>> {
    let mut kept = Vec::new();
    for pod in pods.filter(|_| claimant.uid.is_some()) {
        let is_selected = claimant.selector.matches_optional(pod.object.metadata.labels.as_ref());
        match controller_of(&pod.object) {
            Some(owner) if Some(owner) == claimant.uid && is_selected => {}
            Some(owner) if Some(owner) == claimant.uid => {
                transactions.extend(release(pod));
                continue;
            }
            None if is_selected && pod.object.metadata.deletion_timestamp.is_none() => transactions.extend(adopt(pod, &claimant.reference)),
            _ => continue,
        }
        kept.push(pod);
    }
    kept
}

/// Makes a Pod without owner one of a set's.
fn adopt(pod: &Stored<Pod>, owner: &Value) -> Option<Transaction> {
    edit(pod, |object| object["metadata"]["ownerReferences"] = json!([owner]))
}

/// Lets a Pod go.
fn release(pod: &Stored<Pod>) -> Option<Transaction> {
    edit(pod, |object| drop(skein_object::meta::edit(object).shift_remove("ownerReferences")))
}

fn count(active: &[&Stored<Pod>], set: &Set<'_>, mint: &Mint, counts: &mut Counts, outcome: &mut Outcome) {
    let template_labels = set.template.pointer("/metadata/labels").and_then(Value::as_object);
    counts.replicas = active.len();
    for pod in active {
        let labels = pod.object.metadata.labels.as_ref();
        let has = |(key, value): (&String, &Value)| labels.and_then(|l| l.get(key)).map(String::as_str) == value.as_str();
        counts.fully_labeled += usize::from(template_labels.into_iter().flatten().all(has));
        let Some(since) = ready_since(&pod.object) else { continue };
        counts.ready += 1;
        let waited = mint.now.as_second() - since;
        if waited >= set.min_ready_seconds {
            counts.available += 1;
        } else {
            let rest = u64::try_from(set.min_ready_seconds - waited).unwrap_or(0) * 1000;
            outcome.again_ms = Some(outcome.again_ms.map_or(rest, |known| known.min(rest)));
        }
    }
}

/// Makes one Pod; `Err` says why admission refuses it, which may change.
fn make(snapshot: &Snapshot, set: &Set<'_>, mint: &mut Mint, transactions: &mut Vec<Transaction>) -> Result<(), String> {
    let made = Made {
        template: set.template.clone(),
        namespace: set.key.namespace(),
        name: Name::Generated(set.key.name()),
        owner: reference(set),
    };
    let (mut transaction, name) = match of_template(snapshot, made, mint) {
        Ok(made) => made,
        Err(why) => {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            transactions.extend(failed_create(snapshot, (set.key, uid, set.component), &why, mint));
            return Err(why);
        }
    };
    // The event is part of the creation, so it is neither lost nor told twice.
    transaction.writes.extend(note(set, "SuccessfulCreate", format!("Created pod: {name}"), mint).writes);
    transactions.push(transaction);
    Ok(())
}

/// [`of_template`] for a controller: key, uid and component. A refusal is told in an event, and tried again.
pub(crate) fn make_or_tell(
    snapshot: &Snapshot,
    origin: (&Key, Option<&str>, &str),
    made: Made<'_>,
    mint: &mut Mint,
    transactions: &mut Vec<Transaction>,
    again_ms: &mut Option<u64>,
) -> Option<(Transaction, String)> {
    let (key, uid, component) = origin;
    match of_template(snapshot, made, mint) {
        Ok(made) => Some(made),
        Err(why) => {
            transactions.extend(failed_create(snapshot, (key, uid.unwrap_or_default(), component), &why, mint));
            *again_ms = Some(REFUSED_AGAIN_MS);
            None
        }
    }
}

/// The event of a Pod that may not be, about its controller: key, uid and component.
fn failed_create(snapshot: &Snapshot, (key, uid, component): (&Key, &str, &str), why: &str, mint: &mut Mint) -> Option<Transaction> {
    let message = format!("Error creating: {why}");
    let note = Note { regarding: key, uid, reason: "FailedCreate", message, component, warning: true };
    event_once(snapshot, &note, mint)
}

pub(crate) fn pods() -> &'static Resource {
    registry::find("", "v1", "pods").expect("the registry has pods")
}

/// What a Pod is made of.
pub(crate) struct Made<'a> {
    pub(crate) template: Value,
    pub(crate) namespace: &'a str,
    pub(crate) name: Name<'a>,
    pub(crate) owner: Value,
}

/// What a Pod is called.
pub(crate) enum Name<'a> {
    /// `BASE-SUFFIX`
    Generated(&'a str),
    Fixed(String),
}

/// The creation of a Pod of a template and its name, or why admission refuses it: it is asked here, for this is no API
/// request.
fn of_template(snapshot: &Snapshot, made: Made<'_>, mint: &mut Mint) -> Result<(Transaction, String), String> {
    let Made { template: mut pod, namespace, name, owner } = made;
    let named_in_errors = match &name {
        Name::Generated(base) => format!("{base}-"),
        Name::Fixed(name) => name.clone(),
    };
    let metadata = skein_object::meta::edit(&mut pod);
    let name = match name {
        Name::Fixed(name) => name,
        Name::Generated(base) => {
            metadata.insert("generateName".into(), format!("{base}-").into());
            // Kubernetes cuts the prefix so that the name keeps its suffix.
            let cut: String = format!("{base}-").chars().take(58).collect();
            format!("{cut}{}", mint.suffix())
        }
    };
    metadata.insert("name".into(), name.clone().into());
    metadata.insert("ownerReferences".into(), json!([owner]));
    let (get, list) = (|key: &Key| snapshot.state.show(key), |resource: &str| snapshot.state.show_all(resource));
    let suffix = mint.suffix();
    // As in the API, defaults come first: requests that follow from limits count.
    pods().fill_defaults(&mut pod);
    let forbidden = |why: String| format!("pods \"{}\" is forbidden: {why}", named_in_errors);
    admission::pod(&mut pod, namespace, &Surroundings { get: &get, list: &list, suffix: &suffix }).map_err(&forbidden)?;
    admission::judge_pod(&pod, namespace, &get).map_err(&forbidden)?;
    let charges = resource_quota::charges(snapshot, pods(), namespace, &pod).map_err(forbidden)?;
    let mut transaction = create(pods(), namespace, pod, mint);
    // Before the Pod, so that a refusal names the quota.
    transaction.writes.splice(0..0, charges);
    Ok((transaction, name))
}

/// Removes what is too much, the least useful first (`ActivePodsWithRanks`).
fn shrink(set: &Set<'_>, active: &mut [&Stored<Pod>], mint: &mut Mint, transactions: &mut Vec<Transaction>) {
    let surplus = active.len() - set.replicas.min(active.len());
    active.sort_by_key(|pod| {
        let unassigned = pod.object.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default().is_empty();
        let running = phase(&pod.object) == "Running";
        let created = pod.object.metadata.creation_timestamp.as_ref().map(|t| t.0.as_second()).unwrap_or(0);
        (!unassigned, running, ready_since(&pod.object).is_some(), -created, pod.key.clone())
    });
    for pod in active.iter().take(surplus) {
        if let Some(mut transaction) = remove(pod, mint) {
            let message = format!("Deleted pod: {}", pod.key.name());
            transaction.writes.extend(note(set, "SuccessfulDelete", message, mint).writes);
            transactions.push(transaction);
        }
    }
}

/// The event of what admission refused to the controller of an object.
pub fn refused(snapshot: &Snapshot, origin: &Key, why: &str, mint: &mut Mint) -> Option<Transaction> {
    let uid = crate::snapshot::ties(&snapshot.state.get(origin)?.record).uid;
    failed_create(snapshot, (origin, &uid, "admission"), why, mint)
}

/// Says in a set's status whether its Pods can be made.
pub(crate) fn set_failure(object: &mut Value, failure: Option<&String>, mint: &Mint) {
    match failure {
        Some(why) => set_condition(
            object,
            json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": why, "lastTransitionTime": mint.time()}),
        ),
        None => {
            if let Some(conditions) = object["status"].get_mut("conditions").and_then(Value::as_array_mut) {
                conditions.retain(|condition| condition["type"] != "ReplicaFailure");
                if conditions.is_empty() {
                    object["status"].as_object_mut().map(|status| status.shift_remove("conditions"));
                }
            }
        }
    }
}

fn note(set: &Set<'_>, reason: &str, message: String, mint: &mut Mint) -> Transaction {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    event(&Note { regarding: set.key, uid, reason, message, component: set.component, warning: false }, mint)
}

fn reference(set: &Set<'_>) -> Value {
    json!({"apiVersion": set.api_version, "kind": set.kind, "name": set.key.name(), "uid": set.metadata.uid, "controller": true, "blockOwnerDeletion": true})
}

pub(crate) fn controller_of(pod: &Pod) -> Option<&str> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|o| o.controller == Some(true)).map(|o| o.uid.as_str())
}

pub(crate) fn is_active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !is_finished(pod)
}

pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Unix seconds since when the Pod is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<i64> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(0, |t| t.0.as_second()))
}
