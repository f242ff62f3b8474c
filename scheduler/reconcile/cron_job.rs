//! CronJobs: a Job for each time of a schedule.
//!
//! A Job is named after its time, so that two leaders that both think it is due make one. A leader that begins after
//! some times have passed makes the last of them, if it is not too late (`startingDeadlineSeconds`).

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::cron::Schedule;
use skein_object::{Key, registry};

use crate::job::finished_at;
use crate::snapshot::{Snapshot, Stored};
use crate::write::{Note, create, edit, event, remove};
use crate::{Mint, Outcome};

const COMPONENT: &str = "cronjob-controller";
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// More missed times than these are not looked through: something is wrong with a clock, or nobody led for long.
const MISSED_MAX: usize = 100;
/// Deadlines are met to the second; a day is the longest that one waits without looking.
const LOOK_SECONDS_MAX: i64 = 86_400;

/// One pass over one CronJob.
struct Pass<'a> {
    stored: &'a Stored<CronJob>,
    jobs: Vec<&'a Stored<Job>>,
    transactions: Vec<Transaction>,
    last: Option<Timestamp>,
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    let Some(stored) = snapshot.cron_jobs.get(key) else { return Outcome::default() };
    let spec = &stored.object.spec;
    if stored.object.metadata.deletion_timestamp.is_some() {
        return Outcome::default();
    }
    let uid = stored.object.metadata.uid.as_deref();
    let own = |job: &&Stored<Job>| {
        let owners = job.object.metadata.owner_references.iter().flatten();
        uid.is_some() && { owners }.any(|o| o.controller == Some(true) && Some(o.uid.as_str()) == uid)
    };
    let in_namespace =
        snapshot.jobs.range(Key::new("jobs.batch", key.namespace(), "")..).take_while(|(k, _)| k.namespace() == key.namespace());
    let jobs: Vec<&Stored<Job>> = in_namespace.map(|(_, job)| job).filter(own).collect();
    let last = stored.object.status.as_ref().and_then(|s| s.last_schedule_time.as_ref()).map(|t| t.0);
    let mut pass = Pass { stored, jobs, transactions: Vec::new(), last };
    pass.remove_history(true, spec.successful_jobs_history_limit.unwrap_or(3), mint);
    pass.remove_history(false, spec.failed_jobs_history_limit.unwrap_or(1), mint);
    let zone = spec.time_zone.as_deref().map_or(Ok(TimeZone::UTC), TimeZone::get);
    let mut again_ms = None;
    if let (Ok(schedule), Ok(zone), false) = (spec.schedule.parse::<Schedule>(), zone, spec.suspend.unwrap_or(false)) {
        pass.start_due(&schedule, &zone, mint);
        let next = schedule.next_after(mint.now, &zone);
        again_ms = next.map(|next| u64::try_from((next.as_second() - mint.now.as_second()).clamp(1, LOOK_SECONDS_MAX)).unwrap_or(1) * 1000);
    }
    pass.write_status();
    Outcome { transactions: pass.transactions, again_ms }
}

// === impl Pass ===

