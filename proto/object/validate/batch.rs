//! Jobs and CronJobs.

use serde_json::Value;

use super::workload::any_pod_template;
use super::{immutable, list, non_negative, one_of, text};
use crate::cron::Schedule;
use crate::field::{Errors, Path};

pub fn job(job: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = job.get("spec").unwrap_or(&Value::Null);
    job_spec(spec, &path, errors);
    if let Some(old) = old {
        for field in ["completionMode", "selector", "template", "podFailurePolicy", "backoffLimitPerIndex", "podReplacementPolicy"] {
            immutable(job, old, &format!("/spec/{field}"), &path.child(field), errors);
        }
        if text(spec, "completionMode") != "Indexed" {
            immutable(job, old, "/spec/completions", &path.child("completions"), errors);
        }
    }
}

fn job_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    for field in ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimitPerIndex"]
    {
        non_negative(spec, field, path, errors);
    }
    // The template of a CronJob says it only where it is not the default.
    if !text(spec, "completionMode").is_empty() {
        one_of(spec, "completionMode", &["NonIndexed", "Indexed"], path, errors);
    }
    if text(spec, "completionMode") == "Indexed" && spec.get("completions").is_none_or(Value::is_null) {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    policies(spec, path, errors);
    let Some(template) = spec.get("template").filter(|t| t.is_object()) else {
        errors.required(&path.child("template"), "");
        return;
    };
    let path = path.child("template");
    any_pod_template(template, &path, errors);
    let policy = template.pointer("/spec/restartPolicy").and_then(Value::as_str).unwrap_or_default();
    let path = path.child("spec").child("restartPolicy");
    match policy {
        "OnFailure" | "Never" => {}
        // What nobody said.
        "" | "Always" => errors.required(&path, "valid values: \"OnFailure\", \"Never\""),
        other => errors.unsupported(&path, other, &["OnFailure", "Never"]),
    }
}

/// Policies about which failures and successes count (`validateJobSpec`).
fn policies(spec: &Value, path: &Path, errors: &mut Errors) {
    let is_said = |field: &str| spec.get(field).is_some_and(|value| !value.is_null());
    let is_indexed = text(spec, "completionMode") == "Indexed";
    for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
        if is_said(field) && !is_indexed {
            errors.invalid(&path.child(field), spec[field].clone(), "requires indexed completion mode");
        }
    }
    if is_said("maxFailedIndexes") && !is_said("backoffLimitPerIndex") {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if is_said("podFailurePolicy") {
        if spec.pointer("/template/spec/restartPolicy").and_then(Value::as_str) != Some("Never") {
            let shown = spec.pointer("/template/spec/restartPolicy").cloned().unwrap_or_default();
            let place = path.child("template").child("spec").child("restartPolicy");
            errors.invalid(&place, shown, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        for (index, rule) in list(&spec["podFailurePolicy"], "rules").iter().enumerate() {
            let place = path.child("podFailurePolicy").child("rules").index(index);
            let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
            match text(rule, "action") {
                "" => errors.required(&place.child("action"), "valid values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\""),
                "FailIndex" if !is_said("backoffLimitPerIndex") => {
                    errors.invalid(&place.child("action"), "FailIndex", "requires the backoffLimitPerIndex to be set");
                }
                action if !actions.contains(&action) => errors.unsupported(&place.child("action"), action, &actions),
                _ => {}
            }
            let (codes, conditions) = (rule["onExitCodes"].is_object(), !list(rule, "onPodConditions").is_empty());
            if codes == conditions {
                let why = "specifying one of OnExitCodes and OnPodConditions is required";
                let both = "specifying both OnExitCodes and OnPodConditions is not supported";
                errors.invalid(&place, "", if codes { both } else { why });
            }
        }
    }
    if is_said("successPolicy") && list(&spec["successPolicy"], "rules").is_empty() {
        errors.required(
            &path.child("successPolicy").child("rules"),
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
}

pub fn cron_job(cron: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = cron.get("spec").unwrap_or(&Value::Null);
    let schedule = text(spec, "schedule");
    if schedule.is_empty() {
        errors.required(&path.child("schedule"), "");
    } else if let Err(why) = schedule.parse::<Schedule>() {
        errors.invalid(&path.child("schedule"), schedule, &why.to_string());
    }
    let zone = text(spec, "timeZone");
    if !zone.is_empty() && jiff::tz::TimeZone::get(zone).is_err() {
        errors.invalid(&path.child("timeZone"), zone, &format!("unknown time zone {zone}"));
    }
    one_of(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &path, errors);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        non_negative(spec, field, &path, errors);
    }
    // Jobs' names get eleven more characters.
    if crate::meta::name(cron).len() > 52 {
        errors.invalid(&Path::new("metadata.name"), crate::meta::name(cron), "must be no more than 52 characters");
    }
    let template = spec.pointer("/jobTemplate/spec").unwrap_or(&Value::Null);
    job_spec(template, &path.child("jobTemplate").child("spec"), errors);
}
