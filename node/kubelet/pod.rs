//! What to do for one Pod, decided from what is observed. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::resize::Change;
use crate::restart::{self, restarts};

/// A container as the runtime knows it. Only the newest attempt of each is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observed {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) state: State,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) image: String,
    pub(crate) image_ref: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Created,
    Running,
    Exited { code: i32, finished_at: Option<Timestamp>, reason: String, message: String },
}

/// Everything known of a Pod's containers at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observation {
    pub(crate) sandbox: Option<Sandbox>,
    /// Sandboxes that have ended and wait to be removed.
    pub(crate) dead_sandboxes: Vec<String>,
    pub(crate) containers: BTreeMap<String, Observed>,
    /// The attempt before the newest, for `lastState` and `--previous`.
    pub(crate) previous: BTreeMap<String, Observed>,
    /// Older attempts, to be removed.
    pub(crate) obsolete: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ip: String,
    pub(crate) created_at: Option<Timestamp>,
    /// It ends with the node's lease.
    pub(crate) fenced: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    CreateSandbox {
        attempt: u32,
    },
    StartContainer {
        name: String,
        attempt: u32,
    },
    /// Kill one container that its liveness or startup probe gave up on.
    KillContainer {
        name: String,
        id: String,
    },
    /// Give a container that runs the resources that it should have.
    ResizeContainer {
        name: String,
        id: String,
    },
    /// End a container because another one's end lets the whole Pod begin anew.
    EndContainer {
        name: String,
        id: String,
    },
    /// End a container that takes its new resources only when it starts.
    RestartContainer {
        name: String,
        id: String,
    },
    /// Stop every container within the Pod's grace period, then the sandbox.
    Terminate,
    RemoveContainer {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// Nothing of the Pod is left here: its object may go.
    Forget,
}

/// What comes from outside the runtime.
pub(crate) struct Input<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) observed: &'a Observation,
    /// Containers whose liveness or startup probe has failed often enough, by id.
    pub(crate) unhealthy: &'a [String],
    /// Whether a container's startup probe has succeeded; missing means that none has said so yet.
    pub(crate) started: &'a BTreeMap<String, bool>,
    /// Containers that should have other resources than they were given, by name.
    pub(crate) resizes: &'a BTreeMap<String, Change>,
    /// The node has no room for it any more.
    pub(crate) is_evicted: bool,
    pub(crate) now: Timestamp,
}

/// The actions for now, and when to look again at the latest, in milliseconds.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Step {
    pub(crate) actions: Vec<Action>,
    pub(crate) again_ms: Option<u64>,
    /// Containers that wait out their back-off, with the seconds it lasts in all.
    pub(crate) backing_off: BTreeMap<String, u64>,
}

/// Back-off between restarts: 10 s, doubled each time up to 5 minutes, forgotten after 10 minutes of running
/// (`pkg/kubelet`: `MaxContainerBackOff`, `backOffPeriod`).
const BACK_OFF_SECONDS_MIN: u64 = 10;
const BACK_OFF_SECONDS_MAX: u64 = 300;
const BACK_OFF_RESET_SECONDS: i64 = 600;

pub(crate) fn step(input: &Input<'_>) -> Step {
    let mut step = Step::default();
    let observed = input.observed;
    step.actions.extend(observed.obsolete.iter().map(|id| Action::RemoveContainer { id: id.clone() }));
    if input.pod.metadata.deletion_timestamp.is_some() {
        terminate(observed, &mut step);
        return step;
    }
    let left = deadline_left_ms(input.pod, input.now);
    if phase_is_final(input.pod) || has_ended(input.pod, observed) || left == Some(0) || input.is_evicted {
        // The sandbox of a Pod that has ended is stopped; its containers stay for their logs.
        if observed.sandbox.is_some() {
            step.actions.push(Action::Terminate);
        }
        return step;
    }
    if observed.sandbox.is_none() {
        let attempt = u32::try_from(observed.dead_sandboxes.len()).unwrap_or(0);
        step.actions.push(Action::CreateSandbox { attempt });
        return step;
    }
    step.again_ms = left;
    if !begin_anew(input, &mut step) {
        run(input, &mut step);
    }
    step
}

/// Ends and removes all containers where one's end asks for that, which goes last: after a crash in between it still asks.
fn begin_anew(input: &Input<'_>, step: &mut Step) -> bool {
    let Some(cause) = restart::of_all(input.pod, input.observed) else { return false };
    if back_off_left(cause, input.now).1 > 0 {
        return false;
    }
    let running = input.observed.containers.iter().filter(|(_, c)| c.state == State::Running);
    step.actions.extend(running.map(|(name, c)| Action::EndContainer { name: name.clone(), id: c.id.clone() }));
    if step.actions.iter().any(|action| matches!(action, Action::EndContainer { .. })) {
        return true;
    }
    let all = input.observed.previous.values().chain(input.observed.containers.values());
    let others = all.filter(|c| c.id != cause.id).chain([cause]);
    step.actions.extend(others.map(|c| Action::RemoveContainer { id: c.id.clone() }));
    true
}

