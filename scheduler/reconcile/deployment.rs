//! Deployments: ReplicaSets of successive templates, one growing while the others shrink.
//!
//! The rules are those of Kubernetes' deployment controller: a ReplicaSet per template, found by comparing templates;
//! revisions in an annotation; at most `maxSurge` Pods above and `maxUnavailable` below what is wanted.

use std::cmp::Reverse;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::meta::set_condition;
use skein_object::selector::Selector;
use skein_object::{Key, registry};

use crate::snapshot::{Snapshot, Stored};
use crate::write::{Note, create, edit, event, remove};
use crate::{Mint, Outcome};

const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";

type Set = Stored<ReplicaSet>;

/// One pass over one Deployment.
struct Pass<'a> {
    key: &'a Key,
    stored: &'a Stored<Deployment>,
    spec: &'a DeploymentSpec,
    /// The ReplicaSet of the current template, once there is one.
    new: Option<&'a Set>,
    old: Vec<&'a Set>,
    desired: i32,
    surge: i32,
    unavailable: i32,
    transactions: Vec<Transaction>,
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    let Some(stored) = snapshot.deployments.get(key) else { return Outcome::default() };
    let spec = &stored.object.spec;
    if stored.object.metadata.deletion_timestamp.is_some() {
        return Outcome::default();
    }
    let mut pass = Pass::begin(snapshot, key, stored, spec);
    let paused = spec.paused.unwrap_or(false);
    if paused || pass.is_scaled() {
        pass.scale_proportionally(mint);
    } else {
        pass.roll(mint);
        pass.clean_up(mint);
    }
    let again_ms = pass.write_status(mint, paused);
    Outcome { transactions: pass.transactions, again_ms }
}

// === impl Pass ===

impl<'a> Pass<'a> {
    fn begin(snapshot: &'a Snapshot, key: &'a Key, stored: &'a Stored<Deployment>, spec: &'a DeploymentSpec) -> Self {
        let uid = stored.object.metadata.uid.as_deref().unwrap_or_default();
        let selector = Selector::from_label_selector(&spec.selector);
        let mut transactions = Vec::new();
        let mut owned = Vec::new();
        let first = Key::new("replicasets.apps", key.namespace(), "");
        for (_, set) in snapshot.replica_sets.range(first..).take_while(|(k, _)| k.namespace() == key.namespace()) {
            let metadata = &set.object.metadata;
            let owner = metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
            match owner {
                Some(owner) if owner.uid == uid => owned.push(set),
                None if selector.matches_optional(metadata.labels.as_ref()) && metadata.deletion_timestamp.is_none() => {
                    transactions.extend(edit(set, |object| object["metadata"]["ownerReferences"] = json!([reference(stored)])));
                }
                _ => {}
            }
        }
        let template = template_of(&stored.record.field("spec").unwrap_or_default());
        let is_new = |set: &&Set| template_of(&set.record.field("spec").unwrap_or_default()) == template;
        // The oldest of several equal ones, as Kubernetes chooses.
        let new = owned.iter().copied().filter(is_new).min_by_key(|s| (created(s), s.key.clone()));
        let old: Vec<&Set> = owned.into_iter().filter(|s| new.is_none_or(|n| n.key != s.key)).collect();
        let desired = spec.replicas.unwrap_or(1);
        let (surge, unavailable) = fenceposts(spec, desired);
        Self { key, stored, spec, new, old, desired, surge, unavailable, transactions }
    }

    /// Moves the roll-out on by one step.
    fn roll(&mut self, mint: &mut Mint) {
        let recreate = self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate");
        let Some(new) = self.new else {
            let others_run = self.old.iter().any(|s| replicas(s) > 0 || status(s) > 0);
            if recreate && others_run {
                self.old.clone().iter().for_each(|set| self.scale(set, 0, mint));
            } else {
                self.create_new(mint);
            }
            return;
        };
        self.carry_revision(new);
        if recreate {
            let running = self.old.iter().any(|s| status(s) > 0);
            self.old.clone().iter().for_each(|set| self.scale(set, 0, mint));
            if !running {
                self.scale(new, self.desired, mint);
            }
            return;
        }
        let old_total: i32 = self.old.iter().map(|s| replicas(s)).sum();
        let current = replicas(new);
        if current > self.desired {
            self.scale(new, self.desired, mint);
        } else if current < self.desired {
            let room = self.desired + self.surge - (current + old_total);
            if room > 0 {
                self.scale(new, current + room.min(self.desired - current), mint);
            }
        }
        self.shrink_old(new, mint);
    }

