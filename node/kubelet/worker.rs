//! One Pod's worker: observe, decide, act, tell; until nothing of the Pod is left.

mod configuring;
mod resizing;
mod stopping;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use skein_cri as v1;
use skein_object::Key;
use skein_store::Handle as Store;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::cri::{CONTAINER_NAME, Runtime};
use crate::eviction::{EVICTED, Evicted};
use crate::images::{Outcome, Pulls};
use crate::pod::{Action, Observation, Observed, Sandbox, State, step};
use crate::pod_certificate::{Credentials, pod_has_certificates};
use crate::probes::{self, Kind, Probing, Verdict};
use crate::resize::{Change, Pending};
use crate::status::{self, Waiting};
use crate::volumes::Brought;
use crate::write::{Note, Wish, pod_writer, tell};
use crate::{Error, Options, csi, logs, pod, pull_secrets, resources, volumes};

/// How often the runtime is asked while nothing happens. Where it does not tell what happens, a container's end is
/// seen this late at most.
const RELIST_INTERVAL: Duration = Duration::from_millis(500);
const RELIST_INTERVAL_TOLD: Duration = Duration::from_secs(10);
/// After a container could not be started.
const START_RETRY: Duration = Duration::from_secs(10);
const MOUNT_RETRY: Duration = Duration::from_secs(2);
const UNMOUNT_RETRY: Duration = Duration::from_secs(2);
/// While a volume is not attached yet.
const ATTACH_RETRY: Duration = Duration::from_millis(200);
/// How often ConfigMap and Secret volumes are brought up to date.
const VOLUMES_INTERVAL: Duration = Duration::from_secs(10);
const VERDICTS: usize = 64;

/// What all workers of a node share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) store: Store,
    pub(crate) runtime: Runtime,
    pub(crate) pulls: Pulls,
    pub(crate) runtime_name: String,
    /// Whether the runtime tells what happens to containers.
    pub(crate) told: AtomicBool,
    /// Whether every worker knows of its Pod what the cluster knew when this daemon began, or later.
    pub(crate) is_current: AtomicBool,
}

impl Shared {
    /// Whether the runtime ends Pods with the node's lease.
    fn fences(&self) -> bool {
        self.runtime_name == "skein"
    }
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    pods: watch::Receiver<Arc<Pod>>,
    wake: Arc<Notify>,
    key: Key,
    uid: String,
    /// Looked at before the Pod is, so that the Pod is at least as new.
    is_current: bool,
    /// It has been bound to the node's lease, and stays so: the leader counts on it.
    fenced: bool,
    wishes: watch::Sender<Wish>,
    verdicts: mpsc::Receiver<Verdict>,
    verdicts_in: mpsc::Sender<Verdict>,
    probing: HashMap<String, Probing>,
    ready: BTreeMap<String, bool>,
    started: BTreeMap<String, bool>,
    unhealthy: Vec<String>,
    waiting: BTreeMap<String, Waiting>,
    retry_at: BTreeMap<String, Instant>,
    /// Statuses of containers that have ended do not change.
    ended: HashMap<String, v1::ContainerStatus>,
    volumes_at: Instant,
    /// What each container was given, by its id, as far as this daemon has given it.
    given: HashMap<String, v1::LinuxContainerResources>,
    /// A resize that is wanted and not done.
    pending: Option<Pending>,
    /// Why the node drives the Pod away.
    evicted: Option<Evicted>,
    /// Images and mounts that volumes are made of, by the volume's name.
    brought: BTreeMap<String, Brought>,
    /// The Pod's own certificates.
    credentials: Credentials,
}