/// What is left of the Pod's `activeDeadlineSeconds`; 0 when it is over.
pub(crate) fn deadline_left_ms(pod: &Pod, now: Timestamp) -> Option<u64> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let started = pod.status.as_ref()?.start_time.as_ref()?.0;
    let left = started.as_millisecond() + seconds.saturating_mul(1000) - now.as_millisecond();
    Some(u64::try_from(left).unwrap_or(0))
}

/// An init container that goes on beside the others (KEP-753).
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether a container runs and has passed its startup probe, if it has one.
pub(crate) fn has_started(observed: &Observation, started: &BTreeMap<String, bool>, container: &Container) -> bool {
    let running = observed.containers.get(&container.name).is_some_and(|c| c.state == State::Running);
    running && started.get(&container.name).copied().unwrap_or(container.startup_probe.is_none())
}

/// Whether nothing is left to wait for before the Pod's main containers; once one of them was there, that stays so.
pub(crate) fn is_initialized(pod: &Pod, observed: &Observation, started: &BTreeMap<String, bool>) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let done = |init: &Container| match observed.containers.get(&init.name).map(|c| &c.state) {
        _ if is_sidecar(init) => has_started(observed, started, init),
        Some(State::Exited { code: 0, .. }) => true,
        _ => false,
    };
    spec.containers.iter().any(|c| observed.containers.contains_key(&c.name)) || spec.init_containers.iter().flatten().all(done)
}

/// The containers of a Pod's making: the main ones and those before them.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
}

/// Containers that somebody has added to look into the Pod (KEP-277), as the containers that they are.
pub(crate) fn ephemeral(pod: &Pod) -> Vec<Container> {
    let stated = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    stated.filter_map(|one| serde_json::from_value(serde_json::to_value(one).ok()?).ok()).collect()
}

fn terminate(observed: &Observation, step: &mut Step) {
    let running = observed.containers.values().any(|c| !matches!(c.state, State::Exited { .. }));
    if running || observed.sandbox.is_some() {
        step.actions.push(Action::Terminate);
        return;
    }
    let dead = observed.containers.values().chain(observed.previous.values());
    step.actions.extend(dead.map(|c| Action::RemoveContainer { id: c.id.clone() }));
    step.actions.extend(observed.dead_sandboxes.iter().map(|id| Action::RemoveSandbox { id: id.clone() }));
    step.actions.push(Action::Forget);
}

fn run(input: &Input<'_>, step: &mut Step) {
    let Some(spec) = &input.pod.spec else { return };
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let initialized = is_initialized(input.pod, input.observed, input.started);
    for init in spec.init_containers.iter().flatten() {
        if is_sidecar(init) {
            consider(input, init, "Always", step);
            if initialized || has_started(input.observed, input.started, init) {
                continue;
            }
            return;
        }
        let policy = init_policy(policy);
        match input.observed.containers.get(&init.name).map(|c| &c.state) {
            _ if initialized => {}
            Some(State::Exited { code: 0, .. }) => {}
            Some(State::Running) => return,
            _ => {
                consider(input, init, policy, step);
                return;
            }
        }
    }
    for container in &spec.containers {
        consider(input, container, policy, step);
    }
    for container in &ephemeral(input.pod) {
        consider(input, container, "Never", step);
    }
}

/// An init container that failed is repeated unless the Pod never restarts anything.
fn init_policy(policy: &str) -> &str {
    if policy == "Never" { "Never" } else { "OnFailure" }
}

/// Starts or restarts one container, if it should run and its back-off is over.
fn consider(input: &Input<'_>, container: &Container, policy: &str, step: &mut Step) {
    let start = |attempt| Action::StartContainer { name: container.name.clone(), attempt };
    let Some(found) = input.observed.containers.get(&container.name) else {
        step.actions.push(start(restart::next_attempt(input.pod, &container.name)));
        return;
    };
    match &found.state {
        State::Running if input.unhealthy.contains(&found.id) => {
            step.actions.push(Action::KillContainer { name: container.name.clone(), id: found.id.clone() });
        }
        State::Running => {
            let (name, id) = (container.name.clone(), found.id.clone());
            step.actions.extend(input.resizes.get(&container.name).map(|change| match change {
                Change::InPlace => Action::ResizeContainer { name, id },
                Change::Restart => Action::RestartContainer { name, id },
            }));
        }
        // Created and never started: the daemon died in between, or starting failed.
        State::Created => step.actions.extend([Action::RemoveContainer { id: found.id.clone() }, start(found.attempt)]),
        State::Exited { code, .. } => {
            if !restart::restarts(container, policy, *code) {
                return;
            }
            let (total, left) = back_off_left(found, input.now);
            if left > 0 {
                step.again_ms = Some(step.again_ms.map_or(left, |known| known.min(left)));
                step.backing_off.insert(container.name.clone(), total);
            } else {
                step.actions.push(start(found.attempt + 1));
            }
        }
    }
}

