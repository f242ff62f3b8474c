//! A node's kubelet, simulated: it follows the local replica, starts and stops what is bound to its node, says how that
//! stands. That the node lives is reported beside it ([`crate::leading`]).
//!
//! It keeps the order that the real one keeps (`node/kubelet`): containers go before their Pod's object, what the
//! cluster does not know is stopped only after a consistent read, and a Pod that has its name from a StatefulSet is not
//! begun before one, nor but under the node's lease.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skein_command::{Outcome, Write};
use skein_invariant::Share;
use skein_log::NodeId;
use skein_object::{Key, Record, fence, meta};
use skein_state::{Entry, Event, State};
use skein_store::Handle;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::machine::Machine;

/// How much each node has, and what a Pod takes of it: enough for all, and little more.
pub(crate) const NODE_MILLI_CPU: u64 = 3000;
pub(crate) const POD_MILLI_CPU: u64 = 1000;

const RESYNC: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(300);
/// What a start or a stop of a container takes at most.
const WORK_MS_MAX: u64 = 150;

#[derive(Clone)]
pub(crate) struct Kubelet(Arc<Inner>);

struct Inner {
    id: NodeId,
    name: String,
    store: Handle,
    machine: Arc<Machine>,
    /// Whether this daemon has seen the cluster's state as of its start or later.
    is_current: AtomicBool,
    /// What is being worked on, by uid; the node itself has none.
    busy: Mutex<BTreeSet<String>>,
    done: Notify,
}

/// What has to be done about one Pod, or about the node.
#[derive(Clone, Debug, PartialEq)]
enum Work {
    Register,
    Start {
        key: Key,
        is_unique: bool,
    },
    Tell {
        key: Key,
        is_unique: bool,
    },
    Stop {
        key: Key,
    },
    /// The cluster, as far as this node knows, has no such Pod.
    Orphan,
}

/// A Pod as far as its kubelet minds.
pub(crate) struct Seen {
    pub(crate) uid: String,
    pub(crate) node: Option<String>,
    pub(crate) is_ready: bool,
    pub(crate) is_unique: bool,
    pub(crate) is_ending: bool,
}

// === impl Seen ===

impl Seen {
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        let pod: Pod = entry.record.typed(entry.revision)?;
        let owners = pod.metadata.owner_references.unwrap_or_default();
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        Some(Self {
            uid: pod.metadata.uid?,
            node: pod.spec.and_then(|spec| spec.node_name),
            is_ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            is_unique: owners.iter().any(|owner| owner.kind == "StatefulSet"),
            is_ending: pod.metadata.deletion_timestamp.is_some(),
        })
    }
}

/// The Pods of a state.
pub(crate) fn pods(state: &State) -> impl Iterator<Item = (&Key, Seen)> {
    state.range("pods/", None).filter_map(|(key, entry)| Some((key, Seen::of(entry)?)))
}

/// What a change says of a Pod's place, for the invariant.
pub(crate) fn placed(event: &Event) -> Option<(String, Option<Share>)> {
    if event.key.resource() != "pods" {
        return None;
    }
    let seen = Seen::of(event.subject()?)?;
    let node = seen.node.filter(|_| event.after.is_some());
    Some((seen.uid, node.map(|node| Share { node, milli_cpu: POD_MILLI_CPU, of_milli_cpu: NODE_MILLI_CPU })))
}

// === impl Kubelet ===

impl Kubelet {
    pub(crate) fn new(id: NodeId, name: String, store: Handle, machine: Arc<Machine>) -> Self {
        Self(Arc::new(Inner { id, name, store, machine, is_current: AtomicBool::new(false), busy: Mutex::default(), done: Notify::new() }))
    }

    pub(crate) async fn run(self) {
        skein_log::spawn(self.clone().become_current());
        let mut changes = self.0.store.subscribe(&["pods", "nodes"]);
        loop {
            for (uid, work) in self.0.decide(&self.0.store.local().state) {
                if self.0.busy().insert(uid.clone()) {
                    skein_log::spawn(self.clone().act(uid, work));
                }
            }
            tokio::select! {
                biased;
                changed = changes.changed() => if changed.is_err() { return },
                () = self.0.done.notified() => {}
                () = sleep(RESYNC) => {}
            }
        }
    }

    async fn become_current(self) {
        while self.0.store.read().await.is_err() {
            sleep(RETRY).await;
        }
        self.0.is_current.store(true, Ordering::Relaxed);
        self.0.done.notify_one();
    }

    async fn act(self, uid: String, work: Work) {
        if !self.0.do_work(&uid, &work).await {
            sleep(RETRY).await;
        }
        self.0.busy().remove(&uid);
        self.0.done.notify_one();
    }
}

// === impl Inner ===