// === impl Worker ===

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, pods: watch::Receiver<Arc<Pod>>, wake: Arc<Notify>) -> Self {
        let pod = pods.borrow().clone();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let key = Key::new("pods", &text(&pod.metadata.namespace), &text(&pod.metadata.name));
        let uid = text(&pod.metadata.uid);
        let (wishes, wanted) = watch::channel(Wish::Nothing);
        tokio::spawn(pod_writer(shared.store.clone(), key.clone(), uid.clone(), wanted));
        let (verdicts_in, verdicts) = mpsc::channel(VERDICTS);
        Self {
            shared,
            pods,
            wake,
            key,
            uid,
            is_current: false,
            fenced: false,
            wishes,
            verdicts,
            verdicts_in,
            probing: HashMap::new(),
            ready: BTreeMap::new(),
            started: BTreeMap::new(),
            unhealthy: Vec::new(),
            waiting: BTreeMap::new(),
            retry_at: BTreeMap::new(),
            ended: HashMap::new(),
            volumes_at: Instant::now() + VOLUMES_INTERVAL,
            given: HashMap::new(),
            pending: None,
            evicted: None,
            brought: BTreeMap::new(),
            credentials: Credentials::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            self.is_current = self.shared.is_current.load(Ordering::Acquire);
            let pod = self.pods.borrow_and_update().clone();
            let wait = match self.pass(&pod).await {
                Ok(Pass::Done) => break,
                Ok(Pass::Again) => continue,
                Ok(Pass::Wait(wait)) => wait,
                Err(why) => {
                    debug!(pod = %self.key, %why, "a pass failed");
                    RELIST_INTERVAL
                }
            };
            tokio::select! {
                changed = self.pods.changed() => if changed.is_err() { return },
                () = self.wake.notified() => {}
                verdict = self.verdicts.recv() => if let Some(verdict) = verdict { self.judge(verdict) },
                () = tokio::time::sleep(wait) => {}
            }
        }
        while let Err(why) = self.release_mounts().await {
            debug!(pod = %self.key, %why, "a volume cannot be unmounted");
            tokio::time::sleep(UNMOUNT_RETRY).await;
        }
        volumes::remove(&volumes::pod_directory(&self.shared.options.directory, &self.pods.borrow()));
        let _ = std::fs::remove_dir_all(logs::directory(&self.shared.options.directory, &self.pods.borrow()));
        self.shared.options.addresses.forget(&self.key, &self.uid);
        self.shared.options.pressure.forget(&self.uid);
        self.wishes.send_replace(Wish::Gone);
    }

    fn hear_of_eviction(&mut self) {
        if self.evicted.is_none()
            && let Some(evicted) = self.shared.options.pressure.evicted(&self.uid)
        {
            if evicted.reason == EVICTED {
                self.note(EVICTED, evicted.why.clone(), true, "");
            }
            self.evicted = Some(evicted);
        }
    }

    /// Takes away what CSI drivers have mounted for the Pod.
    async fn release_mounts(&mut self) -> Result<(), Error> {
        let directory = self.places().pod;
        if csi::has_volumes(&directory) {
            self.shared.options.csi.release(&directory).await?;
        }
        self.brought.retain(|_, brought| matches!(brought, Brought::Image(_)));
        Ok(())
    }

    /// Known here before any container of the Pod runs.
    fn tell_address(&self, pod: &Pod, observed: &Observation) {
        let is_own = pod.spec.as_ref().and_then(|s| s.host_network) != Some(true);
        match observed.sandbox.as_ref().filter(|_| is_own).and_then(|sandbox| sandbox.ip.parse().ok()) {
            Some(address) => self.shared.options.addresses.set(&self.key, &self.uid, address),
            None => self.shared.options.addresses.forget(&self.key, &self.uid),
        }
    }

    async fn pass(&mut self, pod: &Pod) -> Result<Pass, Error> {
        let observed = self.observe().await?;
        self.tell_address(pod, &observed);
        let resizes = self.resizes(pod, &observed);
        self.hear_of_eviction();
        let decided = step(&pod::Input {
            pod,
            observed: &observed,
            unhealthy: &self.unhealthy,
            started: &self.started,
            resizes: &resizes,
            is_evicted: self.evicted.is_some(),
            now: Timestamp::now(),
        });
        self.keep_probes(pod, &observed);
        self.tell_status(pod, &observed, &decided.backing_off, &resizes);
        let mut acted = false;
        for action in decided.actions {
            if action == Action::Forget {
                return Ok(Pass::Done);
            }
            acted |= self.act(pod, &observed, action).await;
        }
        if acted {
            return Ok(Pass::Again);
        }
        self.refresh_volumes(pod, &observed).await;
        if is_finished(pod, &observed) {
            self.release_mounts().await?;
        }
        let relist = if self.shared.told.load(Ordering::Relaxed) { RELIST_INTERVAL_TOLD } else { RELIST_INTERVAL };
        let now = Instant::now();
        let retry = self.retry_at.values().filter(|at| **at > now).map(|at| *at - now).min();
        let again = decided.again_ms.map(|ms| Duration::from_millis(ms + 5));
        Ok(Pass::Wait(again.into_iter().chain(retry).fold(relist, Duration::min)))
    }

    async fn observe(&mut self) -> Result<Observation, Error> {
        let runtime = &self.shared.runtime;
        let mut observation = Observation::default();
        let mut sandboxes = runtime.sandboxes(Some(&self.uid)).await?;
        sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        for sandbox in sandboxes {
            self.fenced |= sandbox.annotations.contains_key(v1::LEASE);
            let is_ready = sandbox.state == i32::from(v1::PodSandboxState::SandboxReady);
            if is_ready && observation.sandbox.is_none() {
                let status = runtime.sandbox_status(&sandbox.id).await?;
                observation.sandbox = Some(Sandbox {
                    fenced: self.shared.fences() && sandbox.annotations.contains_key(v1::LEASE),
                    id: sandbox.id,
                    attempt: sandbox.metadata.map_or(0, |m| m.attempt),
                    ip: status.network.map(|n| n.ip).unwrap_or_default(),
                    created_at: time(sandbox.created_at),
                });
            } else {
                observation.dead_sandboxes.push(sandbox.id);
            }
        }
        let mut containers = runtime.containers(Some(&self.uid)).await?;
        containers.sort_by_key(|c| std::cmp::Reverse((c.metadata.as_ref().map_or(0, |m| m.attempt), c.created_at)));
        for container in containers {
            let name = container.labels.get(CONTAINER_NAME).cloned().unwrap_or_default();
            if observation.previous.contains_key(&name) {
                observation.obsolete.push(container.id);
                continue;
            }
            let seen = self.observe_container(&container).await?;
            match observation.containers.entry(name.clone()) {
                std::collections::btree_map::Entry::Vacant(slot) => drop(slot.insert(seen)),
                std::collections::btree_map::Entry::Occupied(_) => drop(observation.previous.insert(name, seen)),
            }
        }
        Ok(observation)
    }

    async fn observe_container(&mut self, container: &v1::Container) -> Result<Observed, Error> {
        let mut status = match self.ended.get(&container.id) {
            Some(known) => known.clone(),
            None => self.shared.runtime.container_status(&container.id).await?,
        };
        let state = match v1::ContainerState::try_from(status.state) {
            Ok(v1::ContainerState::ContainerRunning) => State::Running,
            Ok(v1::ContainerState::ContainerExited) => {
                if !self.ended.contains_key(&container.id) {
                    status.message = self.last_words(container, &status);
                    self.ended.insert(container.id.clone(), status.clone());
                }
                State::Exited {
                    code: status.exit_code,
                    finished_at: time(status.finished_at),
                    reason: status.reason.clone(),
                    message: status.message.clone(),
                }
            }
            _ => State::Created,
        };
        Ok(Observed {
            id: container.id.clone(),
            attempt: container.metadata.as_ref().map_or(0, |m| m.attempt),
            state,
            started_at: time(status.started_at),
            image: status.image.map(|i| i.image).unwrap_or_default(),
            image_ref: status.image_ref,
        })
    }

    fn tell_status(&self, pod: &Pod, observed: &Observation, backing_off: &BTreeMap<String, u64>, resizes: &BTreeMap<String, Change>) {
        let host_ip = self.shared.options.address.to_string();
        let status = status::build(&status::Input {
            pod,
            observed,
            waiting: &self.waiting,
            backing_off,
            ready: &self.ready,
            started: &self.started,
            resizes,
            pending: self.pending.as_ref(),
            evicted: self.evicted.as_ref(),
            host_ip: &host_ip,
            runtime: &self.shared.runtime_name,
            now: Timestamp::now(),
        });
        self.wishes.send_if_modified(|wish| {
            let new = Wish::Status(status);
            let changed = *wish != new;
            *wish = new;
            changed
        });
    }

    /// Returns whether something was done that the next pass should see.
    async fn act(&mut self, pod: &Pod, observed: &Observation, action: Action) -> bool {
        let runtime = self.shared.runtime.clone();
        let result = match action {
            Action::CreateSandbox { attempt } => return self.create_sandbox(pod, attempt).await,
            Action::StartContainer { name, attempt } => return self.start_container(pod, observed, &name, attempt).await,
            Action::KillContainer { name, id } => {
                self.note("Killing", format!("Container {name} failed liveness probe, will be restarted"), false, &name);
                self.unhealthy.retain(|known| *known != id);
                self.stop_container(pod, &name, &id, stopping::grace(pod)).await
            }
            Action::ResizeContainer { name, id } => {
                // The next pass only tells; it acts again after the retry time.
                let before = self.given.contains_key(&id);
                let done = self.resize(pod, &name, &id).await;
                if let Err(why) = &done {
                    debug!(pod = %self.key, %why, "a resize failed");
                }
                return done.is_ok() && before;
            }
            Action::EndContainer { name, id } => {
                self.note("Killing", format!("Stopping container {name}"), false, &name);
                self.stop_container(pod, &name, &id, stopping::grace(pod)).await
            }
            Action::RestartContainer { name, id } => {
                self.note("Killing", format!("Container {name} resize requires restart"), false, &name);
                self.stop_container(pod, &name, &id, stopping::grace(pod)).await
            }
            Action::Terminate => self.terminate(pod, observed).await,
            Action::RemoveContainer { id } => runtime.remove_container(&id).await,
            Action::RemoveSandbox { id } => {
                // Stopping a stopped sandbox gives its address back, if that had not been done.
                let _ = runtime.stop_sandbox(&id).await;
                runtime.remove_sandbox(&id).await
            }
            Action::Forget => Ok(()),
        };
        if let Err(why) = &result {
            warn!(pod = %self.key, %why, "an action failed");
        }
        result.is_ok()
    }

    async fn create_sandbox(&mut self, pod: &Pod, attempt: u32) -> bool {
        // After a restart an old replica may still show a Pod that has long been replaced on another node.
        let waits = pod::has_identity(pod) && !self.is_current;
        if waits || self.retry_at.get("").is_some_and(|at| Instant::now() < *at) {
            return false;
        }
        let made = match self.sandbox_config(pod, attempt) {
            Ok(config) => self.shared.runtime.run_sandbox(config).await.map(drop),
            Err(why) => Err(why),
        };
        match made {
            Ok(()) => true,
            Err(why) => {
                self.retry_at.insert(String::new(), Instant::now() + Duration::from_secs(2));
                self.note("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"), true, "");
                false
            }
        }
    }

    async fn start_container(&mut self, pod: &Pod, observed: &Observation, name: &str, attempt: u32) -> bool {
        if self.retry_at.get(name).is_some_and(|at| Instant::now() < *at) {
            return false;
        }
        let ephemeral = pod::ephemeral(pod);
        let all = pod::containers(pod).chain(&ephemeral);
        let (Some(container), Some(sandbox)) = (all.into_iter().find(|c| c.name == name), &observed.sandbox) else { return false };
        match Box::pin(self.try_start(pod, (container, target_of(pod, observed, name)), sandbox, attempt)).await {
            Ok(()) => {
                self.waiting.remove(name);
                self.retry_at.remove(name);
                self.started.remove(name);
                true
            }
            Err(waiting) => {
                let reason = match waiting.reason.as_str() {
                    "ImagePullBackOff" => "BackOff",
                    "ContainerCreating" => "FailedMount",
                    _ => "Failed",
                };
                let is_quiet = waiting.message.is_empty();
                if self.waiting.get(name) != Some(&waiting) && !is_quiet {
                    self.note(
                        reason,
                        if reason == "Failed" { format!("Error: {}", waiting.message) } else { waiting.message.clone() },
                        true,
                        name,
                    );
                }
                self.waiting.insert(name.into(), waiting);
                let retry = match reason {
                    "FailedMount" if is_quiet => ATTACH_RETRY,
                    "FailedMount" => MOUNT_RETRY,
                    _ => START_RETRY,
                };
                self.retry_at.insert(name.into(), Instant::now() + retry);
                // The next pass only tells; it acts again after the retry time.
                false
            }
        }
    }

    /// `target` is the container whose processes the new one sees.
    async fn try_start(
        &mut self,
        pod: &Pod,
        (container, target): (&Container, Option<String>),
        sandbox: &Sandbox,
        attempt: u32,
    ) -> Result<(), Waiting> {
        let waiting = |reason: &'static str| move |why: Error| Waiting { reason: reason.into(), message: why.to_string() };
        let name = &container.name;
        let sandbox_config = self.sandbox_config(pod, sandbox.attempt).map_err(waiting("CreateContainerConfigError"))?;
        // Boxed: every Pod has a worker, and few of them pull at a time.
        let wanted = container.image.as_deref().unwrap_or_default();
        let credentials = pull_secrets::credentials(&self.shared.store.local().state, &self.shared.options.keyring, pod, wanted);
        let wanted = (wanted, container.image_pull_policy.as_deref().unwrap_or("IfNotPresent"));
        let ensured = Box::pin(self.shared.pulls.ensure(&self.shared.runtime, wanted, credentials, sandbox_config.clone())).await;
        let image = match ensured {
            Outcome::Present(reference) => {
                let message = format!("Container image {:?} already present on machine", container.image.as_deref().unwrap_or_default());
                self.note("Pulled", message, false, name);
                reference
            }
            Outcome::Pulled { reference, took } => {
                let message =
                    format!("Successfully pulled image {:?} in {}ms", container.image.as_deref().unwrap_or_default(), took.as_millis());
                self.note("Pulled", message, false, name);
                reference
            }
            Outcome::Waiting(waiting) => return Err(waiting),
        };
        if resources::must_not_be_root(pod, container) {
            let known = self.shared.runtime.image(&image).await.map_err(waiting("ImageInspectError"))?.unwrap_or_default();
            resources::verify_non_root(pod, container, &known)
                .map_err(|message| Waiting { reason: "CreateContainerConfigError".into(), message })?;
        }
        self.bring_volumes(pod, container, &sandbox_config).await?;
        let mut config = self.container_config(pod, container, sandbox, attempt, image)?;
        let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        if let (Some(target), Some(namespaces)) = (target, security.and_then(|s| s.namespace_options.as_mut())) {
            namespaces.set_pid(v1::NamespaceMode::Target);
            namespaces.target_id = target;
        }
        let given = config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
        let started = Box::pin(self.shared.runtime.start_container(&sandbox.id, config, sandbox_config)).await;
        let id = started.map_err(waiting("RunContainerError"))?;
        self.given.insert(id.clone(), given);
        self.note("Created", format!("Created container: {name}"), false, name);
        self.note("Started", format!("Started container {name}"), false, name);
        if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref())
            && let Err(why) = self.run_hook((container, hook), &id, sandbox, Duration::from_secs(30)).await
        {
            self.note("FailedPostStartHook", format!("PostStartHook failed: {why}"), true, name);
            let _ = self.stop_container(pod, name, &id, stopping::grace(pod)).await;
        }
        Ok(())
    }

    /// Probes run for containers that run, and no others.
    fn keep_probes(&mut self, pod: &Pod, observed: &Observation) {
        let running: HashMap<&str, &Observed> =
            observed.containers.iter().filter(|(_, c)| c.state == State::Running).map(|(n, c)| (n.as_str(), c)).collect();
        let ids: Vec<&str> = running.values().map(|c| c.id.as_str()).collect();
        self.probing.retain(|id, _| ids.contains(&id.as_str()));
        let ip = observed.sandbox.as_ref().map(|s| s.ip.clone()).unwrap_or_default();
        let host = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let ip = if host { self.shared.options.address.to_string() } else { ip };
        for container in lasting(pod) {
            let Some(found) = running.get(container.name.as_str()) else { continue };
            if self.probing.contains_key(&found.id) {
                continue;
            }
            if container.readiness_probe.is_some() {
                self.ready.insert(container.name.clone(), false);
            }
            if container.startup_probe.is_some() {
                self.started.insert(container.name.clone(), false);
            }
            let target = probes::Target {
                runtime: self.shared.runtime.clone(),
                container: container.clone(),
                id: found.id.clone(),
                ip: ip.clone(),
                verdicts: self.verdicts_in.clone(),
            };
            self.probing.insert(found.id.clone(), probes::start(&target));
        }
    }

    fn judge(&mut self, verdict: Verdict) {
        let what = match verdict.kind {
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
            Kind::Startup => "Startup",
        };
        if !verdict.healthy {
            self.note("Unhealthy", format!("{what} probe failed: {}", verdict.message), true, &verdict.container);
        }
        match (verdict.kind, verdict.healthy) {
            (Kind::Readiness, healthy) => drop(self.ready.insert(verdict.container, healthy)),
            (Kind::Startup, true) => drop(self.started.insert(verdict.container, true)),
            (Kind::Startup | Kind::Liveness, false) => self.unhealthy.push(verdict.id),
            (Kind::Liveness, true) => {}
        }
    }

    /// ConfigMaps and Secrets that changed reach the files of running Pods.
    async fn refresh_volumes(&mut self, pod: &Pod, observed: &Observation) {
        let Some(sandbox) =
            observed.sandbox.as_ref().filter(|_| Instant::now() >= self.volumes_at && pod.metadata.deletion_timestamp.is_none())
        else {
            return;
        };
        self.volumes_at = Instant::now() + VOLUMES_INTERVAL;
        if csi::has_volumes(&self.places().pod) {
            Box::pin(self.keep_mounts(pod)).await;
        }
        if pod_has_certificates(pod)
            && let Err(why) = Box::pin(self.keep_credentials(pod)).await
        {
            debug!(pod = %self.key, %why, "a certificate cannot be renewed yet");
        }
        let state = self.shared.store.local().state;
        let places = self.places();
        let source = self.source(pod, &state, &places, &sandbox.ip);
        if let Err(why) = volumes::prepare(&source, &places.pod, &self.brought) {
            debug!(pod = %self.key, %why, "a volume cannot be refreshed");
        }
    }

    fn note(&self, reason: &'static str, message: String, warning: bool, container: &str) {
        let field_path = if container.is_empty() { String::new() } else { format!("spec.containers{{{container}}}") };
        tell(&self.shared.store, &self.shared.options.name, &self.key, &self.uid, Note { reason, message, warning, field_path });
    }
}

enum Pass {
    /// Something was done: look again at once.
    Again,
    Wait(Duration),
    /// Nothing of the Pod is left.
    Done,
}

/// Whether a Pod has ended for good, and nothing of it runs: its volumes may be another's.
fn is_finished(pod: &Pod, observed: &Observation) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) && observed.containers.values().all(|c| matches!(c.state, State::Exited { .. }))
}

/// The containers that are there as long as the Pod: the main ones and the sidecars. They have hooks and probes.
fn lasting(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|s| s.init_containers.iter().flatten().filter(|c| pod::is_sidecar(c)).chain(&s.containers))
}

/// CRI counts nanoseconds; 0 is no time.
fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds == 0 { None } else { Timestamp::from_nanosecond(nanoseconds.into()).ok() }
}

/// The container that an ephemeral one is to look into, as the runtime knows it.
fn target_of(pod: &Pod, observed: &Observation, name: &str) -> Option<String> {
    let stated = pod.spec.as_ref()?.ephemeral_containers.as_ref()?.iter().find(|one| one.name == name)?;
    let target = observed.containers.get(stated.target_container_name.as_ref()?)?;
    Some(target.id.clone())
}
