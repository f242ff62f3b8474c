//! Jobs: so many Pods that have succeeded.
//!
//! A Pod that has ended is counted once: the count in the Job's status and the mark on the Pod are one transaction, so
//! no leader counts it again and none forgets it, also when the Pod is removed later (KEP-2307 needs finalizers for
//! that, because an API server has no transactions).

mod policy;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::Key;
use skein_object::meta::set_condition;
use skein_object::selector::Selector;

use self::policy::{Failure, judge};
use crate::pods_of::{Claimant, Made, Name, claim, is_active, is_finished, is_ready, make_or_tell, phase};
use crate::snapshot::{Snapshot, Stored};
use crate::write::{Note, edit, event, remove};
use crate::{Mint, Outcome};

/// On a Pod whose end is in its Job's status.
const COUNTED: &str = "skein.dev/counted-by-job";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const COMPONENT: &str = "job-controller";

/// Between a failure and the next Pod: 10 s, doubled with each further failure, up to 10 minutes.
const BACK_OFF_SECONDS_MIN: i64 = 10;
const BACK_OFF_SECONDS_MAX: i64 = 600;
/// At most so many Pods are made in one pass: they are one log entry.
const BURST: usize = 500;

/// Why a Job is over.
enum End {
    Complete { reason: &'static str, message: String },
    Failed { reason: &'static str, message: String },
}

/// One pass over one Job.
struct Pass<'a> {
    snapshot: &'a Snapshot,
    stored: &'a Stored<Job>,
    active: Vec<&'a Stored<Pod>>,
    terminating: usize,
    succeeded: i64,
    failed: i64,
    /// Ends that are counted in this pass.
    newly_counted: Vec<&'a Stored<Pod>>,
    /// Of an Indexed Job, the indexes that have succeeded, and those that are given up.
    done: BTreeSet<i64>,
    given_up: BTreeSet<i64>,
    /// Of each index, how many of its Pods have failed, and when the last of them did.
    index_failures: BTreeMap<i64, (i64, i64)>,
    /// Why a Pod's failure is that of the Job.
    fatal: Option<String>,
    transactions: Vec<Transaction>,
    again_ms: Option<u64>,
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    let Some(stored) = snapshot.jobs.get(key) else { return Outcome::default() };
    if stored.object.metadata.deletion_timestamp.is_some() {
        return Outcome::default();
    }
    if let Some(finished_at) = finished_at(&stored.object) {
        return expire(stored, finished_at, mint);
    }
    let mut pass = Pass::begin(snapshot, stored);
    let suspended = stored.object.spec.as_ref().and_then(|s| s.suspend).unwrap_or(false);
    let end = pass.end(mint);
    if end.is_some() || suspended {
        pass.remove(pass.active.len(), mint);
    } else {
        pass.make_missing(mint);
    }
    pass.write_status(end, suspended, mint);
    Outcome { transactions: pass.transactions, again_ms: pass.again_ms }
}

// === impl Pass ===

impl<'a> Pass<'a> {
    fn begin(snapshot: &'a Snapshot, stored: &'a Stored<Job>) -> Self {
        let status = stored.object.status.clone().unwrap_or_default();
        let mut pass = Self {
            snapshot,
            stored,
            active: Vec::new(),
            terminating: 0,
            succeeded: status.succeeded.unwrap_or(0).into(),
            failed: status.failed.unwrap_or(0).into(),
            newly_counted: Vec::new(),
            done: parse_indexes(status.completed_indexes.as_deref().unwrap_or_default()),
            given_up: parse_indexes(status.failed_indexes.as_deref().unwrap_or_default()),
            index_failures: BTreeMap::new(),
            fatal: None,
            transactions: Vec::new(),
            again_ms: None,
        };
        let spec = pass.spec();
        let claimant = Claimant {
            uid: stored.object.metadata.uid.as_deref(),
            selector: spec.selector.as_ref().map_or_else(Selector::nothing, Selector::from_label_selector),
            reference: pass.reference(),
        };
        for pod in claim(snapshot.pods_in(stored.key.namespace()), &claimant, &mut pass.transactions) {
            let counted = pod.object.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(COUNTED));
            let failure = (phase(&pod.object) == "Failed").then(|| judge(&spec, &pod.object));
            if let (Some(index), Some(Failure::Counts | Failure::FailsIndex)) = (index_of(&pod.object), &failure) {
                let known = pass.index_failures.entry(index).or_default();
                *known = (known.0 + 1, known.1.max(ended_at(&pod.object)));
            }
            if is_finished(&pod.object) && !counted {
                pass.newly_counted.push(pod);
                if phase(&pod.object) == "Succeeded" {
                    // An index counts once, however many of its Pods succeed.
                    let new = !pass.indexed() || index_of(&pod.object).is_some_and(|index| pass.done.insert(index));
                    pass.succeeded += i64::from(new);
                } else {
                    pass.fail(&pod.object, failure);
                }
            } else if is_active(&pod.object) {
                pass.active.push(pod);
            } else if !is_finished(&pod.object) {
                pass.terminating += 1;
            }
        }
        pass.give_up_indexes(spec.backoff_limit_per_index);
        pass
    }