impl Inner {
    fn busy(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the difference between what should be and what is asks for.
    fn decide(&self, state: &State) -> Vec<(String, Work)> {
        let mut work = Vec::new();
        if !is_registered(state, &self.name) {
            work.push((String::new(), Work::Register));
        }
        let mut orphans = self.machine.running();
        let own = pods(state).filter(|(_, pod)| pod.node.as_deref() == Some(self.name.as_str()));
        for (key, pod) in own {
            let (key, runs) = (key.clone(), orphans.remove(&pod.uid));
            let next = match (pod.is_ending, runs) {
                (true, _) => Work::Stop { key },
                (false, false) => Work::Start { key, is_unique: pod.is_unique },
                (false, true) if !pod.is_ready => Work::Tell { key, is_unique: pod.is_unique },
                (false, true) => continue,
            };
            let waits = matches!(next, Work::Start { is_unique: true, .. }) && !self.is_current.load(Ordering::Relaxed);
            if !waits {
                work.push((pod.uid, next));
            }
        }
        work.extend(orphans.into_iter().map(|uid| (uid, Work::Orphan)));
        work
    }

    /// False where it has to be tried again later.
    async fn do_work(&self, uid: &str, work: &Work) -> bool {
        match work {
            Work::Register => self.register().await,
            Work::Start { key, is_unique } => {
                // The lease first, then the state: under a lease that holds, the state knows whether the Pod is to be here.
                let term = self.machine.term().filter(|_| *is_unique);
                let is_here = || self.store.local().state.get(key).and_then(Seen::of).is_some_and(|pod| pod.uid == uid);
                if *is_unique && (term.is_none() || !is_here()) {
                    return false;
                }
                sleep(working()).await;
                self.machine.start(format!("{}/{}", key.namespace(), key.name()), uid, term)
            }
            Work::Tell { key, is_unique } => self.tell(key, uid, *is_unique).await,
            Work::Stop { key } => {
                sleep(working()).await;
                self.machine.stop(uid);
                self.remove(key, uid).await
            }
            Work::Orphan => {
                let Ok(view) = self.store.read().await else { return false };
                if pods(&view.state).all(|(_, pod)| pod.uid != uid) {
                    self.machine.stop(uid);
                }
                true
            }
        }
    }

    async fn register(&self) -> bool {
        let key = Key::new("nodes", "", &self.name);
        let resources = json!({"cpu": format!("{NODE_MILLI_CPU}m"), "memory": "64Gi", "pods": "110"});
        let status = json!({"allocatable": resources, "capacity": resources, "conditions": [{"type": "Ready", "status": "True"}]});
        match self.store.local().state.get(&key) {
            Some(_) => self.edit(&key, None, |node| node["status"] = status).await,
            None => {
                let node = json!({"metadata": {"name": self.name, "uid": format!("node-uid-{}", self.id)}, "spec": {}, "status": status});
                happened(self.store.propose(Write::create(&key, Record::from_value(&node)).into()).await)
            }
        }
    }

    async fn tell(&self, key: &Key, uid: &str, is_unique: bool) -> bool {
        let time = meta::time(skein_log::now());
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": time});
        let fenced = is_unique.then_some(fence::CONDITION);
        let conditions: Vec<Value> =
            ["PodScheduled", "Initialized", "ContainersReady", "Ready"].into_iter().chain(fenced).map(condition).collect();
        let status = json!({"phase": "Running", "startTime": time, "conditions": conditions});
        self.edit(key, Some(uid), |pod| pod["status"] = status).await
    }

    async fn remove(&self, key: &Key, uid: &str) -> bool {
        let view = self.store.local();
        let Some(entry) = view.state.get(key).filter(|entry| Seen::of(entry).is_some_and(|pod| pod.uid == uid)) else { return true };
        happened(self.store.propose(Write::delete(key, entry.revision).into()).await)
    }

    async fn edit(&self, key: &Key, uid: Option<&str>, change: impl FnOnce(&mut Value)) -> bool {
        let view = self.store.local();
        let Some(entry) = view.state.get(key) else { return true };
        let mut object = entry.record.to_value("v1", "", entry.revision);
        if uid.is_some_and(|uid| meta::text(&object, "uid") != uid) {
            return true;
        }
        change(&mut object);
        let write = Write::update(key, entry.revision, &entry.record, &Record::from_value(&object));
        happened(self.store.propose(write.into()).await)
    }
}

fn working() -> Duration {
    Duration::from_millis(skein_log::random() % WORK_MS_MAX)
}

fn is_registered(state: &State, name: &str) -> bool {
    let node = state.get(&Key::new("nodes", "", name)).and_then(|entry| entry.record.typed::<Node>(entry.revision));
    let conditions = node.and_then(|node| node.status).and_then(|status| status.conditions).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn happened(outcome: Result<Outcome, skein_store::Error>) -> bool {
    outcome.is_ok_and(|outcome| outcome.result().is_ok())
}
