//! Carries out `ChaosExperiment`s, one at a time and each once: the agent that claims one first is its coordinator.
//!
//! ```text
//!   (new) ──claim──▶ Running ──run──▶ Finished, with a verdict
//!                       └── its coordinator is silent, or has forgotten it ──▶ Finished, Failed
//! ```
//!
//! A coordinator that dies takes with it what its clients have seen, so nobody goes on in its place. Faults end by
//! themselves.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::agents::Agents;
use crate::experiment::Experiment;
use crate::load;
use crate::resource::{EXPERIMENTS, Resources};
use crate::run::{Entry, Report, run as run_experiment};

/// A coordinator says so often that it is there …
const BEAT_INTERVAL: Duration = Duration::from_secs(2);
/// … and after this is taken for dead. Longer than any fault of the network that leaves a majority.
const SILENCE_MAX: Duration = Duration::from_secs(60);

const IDLE: Duration = Duration::from_secs(15);

/// A verdict is kept for so long for a cluster that takes no writes.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(600);

/// How much of a timeline an object holds: the newest.
const TIMELINE_MAX: usize = 200;

/// What is to be done with the experiments.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    Claim(Value),
    /// Nobody carries it out any more; why.
    Close(String, String),
}

/// When each experiment was last seen to change, by this machine's own clock.
#[derive(Default)]
struct Heard(BTreeMap<String, (String, Instant)>);

/// Coordinates for ever.
pub(crate) fn run(resources: &Resources) {
    let mut heard = Heard::default();
    loop {
        let listed = resources.list(EXPERIMENTS).ok();
        if let Some(listed) = &listed {
            heard.observe(&listed.items);
            match decide(&listed.items, &resources.own, |name| heard.is_silent(name)) {
                Step::Nothing => {}
                Step::Claim(experiment) => claim(resources, experiment),
                Step::Close(name, why) => {
                    // What its clients wrote goes, so that the next of this name can begin.
                    let _ = resources.demand("DELETE", &format!("/api/v1/namespaces/{}", load::namespace(&name)), None);
                    let _ = resources.set_status(EXPERIMENTS, &name, |old| finished(&old["status"], &Err(why.clone())));
                }
            }
        }
        resources.wait(EXPERIMENTS, listed.as_ref().map(|listed| listed.revision.as_str()), IDLE);
    }
}

fn name(experiment: &Value) -> &str {
    experiment["metadata"]["name"].as_str().unwrap_or_default()
}

/// What this agent does next. One experiment at a time, or two together would break what each of them guards.
fn decide(experiments: &[Value], own: &str, is_silent: impl Fn(&str) -> bool) -> Step {
    let mut running = experiments.iter().filter(|experiment| experiment["status"]["phase"] == "Running").peekable();
    if running.peek().is_some() {
        let close = |experiment: &Value| {
            let coordinator = experiment["status"]["coordinator"].as_str().unwrap_or_default();
            let why = match coordinator == own {
                true => format!("the agent of {own} was started anew in its middle"),
                false if is_silent(name(experiment)) => {
                    format!("its coordinator on {coordinator} has not been heard of for {} s", SILENCE_MAX.as_secs())
                }
                false => return None,
            };
            Some(Step::Close(name(experiment).into(), why))
        };
        return running.find_map(close).unwrap_or(Step::Nothing);
    }
    let is_new = |experiment: &&Value| experiment["status"]["phase"].is_null() && experiment["metadata"]["deletionTimestamp"].is_null();
    let age = |experiment: &&Value| (experiment["metadata"]["creationTimestamp"].to_string(), name(experiment).to_string());
    experiments.iter().filter(is_new).min_by_key(age).cloned().map_or(Step::Nothing, Step::Claim)
}

/// Carries an experiment out, if nobody else has claimed it meanwhile.
fn claim(resources: &Resources, mut experiment: Value) {
    experiment["status"] = json!({"phase": "Running", "coordinator": resources.own, "startTime": now(), "beats": 0});
    if resources.replace_status(EXPERIMENTS, &experiment).is_err() {
        return;
    }
    let timeline = Mutex::new(Vec::new());
    let (broken_off, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let outcome = std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if !beat(resources, name(&experiment), &timeline) {
                    broken_off.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(BEAT_INTERVAL);
            }
        });
        let tell = |entry: &Entry| timeline.lock().unwrap_or_else(PoisonError::into_inner).push(entry.clone());
        let ground = Agents::new(resources, &experiment);
        let outcome = Experiment::of_object(&experiment).map_err(|why| why.to_string());
        let outcome = outcome.and_then(|parsed| {
            run_experiment(&ground, resources.api.clone(), &parsed, &broken_off, &tell).map_err(|why| format!("{why:#}"))
        });
        over.store(true, Ordering::Relaxed);
        outcome
    });
    let begin = Instant::now();
    while begin.elapsed() < VERDICT_TIMEOUT && is_ours(resources, name(&experiment)) != Some(false) {
        if resources.set_status(EXPERIMENTS, name(&experiment), |old| finished(&old["status"], &outcome)).is_ok() {
            return;
        }
        std::thread::sleep(BEAT_INTERVAL);
    }
}

