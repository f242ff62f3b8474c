//! A Pod's status, from what is observed. Pure. The words are the kubelet's (`pkg/kubelet/status`, `kubelet_pods.go`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerState, Pod};
use serde_json::{Value, json};
use skein_object::fence::{CONDITION as FENCED, is_fenced};
use skein_object::meta;

use crate::eviction::Evicted;
use crate::pod::{Observation, Observed, State, deadline_left_ms, ephemeral, has_ended, has_started, is_initialized, is_sidecar};
use crate::resize::{Change, IN_PROGRESS, PENDING, Pending};
use crate::restart::{of_all, restarts};

/// Why a container does not run, where the runtime cannot say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: String,
}

pub(crate) struct Input<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) observed: &'a Observation,
    /// Containers that could not be started, and why.
    pub(crate) waiting: &'a BTreeMap<String, Waiting>,
    /// Containers in back-off, with its length in seconds.
    pub(crate) backing_off: &'a BTreeMap<String, u64>,
    /// Whether a container's readiness probe succeeds; missing means that it has none.
    pub(crate) ready: &'a BTreeMap<String, bool>,
    /// Whether a container's startup probe has succeeded; missing means that none has said so yet.
    pub(crate) started: &'a BTreeMap<String, bool>,
    /// Containers that do not have the resources yet that they should have.
    pub(crate) resizes: &'a BTreeMap<String, Change>,
    /// Why a resize is not done.
    pub(crate) pending: Option<&'a Pending>,
    /// Why the node drives it away.
    pub(crate) evicted: Option<&'a Evicted>,
    pub(crate) host_ip: &'a str,
    /// The runtime's name, the scheme of container ids.
    pub(crate) runtime: &'a str,
    pub(crate) now: Timestamp,
}