/// How long a container that has ended waits before its next start, in seconds, and what is left of that in milliseconds.
fn back_off_left(found: &Observed, now: Timestamp) -> (u64, u64) {
    let State::Exited { finished_at, .. } = &found.state else { return (0, 0) };
    let ran = found.started_at.zip(*finished_at).map_or(0, |(from, to)| to.as_second() - from.as_second());
    let total = back_off_seconds(found.attempt, ran);
    let since = finished_at.map_or(i64::MAX, |at| now.as_millisecond() - at.as_millisecond());
    let left = i64::try_from(total * 1000).unwrap_or(i64::MAX).saturating_sub(since);
    (total, u64::try_from(left).unwrap_or(0))
}

/// The first restart is immediate, as Kubernetes' is.
fn back_off_seconds(attempt: u32, ran_seconds: i64) -> u64 {
    if attempt == 0 || ran_seconds >= BACK_OFF_RESET_SECONDS {
        return 0;
    }
    (BACK_OFF_SECONDS_MIN << (attempt - 1).min(10)).min(BACK_OFF_SECONDS_MAX)
}

/// Whether a Pod is one of a StatefulSet's, of which no other may run anywhere.
pub(crate) fn has_identity(pod: &Pod) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.kind == "StatefulSet")
}

pub(crate) fn phase_is_final(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Whether every container has exited for good, or an init container has failed for good.
pub(crate) fn has_ended(pod: &Pod, observed: &Observation) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let ended = |container: &Container| match observed.containers.get(&container.name).map(|c| &c.state) {
        Some(State::Exited { code, .. }) => !restarts(container, policy, *code),
        _ => false,
    };
    let failed_init = |container: &Container| {
        let state = observed.containers.get(&container.name).map(|c| &c.state);
        let is_final = |code: i32| code != 0 && !restarts(container, init_policy(policy), code);
        !is_sidecar(container) && matches!(state, Some(State::Exited { code, .. }) if is_final(*code))
    };
    spec.containers.iter().all(ended) || spec.init_containers.iter().flatten().any(failed_init)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(policy: &str, deleted: bool) -> Pod {
        let mut value = json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": policy,
            "initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}});
        if deleted {
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(value).expect("a pod")
    }

    fn exited(code: i32, attempt: u32, seconds_ago: i64) -> Observed {
        let finished_at = Timestamp::from_second(1000 - seconds_ago).ok();
        let state = State::Exited { code, finished_at, reason: String::new(), message: String::new() };
        Observed { id: format!("id{attempt}"), attempt, state, started_at: finished_at, image: String::new(), image_ref: String::new() }
    }

    fn running() -> Observed {
        Observed { id: "run".into(), attempt: 0, state: State::Running, started_at: None, image: String::new(), image_ref: String::new() }
    }

    fn with_sidecar() -> Pod {
        let value = json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": "Never", "containers": [{"name": "a"}],
            "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}]}});
        serde_json::from_value(value).expect("a pod")
    }

    fn check(pod: &Pod, sandbox: bool, containers: &[(&str, Observed)], unhealthy: &[&str], expected: &[&str]) {
        let sandbox = sandbox.then(|| Sandbox { id: "s".into(), attempt: 0, ip: String::new(), created_at: None, fenced: false });
        let containers = containers.iter().map(|(name, c)| ((*name).to_string(), c.clone())).collect();
        let observed = Observation { sandbox, containers, ..Observation::default() };
        let unhealthy: Vec<String> = unhealthy.iter().map(|s| (*s).to_string()).collect();
        let input = Input {
            pod,
            observed: &observed,
            unhealthy: &unhealthy,
            started: &BTreeMap::new(),
            resizes: &BTreeMap::new(),
            is_evicted: false,
            now: Timestamp::from_second(1000).expect("a time"),
        };
        let text = |action: &Action| match action {
            Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Action::StartContainer { name, attempt } => format!("start {name} {attempt}"),
            Action::KillContainer { name, .. } => format!("kill {name}"),
            Action::ResizeContainer { name, .. } => format!("resize {name}"),
            Action::EndContainer { name, .. } => format!("end {name}"),
            Action::RestartContainer { name, .. } => format!("restart {name}"),
            Action::Terminate => "terminate".into(),
            Action::RemoveContainer { id } => format!("remove {id}"),
            Action::RemoveSandbox { id } => format!("remove sandbox {id}"),
            Action::Forget => "forget".into(),
        };
        assert_eq!(step(&input).actions.iter().map(text).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn starts_in_order() {
        let pod = pod("Always", false);
        check(&pod, false, &[], &[], &["sandbox 0"]);
        check(&pod, true, &[], &[], &["start i 0"]);
        check(&pod, true, &[("i", running())], &[], &[]);
        check(&pod, true, &[("i", exited(0, 0, 1))], &[], &["start a 0", "start b 0"]);
    }

    #[test]
    fn restarts_by_policy_and_backs_off() {
        let done = ("i", exited(0, 0, 1));
        check(&pod("Always", false), true, &[done.clone(), ("a", exited(0, 0, 0)), ("b", running())], &[], &["start a 1"]);
        check(&pod("Always", false), true, &[done.clone(), ("a", exited(1, 1, 5)), ("b", running())], &[], &[]);
        check(&pod("Always", false), true, &[done.clone(), ("a", exited(1, 1, 11)), ("b", running())], &[], &["start a 2"]);
        check(&pod("OnFailure", false), true, &[done.clone(), ("a", exited(0, 0, 1)), ("b", running())], &[], &[]);
        check(&pod("Never", false), true, &[done.clone(), ("a", exited(1, 0, 1)), ("b", exited(0, 0, 1))], &[], &["terminate"]);
        check(&pod("Never", false), true, &[("i", exited(1, 0, 1))], &[], &["terminate"]);
        check(&pod("Always", false), true, &[done, ("a", running()), ("b", running())], &["run"], &["kill a", "kill b"]);
    }

    #[test]
    fn sidecars_start_first_and_go_on() {
        let pod = with_sidecar();
        let done = ("i", exited(0, 0, 1));
        check(&pod, true, &[], &[], &["start s 0"]);
        check(&pod, true, &[("s", running())], &[], &["start i 0"]);
        check(&pod, true, &[("s", running()), done.clone()], &[], &["start a 0"]);
        // One that ends comes back whatever the Pod's policy, before and after the main containers have begun.
        check(&pod, true, &[("s", exited(0, 0, 1))], &[], &["start s 1"]);
        check(&pod, true, &[("s", exited(1, 0, 1)), done.clone(), ("a", running())], &[], &["start s 1"]);
        // It does not keep the Pod.
        check(&pod, true, &[("s", running()), done, ("a", exited(0, 0, 1))], &[], &["terminate"]);
    }

    #[test]
    fn one_containers_end_may_let_all_begin_anew() {
        let mut pod = pod("Never", false);
        let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]);
        let spec = pod.spec.as_mut().expect("a specification");
        spec.containers[0].restart_policy = Some("Never".into());
        spec.containers[0].restart_policy_rules = serde_json::from_value(rule).expect("rules");
        let named = |id: &str, mut container: Observed| {
            container.id = id.into();
            container
        };
        let (init, cause) = (("i", named("i", exited(0, 0, 9))), ("a", named("a", exited(88, 0, 1))));
        check(&pod, true, &[init.clone(), cause.clone(), ("b", running())], &[], &["end b"]);
        // The one that asks goes last.
        check(&pod, true, &[init.clone(), cause, ("b", named("b", exited(137, 0, 0)))], &[], &["remove b", "remove i", "remove a"]);
        check(&pod, true, &[init.clone(), ("a", exited(1, 0, 1)), ("b", running())], &[], &[]);
        // It waits as long as it would alone.
        check(&pod, true, &[init, ("a", named("a", exited(88, 1, 5))), ("b", running())], &[], &[]);
    }

    #[test]
    fn ends_at_its_deadline() {
        let mut late = pod("Always", false);
        late.spec.as_mut().expect("a spec").active_deadline_seconds = Some(10);
        late.status = serde_json::from_value(json!({"startTime": "1970-01-01T00:16:30Z"})).expect("a status");
        check(&late, true, &[("i", exited(0, 0, 1)), ("a", running()), ("b", running())], &[], &["terminate"]);
    }

    #[test]
    fn leaves_nothing_of_a_deleted_pod() {
        let pod = pod("Always", true);
        check(&pod, true, &[("a", running())], &[], &["terminate"]);
        check(&pod, false, &[("a", exited(0, 0, 1))], &[], &["remove id0", "forget"]);
        check(&pod, false, &[], &[], &["forget"]);
    }

    #[test]
    fn back_off_doubles_to_five_minutes() {
        let seconds: Vec<u64> = (0..8).map(|attempt| back_off_seconds(attempt, 0)).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(back_off_seconds(5, 601), 0);
    }
}
