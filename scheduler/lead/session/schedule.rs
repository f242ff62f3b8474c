//! The scheduler's pass: every Pod that waits, the most important first, against one fleet.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skein_command::Transaction;
use skein_object::Key;
use skein_place::{Budget, Placement, Preemption, Volumes, scheduler};
use skein_reconcile::{
    Claims, Liveness, Mint, Note, Stored, bind, budgets, event, is_gated, nominate, placed, preempted, unschedulable, volumes,
};
use tokio::time::Instant;

use super::{BATCH_TRANSACTIONS, RETRY_UNSCHEDULABLE, Session};

// === impl Session ===

impl Session<'_> {
    /// Whether a Pod is this scheduler's to place.
    pub(super) fn is_pending(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        let is_bound = spec.node_name.as_deref().is_some_and(|node| !node.is_empty());
        !is_bound && self.fleet.is_for(pod) && pod.metadata.deletion_timestamp.is_none() && !is_gated(pod)
    }

    /// Places every Pod that waits.
    pub(super) fn schedule(&mut self) -> Vec<Transaction> {
        if self.pending.is_empty() || Instant::now() < self.retry_pending {
            return Vec::new();
        }
        self.retry_pending = Instant::now() + RETRY_UNSCHEDULABLE;
        let mut mint = Mint::new(skein_log::now(), skein_log::random(), Liveness::default());
        let budgets = budgets(&self.snapshot);
        let mut transactions = Vec::new();
        for key in self.in_order() {
            let Some(pod) = self.snapshot.pods.get(&key).cloned() else { continue };
            transactions.extend(self.schedule_one(&pod, &budgets, &mut mint));
            if transactions.len() >= BATCH_TRANSACTIONS {
                self.retry_pending = Instant::now();
                break;
            }
        }
        transactions
    }

    /// The Pods that wait: by priority, then by age.
    fn in_order(&self) -> Vec<Key> {
        let mut order: Vec<_> = self
            .pending
            .iter()
            .filter_map(|key| {
                let pod = &self.snapshot.pods.get(key)?.object;
                let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
                Some((Reverse(priority), pod.metadata.creation_timestamp.clone(), key.clone()))
            })
            .collect();
        order.sort();
        order.into_iter().map(|(.., key)| key).collect()
    }

    fn schedule_one(&mut self, pod: &Stored<Pod>, budgets: &[Budget], mint: &mut Mint) -> Vec<Transaction> {
        let volumes = match volumes(&self.snapshot, &pod.object) {
            Ok(volumes) => volumes,
            Err(why) => {
                let why = format!("0/{} nodes are available: {why}.", self.snapshot.nodes.len());
                return refuse(pod, &why, None, mint).into_iter().collect();
            }
        };
        match self.fleet.place(&pod.object, &volumes) {
            Placement::Node(node) => self.bind_to((pod, &volumes), &node, mint).into_iter().collect(),
            Placement::Unschedulable(why) => self.make_room((pod, &volumes), &why, budgets, mint),
        }
    }

    fn bind_to(&mut self, (pod, volumes): (&Stored<Pod>, &Volumes), node: &str, mint: &mut Mint) -> Option<Transaction> {
        self.fleet.assume(&pod.object, volumes, node);
        let bound = match placed(&self.snapshot, &pod.object, node, mint) {
            Claims::Bound(writes) => writes,
            Claims::Asked(writes) => {
                let mut waiting = nominate(pod, node).unwrap_or_default();
                waiting.writes.extend(writes);
                return (!waiting.writes.is_empty()).then_some(waiting);
            }
        };
        let message = format!("Successfully assigned {}/{} to {node}", pod.key.namespace(), pod.key.name());
        let mut written = bind(pod, node, mint)?;
        written.writes.extend(bound);
        Some(told(written, pod, ("Scheduled", message), mint))
    }

    /// A Pod that fits nowhere: less important ones may have to go, and their room is kept for it.
    fn make_room(&mut self, (pod, volumes): (&Stored<Pod>, &Volumes), why: &str, budgets: &[Budget], mint: &mut Mint) -> Vec<Transaction> {
        let (node, victims) = match self.fleet.preempt(&pod.object, volumes, budgets) {
            Preemption::Victims { node, pods } => (node, pods),
            Preemption::Hopeless(more) => return refuse(pod, format!("{why} {more}").trim_end(), None, mint).into_iter().collect(),
        };
        let mut nominee = (*pod.object).clone();
        nominee.status.get_or_insert_default().nominated_node_name = Some(node.clone());
        let mut transactions = Vec::new();
        for victim in victims {
            let Some((namespace, name)) = victim.split_once('/') else { continue };
            match self.snapshot.pods.get(&Key::new("pods", namespace, name)) {
                Some(stored) if self.is_pending(&stored.object) => self.fleet.forget(&victim),
                Some(stored) => transactions.extend(preempted(stored, &pod.object, &node, mint)),
                None => {}
            }
        }
        self.fleet.observe_pod(&nominee, volumes);
        let nominee = Stored { object: Arc::new(nominee), ..pod.clone() };
        transactions.extend(refuse(&nominee, why, Some(&node), mint));
        transactions
    }
}

fn refuse(pod: &Stored<Pod>, why: &str, nominated: Option<&str>, mint: &mut Mint) -> Option<Transaction> {
    let written = unschedulable(pod, why, nominated, mint)?;
    Some(told(written, pod, ("FailedScheduling", why.into()), mint))
}

/// The transaction with the event that tells of it.
fn told(mut written: Transaction, pod: &Stored<Pod>, (reason, message): (&str, String), mint: &mut Mint) -> Transaction {
    let uid = pod.object.metadata.uid.clone().unwrap_or_default();
    let warning = reason == "FailedScheduling";
    let note = Note { regarding: &pod.key, uid: &uid, reason, message, component: scheduler(&pod.object), warning };
    written.writes.extend(event(&note, mint).writes);
    written
}
