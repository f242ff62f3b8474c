//! Jobs and CronJobs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::at::At;
use super::workload::any_pod_template;
use super::{immutable, non_negative, one_of, text};
use crate::cron::Schedule;
use crate::field::{Errors, Path, Problem};
use crate::names;
use crate::selector::{Labels, Selector};

/// What must not be below zero.
const AMOUNTS: [&str; 7] = [
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
];

pub fn job(job: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = job.get("spec").unwrap_or(&Value::Null);
    job_spec(spec, &path, errors);
    let at = At::new(spec, &path);
    selector(&at, old.is_none(), errors);
    if let Some(old) = old {
        for field in ["completionMode", "selector", "template", "podFailurePolicy", "backoffLimitPerIndex", "podReplacementPolicy"] {
            immutable(job, old, &format!("/spec/{field}"), &path.child(field), errors);
        }
        if text(spec, "completionMode") != "Indexed" {
            immutable(job, old, "/spec/completions", &path.child("completions"), errors);
        }
    }
}

/// A Job's selector is made for it, unless it asks for its own.
fn selector(at: &At<'_>, is_new: bool, errors: &mut Errors) {
    let before = errors.len();
    let given = at.given("selector");
    match &given {
        None => errors.required(&at.child("selector"), ""),
        Some(selector) => super::label_selector(selector.value, &selector.path, errors),
    }
    if !is_new || given.is_some() && errors.len() > before {
        return;
    }
    let template = at.given("template").map(|template| template.value);
    let parsed = given.as_ref().and_then(|given| serde_json::from_value::<LabelSelector>(given.value.clone()).ok());
    let selects = |labels: &Labels| parsed.as_ref().is_some_and(|parsed| Selector::from_label_selector(parsed).matches(labels));
    let labels = template.map(crate::meta::labels).unwrap_or_default();
    if !selects(&labels) {
        let path = at.child("template").child("metadata").child("labels");
        errors.invalid(&path, super::shown_labels(template), "`selector` does not match template `labels`");
    }
    let generated: Labels = labels.into_iter().filter(|(name, _)| crate::defaults::batch::is_generated(name)).collect();
    if let Some(given) = given.filter(|_| !at.flag("manualSelector") && !selects(&generated)) {
        errors.invalid(&given.path, given.value.clone(), "`selector` not auto-generated");
    }
}