    fn fail(&mut self, pod: &Pod, failure: Option<Failure>) {
        match failure {
            Some(Failure::Ignored) => return,
            Some(Failure::FailsIndex) => self.given_up.extend(index_of(pod)),
            Some(Failure::FailsJob(why)) => drop(self.fatal.get_or_insert(why)),
            Some(Failure::Counts) | None => {}
        }
        self.failed += 1;
    }

    /// An index that has failed more often than it may is not tried again (KEP-3850).
    fn give_up_indexes(&mut self, limit: Option<i32>) {
        let Some(limit) = limit else { return };
        let over = self.index_failures.iter().filter(|(_, (failures, _))| *failures > i64::from(limit)).map(|(index, _)| *index);
        self.given_up.extend(over.collect::<Vec<_>>());
        self.given_up.retain(|index| !self.done.contains(index));
    }

    fn spec(&self) -> k8s_openapi::api::batch::v1::JobSpec {
        self.stored.object.spec.clone().unwrap_or_default()
    }

    fn indexed(&self) -> bool {
        self.stored.object.spec.as_ref().and_then(|s| s.completion_mode.as_deref()) == Some("Indexed")
    }

    fn end(&mut self, mint: &Mint) -> Option<End> {
        let spec = self.spec();
        // Restarts in place count as failures, too (`restartPolicy: OnFailure`).
        let statuses = self.active.iter().flat_map(|p| p.object.status.iter().flat_map(|s| s.container_statuses.iter().flatten()));
        let restarts: i64 = statuses.map(|c| i64::from(c.restart_count)).sum();
        let failures = self.failed + restarts;
        if let Some(message) = self.fatal.take() {
            return Some(End::Failed { reason: "PodFailurePolicy", message });
        }
        if let Some(message) = policy::is_enough(&spec, &self.done) {
            return Some(End::Complete { reason: "SuccessPolicy", message });
        }
        if failures > i64::from(spec.backoff_limit.unwrap_or(6)) {
            return Some(End::Failed { reason: "BackoffLimitExceeded", message: "Job has reached the specified backoff limit".into() });
        }
        let started = self.stored.object.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0.as_second());
        if let (Some(limit), Some(started)) = (spec.active_deadline_seconds, started) {
            let left = started + limit - mint.now.as_second();
            if left <= 0 {
                return Some(End::Failed { reason: "DeadlineExceeded", message: "Job was active longer than specified deadline".into() });
            }
            self.look_again(left);
        }
        let given_up = i64::try_from(self.given_up.len()).unwrap_or(i64::MAX);
        if spec.max_failed_indexes.is_some_and(|most| given_up > i64::from(most)) {
            let message = "Job has exceeded the specified maximal number of failed indexes".into();
            return Some(End::Failed { reason: "MaxFailedIndexesExceeded", message });
        }
        if given_up > 0 && self.active.is_empty() && spec.completions.is_some_and(|all| self.succeeded + given_up >= i64::from(all)) {
            return Some(End::Failed { reason: "FailedIndexes", message: "Job has failed indexes".into() });
        }
        let complete = match spec.completions {
            Some(wanted) => self.succeeded >= i64::from(wanted),
            // A queue of work is done when one has said so and all have ended.
            None => self.succeeded > 0 && self.active.is_empty() && self.terminating == 0,
        };
        let message = "Reached expected number of succeeded pods";
        complete.then(|| End::Complete { reason: "CompletionsReached", message: message.into() })
    }

    fn look_again(&mut self, seconds: i64) {
        let ms = u64::try_from(seconds.max(1)).unwrap_or(1) * 1000;
        self.again_ms = Some(self.again_ms.map_or(ms, |known| known.min(ms)));
    }

    fn make_missing(&mut self, mint: &mut Mint) {
        let spec = self.spec();
        let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
        let left = match spec.completions {
            Some(wanted) => usize::try_from(i64::from(wanted) - self.succeeded).unwrap_or(0).saturating_sub(self.given_up.len()),
            None if self.succeeded > 0 => self.active.len(),
            None => parallelism,
        };
        let wanted = parallelism.min(left);
        if self.active.len() > wanted {
            return self.remove(self.active.len() - wanted, mint);
        }
        let missing = wanted - self.active.len();
        if missing == 0 {
            return;
        }
        let by_index = spec.backoff_limit_per_index.is_some();
        if let Some(wait) = self.back_off(mint).filter(|wait| *wait > 0 && !by_index) {
            return self.look_again(wait);
        }
        if self.indexed() {
            let active = self.active.iter().filter_map(|p| index_of(&p.object));
            let taken: BTreeSet<i64> = active.chain(self.done.iter().copied()).chain(self.given_up.iter().copied()).collect();
            let free: Vec<i64> = (0..i64::from(spec.completions.unwrap_or(0))).filter(|index| !taken.contains(index)).collect();
            // Each index waits for itself where failures are counted by index.
            let waits = |pass: &Self, index: i64| {
                pass.index_failures.get(&index).filter(|_| by_index).map_or(0, |known| back_off_left(*known, mint))
            };
            let (ready, waiting): (Vec<i64>, Vec<i64>) = free.into_iter().partition(|index| waits(self, *index) <= 0);
            if let Some(wait) = waiting.iter().map(|index| waits(self, *index)).min() {
                self.look_again(wait);
            }
            ready.into_iter().take(missing.min(BURST)).for_each(|index| self.make(Some(index), mint));
        } else {
            (0..missing.min(BURST)).for_each(|_| self.make(None, mint));
        }
    }

    /// Seconds until the next Pod may be made, after failures.
    fn back_off(&self, mint: &Mint) -> Option<i64> {
        let failures = Some(self.failed).filter(|failures| *failures > 0)?;
        // The last failure that is known: that of a Pod counted now, or the one that an annotation tells.
        let annotated =
            self.stored.object.metadata.annotations.as_ref().and_then(|a| a.get(LAST_FAILURE)).and_then(|t| t.parse::<i64>().ok());
        let now = mint.now.as_second();
        let failed_now = self.newly_counted.iter().any(|p| phase(&p.object) == "Failed");
        let since = if failed_now { now } else { annotated? };
        Some(back_off_left((failures, since), mint))
    }

    /// The Job as an owner.
    fn reference(&self) -> Value {
        json!({"apiVersion": "batch/v1", "kind": "Job", "name": self.stored.key.name(), "uid": self.stored.object.metadata.uid,
            "controller": true, "blockOwnerDeletion": true})
    }

    fn make(&mut self, index: Option<i64>, mint: &mut Mint) {
        let key = &self.stored.key;
        let owner = self.reference();
        let mut template = self.stored.record.field("spec").and_then(|s| s.get("template").cloned()).unwrap_or_default();
        let base = match index {
            Some(index) => {
                give_index(&mut template, index, key.name());
                if self.spec().backoff_limit_per_index.is_some() {
                    let failures = self.index_failures.get(&index).map_or(0, |(failures, _)| *failures);
                    let annotations = skein_object::meta::edit(&mut template).entry("annotations").or_insert_with(|| json!({}));
                    annotations[INDEX_FAILURES] = failures.to_string().into();
                }
                format!("{}-{index}", key.name())
            }
            None => key.name().to_string(),
        };
        let made = Made { template, namespace: key.namespace(), name: Name::Generated(&base), owner };
        let origin = (key, self.stored.object.metadata.uid.as_deref(), COMPONENT);
        let made = make_or_tell(self.snapshot, origin, made, mint, &mut self.transactions, &mut self.again_ms);
        let Some((mut transaction, name)) = made else { return };
        transaction.writes.extend(self.note("SuccessfulCreate", format!("Created pod: {name}"), mint).writes);
        self.transactions.push(transaction);
    }

    fn remove(&mut self, count: usize, mint: &mut Mint) {
        let mut surplus = self.active.clone();
        // Those that are not ready yet are the least loss.
        surplus.sort_by_key(|p| (is_ready(&p.object), p.key.clone()));
        for pod in surplus.into_iter().take(count) {
            if let Some(mut transaction) = remove(pod, mint) {
                transaction.writes.extend(self.note("SuccessfulDelete", format!("Deleted pod: {}", pod.key.name()), mint).writes);
                self.transactions.push(transaction);
            }
        }
    }

    /// The status, and in the same transaction the marks on the Pods that it counts.
    fn write_status(&mut self, end: Option<End>, suspended: bool, mint: &mut Mint) {
        let now = mint.time();
        let ended = end.is_some();
        let active = if ended || suspended { 0 } else { self.active.len() };
        let ready = if active == 0 { 0 } else { self.active.iter().filter(|p| is_ready(&p.object)).count() };
        let failed_now = self.newly_counted.iter().any(|p| phase(&p.object) == "Failed");
        let changed = edit(self.stored, |object| {
            if failed_now {
                skein_object::meta::edit(object).entry("annotations").or_insert_with(|| json!({}))[LAST_FAILURE] =
                    mint.now.as_second().to_string().into();
            }
            let status = object.as_object_mut().map(|o| o.entry("status").or_insert_with(|| json!({})));
            let Some(status) = status else { return };
            for (field, value) in [("active", active), ("ready", ready), ("terminating", self.terminating)] {
                status[field] = value.into();
            }
            for (field, value) in [("succeeded", self.succeeded), ("failed", self.failed)] {
                if value > 0 {
                    status[field] = value.into();
                }
            }
            if self.indexed() && !self.done.is_empty() {
                status["completedIndexes"] = format_indexes(&self.done).into();
            }
            if self.spec().backoff_limit_per_index.is_some() {
                status["failedIndexes"] = format_indexes(&self.given_up).into();
            }
            status["uncountedTerminatedPods"] = json!({});
            if suspended {
                // The time that it is active for begins again when it is resumed.
                status.as_object_mut().map(|s| s.shift_remove("startTime"));
            } else if status["startTime"].is_null() {
                status["startTime"] = now.clone().into();
            }
            let was_suspended = status["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Suspended");
            if suspended || was_suspended {
                let (holds, reason, message) =
                    if suspended { ("True", "JobSuspended", "Job suspended") } else { ("False", "JobResumed", "Job resumed") };
                set_condition(object, condition("Suspended", holds, reason, message, &now));
            }
            match &end {
                Some(End::Complete { reason, message }) => {
                    set_condition(object, condition("SuccessCriteriaMet", "True", reason, message, &now));
                    set_condition(object, condition("Complete", "True", reason, message, &now));
                    object["status"]["completionTime"] = now.clone().into();
                }
                Some(End::Failed { reason, message }) => {
                    set_condition(object, condition("FailureTarget", "True", reason, message, &now));
                    set_condition(object, condition("Failed", "True", reason, message, &now));
                }
                None => {}
            }
        });
        let Some(mut transaction) = changed else { return };
        for pod in &self.newly_counted {
            let marked = edit(pod, |object| {
                skein_object::meta::edit(object).entry("annotations").or_insert_with(|| json!({}))[COUNTED] = "true".into()
            });
            transaction.writes.extend(marked.into_iter().flat_map(|t| t.writes));
        }
        let told = match &end {
            Some(End::Complete { .. }) => Some(("Completed", "Job completed".to_string(), false)),
            Some(End::Failed { reason, message }) => Some((*reason, message.clone(), true)),
            None => None,
        };
        if let Some((reason, message, warning)) = told {
            let uid = self.stored.object.metadata.uid.as_deref().unwrap_or_default();
            let note = Note { regarding: &self.stored.key, uid, reason, message, component: COMPONENT, warning };
            transaction.writes.extend(event(&note, mint).writes);
        }
        self.transactions.push(transaction);
    }

    fn note(&self, reason: &str, message: String, mint: &mut Mint) -> Transaction {
        let uid = self.stored.object.metadata.uid.as_deref().unwrap_or_default();
        event(&Note { regarding: &self.stored.key, uid, reason, message, component: COMPONENT, warning: false }, mint)
    }
}