/// The whole status; conditions keep their transition time while their status stays.
pub(crate) fn build(input: &Input<'_>) -> Value {
    let spec = input.pod.spec.clone().unwrap_or_default();
    let old = input.pod.status.clone().unwrap_or_default();
    let inits = spec.init_containers.unwrap_or_default();
    let init_statuses: Vec<Value> = inits.iter().map(|c| container_status(input, c, true)).collect();
    let statuses: Vec<Value> = spec.containers.iter().map(|c| container_status(input, c, false)).collect();
    let initialized = is_initialized(input.pod, input.observed, input.started);
    let phase = phase(input, initialized);
    let ended = matches!(phase, "Succeeded" | "Failed");
    let sidecars = inits.iter().zip(&init_statuses).filter(|(c, _)| is_sidecar(c)).map(|(_, status)| status);
    let lasting: Vec<&Value> = sidecars.chain(&statuses).collect();
    let ready = lasting.iter().all(|s| s["ready"] == true) && !ended;
    let not_ready: Vec<&str> = lasting.iter().filter(|s| s["ready"] != true).filter_map(|s| s["name"].as_str()).collect();
    let incomplete: Vec<&str> = inits.iter().filter(|c| !complete(input, c)).map(|c| c.name.as_str()).collect();
    let condition = |kind: &str, holds: bool, reason: &str, message: String| {
        let status = if holds { "True" } else { "False" };
        let known = old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
        let since = known.and_then(|c| c.last_transition_time.as_ref()).map_or(input.now, |t| t.0);
        let mut value = json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": meta::time(since)});
        if !holds || (ended && phase == "Succeeded" && kind != "PodScheduled") {
            if !reason.is_empty() {
                value["reason"] = reason.into();
            }
            if !message.is_empty() {
                value["message"] = message.into();
            }
        }
        value
    };
    let (why, what) = match phase {
        "Succeeded" => ("PodCompleted", String::new()),
        "Failed" => ("PodFailed", String::new()),
        _ => ("ContainersNotReady", format!("containers with unready status: [{}]", not_ready.join(" "))),
    };
    let has_network = input.observed.sandbox.as_ref().is_some_and(|s| !s.ip.is_empty());
    let mut conditions = vec![
        condition("PodReadyToStartContainers", has_network, "", String::new()),
        condition(
            "Initialized",
            initialized,
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", incomplete.join(" ")),
        ),
        match gates_missing(input.pod).filter(|_| ready) {
            Some(missing) => condition("Ready", false, "ReadinessGatesNotReady", missing),
            None => condition("Ready", ready, why, what.clone()),
        },
        condition("ContainersReady", ready, why, what),
        condition("PodScheduled", true, "", String::new()),
    ];
    let begins_anew = !ended && of_all(input.pod, input.observed).is_some();
    if begins_anew || old.conditions.iter().flatten().any(|c| c.type_ == RESTARTING) {
        let mut restarting = condition(RESTARTING, begins_anew, "", String::new());
        if begins_anew {
            restarting["reason"] = "RestartAllContainersStarted".into();
            restarting["message"] = "container exited with restart policy rule".into();
        }
        conditions.push(restarting);
    }
    if input.observed.sandbox.as_ref().map_or_else(|| is_fenced(input.pod), |sandbox| sandbox.fenced) {
        conditions.push(condition(FENCED, true, "", String::new()));
    }
    // What others say of the Pod is theirs.
    conditions.extend(old.conditions.iter().flatten().filter(|c| !OWN.contains(&c.type_.as_str())).map(|c| json!(c)));
    if let Some(Pending { condition: kind, reason, message }) = input.pending {
        let mut pending = condition(kind, true, "", String::new());
        pending["reason"] = (*reason).into();
        pending["message"] = message.clone().into();
        conditions.push(pending);
    }
    let mut status = json!({
        "phase": phase, "conditions": conditions, "hostIP": input.host_ip, "hostIPs": [{"ip": input.host_ip}],
        "startTime": old.start_time.map_or_else(|| meta::time(input.now), |t| meta::time(t.0)),
        "containerStatuses": statuses, "qosClass": old.qos_class,
        "observedGeneration": input.pod.metadata.generation,
    });
    if !init_statuses.is_empty() {
        status["initContainerStatuses"] = init_statuses.into();
    }
    let ephemeral: Vec<Value> = ephemeral(input.pod).iter().map(|c| container_status(input, c, true)).collect();
    if !ephemeral.is_empty() {
        status["ephemeralContainerStatuses"] = ephemeral.into();
    }
    let ip = match &input.observed.sandbox {
        Some(sandbox) if spec.host_network == Some(true) => Some(input.host_ip.to_string()).filter(|_| !sandbox.id.is_empty()),
        Some(sandbox) => Some(sandbox.ip.clone()).filter(|ip| !ip.is_empty()),
        None => old.pod_ip.filter(|_| ended),
    };
    if let Some(ip) = ip {
        status["podIPs"] = json!([{"ip": ip}]);
        status["podIP"] = ip.into();
    }
    let (mut reason, mut message) = (old.reason, old.message);
    if phase == "Failed" && reason.is_none() && deadline_left_ms(input.pod, input.now) == Some(0) {
        reason = Some("DeadlineExceeded".into());
        message = Some("Pod was active on the node longer than the specified deadline".into());
    }
    if let Some(evicted) = input.evicted.filter(|_| phase == "Failed" && reason.is_none()) {
        reason = Some(evicted.reason.into());
        message = Some(evicted.why.clone());
        // Job controllers tell such an end from a failure of the Pod's own (KEP-3329).
        let mut target = condition(DISRUPTED, true, "", String::new());
        target["reason"] = "TerminationByKubelet".into();
        target["message"] = evicted.why.clone().into();
        if let Some(conditions) = status["conditions"].as_array_mut() {
            conditions.retain(|c| c["type"] != DISRUPTED);
            conditions.push(target);
        }
    }
    if let Some(reason) = reason {
        status["reason"] = reason.into();
    }
    if let Some(message) = message {
        status["message"] = message.into();
    }
    status
}

const DISRUPTED: &str = "DisruptionTarget";

/// The conditions that the kubelet says.
const OWN: [&str; 9] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", RESTARTING, PENDING, IN_PROGRESS, FENCED];
const RESTARTING: &str = "AllContainersRestarting";