fn job_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    let at = At::new(spec, path);
    at.non_negative(&AMOUNTS, errors);
    if at.given("maxFailedIndexes").is_some() && at.given("backoffLimitPerIndex").is_none() {
        errors.required(&at.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if at.given("managedBy").is_some() {
        super::prefixed_path(&at, "managedBy", errors);
    }
    at.supported("completionMode", &["NonIndexed", "Indexed"], errors);
    let is_indexed = at.str("completionMode") == "Indexed";
    if is_indexed {
        indexed(&at, errors);
    }
    for field in ["backoffLimitPerIndex", "maxFailedIndexes"].iter().filter_map(|field| at.given(field)).filter(|_| !is_indexed) {
        errors.invalid(&field.path, field.value.clone(), "requires indexed completion mode");
    }
    if let Some(policy) = at.given("podFailurePolicy") {
        failure_policy(&policy, &at, errors);
    }
    if let Some(policy) = at.given("successPolicy") {
        if is_indexed {
            success_policy(&policy, at.int("completions"), errors);
        } else {
            errors.invalid(&policy.path, in_go(&policy), "requires indexed completion mode");
        }
    }
    let policies: &[&str] = if at.given("podFailurePolicy").is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    at.supported("podReplacementPolicy", policies, errors);
    let Some(template) = at.given("template").filter(|template| template.value.is_object()) else {
        return errors.required(&at.child("template"), "");
    };
    any_pod_template(template.value, &template.path, errors);
    let policy = template.value.pointer("/spec/restartPolicy").and_then(Value::as_str).unwrap_or_default();
    let path = template.path.child("spec").child("restartPolicy");
    match policy {
        // What nobody said.
        "" | "Always" => errors.required(&path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if at.given("podFailurePolicy").is_some() => {
            errors.invalid(&path, policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => errors.unsupported(&path, other, &["OnFailure", "Never"]),
    }
}

/// What is bounded, so that the status of its indexes stays small (KEP-3850).
fn indexed(at: &At<'_>, errors: &mut Errors) {
    const INDEXES_MAX: i64 = 100_000;
    const FAILED_MAX: i64 = 10_000;
    if at.given("completions").is_none() {
        errors.required(&at.child("completions"), "when completion mode is Indexed");
    }
    let most = format!("must be less than or equal to {INDEXES_MAX} when completion mode is Indexed");
    at.number("parallelism", i64::MIN..=INDEXES_MAX, &most, errors);
    if at.given("completions").is_some() && at.int("maxFailedIndexes") > at.int("completions") {
        errors.invalid(&at.child("maxFailedIndexes"), at.int("maxFailedIndexes"), "must be less than or equal to completions");
    }
    at.number("maxFailedIndexes", i64::MIN..=INDEXES_MAX, &format!("must be less than or equal to {INDEXES_MAX}"), errors);
    if at.int("completions") > INDEXES_MAX && at.given("backoffLimitPerIndex").is_some() {
        if at.given("maxFailedIndexes").is_none() {
            let why = format!("must be specified when completions is above {INDEXES_MAX}");
            errors.required(&at.child("maxFailedIndexes"), &why);
        }
        for field in ["parallelism", "maxFailedIndexes"] {
            let most = format!(
                "must be less than or equal to {FAILED_MAX} when completions are above {INDEXES_MAX} and used with backoff limit per index"
            );
            at.number(field, i64::MIN..=FAILED_MAX, &most, errors);
        }
    }
}

fn failure_policy(at: &At<'_>, spec: &At<'_>, errors: &mut Errors) {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    too_many(at, "rules", 20, errors);
    for rule in at.each("rules") {
        match rule.str("action") {
            "FailIndex" if spec.given("backoffLimitPerIndex").is_none() => {
                errors.invalid(&rule.child("action"), "FailIndex", "requires the backoffLimitPerIndex to be set");
            }
            _ => named_choice(&rule, "action", &ACTIONS, errors),
        }
        let (codes, conditions) = (rule.given("onExitCodes"), rule.count("onPodConditions"));
        if let Some(codes) = &codes {
            exit_codes(codes, spec, errors);
        }
        too_many(&rule, "onPodConditions", 20, errors);
        for pattern in rule.each("onPodConditions") {
            errors.judge(&pattern.child("type"), pattern.str("type"), names::qualified_name(pattern.str("type")));
            // The template of a CronJob says it only where it is not the default.
            if !pattern.str("status").is_empty() {
                pattern.supported("status", &["False", "True", "Unknown"], errors);
            }
        }
        let wrong = match (codes.is_some(), conditions > 0) {
            (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.add(&rule.path, Problem::Omitted(wrong.into()));
    }
}

fn exit_codes(at: &At<'_>, spec: &At<'_>, errors: &mut Errors) {
    named_choice(at, "operator", &["In", "NotIn"], errors);
    let is_container = |name: &Value| {
        let lists = ["/template/spec/containers", "/template/spec/initContainers"];
        lists.iter().filter_map(|list| spec.value.pointer(list)?.as_array()).flatten().any(|container| container["name"] == *name)
    };
    if let Some(name) = at.given("containerName").filter(|name| !is_container(name.value)) {
        let why = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&name.path, name.value.clone(), why);
    }
    let values: Vec<i64> = at.each("values").filter_map(|value| value.value.as_i64()).collect();
    let shown = || at.value.get("values").cloned().unwrap_or_default();
    if values.is_empty() {
        errors.invalid(&at.child("values"), shown(), "at least one value is required");
    }
    too_many(at, "values", 255, errors);
    for (index, value) in values.iter().enumerate() {
        let path = at.child("values").index(index);
        if at.str("operator") == "In" && *value == 0 {
            errors.invalid(&path, 0, "must not be 0 for the In operator");
        }
        if values[..index].contains(value) {
            errors.duplicate(&path, *value);
        }
    }
    if !values.is_sorted() {
        errors.invalid(&at.child("values"), shown(), "must be ordered");
    }
}

fn success_policy(at: &At<'_>, completions: i64, errors: &mut Errors) {
    const BYTES_MAX: usize = 64 << 10;
    if at.count("rules") == 0 {
        errors.required(&at.child("rules"), "at least one rules must be specified when the successPolicy is specified");
    }
    too_many(at, "rules", 20, errors);
    for rule in at.each("rules") {
        let (count, indexes) = (rule.given("succeededCount"), rule.given("succeededIndexes"));
        if count.is_none() && indexes.is_none() {
            errors.required(&rule.path, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut total = 0;
        if let Some(indexes) = &indexes {
            let text = indexes.value.as_str().unwrap_or_default();
            if text.len() > BYTES_MAX {
                errors.add(&indexes.path, Problem::TooLong(BYTES_MAX));
            }
            match count_indexes(text, completions) {
                Ok(count) => total = count,
                Err(why) => errors.invalid(&indexes.path, text, &format!("error parsing succeededIndexes: {why}")),
            }
        }
        rule.non_negative(&["succeededCount"], errors);
        let Some(count) = count.map(|count| count.value.as_i64().unwrap_or_default()) else { continue };
        for (most, what) in [
            (Some(completions), "specified completions"),
            (indexes.is_some().then_some(total), "indexes in the specified succeededIndexes field"),
        ] {
            if let Some(most) = most.filter(|most| count > *most) {
                let why = format!("must be less than or equal to {most} (the number of {what})");
                errors.invalid(&rule.child("succeededCount"), count, &why);
            }
        }
    }
}

/// How many indexes `1,3-5,7` are.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let index = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
    };
    let (mut last, mut total) = (None, 0);
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let parts: Vec<&str> = interval.split('-').collect();
        if parts.len() > 2 {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let first = index(parts[0])?;
        let end = parts.get(1).map_or(Ok(first), |end| index(end))?;
        let disorder = |before: i64, now: i64| Err(format!("non-increasing order, previous: {before}, current: {now}"));
        if parts.len() == 2 && first >= end {
            return disorder(first, end);
        }
        if let Some(last) = last.filter(|last| *last >= first) {
            return disorder(last, first);
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

/// One of a few values, which are named where nothing is said.
fn named_choice(at: &At<'_>, field: &str, supported: &[&str], errors: &mut Errors) {
    if at.str(field).is_empty() {
        let all: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        errors.required(&at.child(field), &format!("valid values: [{}]", all.join(" ")));
    } else {
        at.supported(field, supported, errors);
    }
}

fn too_many(at: &At<'_>, field: &str, most: usize, errors: &mut Errors) {
    let found = at.count(field);
    if found > most {
        errors.add(&at.child(field), Problem::TooMany { found, most });
    }
}

/// A success policy as Go prints its internal type.
fn in_go(policy: &At<'_>) -> Value {
    let or_null = |rule: &At<'_>, field: &str| rule.value.get(field).cloned().unwrap_or_default();
    let of_rule =
        |rule: At<'_>| json!({"SucceededIndexes": or_null(&rule, "succeededIndexes"), "SucceededCount": or_null(&rule, "succeededCount")});
    let rules: Value = policy.given("rules").map_or(Value::Null, |_| policy.each("rules").map(of_rule).collect());
    json!({"Rules": rules})
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
    let at = At::new(template, &path.child("jobTemplate").child("spec"));
    if at.flag("manualSelector") {
        errors.unsupported(&at.child("manualSelector"), true, &["nil", "false"]);
    }
    if let Some(selector) = at.given("selector") {
        errors.invalid(&selector.path, selector.value.clone(), "`selector` will be auto-generated");
    }
    job_spec(template, &path.child("jobTemplate").child("spec"), errors);
}