impl Pass<'_> {
    /// Makes the Job of the last time that has come.
    fn start_due(&mut self, schedule: &Schedule, zone: &TimeZone, mint: &mut Mint) {
        let spec = self.stored.object.spec.clone();
        let created = self.stored.object.metadata.creation_timestamp.as_ref().map_or(mint.now, |t| t.0);
        let mut from = self.last.unwrap_or(created);
        if let Some(deadline) = spec.starting_deadline_seconds {
            let earliest = Timestamp::from_second(mint.now.as_second() - deadline).unwrap_or(from);
            from = from.max(earliest);
        }
        let mut due = None;
        let mut missed = 0;
        while let Some(next) = schedule.next_after(due.unwrap_or(from), zone).filter(|next| *next <= mint.now) {
            due = Some(next);
            missed += 1;
            if missed > MISSED_MAX {
                self.note(
                    "TooManyMissedTimes",
                    "too many missed start times: set or decrease .spec.startingDeadlineSeconds or check clock skew",
                    true,
                    mint,
                );
                // The newest of them, from a time that is near.
                due = schedule
                    .next_after(Timestamp::from_second(mint.now.as_second() - 60).unwrap_or(from), zone)
                    .filter(|t| *t <= mint.now)
                    .or(due);
                break;
            }
        }
        let Some(due) = due else { return };
        let active: Vec<&Stored<Job>> = self.jobs.iter().copied().filter(|j| finished_at(&j.object).is_none()).collect();
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                return self.note(
                    "JobAlreadyActive",
                    "Not starting job because prior execution is running and concurrency policy is Forbid",
                    false,
                    mint,
                );
            }
            Some("Replace") => {
                for job in active {
                    self.transactions.extend(remove(job, mint));
                }
            }
            _ => {}
        }
        self.start(due, mint);
        self.last = Some(due);
    }

    fn start(&mut self, due: Timestamp, mint: &mut Mint) {
        let key = &self.stored.key;
        // Minutes since the epoch, as Kubernetes names them.
        let name = format!("{}-{}", key.name(), due.as_second() / 60);
        if self.jobs.iter().any(|j| j.key.name() == name) {
            return;
        }
        let resource = registry::find("batch", "v1", "jobs").expect("the registry has Jobs");
        let template = self.stored.record.field("spec").and_then(|s| s.get("jobTemplate").cloned()).unwrap_or_default();
        let mut annotations = template.pointer("/metadata/annotations").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
        annotations[SCHEDULED_AT] = skein_object::meta::time(due).into();
        let job = json!({
            "metadata": {
                "name": name, "labels": template.pointer("/metadata/labels").cloned().filter(Value::is_object).unwrap_or_else(|| json!({})),
                "annotations": annotations,
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": key.name(),
                    "uid": self.stored.object.metadata.uid, "controller": true, "blockOwnerDeletion": true}],
            },
            "spec": template["spec"],
        });
        let mut transaction = create(resource, key.namespace(), job, mint);
        let uid = self.stored.object.metadata.uid.as_deref().unwrap_or_default();
        let message = format!("Created job {name}");
        let note = Note { regarding: key, uid, reason: "SuccessfulCreate", message, component: COMPONENT, warning: false };
        transaction.writes.extend(event(&note, mint).writes);
        self.transactions.push(transaction);
    }

    /// Keeps so many of those that are over, the newest.
    fn remove_history(&mut self, complete: bool, limit: i32, mint: &mut Mint) {
        let kind = if complete { "Complete" } else { "Failed" };
        let holds = |job: &Job| {
            let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
            { conditions }.any(|c| c.type_ == kind && c.status == "True")
        };
        let mut over: Vec<&Stored<Job>> = self.jobs.iter().copied().filter(|j| holds(&j.object)).collect();
        over.sort_by_key(|j| (std::cmp::Reverse(j.object.metadata.creation_timestamp.as_ref().map(|t| t.0)), j.key.clone()));
        for job in over.into_iter().skip(usize::try_from(limit).unwrap_or(0)) {
            self.transactions.extend(remove(job, mint));
        }
    }

    fn write_status(&mut self) {
        let active: Vec<Value> = self
            .jobs
            .iter()
            .filter(|j| finished_at(&j.object).is_none())
            .map(|j| json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": j.key.namespace(), "name": j.key.name(), "uid": j.object.metadata.uid}))
            .collect();
        let completed = self.jobs.iter().filter_map(|j| j.object.status.as_ref()?.completion_time.as_ref()).map(|t| t.0).max();
        let last = self.last;
        self.transactions.extend(edit(self.stored, |object| {
            let Some(status) = object.as_object_mut().map(|o| o.entry("status").or_insert_with(|| json!({}))) else { return };
            if active.is_empty() {
                status.as_object_mut().map(|s| s.shift_remove("active"));
            } else {
                status["active"] = active.into();
            }
            for (field, time) in [("lastScheduleTime", last), ("lastSuccessfulTime", completed)] {
                if let Some(time) = time {
                    status[field] = skein_object::meta::time(time).into();
                }
            }
        }));
    }

    fn note(&mut self, reason: &str, message: &str, warning: bool, mint: &mut Mint) {
        let uid = self.stored.object.metadata.uid.as_deref().unwrap_or_default();
        let note = Note { regarding: &self.stored.key, uid, reason, message: message.into(), component: COMPONENT, warning };
        self.transactions.push(event(&note, mint));
    }
}