    /// `reconcileOldReplicaSets`: first what is unhealthy, then what may go without losing availability.
    fn shrink_old(&mut self, new: &Set, mint: &mut Mint) {
        let mut old: Vec<&Set> = self.old.iter().copied().filter(|s| replicas(s) > 0).collect();
        old.sort_by_key(|s| created(s));
        let total: i32 = replicas(new) + old.iter().map(|s| replicas(s)).sum::<i32>();
        let least = self.desired - self.unavailable;
        let mut removable = total - least - (replicas(new) - available(new));
        for set in old {
            if removable <= 0 {
                break;
            }
            let unhealthy = (replicas(set) - available(set)).max(0);
            let spare = (self.available_in_all(new) - least).max(0);
            let gone = removable.min(unhealthy + spare.min(available(set))).min(replicas(set));
            if gone > 0 {
                removable -= gone;
                self.scale(set, replicas(set) - gone, mint);
            }
        }
    }

    fn available_in_all(&self, new: &Set) -> i32 {
        available(new) + self.old.iter().map(|s| available(s)).sum::<i32>()
    }

    fn create_new(&mut self, mint: &mut Mint) {
        let resource = registry::find("apps", "v1", "replicasets").expect("the registry has replica sets");
        let mut template = self.stored.record.field("spec").and_then(|s| s.get("template").cloned()).unwrap_or_default();
        let hash = template_hash(&template);
        skein_object::meta::edit(&mut template).entry("labels").or_insert_with(|| json!({}))[HASH] = hash.clone().into();
        let mut selector = serde_json::to_value(&self.spec.selector).unwrap_or_default();
        if !selector["matchLabels"].is_object() {
            selector["matchLabels"] = json!({});
        }
        selector["matchLabels"][HASH] = hash.clone().into();
        let old_total: i32 = self.old.iter().map(|s| replicas(s)).sum();
        let rolling = self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("Recreate");
        let room = if rolling { (self.desired + self.surge - old_total).clamp(0, self.desired) } else { self.desired };
        let mut annotations = copied_annotations(self.stored);
        annotations[REVISION] = self.next_revision().to_string().into();
        annotations[DESIRED] = self.desired.to_string().into();
        annotations[MAX] = (self.desired + self.surge).to_string().into();
        let name = format!("{}-{hash}", self.key.name());
        let set = json!({
            "metadata": {"name": name, "labels": template["metadata"]["labels"], "annotations": annotations, "ownerReferences": [reference(self.stored)]},
            "spec": {"replicas": room, "minReadySeconds": self.spec.min_ready_seconds.unwrap_or(0), "selector": selector, "template": template},
        });
        let mut transaction = create(resource, self.key.namespace(), set, mint);
        let message = format!("Scaled up replica set {name} from 0 to {room}");
        transaction.writes.extend(self.note("ScalingReplicaSet", message, mint).writes);
        self.transactions.push(transaction);
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(|s| revision(s)).max().unwrap_or(0) + 1
    }

    /// A template that comes back (roll-back) gets the highest revision; the Deployment carries that of its new set.
    fn carry_revision(&mut self, new: &Set) {
        let wanted = revision(new).max(self.next_revision());
        let (desired, most) = (self.desired.to_string(), (self.desired + self.surge).to_string());
        let copied = copied_annotations(self.stored);
        if replicas(new) == self.desired || revision(new) != wanted {
            self.transactions.extend(edit(new, |object| {
                let annotations = skein_object::meta::edit(object).entry("annotations").or_insert_with(|| json!({}));
                for (key, value) in copied.as_object().into_iter().flatten() {
                    annotations[key] = value.clone();
                }
                annotations[REVISION] = wanted.to_string().into();
                annotations[DESIRED] = desired.into();
                annotations[MAX] = most.into();
            }));
        }
        let own = self.stored.object.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
        if own.map(String::as_str) != Some(wanted.to_string().as_str()) {
            self.transactions.extend(edit(self.stored, |object| {
                skein_object::meta::edit(object).entry("annotations").or_insert_with(|| json!({}))[REVISION] = wanted.to_string().into();
            }));
        }
    }

    /// Whether `replicas` has changed since the sets were scaled: that is followed first, before the roll-out goes on.
    fn is_scaled(&self) -> bool {
        let mut active = self.new.iter().chain(&self.old).filter(|set| replicas(set) > 0);
        active.any(|set| annotation(set, DESIRED).is_some_and(|desired| desired != i64::from(self.desired)))
    }

