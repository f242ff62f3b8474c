//! Preemption: which Pods of lower priority must go so that one fits (`pkg/scheduler/framework/preemption`).

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use skein_object::selector::Selector;

use crate::class::Class;
use crate::demand::Occupant;
use crate::explain;
use crate::filters::volumes::Volumes;
use crate::fleet::{Fleet, NodeInfo, nominated};

/// Nodes on which victims are sought at least, and of many the share of them.
const CANDIDATES_MIN: usize = 100;
const CANDIDATES_PERCENT: usize = 10;

/// How many Pods of a disruption budget may go.
#[derive(Clone, Debug)]
pub struct Budget {
    pub namespace: String,
    pub selector: Selector,
    pub allowed: i64,
}

/// What makes room for a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// These Pods, `namespace/name`, must leave the node. None where the room was only kept for another Pod.
    Victims { node: String, pods: Vec<String> },
    /// Nothing will; the text continues Kubernetes' explanation.
    Hopeless(String),
}

/// Why a node cannot be emptied for the Pod.
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

struct Candidate {
    node: String,
    victims: Vec<(String, i32, String)>,
    violations: usize,
}

// === impl Fleet ===

impl Fleet {
    /// Looks for Pods of lower priority in whose place a Pod that fits nowhere would fit.
    pub fn preempt(&mut self, pod: &Pod, volumes: &Volumes, budgets: &[Budget]) -> Preemption {
        let spec = pod.spec.as_ref();
        if spec.and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
            return Preemption::Hopeless("preemption: not eligible due to preemptionPolicy=Never.".into());
        }
        if !self.profile(pod).preempts {
            return Preemption::Hopeless(String::new());
        }
        let priority = spec.and_then(|s| s.priority).unwrap_or(0);
        let waits = nominated(pod)
            .and_then(|node| self.node(node))
            .is_some_and(|node| node.pods.values().any(|other| other.is_terminating && other.priority < priority));
        if waits {
            return Preemption::Hopeless("preemption: not eligible due to a terminating pod on the nominated node.".into());
        }
        let reserved = self.release(pod);
        let found = self.with_class((pod, volumes), |class, fleet| search(class, fleet, priority, budgets));
        if let (Some(node), Preemption::Hopeless(_)) = (reserved, &found) {
            self.assume(pod, volumes, node);
        }
        found
    }
}

fn search(class: &Class, fleet: &Fleet, priority: i32, budgets: &[Budget]) -> Preemption {
    let count = fleet.nodes().count();
    let enough = CANDIDATES_MIN.max(count * CANDIDATES_PERCENT / 100);
    let mut reasons: BTreeMap<Cow<'static, str>, usize> = BTreeMap::new();
    let mut candidates = Vec::new();
    for (name, node) in fleet.named() {
        let Some(refusal) = class.refusal(fleet, name) else { continue };
        if !refusal.by_others {
            *reasons.entry(NOT_HELPFUL.into()).or_default() += 1;
            continue;
        }
        match victims(class, fleet, node, priority, budgets) {
            Some(candidate) => candidates.push(candidate),
            None => *reasons.entry(NO_VICTIMS.into()).or_default() += 1,
        }
        if candidates.len() >= enough {
            break;
        }
    }
    match candidates.into_iter().min_by_key(cost) {
        Some(best) => Preemption::Victims { node: best.node, pods: best.victims.into_iter().map(|(pod, ..)| pod).collect() },
        None => Preemption::Hopeless(format!("preemption: {}", explain(count, &reasons))),
    }
}

/// Fewest broken budgets, then the least important victims, then the fewest, then those that came last.
fn cost(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<String>, String) {
    let highest = candidate.victims.iter().map(|(_, priority, _)| *priority).max().unwrap_or(i32::MIN);
    // Priorities may be below zero: a further victim must never make a node cheaper.
    let sum = candidate.victims.iter().map(|(_, priority, _)| i64::from(*priority) - i64::from(i32::MIN)).sum();
    let starts = candidate.victims.iter().filter(|(_, priority, _)| *priority == highest).map(|(.., start)| start.clone());
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(starts.min().unwrap_or_default()), candidate.node.clone())
}

/// The fewest Pods of lower priority that must leave a node, the most important ones spared first.
fn victims(class: &Class, fleet: &Fleet, node: &NodeInfo, priority: i32, budgets: &[Budget]) -> Option<Candidate> {
    let mut lower: Vec<(&String, &Occupant)> =
        node.pods.iter().filter(|(_, pod)| pod.priority < priority).map(|(key, pod)| (key, &**pod)).collect();
    let all: Vec<&Occupant> = lower.iter().map(|(_, pod)| *pod).collect();
    if lower.is_empty() || !class.fits_without(node, &all, &fleet.namespaces) {
        return None;
    }
    lower.sort_by_key(|(key, pod)| (Reverse(pod.priority), pod.start.clone(), (*key).clone()));
    let mut allowed: Vec<i64> = budgets.iter().map(|budget| budget.allowed).collect();
    let mut violates = |pod: &Occupant| {
        let mut broken = false;
        for (budget, left) in budgets.iter().zip(&mut allowed) {
            if budget.namespace == pod.namespace && budget.selector.matches(&pod.labels) {
                *left -= 1;
                broken |= *left < 0;
            }
        }
        broken
    };
    let (breaking, free): (Vec<_>, Vec<_>) = lower.into_iter().partition(|(_, pod)| violates(pod));
    let breaking_count = breaking.len();
    let mut gone = all;
    let mut kept = Vec::new();
    let mut violations = 0;
    for (index, (key, pod)) in breaking.into_iter().chain(free).enumerate() {
        gone.retain(|other| !std::ptr::eq(*other, pod));
        if !class.fits_without(node, &gone, &fleet.namespaces) {
            gone.push(pod);
            violations += usize::from(index < breaking_count);
            kept.push((key.clone(), pod.priority, pod.start.clone()));
        }
    }
    Some(Candidate { node: node.name.clone(), victims: kept, violations })
}
