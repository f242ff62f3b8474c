//! Columns of Jobs and CronJobs.

use serde_json::Value;

use super::apps::{containers, images, selector_text};
use super::{Column, age, column, items, joined, name, number, since, text_or, wide};

pub(crate) fn job() -> Vec<Column> {
    vec![
        name(),
        column("Status", "string", |o, _| state(o).into()),
        column("Completions", "string", |o, _| completions(o).into()),
        column("Duration", "string", |o, now| {
            let begin = text_or(o, "/status/startTime", "");
            let end = o.pointer("/status/completionTime").and_then(Value::as_str).and_then(|t| t.parse().ok()).unwrap_or(now);
            if begin.is_empty() { Value::from("") } else { since(&begin, end).into() }
        }),
        age(),
        containers(),
        images(),
        wide("Selector", "string", |o, _| selector_text(o).into()),
    ]
}

fn state(job: &Value) -> &'static str {
    let holds = |kind: &str| items(job, "/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True");
    match () {
        () if holds("Complete") => "Complete",
        () if holds("Failed") => "Failed",
        () if !job["metadata"]["deletionTimestamp"].is_null() => "Terminating",
        () if holds("Suspended") => "Suspended",
        () if holds("FailureTarget") => "FailureTarget",
        () if holds("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(job: &Value) -> String {
    let succeeded = number(job, "/status/succeeded");
    match job.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if number(job, "/spec/parallelism") > 1 => format!("{succeeded}/1 of {}", number(job, "/spec/parallelism")),
        None => format!("{succeeded}/1"),
    }
}

fn of_containers(cron: &Value, pointer: &str) -> String {
    joined(items(cron, "/spec/jobTemplate/spec/template/spec/containers").iter().map(|c| text_or(c, pointer, "")))
}

pub(crate) fn cron_job() -> Vec<Column> {
    vec![
        name(),
        column("Schedule", "string", |o, _| text_or(o, "/spec/schedule", "").into()),
        column("Timezone", "string", |o, _| text_or(o, "/spec/timeZone", "<none>").into()),
        column("Suspend", "boolean", |o, _| if o["spec"]["suspend"] == true { "True".into() } else { "False".into() }),
        column("Active", "integer", |o, _| items(o, "/status/active").len().into()),
        column("Last Schedule", "string", |o, now| {
            let last = text_or(o, "/status/lastScheduleTime", "");
            if last.is_empty() { "<none>".into() } else { since(&last, now).into() }
        }),
        age(),
        wide("Containers", "string", |o, _| of_containers(o, "/name").into()),
        wide("Images", "string", |o, _| of_containers(o, "/image").into()),
        wide("Selector", "string", |o, _| super::apps::selector_at(o, "/spec/jobTemplate/spec/selector").into()),
    ]
}