    /// A change of `replicas` is followed in proportion to what each set has, and what rounding leaves goes to the
    /// largest (`scale`, `GetReplicaSetProportion`).
    fn scale_proportionally(&mut self, mint: &mut Mint) {
        let all: Vec<&Set> = self.new.iter().copied().chain(self.old.iter().copied()).filter(|s| replicas(s) > 0).collect();
        match all.as_slice() {
            [] => {
                if let Some(new) = self.new {
                    self.scale(new, self.desired, mint);
                }
            }
            [one] => self.scale(one, self.desired, mint),
            many => {
                let total: i32 = many.iter().map(|s| replicas(s)).sum();
                let allowed = self.desired + self.surge;
                if many.iter().all(|s| annotation(s, DESIRED) == Some(self.desired.into())) {
                    return;
                }
                let mut left = allowed - total;
                let mut largest_first = many.to_vec();
                largest_first.sort_by_key(|s| (Reverse(replicas(s)), created(s)));
                let mut sizes = Vec::new();
                for set in &largest_first {
                    let before = annotation(set, MAX).filter(|most| *most > 0).unwrap_or(total.into());
                    let share = (2 * i64::from(replicas(set)) * i64::from(allowed) + before) / (2 * before);
                    let change = i32::try_from(share).unwrap_or(0) - replicas(set);
                    let change = if left >= 0 { change.clamp(0, left) } else { change.clamp(left, 0) };
                    left -= change;
                    sizes.push(replicas(set) + change);
                }
                sizes[0] = (sizes[0] + left).max(0);
                for (set, size) in largest_first.iter().zip(sizes) {
                    self.scale(set, size, mint);
                }
            }
        }
    }

    fn scale(&mut self, set: &Set, to: i32, mint: &mut Mint) {
        let from = replicas(set);
        if from == to && (to == 0 || annotation(set, DESIRED) == Some(self.desired.into())) {
            return;
        }
        let (desired, most) = (self.desired.to_string(), (self.desired + self.surge).to_string());
        let changed = edit(set, |object| {
            object["spec"]["replicas"] = to.into();
            let annotations = skein_object::meta::edit(object).entry("annotations").or_insert_with(|| json!({}));
            annotations[DESIRED] = desired.into();
            annotations[MAX] = most.into();
        });
        if let Some(mut transaction) = changed {
            if from != to {
                let direction = if to > from { "up" } else { "down" };
                let message = format!("Scaled {direction} replica set {} from {from} to {to}", set.key.name());
                transaction.writes.extend(self.note("ScalingReplicaSet", message, mint).writes);
            }
            // Two edits of one set in a pass would conflict; the scale is the one that counts.
            self.transactions.retain(|t| t.writes.first().is_none_or(|w| w.key != set.key.as_str()));
            self.transactions.push(transaction);
        }
    }

    /// Old sets beyond `revisionHistoryLimit` go, the oldest first, when the roll-out is complete.
    fn clean_up(&mut self, mint: &mut Mint) {
        let limit = usize::try_from(self.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let complete =
            self.new.is_some_and(|new| replicas(new) == self.desired && available(new) >= self.desired && status(new) == self.desired);
        let mut idle: Vec<&Set> = self
            .old
            .iter()
            .copied()
            .filter(|s| replicas(s) == 0 && status(s) == 0 && s.object.metadata.deletion_timestamp.is_none())
            .collect();
        if !complete || idle.len() <= limit {
            return;
        }
        idle.sort_by_key(|s| revision(s));
        for set in &idle[..idle.len() - limit] {
            self.transactions.extend(remove(set, mint));
        }
    }

    /// Writes counts and conditions; returns when the progress deadline must be looked at again.
    fn write_status(&mut self, mint: &Mint, paused: bool) -> Option<u64> {
        let all = || self.new.iter().copied().chain(self.old.iter().copied());
        let sum = |count: fn(&Set) -> i32| all().map(count).sum::<i32>();
        let (total, is_available) = (sum(status), sum(available));
        let updated = self.new.map_or(0, status);
        let complete = updated == self.desired && total == self.desired && is_available == self.desired;
        let now = mint.time();
        let name = self.new.map(|s| s.key.name().to_string());
        let before = self.stored.object.status.clone().unwrap_or_default();
        let progressed = before.updated_replicas.unwrap_or(0) != updated
            || before.replicas.unwrap_or(0) != total
            || before.available_replicas.unwrap_or(0) != is_available;
        let progressing = before.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some("Progressing")).cloned();
        let last_update = progressing.as_ref().and_then(|c| c.last_update_time.as_ref()).map(|t| t.0.as_second());
        let deadline = i64::from(self.spec.progress_deadline_seconds.unwrap_or(600));
        let waited = last_update.map_or(0, |then| mint.now.as_second() - then);
        let was_complete = progressing.as_ref().is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
        let (state, reason, message) = match &name {
            _ if paused => ("Unknown", "DeploymentPaused", "Deployment is paused".to_string()),
            Some(name) if complete => ("True", "NewReplicaSetAvailable", format!("ReplicaSet \"{name}\" has successfully progressed.")),
            Some(name) if !progressed && !was_complete && waited > deadline => {
                ("False", "ProgressDeadlineExceeded", format!("ReplicaSet \"{name}\" has timed out progressing."))
            }
            Some(name) => ("True", "ReplicaSetUpdated", format!("ReplicaSet \"{name}\" is progressing.")),
            None => ("True", "NewReplicaSetCreated", "Created new replica set".to_string()),
        };
        let least = self.desired - self.unavailable;
        let (enough, why, text) = if is_available >= least {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        let generation = self.stored.object.metadata.generation.unwrap_or(0);
        let counts = json!({
            "observedGeneration": generation, "replicas": total, "updatedReplicas": updated, "readyReplicas": sum(ready),
            "availableReplicas": is_available, "unavailableReplicas": (total.max(self.desired) - is_available).max(0),
        });
        let written = edit(self.stored, |object| {
            let kept = object["status"].get("conditions").cloned();
            object["status"] = counts;
            if let Some(conditions) = kept {
                object["status"]["conditions"] = conditions;
            }
            set_condition(
                object,
                json!({"type": "Available", "status": enough, "reason": why, "message": text, "lastUpdateTime": now, "lastTransitionTime": now}),
            );
            set_condition(
                object,
                json!({"type": "Progressing", "status": state, "reason": reason, "message": message, "lastUpdateTime": now, "lastTransitionTime": now}),
            );
            // Progress renews the time that the deadline counts from.
            if progressed && let Some(conditions) = object["status"]["conditions"].as_array_mut() {
                conditions.iter_mut().filter(|c| c["type"] == "Progressing").for_each(|c| c["lastUpdateTime"] = now.clone().into());
            }
        });
        // An edit of the Deployment itself (its revision) comes first; the status follows in the next pass.
        if !self.transactions.iter().any(|t| t.writes.first().is_some_and(|w| w.key == self.key.as_str())) {
            self.transactions.extend(written);
        }
        (!complete && !paused).then(|| u64::try_from((deadline - waited).max(1)).unwrap_or(1) * 1000)
    }

    fn note(&self, reason: &str, message: String, mint: &mut Mint) -> Transaction {
        let uid = self.stored.object.metadata.uid.as_deref().unwrap_or_default();
        event(&Note { regarding: self.key, uid, reason, message, component: "deployment-controller", warning: false }, mint)
    }
}

fn reference(stored: &Stored<Deployment>) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": stored.key.name(), "uid": stored.object.metadata.uid, "controller": true, "blockOwnerDeletion": true})
}