/// Says that this coordinator is there, and what has happened; false if the experiment is no longer its own.
fn beat(resources: &Resources, name: &str, timeline: &Mutex<Vec<Entry>>) -> bool {
    if is_ours(resources, name) == Some(false) {
        return false;
    }
    let happened = newest(&timeline.lock().unwrap_or_else(PoisonError::into_inner));
    // One that comes late comes with the next.
    let _ = resources.set_status(EXPERIMENTS, name, |old| {
        let mut status = old["status"].clone();
        status["beats"] = (status["beats"].as_i64().unwrap_or_default() + 1).into();
        status["timeline"] = happened.clone();
        status
    });
    true
}

/// Whether the experiment is there and this agent's; `None` where no node says.
fn is_ours(resources: &Resources, name: &str) -> Option<bool> {
    match resources.get(EXPERIMENTS, name).ok()? {
        (200, found) => {
            let status = &found["status"];
            let is_wanted = found["metadata"]["deletionTimestamp"].is_null();
            Some(is_wanted && status["phase"] == "Running" && status["coordinator"] == resources.own.as_str())
        }
        (404, _) => Some(false),
        _ => None,
    }
}

fn newest(timeline: &[Entry]) -> Value {
    json!(timeline[timeline.len().saturating_sub(TIMELINE_MAX)..])
}

/// The status at the end: what came of it, or why nothing did.
fn finished(old: &Value, outcome: &Result<Report, String>) -> Value {
    let mut status = old.clone();
    status["phase"] = "Finished".into();
    status["completionTime"] = now().into();
    match outcome {
        Ok(report) => {
            status["timeline"] = newest(&report.timeline);
            let report = serde_json::to_value(report).unwrap_or_default();
            for field in ["verdict", "failures", "load", "healedMs"] {
                if !report[field].is_null() {
                    status[field] = report[field].clone();
                }
            }
        }
        Err(why) => {
            status["verdict"] = "Failed".into();
            status["failures"] = json!([why]);
        }
    }
    status
}

fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

// === impl Heard ===

impl Heard {
    fn observe(&mut self, experiments: &[Value]) {
        let mut seen = BTreeMap::new();
        for experiment in experiments {
            let revision = experiment["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_string();
            let since = match self.0.get(name(experiment)) {
                Some((known, since)) if *known == revision => *since,
                _ => Instant::now(),
            };
            seen.insert(name(experiment).to_string(), (revision, since));
        }
        self.0 = seen;
    }

    fn is_silent(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|(_, since)| since.elapsed() > SILENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experiment(name: &str, created: &str, status: Value) -> Value {
        json!({"metadata": {"name": name, "creationTimestamp": created}, "status": status})
    }

    #[test]
    fn experiments_take_turns_and_none_is_left_in_its_middle() {
        let running = |coordinator: &str| json!({"phase": "Running", "coordinator": coordinator});
        let old = experiment("old", "2026-01-01T00:00:00Z", Value::Null);
        let new = experiment("new", "2026-01-02T00:00:00Z", Value::Null);
        let check = |experiments: &[&Value], silent: bool, expected: &str| {
            let experiments: Vec<Value> = experiments.iter().map(|experiment| (*experiment).clone()).collect();
            let found = match decide(&experiments, "node-1", |_| silent) {
                Step::Nothing => String::new(),
                Step::Claim(experiment) => format!("claim {}", name(&experiment)),
                Step::Close(name, why) => format!("close {name}: {why}"),
            };
            assert!(found == expected || (!expected.is_empty() && found.starts_with(expected)), "{found}");
        };
        check(&[], false, "");
        check(&[&new, &old], false, "claim old");
        let at_two = experiment("a", "2026-01-03T00:00:00Z", running("node-2"));
        check(&[&old, &at_two], false, "");
        check(&[&old, &at_two], true, "close a: its coordinator on node-2 has not been heard of");
        check(&[&experiment("a", "", running("node-1"))], false, "close a: the agent of node-1 was started anew");
        let mut going = old.clone();
        going["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z".into();
        check(&[&going], false, "");
        check(&[&experiment("a", "", json!({"phase": "Finished"}))], true, "");
    }

    #[test]
    fn the_end_says_what_came_of_it() {
        let old = json!({"phase": "Running", "coordinator": "node-1", "startTime": "t", "beats": 3});
        let entry = |at_ms| Entry { at_ms, what: "x".into() };
        let report = Report {
            name: "a".into(),
            seed: 1,
            verdict: "Passed",
            failures: Vec::new(),
            timeline: (0..300).map(entry).collect(),
            load: None,
            healed_ms: Some(5),
        };
        let status = finished(&old, &Ok(report));
        assert_eq!((&status["phase"], &status["verdict"], &status["healedMs"]), (&json!("Finished"), &json!("Passed"), &json!(5)));
        assert_eq!(status["timeline"].as_array().map(Vec::len), Some(TIMELINE_MAX));
        assert_eq!(status["timeline"][199]["atMs"], 299);
        assert!(status.get("load").is_none() && status["beats"] == 3, "{status}");
        let status = finished(&old, &Err("no".into()));
        assert_eq!((&status["verdict"], &status["failures"]), (&json!("Failed"), &json!(["no"])));
    }
}
