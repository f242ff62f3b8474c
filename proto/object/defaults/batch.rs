//! Defaults of Jobs and CronJobs.

use serde_json::{Map, Value, json};

use super::{default, each, fill, object, object_in, workload};

/// By these labels a Job finds its Pods; the older, unprefixed ones are still read by clients.
const LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAMES: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Whether a label is one of those that are given to every Job's Pods.
pub(crate) fn is_generated(name: &str) -> bool {
    LABELS.contains(&name) || NAMES.contains(&name)
}

pub fn job(job: &mut Value) {
    if let Some(spec) = object(job, "spec") {
        job_spec(spec);
        default(spec, "manualSelector", false);
    }
    take_labels(job);
}

/// A Job without labels has those of its Pods.
fn take_labels(job: &mut Value) {
    let has_none = crate::meta::get(job, "labels").and_then(Value::as_object).is_none_or(Map::is_empty);
    let labels = job.pointer("/spec/template/metadata/labels").and_then(Value::as_object).filter(|labels| !labels.is_empty()).cloned();
    // A value that is no label is refused once, where the template has it.
    let are_labels =
        |labels: &Map<String, Value>| labels.values().all(|v| v.as_str().is_some_and(|v| crate::names::label_value(v).is_ok()));
    if let Some(labels) = labels.filter(|labels| has_none && are_labels(labels)) {
        crate::meta::edit(job).insert("labels".into(), labels.into());
    }
}

pub fn prepare_job(job: &mut Value) {
    forget_disabled(job);
    select_by_uid(job);
}

/// A Job selects by its own uid, so that no other's Pods are ever taken for its own (`generateSelector`).
fn select_by_uid(job: &mut Value) {
    let uid = crate::meta::text(job, "uid").to_string();
    let name = crate::meta::name(job).to_string();
    let Some(spec) = object(job, "spec") else { return };
    if spec.get("manualSelector") == Some(&json!(true)) || uid.is_empty() {
        return;
    }
    default(spec, "selector", json!({}));
    if let Some(labels) = spec.get_mut("selector").and_then(Value::as_object_mut).and_then(|selector| object_in(selector, "matchLabels")) {
        labels.insert(LABELS[0].into(), uid.clone().into());
    }
    let template = spec.entry("template").or_insert_with(|| json!({}));
    let labels = crate::meta::edit(template).entry("labels").or_insert_with(|| json!({}));
    for (keys, value) in [(LABELS, &uid), (NAMES, &name)] {
        for key in keys {
            labels[key] = value.clone().into();
        }
    }
    take_labels(job);
}

fn job_spec(spec: &mut Map<String, Value>) {
    failure_policy(spec);
    let unset = |spec: &Map<String, Value>, field: &str| spec.get(field).is_none_or(Value::is_null);
    if unset(spec, "completions") && unset(spec, "parallelism") {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    let by_index = !unset(spec, "backoffLimitPerIndex");
    default(spec, "backoffLimit", if by_index { i32::MAX } else { 6 });
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "podReplacementPolicy", if unset(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" });
    workload::template(spec);
}

/// A condition that counts is one that holds.
fn failure_policy(spec: &mut Map<String, Value>) {
    let Some(policy) = spec.get_mut("podFailurePolicy").and_then(Value::as_object_mut) else { return };
    for rule in each(policy, "rules") {
        for pattern in each(rule, "onPodConditions") {
            fill(pattern, "status", "True");
        }
    }
}

/// Fields of features that Kubernetes v1.37 has switched off; what is said there is not kept.
pub fn forget_disabled(job: &mut Value) {
    let template = if job.pointer("/spec/jobTemplate").is_some() { job.pointer_mut("/spec/jobTemplate/spec") } else { job.get_mut("spec") };
    let Some(spec) = template.and_then(Value::as_object_mut) else { return };
    spec.shift_remove("scheduling");
    spec.get_mut("template").into_iter().for_each(super::pod::forget_disabled);
}

pub fn cron_job(cron: &mut Value) {
    let Some(spec) = object(cron, "spec") else { return };
    fill(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = spec.get_mut("jobTemplate").and_then(|t| t.get_mut("spec")).and_then(Value::as_object_mut) {
        workload::template(job);
    }
}