/// A template without the label that tells the sets apart.
fn template_of(spec: &Value) -> Value {
    let mut template = spec.get("template").cloned().unwrap_or_default();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.shift_remove(HASH);
    }
    template
}

/// Ten characters of FNV-1a over the template: any stable hash does, since sets are found by comparing templates.
pub(crate) fn template_hash(template: &Value) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = template.to_string().bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut text = String::new();
    for _ in 0..10 {
        text.push(ALPHABET[usize::try_from(hash % 27).unwrap_or(0)] as char);
        hash /= 27;
    }
    text
}

/// The Deployment's annotations, which its sets carry for `kubectl rollout history`; the controller's own left out.
fn copied_annotations(stored: &Stored<Deployment>) -> Value {
    let skipped = |key: &str| {
        [REVISION, DESIRED, MAX, "deployment.kubernetes.io/revision-history", "kubectl.kubernetes.io/last-applied-configuration"]
            .contains(&key)
    };
    let all = stored.object.metadata.annotations.iter().flatten();
    Value::Object(all.filter(|(k, _)| !skipped(k)).map(|(k, v)| (k.clone(), v.clone().into())).collect())
}

fn annotation(set: &Set, key: &str) -> Option<i64> {
    set.object.metadata.annotations.as_ref()?.get(key)?.parse().ok()
}

fn revision(set: &Set) -> i64 {
    annotation(set, REVISION).unwrap_or(0)
}

fn created(set: &Set) -> i64 {
    set.object.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second())
}

fn replicas(set: &Set) -> i32 {
    set.object.spec.replicas.unwrap_or(0)
}

fn status(set: &Set) -> i32 {
    set.object.status.as_ref().map_or(0, |s| s.replicas)
}

fn ready(set: &Set) -> i32 {
    set.object.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
}

fn available(set: &Set) -> i32 {
    set.object.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// `ResolveFenceposts`: surge rounds up, unavailability down, and never are both zero.
fn fenceposts(spec: &DeploymentSpec, desired: i32) -> (i32, i32) {
    let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let resolve = |value: Option<&IntOrString>, up: bool| match value {
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i32 = text.trim_end_matches('%').parse().unwrap_or(0);
            if up { (desired * percent + 99) / 100 } else { desired * percent / 100 }
        }
        None => 0,
    };
    let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), true);
    let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(desired)) }
}
