//! StatefulSets: Pods with a number each, made in order and removed in reverse; each keeps its name and its claims.
//!
//! A Pod's place is free only when the Pod has gone from the API: one whose node is lost is waited for, so that no two
//! of an identity run at once.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::selector::Selector;
use skein_object::{Key, admission, meta, registry};

use crate::deployment::template_hash;
use crate::pods_of::{Claimant, Made, Name, REFUSED_AGAIN_MS, claim, is_finished, make_or_tell, ready_since};
use crate::snapshot::{Snapshot, Stored};
use crate::write::{Note, create, delete, edit, event, remove};
use crate::{Mint, Outcome, revision};

const COMPONENT: &str = "statefulset-controller";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// One pass over one set.
struct Pass<'a> {
    snapshot: &'a Snapshot,
    stored: &'a Stored<StatefulSet>,
    spec: &'a StatefulSetSpec,
    /// The set's Pods by their number.
    pods: Vec<(usize, &'a Stored<Pod>)>,
    current: String,
    update: String,
    transactions: Vec<Transaction>,
    again_ms: Option<u64>,
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    let Some(stored) = snapshot.stateful_sets.get(key) else { return Outcome::default() };
    if stored.object.metadata.deletion_timestamp.is_some() {
        return Outcome::default();
    }
    let mut pass = Pass::begin(snapshot, stored);
    pass.keep_revision(mint);
    if pass.scale(mint) {
        pass.roll(mint);
    }
    pass.drop_claims(mint);
    pass.write_status();
    Outcome { transactions: pass.transactions, again_ms: pass.again_ms }
}

fn reference(stored: &Stored<StatefulSet>) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": stored.key.name(), "uid": stored.object.metadata.uid,
        "controller": true, "blockOwnerDeletion": true})
}

// === impl Pass ===

impl<'a> Pass<'a> {
    fn begin(snapshot: &'a Snapshot, stored: &'a Stored<StatefulSet>) -> Self {
        let status = stored.object.status.as_ref();
        let template = template(stored);
        let update = revision::label_of(snapshot, stored.object.metadata.uid.as_deref().unwrap_or_default(), &template, || {
            format!("{}-{}", stored.key.name(), template_hash(&template))
        });
        let current = status.and_then(|s| s.current_revision.clone()).filter(|c| !c.is_empty()).unwrap_or_else(|| update.clone());
        let claimant = Claimant {
            uid: stored.object.metadata.uid.as_deref(),
            selector: Selector::from_label_selector(&stored.object.spec.selector),
            reference: reference(stored),
        };
        let named = snapshot.pods_in(stored.key.namespace()).filter(|pod| number(stored.key.name(), pod.key.name()).is_some());
        let mut transactions = Vec::new();
        let own = claim(named, &claimant, &mut transactions).into_iter();
        let mut pods: Vec<_> = own.filter_map(|pod| Some((number(stored.key.name(), pod.key.name())?, pod))).collect();
        pods.sort_by_key(|(number, _)| *number);
        Self { snapshot, stored, spec: &stored.object.spec, pods, current, update, transactions, again_ms: None }
    }

    fn first(&self) -> usize {
        self.spec.ordinals.as_ref().and_then(|o| o.start).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    }

    fn replicas(&self) -> usize {
        self.spec.replicas.and_then(|n| usize::try_from(n).ok()).unwrap_or(1)
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn pod(&self, number: usize) -> Option<&'a Stored<Pod>> {
        self.pods.iter().find(|(n, _)| *n == number).map(|(_, pod)| *pod)
    }

    /// Running, ready for long enough, and not on its way out.
    fn is_healthy(&mut self, pod: &Stored<Pod>, mint: &Mint) -> bool {
        let Some(since) = ready_since(&pod.object).filter(|_| pod.object.metadata.deletion_timestamp.is_none()) else { return false };
        let waited = mint.now.as_second() - since;
        let needed = i64::from(self.spec.min_ready_seconds.unwrap_or(0));
        if waited < needed {
            let rest = u64::try_from(needed - waited).unwrap_or(0) * 1000;
            self.again_ms = Some(self.again_ms.map_or(rest, |known| known.min(rest)));
        }
        waited >= needed
    }

    /// Makes and removes Pods until there are those that there should be; whether all is quiet.
    fn scale(&mut self, mint: &mut Mint) -> bool {
        let wanted = self.first()..self.first() + self.replicas();
        let mut quiet = true;
        for number in wanted.clone() {
            let healthy = match self.pod(number) {
                Some(pod) if is_finished(&pod.object) => {
                    self.remove(pod, mint);
                    false
                }
                Some(pod) => self.is_healthy(pod, mint),
                None => {
                    self.make(number, mint);
                    false
                }
            };
            quiet &= healthy;
            if !healthy && self.is_ordered() {
                return false;
            }
        }
        let surplus: Vec<&Stored<Pod>> = self.pods.iter().rev().filter(|(n, _)| !wanted.contains(n)).map(|(_, pod)| *pod).collect();
        // Of several that are not well the lowest may go first: a set that is ill is not scaled down.
        let ill: Vec<&Key> = surplus.iter().rev().filter(|pod| !self.is_healthy(pod, mint)).map(|pod| &pod.key).collect();
        for pod in surplus {
            quiet = false;
            let waits = self.is_ordered() && ill.iter().skip(1).any(|key| **key == pod.key) && !is_finished(&pod.object);
            if pod.object.metadata.deletion_timestamp.is_none() && !waits {
                self.remove(pod, mint);
            }
            if self.is_ordered() {
                return false;
            }
        }
        quiet
    }

