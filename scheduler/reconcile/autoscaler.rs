//! HorizontalPodAutoscalers: as many replicas as keep a measure near its target (`pkg/controller/podautoscaler`).
//!
//! ```text
//!   usage of the Pods ── metric ──▶ replicas that each metric asks for ── the most ──▶ behavior ──▶ scale
//! ```
//!
//! Resource metrics come from the nodes' reports. Metrics of Pods, objects and external systems come from adapters behind
//! the aggregation layer: what must be asked is noted, and the look is taken when there are answers.

mod behavior;
mod foreign;
mod metric;

use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::meta::set_condition;
use skein_object::selector::Selector;
use skein_object::{Key, Resource, registry, scale};

use crate::snapshot::{Snapshot, Stored};
use crate::write::{Note, edit_entry, event, event_once};
use crate::{Mint, Outcome};

pub(crate) use behavior::History;

pub(crate) const AUTOSCALERS: &str = "horizontalpodautoscalers.autoscaling";

/// How often an autoscaler looks (`--horizontal-pod-autoscaler-sync-period`).
const PERIOD_MS: u64 = 15_000;
/// How long it waits for the answers of adapters before it looks again whether they are there.
const ANSWER_MS: u64 = 200;

const COMPONENT: &str = "horizontal-pod-autoscaler";