/// Unix seconds of the last failure, on the Job: what the back-off counts from, also under another leader.
const LAST_FAILURE: &str = "skein.dev/last-failure";

/// Seconds that are left to wait after so many failures, the last of them at a time.
fn back_off_left((failures, since): (i64, i64), mint: &Mint) -> i64 {
    let doublings = u32::try_from(failures - 1).unwrap_or(0).min(16);
    let wait = (BACK_OFF_SECONDS_MIN << doublings).clamp(BACK_OFF_SECONDS_MIN, BACK_OFF_SECONDS_MAX);
    since + wait - mint.now.as_second()
}

/// When the last of a Pod's containers ended, in Unix seconds.
fn ended_at(pod: &Pod) -> i64 {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ended = statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    ended.map(|time| time.0.as_second()).max().unwrap_or(0)
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, now: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastProbeTime": now, "lastTransitionTime": now})
}

/// When the Job was over, in Unix seconds.
pub(crate) fn finished_at(job: &Job) -> Option<i64> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let over = conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    Some(over.last_transition_time.as_ref().map_or(0, |t| t.0.as_second()))
}

/// Removes a Job that is over, once its time to live is (`ttlSecondsAfterFinished`).
fn expire(stored: &Stored<Job>, finished_at: i64, mint: &mut Mint) -> Outcome {
    let Some(ttl) = stored.object.spec.as_ref().and_then(|s| s.ttl_seconds_after_finished) else { return Outcome::default() };
    let left = finished_at + i64::from(ttl) - mint.now.as_second();
    if left > 0 {
        return Outcome { transactions: Vec::new(), again_ms: Some(u64::try_from(left).unwrap_or(0) * 1000) };
    }
    remove(stored, mint).into_iter().collect::<Vec<_>>().into()
}