/// Which conditions are still to be met before a Pod is ready although its containers are (KEP-580).
fn gates_missing(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let missing = |gate: &k8s_openapi::api::core::v1::PodReadinessGate| {
        let kind = &gate.condition_type;
        match conditions.into_iter().flatten().find(|c| c.type_ == *kind) {
            Some(found) if found.status == "True" => None,
            Some(found) => Some(format!("the status of pod readiness gate {kind:?} is not \"True\", but {}", found.status)),
            None => Some(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
        }
    };
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let missing: Vec<String> = gates.filter_map(missing).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// Whether an init container needs no more waiting for.
fn complete(input: &Input<'_>, container: &Container) -> bool {
    if is_sidecar(container) { has_started(input.observed, input.started, container) } else { succeeded(input, container) }
}

fn succeeded(input: &Input<'_>, container: &Container) -> bool {
    matches!(input.observed.containers.get(&container.name).map(|c| &c.state), Some(State::Exited { code: 0, .. }))
}

/// `getPhase`.
fn phase(input: &Input<'_>, initialized: bool) -> &'static str {
    let old = input.pod.status.as_ref().and_then(|s| s.phase.as_deref());
    match old {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    let Some(spec) = &input.pod.spec else { return "Pending" };
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let runs = input.observed.containers.values().any(|c| c.state == State::Running);
    if deadline_left_ms(input.pod, input.now) == Some(0) || input.evicted.is_some() {
        // Who sees a Pod that has failed counts on it that nothing of it runs (`mergePodStatus`).
        return match old {
            _ if !runs => "Failed",
            Some("Running") => "Running",
            _ => "Pending",
        };
    }
    if has_ended(input.pod, input.observed) {
        // A Pod has ended when its sidecars have, too.
        if runs {
            return "Running";
        }
        let inits = spec.init_containers.iter().flatten().filter(|c| !is_sidecar(c));
        let failed =
            spec.containers.iter().chain(inits).any(
                |c| matches!(input.observed.containers.get(&c.name).map(|o| &o.state), Some(State::Exited { code, .. }) if *code != 0),
            );
        return if failed { "Failed" } else { "Succeeded" };
    }
    if !initialized {
        return "Pending";
    }
    let known = spec.containers.iter().filter_map(|c| Some((c, input.observed.containers.get(&c.name)?))).collect::<Vec<_>>();
    let alive = known.iter().any(|(container, found)| match &found.state {
        State::Running => true,
        State::Exited { code, .. } => restarts(container, policy, *code),
        State::Created => false,
    });
    if known.len() == spec.containers.len() && alive { "Running" } else { "Pending" }
}

fn container_status(input: &Input<'_>, container: &Container, is_init: bool) -> Value {
    let name = &container.name;
    let found = input.observed.containers.get(name);
    let started = has_started(input.observed, input.started, container);
    let ready = match is_init && !is_sidecar(container) {
        true => succeeded(input, container),
        false => started && input.ready.get(name).copied().unwrap_or(true),
    };
    // What was told of a container that the runtime has no more is still so.
    let statuses = input.pod.status.iter().flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses)).flatten();
    let told = statuses.into_iter().find(|told| told.name == *name).filter(|_| found.is_none());
    let mut status = json!({
        "name": name, "image": found.map_or_else(|| container.image.clone().unwrap_or_default(), |c| c.image.clone()),
        "imageID": found.map(|c| c.image_ref.clone()).unwrap_or_default(), "ready": ready, "started": started,
        "restartCount": found.map_or(told.map_or(0, |told| told.restart_count.unsigned_abs()), |c| c.attempt), "state": {}, "lastState": {},
    });
    if let Some(found) = found {
        status["containerID"] = id(input, found).into();
        add_resources(input, container, &mut status);
    }
    let previous = input.observed.previous.get(name);
    match (found, input.backing_off.get(name)) {
        (Some(exited), Some(seconds)) if matches!(exited.state, State::Exited { .. }) => {
            let key = format!(
                "{}({})",
                input.pod.metadata.name.as_deref().unwrap_or_default(),
                input.pod.metadata.uid.as_deref().unwrap_or_default()
            );
            let message = format!("back-off {} restarting failed container={name} pod={key}", human(*seconds));
            status["state"] = json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}});
            status["lastState"] = state(input, exited);
        }
        _ => {
            match (found, input.waiting.get(name)) {
                (Some(found), None) if found.state != State::Created => status["state"] = state(input, found),
                (Some(found), Some(_)) if found.state == State::Running => status["state"] = state(input, found),
                (_, Some(waiting)) => status["state"] = json!({"waiting": {"reason": waiting.reason, "message": waiting.message}}),
                (_, None) => {
                    let has_inits = input.pod.spec.as_ref().and_then(|s| s.init_containers.as_ref()).is_some_and(|inits| !inits.is_empty());
                    let reason = if has_inits { "PodInitializing" } else { "ContainerCreating" };
                    status["state"] = json!({"waiting": {"reason": reason}});
                }
            }
            let ended =
                |state: &Option<ContainerState>| state.as_ref().filter(|state| state.terminated.is_some()).map(|state| json!(state));
            if let Some(previous) = previous {
                status["lastState"] = state(input, previous);
            } else if let Some(ended) = told.and_then(|told| ended(&told.state).or_else(|| ended(&told.last_state))) {
                status["lastState"] = ended;
            }
        }
    }
    status
}

