//! Jobs and CronJobs.

use serde_json::Value;

use super::workload::any_pod_template;
use super::{immutable, non_negative, one_of, text};
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
    // What would change which Pods count is refused rather than ignored.
    for field in ["podFailurePolicy", "successPolicy", "backoffLimitPerIndex"] {
        if spec.get(field).is_some_and(|v| !v.is_null()) {
            errors.forbidden(&path.child(field), "not supported by this server yet");
        }
    }
    let Some(template) = spec.get("template").filter(|t| t.is_object()) else {
        errors.required(&path.child("template"), "");
        return;
    };
    let path = path.child("template");
    any_pod_template(template, &path, errors);
    let policy = template.pointer("/spec/restartPolicy").and_then(Value::as_str).unwrap_or_default();
    if !["OnFailure", "Never"].contains(&policy) {
        let path = path.child("spec").child("restartPolicy");
        let shown = if policy == "Always" || policy.is_empty() { "Always" } else { policy };
        errors.unsupported(&path, shown, &["OnFailure", "Never"]);
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
