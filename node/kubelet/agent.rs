//! Follows the Pods bound to this node and gives each a worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skein_cri::{ContainerEventType, PodSandbox};
use skein_object::Key;
use skein_store::{Handle as Store, View};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, info, warn};

use crate::admission::{self, Refusal};
use crate::cri::{self, Runtime};
use crate::images::Pulls;
use crate::manifests::{self, Manifests};
use crate::worker::{Shared, Worker};
use crate::write::{Note, Wish, pod_writer, tell};
use crate::{Options, csi, image_gc, node, pressure, rotation, shutdown};

/// Events taken from the history at once.
const EVENTS_MAX: usize = 4096;

/// Ends of containers that wait to be passed on; more wait in the runtime.
const TELLS: usize = 256;

/// After the runtime's events broke off, or were not to be had.
const FOLLOW_RETRY: Duration = Duration::from_secs(2);

/// After a read that no quorum answered.
const CATCH_UP_RETRY: Duration = Duration::from_millis(500);

/// How often manifests of static Pods are looked at.
const MANIFESTS_INTERVAL: Duration = Duration::from_secs(2);

/// How often deleted volumes are looked for.
const VOLUMES_INTERVAL: Duration = Duration::from_secs(3);

/// How often volumes are looked for that are staged and that no Pod has.
const STAGED_INTERVAL: Duration = Duration::from_secs(30);

/// How often containers of Pods that are no more are looked for.
const ORPHANS_INTERVAL: Duration = Duration::from_secs(30);

struct Agent {
    shared: Arc<Shared>,
    statics: Manifests,
    workers: BTreeMap<String, Slot>,
    cursor: u64,
}

/// The agent's end of a worker.
struct Slot {
    pods: watch::Sender<Arc<Pod>>,
    wake: Arc<Notify>,
}

pub(crate) async fn run(options: Options, store: Store) {
    let runtime = Runtime::new(&options.runtime_endpoint);
    csi::share(&options.directory);
    tokio::spawn(node::run(options.clone(), store.clone(), runtime.clone()));
    tokio::spawn(csi::run(options.clone(), store.clone()));
    let name = loop {
        match runtime.version().await {
            Ok(version) => break version.split("://").next().unwrap_or_default().to_string(),
            Err(why) => {
                warn!(%why, socket = %options.runtime_endpoint.display(), "the container runtime does not answer");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    };
    info!(runtime = %name, "the container runtime answers");
    let shared = Arc::new(Shared {
        options,
        store: store.clone(),
        runtime,
        pulls: Pulls::default(),
        runtime_name: name,
        told: AtomicBool::new(false),
        is_current: AtomicBool::new(false),
    });
    tokio::spawn(rotation::run(Arc::clone(&shared)));
    let (told, mut tells) = mpsc::channel(TELLS);
    tokio::spawn(pressure::run(Arc::clone(&shared), told.clone()));
    if let Some(grace) = shared.options.shutdown {
        tokio::spawn(shutdown::run(Arc::clone(&shared), grace, told.clone()));
    }
    tokio::spawn(image_gc::run(Arc::clone(&shared)));
    tokio::spawn(follow(Arc::clone(&shared), told));
    let mut agent = Agent { statics: manifests::read(&shared.options), shared, workers: BTreeMap::new(), cursor: 0 };
    let mut changes = store.subscribe(&["pods"]);
    let mut orphans = tokio::time::interval(ORPHANS_INTERVAL);
    let mut volumes = tokio::time::interval(VOLUMES_INTERVAL);
    let mut staged = tokio::time::interval(STAGED_INTERVAL);
    let mut current = tokio::spawn(catch_up(store.clone()));
    let mut statics = tokio::time::interval(MANIFESTS_INTERVAL);
    agent.reload(&store.local());
    loop {
        agent.observe();
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            uid = tells.recv() => agent.wake(uid.as_deref().unwrap_or_default()),
            _ = &mut current, if !agent.shared.is_current.load(Ordering::Relaxed) => agent.become_current(),
            _ = orphans.tick() => agent.remove_orphans().await,
            _ = statics.tick(), if agent.shared.options.manifests.is_some() => agent.observe_manifests(),
            _ = volumes.tick() => crate::local_volume::remove_deleted(&agent.shared.options, &store).await,
            _ = staged.tick() => drop(tokio::spawn(agent.shared.options.csi.clone().sweep())),
        }
    }
}

/// Returns when this node's replica is that of now or later.
async fn catch_up(store: Store) {
    while store.read().await.is_err() {
        tokio::time::sleep(CATCH_UP_RETRY).await;
    }
}

/// Hears from the runtime which Pods' containers have ended, and says so by uid; an empty one stands for all.
async fn follow(shared: Arc<Shared>, told: mpsc::Sender<String>) {
    loop {
        if let Ok(mut events) = shared.runtime.events().await {
            shared.told.store(true, Ordering::Relaxed);
            // What happened before this stream began is found by looking.
            let mut lost = told.send(String::new()).await.is_err();
            while let Ok(Some(event)) = events.message().await {
                if event.container_event_type() == ContainerEventType::ContainerStoppedEvent {
                    let labels = event.pod_sandbox_status.map(|s| s.labels).unwrap_or_default();
                    lost |= told.send(labels.get(cri::POD_UID).cloned().unwrap_or_default()).await.is_err();
                }
            }
            if lost {
                return;
            }
        }
        shared.told.store(false, Ordering::Relaxed);
        let _ = told.send(String::new()).await;
        tokio::time::sleep(FOLLOW_RETRY).await;
    }
}

/// Marks a Pod as one that is to go.
fn end(pod: &mut Pod) {
    pod.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::now()));
}