/// What the container has: what it should have, or, until that is done, what was told last.
fn add_resources(input: &Input<'_>, container: &Container, status: &mut Value) {
    let is_done = input.pending.is_none() && !input.resizes.contains_key(&container.name);
    let known = input.pod.status.iter().flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses)).flatten();
    let told = known.into_iter().find(|told| told.name == container.name).and_then(|told| told.resources.clone());
    let has = if is_done { container.resources.clone() } else { told.or_else(|| container.resources.clone()) };
    let Some(has) = has else { return };
    if let Some(requests) = has.requests.as_ref().filter(|requests| !requests.is_empty()) {
        status["allocatedResources"] = json!(requests);
    }
    status["resources"] = json!(has);
}

fn state(input: &Input<'_>, container: &Observed) -> Value {
    let time = |at: Option<Timestamp>| at.map(meta::time);
    match &container.state {
        State::Created => json!({"waiting": {"reason": "ContainerCreating"}}),
        State::Running => json!({"running": {"startedAt": time(container.started_at)}}),
        State::Exited { code, finished_at, reason, message } => {
            let reason = if reason.is_empty() { if *code == 0 { "Completed" } else { "Error" } } else { reason };
            let mut ended = json!({
                "exitCode": code, "reason": reason, "startedAt": time(container.started_at), "finishedAt": time(*finished_at), "containerID": id(input, container),
            });
            if !message.is_empty() {
                ended["message"] = message.clone().into();
            }
            json!({"terminated": ended})
        }
    }
}

fn id(input: &Input<'_>, container: &Observed) -> String {
    format!("{}://{}", input.runtime, container.id)
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
fn human(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(containers: &[(&str, State)], backing_off: &[&str], ready: &[(&str, bool)], expected: (&str, &str, &str)) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}})).expect("a pod");
        let observe = |(name, state): &(&str, State)| {
            let observed = Observed {
                id: "i".into(),
                attempt: 1,
                state: state.clone(),
                started_at: None,
                image: String::new(),
                image_ref: String::new(),
            };
            ((*name).to_string(), observed)
        };
        let observed = Observation { containers: containers.iter().map(observe).collect(), ..Observation::default() };
        let status = build(&Input {
            pod: &pod,
            observed: &observed,
            waiting: &BTreeMap::new(),
            backing_off: &backing_off.iter().map(|n| ((*n).to_string(), 10)).collect(),
            ready: &ready.iter().map(|(n, r)| ((*n).to_string(), *r)).collect(),
            started: &BTreeMap::new(),
            resizes: &BTreeMap::new(),
            pending: None,
            evicted: None,
            host_ip: "h",
            runtime: "r",
            now: Timestamp::UNIX_EPOCH,
        });
        let state = status["containerStatuses"][0]["state"]
            .as_object()
            .and_then(|s| s.iter().next())
            .map(|(k, v)| format!("{k} {}", v["reason"].as_str().unwrap_or_default()));
        let ready = status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready").map(|c| c["status"].clone());
        assert_eq!((status["phase"].as_str(), state.as_deref(), ready), (Some(expected.0), Some(expected.1), Some(expected.2.into())));
    }

    #[test]
    fn a_gate_keeps_a_pod_from_being_ready() {
        let check = |conditions: Value, expected: Option<&str>| {
            let pod =
                json!({"spec": {"containers": [], "readinessGates": [{"conditionType": "x/y"}]}, "status": {"conditions": conditions}});
            assert_eq!(gates_missing(&serde_json::from_value(pod).expect("a Pod")).as_deref(), expected);
        };
        check(json!([]), Some("corresponding condition of pod readiness gate \"x/y\" does not exist."));
        let no = json!([{"type": "x/y", "status": "False"}]);
        check(no, Some("the status of pod readiness gate \"x/y\" is not \"True\", but False"));
        check(json!([{"type": "x/y", "status": "True"}]), None);
    }

    #[test]
    fn says_what_kubernetes_says() {
        let exited = |code| State::Exited { code, finished_at: None, reason: String::new(), message: String::new() };
        check(&[], &[], &[], ("Pending", "waiting ContainerCreating", "False"));
        check(&[("a", State::Running)], &[], &[], ("Running", "running ", "True"));
        check(&[("a", State::Running)], &[], &[("a", false)], ("Running", "running ", "False"));
        check(&[("a", exited(1))], &["a"], &[], ("Running", "waiting CrashLoopBackOff", "False"));
        check(&[("a", exited(1))], &[], &[], ("Running", "terminated Error", "False"));
    }
}