/// What tells a Pod its index: label, annotation, host name, variable (KEP-2214).
fn give_index(template: &mut Value, index: i64, job: &str) {
    let metadata = skein_object::meta::edit(template);
    for field in ["labels", "annotations"] {
        metadata.entry(field).or_insert_with(|| json!({}))[INDEX] = index.to_string().into();
    }
    template["spec"]["hostname"] = format!("{job}-{index}").chars().take(63).collect::<String>().into();
    let variable = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": format!("metadata.labels['{INDEX}']")}}});
    for field in ["containers", "initContainers"] {
        for container in template["spec"][field].as_array_mut().into_iter().flatten() {
            let env = container.as_object_mut().map(|c| c.entry("env").or_insert_with(|| json!([])));
            if let Some(env) = env.and_then(Value::as_array_mut).filter(|env| !env.iter().any(|e| e["name"] == "JOB_COMPLETION_INDEX")) {
                env.push(variable.clone());
            }
        }
    }
    if template["spec"]["initContainers"].is_null()
        && let Some(spec) = template["spec"].as_object_mut()
    {
        spec.shift_remove("initContainers");
    }
}

fn index_of(pod: &Pod) -> Option<i64> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// `0,2-4`.
fn format_indexes(done: &BTreeSet<i64>) -> String {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for index in done {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let text = |(from, to): &(i64, i64)| match to - from {
        0 => from.to_string(),
        1 => format!("{from},{to}"),
        _ => format!("{from}-{to}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

fn parse_indexes(text: &str) -> BTreeSet<i64> {
    let ranges = text.split(',').filter_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse::<i64>().ok()?..=to.parse::<i64>().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_indexes_as_ranges() {
        let set = |list: &[i64]| list.iter().copied().collect::<BTreeSet<_>>();
        for (list, text) in [(&[][..], ""), (&[0], "0"), (&[0, 1], "0,1"), (&[0, 2, 3, 4], "0,2-4"), (&[1, 2, 3, 7], "1-3,7")] {
            assert_eq!(format_indexes(&set(list)), text);
            assert_eq!(parse_indexes(text), set(list));
        }
    }
}