fn key_of(pod: &Pod) -> Key {
    let meta = &pod.metadata;
    Key::new("pods", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

// === impl Agent ===

impl Agent {
    fn wake(&self, uid: &str) {
        match self.workers.get(uid) {
            Some(slot) => slot.wake.notify_one(),
            None if uid.is_empty() => self.workers.values().for_each(|slot| slot.wake.notify_one()),
            None => {}
        }
    }

    /// What the replica says is as true as anything since this daemon began: whoever waited for that may begin.
    fn become_current(&mut self) {
        self.observe();
        self.shared.is_current.store(true, Ordering::Release);
        self.wake("");
    }

    fn reload(&mut self, view: &View) {
        for (_, entry) in view.state.range("pods/", None) {
            if let Some(pod) = entry.record.typed::<Pod>(entry.revision) {
                self.observe_pod(pod);
            }
        }
        self.cursor = view.state.revision();
    }

    fn observe(&mut self) {
        let store = self.shared.store.clone();
        let revision = store.local().state.revision();
        loop {
            let Ok(events) = store.events_since("pods", self.cursor, EVENTS_MAX) else { return self.reload(&store.local()) };
            let Some(last) = events.last().map(|e| e.revision) else { break };
            for event in &events {
                if let Some(entry) = event.subject()
                    && let Some(mut pod) = entry.record.typed::<Pod>(entry.revision)
                {
                    if event.after.is_none() && pod.metadata.deletion_timestamp.is_none() {
                        // Removed without grace: its containers go at once.
                        end(&mut pod);
                        pod.metadata.deletion_grace_period_seconds = Some(0);
                    }
                    self.observe_pod(pod);
                }
            }
            self.cursor = last;
        }
        self.cursor = self.cursor.max(revision);
    }

    /// Static Pods begin, change and end with their files.
    fn observe_manifests(&mut self) {
        let found = manifests::read(&self.shared.options);
        let gone: Vec<String> = self.statics.keys().filter(|uid| !found.contains_key(*uid)).cloned().collect();
        for uid in gone {
            self.statics.remove(&uid);
            if let Some(slot) = self.workers.get(&uid) {
                let mut pod = (**slot.pods.borrow()).clone();
                end(&mut pod);
                drop(slot.pods.send_replace(Arc::new(pod)));
            }
        }
        self.workers.retain(|_, slot| !slot.pods.is_closed());
        for (uid, manifest) in found {
            if self.workers.contains_key(&uid) && self.statics.contains_key(&uid) {
                continue;
            }
            let Some(pod) = manifests::with_status(&manifest, None) else { continue };
            // One of the same name that is on its way out comes first.
            let is_same = |other: &Slot| key_of(&other.pods.borrow()) == key_of(&pod);
            let waits = self.workers.iter().any(|(other, slot)| *other != uid && is_same(slot));
            if waits {
                continue;
            }
            self.statics.insert(uid, manifest);
            self.observe_pod(pod);
        }
        let (options, store, statics) = (self.shared.options.clone(), self.shared.store.clone(), self.statics.clone());
        tokio::spawn(async move {
            if let Err(why) = manifests::mirror(&options, &store, &statics).await {
                debug!(%why, "static Pods are not shown yet");
            }
        });
    }

    fn observe_pod(&mut self, mut pod: Pod) {
        match pod.metadata.uid.as_ref().and_then(|uid| self.statics.get(uid)) {
            // What runs is what the file says; the API only keeps the status.
            Some(manifest) => {
                let Some(own) = manifests::with_status(manifest, Some(&pod)) else { return };
                pod = own;
            }
            // What it shows is no more, or was not while nobody answered.
            None if manifests::is_mirror(&pod) => end(&mut pod),
            None => {}
        }
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if node != self.shared.options.name || uid.is_empty() {
            return;
        }
        self.workers.retain(|_, slot| !slot.pods.is_closed());
        match self.workers.get(&uid) {
            Some(slot) => drop(slot.pods.send_replace(Arc::new(pod))),
            None => {
                if let Err(refusal) = self.admit(&pod) {
                    return self.refuse(&pod, uid, &refusal);
                }
                let (pods, receiver) = watch::channel(Arc::new(pod));
                let wake = Arc::new(Notify::new());
                tokio::spawn(Worker::new(Arc::clone(&self.shared), receiver, Arc::clone(&wake)).run());
                self.workers.insert(uid, Slot { pods, wake });
            }
        }
    }

    /// Whether a Pod that is new here goes together with the others.
    fn admit(&self, pod: &Pod) -> Result<(), Refusal> {
        if !admission::is_due(pod) {
            return Ok(());
        }
        // A worker may outlive its Pod's object by a moment, and has let go of everything then.
        let state = self.shared.store.local().state;
        let is_there = |pod: &Pod| state.get(&key_of(pod)).and_then(|e| e.record.typed::<Pod>(e.revision)).map(|p| p.metadata.uid);
        let others: Vec<Arc<Pod>> = self.workers.values().map(|slot| Arc::clone(&slot.pods.borrow())).collect();
        admission::fits(pod, &self.shared.options.pressure)?;
        admission::admit(pod, others.iter().filter(|other| is_there(other) == Some(other.metadata.uid.clone())).map(|other| &**other))
    }

    /// Ends a Pod before it begins.
    fn refuse(&self, pod: &Pod, uid: String, refusal: &Refusal) {
        let key = key_of(pod);
        let store = &self.shared.store;
        let note = Note { reason: refusal.reason, message: refusal.message(), warning: true, field_path: String::new() };
        tell(store, &self.shared.options.name, &key, &uid, note);
        let status = refusal.status(pod, &skein_object::meta::time(jiff::Timestamp::now()));
        // Its writer ends once this is written.
        let (wishes, receiver) = watch::channel(Wish::Nothing);
        tokio::spawn(pod_writer(store.clone(), key, uid, receiver));
        let _ = wishes.send(Wish::Status(status));
    }

    /// Removes what is here of Pods that the cluster does not know: they were deleted while this node was away.
    async fn remove_orphans(&mut self) {
        let options = &self.shared.options;
        let Ok(sandboxes) = self.shared.runtime.sandboxes(None).await else { return };
        let ids: Vec<String> = sandboxes.iter().map(|s| s.id.clone()).collect();
        skein_pod::cni::release_unknown(&options.directory.join("addresses"), &ids);
        let uid_of = |sandbox: &PodSandbox| sandbox.labels.get(cri::POD_UID).cloned().unwrap_or_default();
        let directories = std::fs::read_dir(options.directory.join("pods")).into_iter().flatten().flatten();
        let directories = directories.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut orphans: BTreeSet<String> = sandboxes.iter().map(uid_of).chain(directories).filter(|uid| !uid.is_empty()).collect();
        orphans.retain(|uid| self.workers.get(uid).is_none_or(|slot| slot.pods.is_closed()));
        if orphans.is_empty() {
            return;
        }
        // Only a consistent read may say that a Pod is no more.
        let Ok(view) = self.shared.store.read().await else { return };
        for (_, entry) in view.state.range("pods/", None) {
            orphans.remove(&entry.record.typed::<Pod>(entry.revision).and_then(|pod| pod.metadata.uid).unwrap_or_default());
        }
        for sandbox in sandboxes {
            if orphans.contains(&uid_of(&sandbox)) {
                info!(pod = ?sandbox.metadata.as_ref().map(|m| &m.name), "removing what is left of a Pod that is no more");
                let _ = self.shared.runtime.stop_sandbox(&sandbox.id).await;
                let _ = self.shared.runtime.remove_sandbox(&sandbox.id).await;
            }
        }
        for uid in orphans {
            let directory = options.directory.join("pods").join(&uid);
            match options.csi.release(&directory).await {
                Ok(()) => crate::volumes::remove(&directory),
                Err(why) => warn!(pod = uid, %why, "a volume of a Pod that is no more cannot be unmounted"),
            }
        }
    }
}