    /// Replaces one Pod of an older revision, the highest number first; whoever is below the partition keeps his.
    fn roll(&mut self, mint: &mut Mint) {
        let strategy = self.spec.update_strategy.clone().unwrap_or_default();
        if strategy.type_.as_deref() == Some("OnDelete") {
            return;
        }
        let partition = strategy.rolling_update.and_then(|r| r.partition).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let old = self.pods.iter().rev().find(|(number, pod)| *number >= partition && label(pod) != self.update).map(|(_, pod)| *pod);
        match old {
            Some(pod) => self.remove(pod, mint),
            None if partition <= self.first() => self.current = self.update.clone(),
            None => {}
        }
    }

    /// The revision that a Pod is made of: those below the partition keep the current one.
    fn revision_for(&self, number: usize) -> (String, Value) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let partition = rolling.and_then(|r| r.partition).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let waits = self.current != self.update && (number < partition || self.still_rolling(number));
        let kept = Key::new(revision::REVISIONS, self.stored.key.namespace(), &self.current);
        let old = self.snapshot.state.get(&kept).and_then(|entry| entry.record.field("data"));
        match old.and_then(|data| data.pointer("/spec/template").cloned()).filter(|_| waits) {
            Some(mut template) => {
                template.as_object_mut().map(|t| t.shift_remove("$patch"));
                (self.current.clone(), template)
            }
            None => (self.update.clone(), template(self.stored)),
        }
    }

    /// Whether a Pod with a higher number is still of the old revision, so that this one's turn has not come.
    fn still_rolling(&self, number: usize) -> bool {
        self.pods.iter().any(|(n, pod)| *n > number && label(pod) == self.current)
    }

    fn make(&mut self, number: usize, mint: &mut Mint) {
        let key = &self.stored.key;
        let name = format!("{}-{number}", key.name());
        let (revision, mut template) = self.revision_for(number);
        if !self.claim(number, &mut template, mint) {
            return;
        }
        let labels = meta::edit(&mut template).entry("labels").or_insert_with(|| json!({}));
        for (label, value) in [(revision::LABEL, revision), (POD_NAME, name.clone()), (POD_INDEX, number.to_string())] {
            labels[label] = value.into();
        }
        template["spec"]["hostname"] = name.clone().into();
        if let Some(service) = self.spec.service_name.as_ref().filter(|s| !s.is_empty()) {
            template["spec"]["subdomain"] = service.clone().into();
        }
        let made = Made { template, namespace: key.namespace(), name: Name::Fixed(name), owner: reference(self.stored) };
        let origin = (key, self.stored.object.metadata.uid.as_deref(), COMPONENT);
        let made = make_or_tell(self.snapshot, origin, made, mint, &mut self.transactions, &mut self.again_ms);
        let Some((mut transaction, name)) = made else { return };
        let message = format!("create Pod {name} in StatefulSet {} successful", key.name());
        transaction.writes.extend(self.note("SuccessfulCreate", message, mint).writes);
        self.transactions.push(transaction);
    }

    /// Makes the claims of a Pod where they are missing, and mounts them in its template. `false` while an old claim of
    /// the name is going.
    fn claim(&mut self, number: usize, template: &mut Value, mint: &mut Mint) -> bool {
        let key = &self.stored.key;
        let resource = registry::find("", "v1", "persistentvolumeclaims").expect("the registry has claims");
        let templates = self.stored.record.field("spec").and_then(|s| s.get("volumeClaimTemplates").cloned()).unwrap_or_default();
        let labels = self.stored.record.field("spec").and_then(|s| s.pointer("/selector/matchLabels").cloned()).unwrap_or(json!({}));
        for claim in templates.as_array().into_iter().flatten() {
            let volume = meta::name(claim).to_string();
            let name = format!("{volume}-{}-{number}", key.name());
            let place = Key::new(resource.stored(), key.namespace(), &name);
            match self.snapshot.state.get(&place) {
                Some(entry) if crate::snapshot::ties(&entry.record).deletion_timestamp.is_some() => return false,
                Some(_) => {}
                None => {
                    let mut object = json!({"metadata": claim.get("metadata"), "spec": claim.get("spec")});
                    let metadata = meta::edit(&mut object);
                    metadata.insert("name".into(), name.clone().into());
                    let own = metadata.entry("labels").or_insert_with(|| json!({}));
                    labels.as_object().into_iter().flatten().for_each(|(label, value)| own[label] = value.clone());
                    if self.retention(|p| p.when_deleted.as_deref()) == Some("Delete") {
                        meta::edit(&mut object).insert("ownerReferences".into(), json!([reference(self.stored)]));
                    }
                    let list = |resource: &str| self.snapshot.state.show_all(resource);
                    if admission::claim(&mut object, key.namespace(), &list).is_err() {
                        self.again_ms = Some(REFUSED_AGAIN_MS);
                        return false;
                    }
                    self.transactions.push(create(resource, key.namespace(), object, mint));
                }
            }
            let volumes = &mut template["spec"]["volumes"];
            if !volumes.is_array() {
                *volumes = json!([]);
            }
            if let Some(volumes) = volumes.as_array_mut() {
                volumes.retain(|v| v["name"] != volume.as_str());
                volumes.push(json!({"name": volume, "persistentVolumeClaim": {"claimName": name}}));
            }
        }
        true
    }

    fn retention(
        &self,
        when: impl Fn(&k8s_openapi::api::apps::v1::StatefulSetPersistentVolumeClaimRetentionPolicy) -> Option<&str>,
    ) -> Option<&str> {
        self.spec.persistent_volume_claim_retention_policy.as_ref().and_then(when)
    }

    /// Claims of numbers that are no more go too, where the set says so.
    fn drop_claims(&mut self, mint: &Mint) {
        if self.retention(|p| p.when_scaled.as_deref()) != Some("Delete") {
            return;
        }
        let resource = registry::find("", "v1", "persistentvolumeclaims").expect("the registry has claims");
        let wanted = self.first()..self.first() + self.replicas();
        for claim in self.spec.volume_claim_templates.iter().flatten() {
            let base = format!("{}-{}", claim.metadata.name.as_deref().unwrap_or_default(), self.stored.key.name());
            let prefix = Key::prefix(resource.stored(), self.stored.key.namespace());
            for (key, entry) in self.snapshot.state.range(&prefix, None) {
                let surplus = number(&base, key.name()).is_some_and(|n| !wanted.contains(&n) && self.pod(n).is_none());
                if surplus {
                    self.transactions.extend(delete(resource, key, entry, &Default::default(), mint));
                }
            }
        }
    }

    fn remove(&mut self, pod: &Stored<Pod>, mint: &mut Mint) {
        if let Some(mut transaction) = remove(pod, mint) {
            let message = format!("delete Pod {} in StatefulSet {} successful", pod.key.name(), self.stored.key.name());
            transaction.writes.extend(self.note("SuccessfulDelete", message, mint).writes);
            self.transactions.push(transaction);
        }
    }

    /// Writes down the template, so that Pods of it can be made when there is a newer one.
    fn keep_revision(&mut self, mint: &mut Mint) {
        let template = template(self.stored);
        let current = revision::Current {
            set: &self.stored.key,
            uid: self.stored.object.metadata.uid.as_deref().unwrap_or_default(),
            reference: reference(self.stored),
            template: &template,
            name: &self.update,
            label: &self.update,
            limit: self.spec.revision_history_limit,
        };
        let is_used = |name: &str| name == self.current || self.pods.iter().any(|(_, pod)| label(pod) == name);
        let written = revision::keep(self.snapshot, &current, is_used, mint);
        self.transactions.extend(written);
    }

    fn write_status(&mut self) {
        let of = |revision: &str| self.pods.iter().filter(|(_, pod)| label(pod) == revision).count();
        let ready = self.pods.iter().filter(|(_, pod)| ready_since(&pod.object).is_some()).count();
        let status = json!({
            "observedGeneration": self.stored.object.metadata.generation, "replicas": self.pods.len(), "readyReplicas": ready,
            "availableReplicas": ready, "currentReplicas": of(&self.current), "updatedReplicas": of(&self.update),
            "currentRevision": self.current, "updateRevision": self.update, "collisionCount": 0,
        });
        self.transactions.extend(edit(self.stored, |object| object["status"] = status));
    }

    fn note(&self, reason: &str, message: String, mint: &mut Mint) -> Transaction {
        let uid = self.stored.object.metadata.uid.as_deref().unwrap_or_default();
        event(&Note { regarding: &self.stored.key, uid, reason, message, component: COMPONENT, warning: false }, mint)
    }
}

fn template(stored: &Stored<StatefulSet>) -> Value {
    stored.record.field("spec").and_then(|s| s.get("template").cloned()).unwrap_or_default()
}

fn label(pod: &Stored<Pod>) -> &str {
    pod.object.metadata.labels.as_ref().and_then(|l| l.get(revision::LABEL)).map_or("", String::as_str)
}

/// `web-3` of `web` → 3.
fn number(base: &str, name: &str) -> Option<usize> {
    name.strip_prefix(base)?.strip_prefix('-')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_number_is_in_its_name() {
        let check = |name: &str, expected| assert_eq!(number("web", name), expected, "{name}");
        check("web-3", Some(3));
        check("web-x", None);
        check("webs-3", None);
        check("web", None);
    }
}