/// A condition: its type, whether it holds, reason and message.
struct Condition(&'static str, bool, String, String);

/// What one look comes to.
#[derive(Default)]
struct Verdict {
    conditions: Vec<Condition>,
    metrics: Option<Vec<Value>>,
    current: i64,
    desired: i64,
    /// Why the number changes, where it does.
    rescale: Option<String>,
    failures: Vec<(&'static str, String)>,
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    let (Some(entry), Some(resource)) = (snapshot.state.get(key), registry::by_key(AUTOSCALERS)) else {
        mint.memory.autoscalers.remove(key);
        return Outcome::default();
    };
    let Some(autoscaler) = entry.record.typed::<HorizontalPodAutoscaler>(entry.revision) else { return Outcome::default() };
    let (spec, metadata) = (autoscaler.spec, autoscaler.metadata);
    let uid = metadata.uid.unwrap_or_default();
    let mut transactions = Vec::new();
    let verdict = match target(snapshot, key, &spec) {
        Ok((target, of)) => {
            if !has_answers(snapshot, key, &spec, &of, mint) {
                return Outcome { again_ms: Some(ANSWER_MS), ..Outcome::default() };
            }
            let verdict = judge(snapshot, key, &spec, &of, mint);
            transactions.extend(rescale(snapshot, &target, &verdict, (key, &uid), mint));
            verdict
        }
        Err(why) => {
            let message = format!("the HPA controller was unable to get the target's current scale: {why}");
            let condition = Condition("AbleToScale", false, "FailedGetScale".into(), message);
            Verdict { conditions: vec![condition], failures: vec![("FailedGetScale", why)], ..Verdict::default() }
        }
    };
    for (reason, why) in &verdict.failures {
        let note = Note { regarding: key, uid: &uid, reason, message: why.clone(), component: COMPONENT, warning: true };
        transactions.extend(event_once(snapshot, &note, mint));
    }
    let now = mint.time();
    let written = edit_entry(resource, key, entry, |object| write_status(object, &verdict, metadata.generation, &now));
    transactions.extend(written);
    Outcome { transactions, again_ms: Some(PERIOD_MS) }
}

/// Whether adapters have answered all that this autoscaler asks; notes what they must be asked.
fn has_answers(snapshot: &Snapshot, key: &Key, spec: &HorizontalPodAutoscalerSpec, of: &scale::Scale, mint: &mut Mint) -> bool {
    let asked = around(snapshot, key, spec, of, mint, &[], |around| {
        let questions = spec.metrics.iter().flatten().filter_map(|metric| foreign::question(metric, around));
        questions.filter(|question| around.adapters.fresh(question, around.now.as_millisecond()).is_none()).collect::<Vec<_>>()
    });
    let is_answered = asked.is_empty();
    mint.questions.extend(asked);
    is_answered
}

/// Runs `look` on what this autoscaler's metrics are held against.
fn around<T>(
    snapshot: &Snapshot,
    key: &Key,
    spec: &HorizontalPodAutoscalerSpec,
    of: &scale::Scale,
    mint: &Mint,
    pods: &[&Stored<Pod>],
    look: impl FnOnce(&metric::Around<'_>) -> T,
) -> T {
    let resource_of = |object: &CrossVersionObjectReference| {
        snapshot.resource_of_kind(object.api_version.as_deref().unwrap_or("v1"), &object.kind).map(|resource| resource.qualified())
    };
    look(&metric::Around {
        pods,
        usage: &mint.usage,
        adapters: &mint.adapters,
        now: mint.now,
        namespace: key.namespace(),
        selector: &of.selector,
        resource_of: &resource_of,
        current: of.wanted,
        found: of.found,
        tolerances: metric::tolerances(spec),
    })
}

/// The workload that is scaled, and its scale.
fn target(snapshot: &Snapshot, key: &Key, spec: &HorizontalPodAutoscalerSpec) -> Result<(Target, scale::Scale), String> {
    let reference = &spec.scale_target_ref;
    let api_version = reference.api_version.as_deref().unwrap_or_default();
    let resource = snapshot.resource_of_kind(api_version, &reference.kind).ok_or_else(|| {
        format!("no matches for kind \"{}\" in group \"{}\"", reference.kind, api_version.split('/').next().unwrap_or_default())
    })?;
    if !resource.has(registry::Subresource::Scale) {
        return Err("the server could not find the requested resource".into());
    }
    let at = Key::new(resource.stored(), key.namespace(), &reference.name);
    let entry = snapshot.state.get(&at).ok_or_else(|| format!("{} \"{}\" not found", resource.qualified(), reference.name))?;
    let of = scale::of(&resource, &resource.show(&entry.record, entry.revision));
    Ok((Target { resource, at }, of))
}

struct Target {
    resource: std::sync::Arc<Resource>,
    at: Key,
}

fn rescale(snapshot: &Snapshot, target: &Target, verdict: &Verdict, (key, uid): (&Key, &str), mint: &mut Mint) -> Option<Transaction> {
    let why = verdict.rescale.as_ref()?;
    let entry = snapshot.state.get(&target.at)?;
    let mut written = edit_entry(&target.resource, &target.at, entry, |object| scale::set(&target.resource, object, verdict.desired))?;
    let message = format!("New size: {}; reason: {why}", verdict.desired);
    let note = Note { regarding: key, uid, reason: "SuccessfulRescale", message, component: COMPONENT, warning: false };
    written.writes.extend(event(&note, mint).writes);
    Some(written)
}

fn judge(snapshot: &Snapshot, key: &Key, spec: &HorizontalPodAutoscalerSpec, of: &scale::Scale, mint: &mut Mint) -> Verdict {
    let (least, most) = (i64::from(spec.min_replicas.unwrap_or(1)), i64::from(spec.max_replicas));
    let mut verdict = Verdict { current: of.found, desired: of.wanted, ..Verdict::default() };
    let able = |reason: &str, message: &str| Condition("AbleToScale", true, reason.into(), message.into());
    verdict.conditions.push(able("SucceededGetScale", "the HPA controller was able to get the target's current scale"));
    mint.memory.autoscalers.entry(key.clone()).or_default().begin(mint.now.as_second(), of.wanted);
    if of.wanted == 0 && least != 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        verdict.conditions.push(Condition("ScalingActive", false, "ScalingDisabled".into(), message.into()));
        return verdict;
    }
    let bound = match of.wanted {
        wanted if wanted > most => Some((most, "Current number of replicas above Spec.MaxReplicas")),
        wanted if wanted < least => Some((least, "Current number of replicas below Spec.MinReplicas")),
        _ => None,
    };
    let (desired, why) = if let Some((bound, why)) = bound {
        (bound, why.to_string())
    } else {
        let Some((proposed, name)) = proposals(snapshot, key, spec, of, mint, &mut verdict) else { return verdict };
        let history = mint.memory.autoscalers.entry(key.clone()).or_default();
        let asked = behavior::Asked { current: of.wanted, proposed, least, most, now: mint.now.as_second() };
        let decided = behavior::decide(spec.behavior.as_ref(), history, &asked);
        verdict.conditions.push(able(decided.able.0, decided.able.1));
        let (limited, reason, message) = decided.limited;
        verdict.conditions.push(Condition("ScalingLimited", limited, reason.into(), message.into()));
        (decided.replicas, if proposed > of.wanted { format!("{name} above target") } else { "All metrics below target".into() })
    };
    if desired != of.wanted {
        mint.memory.autoscalers.entry(key.clone()).or_default().rescaled(mint.now.as_second(), desired - of.wanted);
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        verdict.conditions.push(able("SucceededRescale", &message));
        verdict.rescale = Some(why);
    }
    verdict.desired = desired;
    verdict
}

/// The most that any metric asks for and that metric's name; `None` where none can be told.
fn proposals(
    snapshot: &Snapshot,
    key: &Key,
    spec: &HorizontalPodAutoscalerSpec,
    of: &scale::Scale,
    mint: &Mint,
    verdict: &mut Verdict,
) -> Option<(i64, String)> {
    let active = |holds, reason: &str, message: String| Condition("ScalingActive", holds, reason.into(), message);
    let Ok(selector) = Selector::parse(&of.selector) else {
        let message = "the HPA target's scale is missing a selector".to_string();
        verdict.conditions.push(active(false, "InvalidSelector", message));
        return None;
    };
    let pods: Vec<_> =
        snapshot.pods_in(key.namespace()).filter(|pod| selector.matches_optional(pod.object.metadata.labels.as_ref())).collect();
    let mut best: Option<(i64, String)> = None;
    let mut failed: Option<(&str, String)> = None;
    let mut shown = Vec::new();
    for metric in spec.metrics.iter().flatten() {
        match around(snapshot, key, spec, of, mint, &pods, |around| metric::propose(metric, around)) {
            Ok(proposal) => {
                if best.as_ref().is_none_or(|(most, _)| proposal.replicas > *most) {
                    best = Some((proposal.replicas, proposal.name));
                }
                shown.push(proposal.status);
            }
            Err((reason, why)) => {
                verdict.failures.push((reason, why.clone()));
                failed.get_or_insert((reason, why));
            }
        }
    }
    verdict.metrics = Some(shown);
    // With a metric that cannot be told, the others may ask for more but not for less.
    if let Some((reason, why)) = failed
        && best.as_ref().is_none_or(|(replicas, _)| *replicas < of.wanted)
    {
        verdict.conditions.push(active(false, reason, format!("the HPA was unable to compute the replica count: {why}")));
        let told = format!("invalid metrics (1 invalid out of {}), first error is: {why}", spec.metrics.iter().flatten().count());
        verdict.failures.push(("FailedComputeMetricsReplicas", told));
        return None;
    }
    let (replicas, name) = best?;
    let message = format!("the HPA was able to successfully calculate a replica count from {name}");
    verdict.conditions.push(active(true, "ValidMetricFound", message));
    Some((replicas, name))
}

fn write_status(object: &mut Value, verdict: &Verdict, generation: Option<i64>, now: &str) {
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    let status = &mut object["status"];
    status["observedGeneration"] = generation.into();
    status["currentReplicas"] = verdict.current.into();
    status["desiredReplicas"] = verdict.desired.into();
    if let Some(metrics) = &verdict.metrics {
        status["currentMetrics"] = if metrics.is_empty() { Value::Null } else { json!(metrics) };
    }
    if verdict.rescale.is_some() {
        status["lastScaleTime"] = now.into();
    }
    for Condition(kind, holds, reason, message) in &verdict.conditions {
        let status = if *holds { "True" } else { "False" };
        let condition = json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message});
        set_condition(object, condition);
    }
}
