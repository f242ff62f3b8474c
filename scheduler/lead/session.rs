//! One term of leading.

mod schedule;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use skein_command::{Action, Expect, Transaction};
use skein_object::managed::{self, Writer};
use skein_object::registry::Subresource;
use skein_object::volume::{ATTACHMENTS, NODES};
use skein_object::{Key, meta, registry};
use skein_place::{Fleet, Volumes};
use skein_reconcile::{
    Controller, LOST_AFTER_MS, Liveness, Memory, Mint, Snapshot, Usage, attached, concerns_profiles, drivers, held, interested,
    is_finished, labels_of, profiles, reconcile, refused,
};
use skein_state::{Entry, Event};
use skein_store::{Handle, View};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use crate::adapters::Asked;
use crate::alarms::Alarms;
use crate::liveness::TICK_MS;
use crate::{Admission, Reports, Servers};

/// What goes into one log entry at most, in transactions; about 1 MiB of Pods.
const BATCH_TRANSACTIONS: usize = 256;

/// Events taken from the history at once.
const EVENTS_MAX: usize = 4096;

/// A Pod that fits nowhere is tried again when something changes, and at the latest after this.
const RETRY_UNSCHEDULABLE: Duration = Duration::from_secs(30);

type Work = (Controller, Key);

/// A transaction and the work that it came from; none for the scheduler's, which come from the pending Pods.
type Decided = (Option<Work>, Transaction);

/// A decision that was refused is made again after this, if no event has brought it back before.
const RETRY_REFUSED: Duration = Duration::from_millis(200);

/// What admission has refused is asked for again after this.
const RETRY_UNADMITTED: Duration = Duration::from_secs(1);

struct Session<'a> {
    store: &'a Handle,
    term: u64,
    snapshot: Snapshot,
    fleet: Fleet,
    cursor: u64,
    queue: BTreeSet<Work>,
    /// Work that waits for a time.
    later: Alarms<Work, Instant>,
    /// Pods without a node.
    pending: BTreeSet<Key>,
    retry_pending: Instant,
    /// Nodes that were silent for too long in the last tick.
    lost: BTreeSet<String>,
    memory: Memory,
    usage: Usage,
    asked: Asked,
    admission: &'a dyn Admission,
    servers: &'a Arc<dyn Servers>,
}

/// Leads until the store stops; the caller drops it when the term ends.
pub(crate) async fn lead(store: &Handle, term: u64, reports: &Reports, (admission, servers): (&dyn Admission, &Arc<dyn Servers>)) {
    // Everything that earlier leaders committed must be seen before the first decision.
    let view = loop {
        match store.read().await {
            Ok(view) => break view,
            // Whether this is the end of the term is for others to say.
            Err(why) => debug!(%why, "not leading yet"),
        }
        tokio::time::sleep(RETRY_REFUSED).await;
    };
    let mut session = Session::begin(store, (admission, servers), (term, &view));
    // Every node counts from now on, so that the first look at each already has an opinion.
    store.members().iter().for_each(|member| reports.expect(&member.member.name));
    let mut changes = store.watch();
    let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_at_rest = session.step(&reports.liveness()).await;
        // Whatever there is to do, time passes: a controller that never comes to rest must not keep a silent node alive.
        tokio::select! {
            biased;
            _ = ticks.tick() => {
                reports.tick();
                session.tick(reports);
            }
            changed = changes.changed(), if is_at_rest => if changed.is_err() { return },
            () = std::future::ready(()), if !is_at_rest => {}
        }
    }
}

// === impl Session ===

impl<'a> Session<'a> {
    fn begin(store: &'a Handle, (admission, servers): (&'a dyn Admission, &'a Arc<dyn Servers>), (term, view): (u64, &View)) -> Self {
        let now = Instant::now();
        let mut session = Self {
            store,
            term,
            snapshot: Snapshot::default(),
            fleet: Fleet::default(),
            cursor: 0,
            queue: BTreeSet::new(),
            later: Alarms::default(),
            pending: BTreeSet::new(),
            retry_pending: now,
            lost: BTreeSet::new(),
            memory: Memory::default(),
            usage: Usage::default(),
            asked: Asked::default(),
            admission,
            servers,
        };
        session.reload(view);
        session
    }

    /// Everything anew: at the beginning, and when the history has moved past this session's cursor.
    fn reload(&mut self, view: &View) {
        self.snapshot = Snapshot::of(&view.state);
        self.fleet = Fleet::default();
        self.fleet.observe_profiles(profiles(&view.state));
        self.pending.clear();
        self.cursor = view.state.revision();
        for node in self.snapshot.nodes.values() {
            self.fleet.observe_node(&node.object);
            let name = node.key.name();
            self.fleet.observe_drivers(name, drivers(self.snapshot.state.get(&Key::new(NODES, "", name))));
            self.fleet.observe_attached(name, attached(&self.snapshot, name));
        }
        for (key, entry) in view.state.range("namespaces/", None) {
            self.fleet.observe_namespace(key.name(), Some(labels_of(entry)));
        }
        for (key, entry) in view.state.range("", None) {
            let event = Event { revision: entry.revision, key: key.clone(), before: None, after: Some(entry.clone()) };
            self.queue.extend(interested(&self.snapshot, &event));
        }
        self.observe_pods();
    }

    fn observe_pods(&mut self) {
        let pods: Vec<Key> = self.snapshot.pods.keys().cloned().collect();
        pods.iter().for_each(|key| self.observe_pod(key));
    }

    /// Takes in what has happened, decides, proposes; whether there is nothing more to do until something happens.
    async fn step(&mut self, liveness: &Liveness) -> bool {
        self.observe();
        let mut decided: Vec<Decided> = self.schedule().into_iter().map(|t| (None, t)).collect();
        self.reconcile_some(liveness, &mut decided);
        if decided.is_empty() {
            return self.queue.is_empty();
        }
        !self.propose(decided).await
    }

    fn observe(&mut self) {
        let view = self.store.local();
        loop {
            let Ok(mut events) = self.store.all_events_since(self.cursor, EVENTS_MAX) else { return self.reload(&self.store.local()) };
            // What was applied after the view was taken waits for the next round, so that snapshot and state agree.
            events.retain(|event| event.revision <= view.state.revision());
            let Some(last) = events.last().map(|event| event.revision) else { break };
            self.snapshot.state = view.state.clone();
            for event in &events {
                self.snapshot.observe(event);
                self.observe_event(event);
            }
            self.cursor = last;
        }
        self.cursor = self.cursor.max(view.state.revision());
    }

    fn observe_event(&mut self, event: &Event) {
        self.queue.extend(interested(&self.snapshot, event));
        match event.key.resource() {
            "configmaps" if concerns_profiles(event) => {
                self.fleet.observe_profiles(profiles(&self.snapshot.state));
                self.observe_pods();
                self.retry_pending = Instant::now();
            }
            "nodes" => {
                match self.snapshot.nodes.get(&event.key) {
                    Some(node) => self.fleet.observe_node(&node.object),
                    None => self.fleet.forget_node(event.key.name()),
                }
                self.retry_pending = Instant::now();
            }
            "pods" => {
                self.observe_pod(&event.key);
                let has_ended = self.snapshot.pods.get(&event.key).is_none_or(|pod| is_finished(&pod.object));
                if has_ended && !self.pending.is_empty() {
                    self.retry_pending = Instant::now();
                }
            }
            "namespaces" => self.fleet.observe_namespace(event.key.name(), event.after.as_ref().map(labels_of)),
            "persistentvolumeclaims" | "persistentvolumes" => self.retry_pending = Instant::now(),
            NODES => {
                self.fleet.observe_drivers(event.key.name(), drivers(event.after.as_ref()));
                self.retry_pending = Instant::now();
            }
            ATTACHMENTS => {
                for node in [&event.before, &event.after].into_iter().flatten().filter_map(node_of) {
                    self.fleet.observe_attached(&node, attached(&self.snapshot, &node));
                }
                self.retry_pending = Instant::now();
            }
            _ => {}
        }
    }

    fn observe_pod(&mut self, key: &Key) {
        let Some(pod) = self.snapshot.pods.get(key) else {
            self.pending.remove(key);
            self.fleet.forget(&format!("{}/{}", key.namespace(), key.name()));
            return;
        };
        if self.is_pending(&pod.object) {
            if self.pending.insert(key.clone()) {
                self.retry_pending = Instant::now();
            }
        } else {
            self.pending.remove(key);
        }
        let volumes = Volumes { held: held(&self.snapshot, &pod.object), ..Volumes::default() };
        self.fleet.observe_pod(&pod.object, &volumes);
    }

    fn reconcile_some(&mut self, liveness: &Liveness, decided: &mut Vec<Decided>) {
        let mut mint = Mint::new(skein_log::now(), skein_log::random(), liveness.clone());
        mint.usage = self.usage.clone();
        mint.adapters = self.asked.answers();
        mint.memory = std::mem::take(&mut self.memory);
        while decided.len() < BATCH_TRANSACTIONS {
            let Some((controller, key)) = self.queue.pop_first() else { break };
            let outcome = reconcile(controller, &self.snapshot, &key, &mut mint);
            if let Some(again_ms) = outcome.again_ms {
                let at = Instant::now() + Duration::from_millis(again_ms);
                self.later.set((controller, key.clone()), at);
            }
            decided.extend(outcome.transactions.into_iter().map(|t| (Some((controller, key.clone())), t)));
        }
        self.memory = mint.memory;
        mint.questions.into_iter().for_each(|question| self.asked.ask(question, self.servers));
    }

    /// Asks admission about every new object that a controller makes; of one that may not be an Event tells.
    async fn admit(&mut self, decided: Vec<Decided>) -> Vec<Decided> {
        let mut admitted = Vec::with_capacity(decided.len());
        for (origin, mut transaction) in decided {
            let Some(work) = &origin else {
                admitted.push((origin, transaction));
                continue;
            };
            match self.admit_one(work.0, &mut transaction).await {
                Ok(()) => admitted.push((origin, transaction)),
                Err(why) => {
                    let mut mint = Mint::new(skein_log::now(), skein_log::random(), Liveness::default());
                    admitted.extend(refused(&self.snapshot, &work.1, &why, &mut mint).map(|told| (None, told)));
                    self.later.set(work.clone(), Instant::now() + RETRY_UNADMITTED);
                }
            }
        }
        admitted
    }

    /// Records who changes what, as the API does for clients. What a node is chosen for is bound, and nobody's.
    fn sign(&self, origin: Option<Controller>, transaction: &mut Transaction) {
        let now = meta::time(skein_log::now());
        for write in &mut transaction.writes {
            let (Some(Expect::Revision(revision)), Some(Action::Change(changes))) = (write.expect, &mut write.action) else { continue };
            let Some(key) = Key::parse(&write.key) else { continue };
            let old = self.snapshot.state.get(&key).filter(|entry| entry.revision == revision);
            let (Some(resource), Some(old)) = (registry::by_key(key.resource()), old) else { continue };
            let touches_spec = changes.segments.iter().any(|segment| segment.field == "spec");
            let (manager, subresource) = match origin {
                None if touches_spec => continue,
                None => ("kube-scheduler", ""),
                Some(Controller::Autoscaler) if touches_spec => ("kube-controller-manager", "scale"),
                Some(Controller::CustomResource | Controller::ApiService) => ("kube-apiserver", ""),
                Some(_) => ("kube-controller-manager", ""),
            };
            let status_apart = resource.has(Subresource::Status);
            let writer = Writer { manager, api_version: &resource.api_version(), subresource, now: &now, status_apart };
            let new = managed::signed(resource, &old.record, old.record.with_changes(&changes.segments), &writer);
            changes.segments = new.changes_from(&old.record);
        }
    }

    async fn admit_one(&self, controller: Controller, transaction: &mut Transaction) -> Result<(), String> {
        for write in &mut transaction.writes {
            let (Some(Expect::Absent(_)), Some(Action::Put(record))) = (&write.expect, &mut write.action) else { continue };
            let Some(key) = Key::parse(&write.key).filter(|key| key.resource() != "events") else { continue };
            if let Some(other) = self.admission.admit(controller.account(), &key, record).await? {
                *record = other;
            }
        }
        Ok(())
    }

    /// Returns false when nothing was proposed, because the term has ended or there is no quorum.
    async fn propose(&mut self, decided: Vec<Decided>) -> bool {
        let mut decided = self.admit(decided).await;
        decided.iter_mut().for_each(|(origin, transaction)| self.sign(origin.as_ref().map(|work| work.0), transaction));
        let (origins, mut transactions): (Vec<_>, Vec<_>) = decided.into_iter().unzip();
        transactions.iter_mut().for_each(|t| t.epoch = self.term);
        match self.store.propose_all(transactions).await {
            Ok(outcomes) => {
                for (origin, outcome) in origins.into_iter().zip(outcomes) {
                    let Err(refusal) = outcome.result() else { continue };
                    debug!(cause = ?refusal.cause(), ?origin, "a decision came too late");
                    match origin {
                        Some(work) => self.later.set(work, Instant::now() + RETRY_REFUSED),
                        None => self.retry_pending = Instant::now() + RETRY_REFUSED,
                    }
                }
                true
            }
            Err(why) => {
                warn!(%why, "cannot propose");
                self.reload(&self.store.local());
                false
            }
        }
    }

    fn tick(&mut self, reports: &Reports) {
        let now = Instant::now();
        self.queue.extend(self.later.due(now));
        for member in self.store.members() {
            reports.expect(&member.member.name);
        }
        // Silence is not an event: who falls silent, is silent, or is heard again is looked at here.
        let silent = reports.liveness().silent_ms;
        let lost: BTreeSet<String> = silent.into_iter().filter(|(_, ms)| *ms >= LOST_AFTER_MS).map(|(node, _)| node).collect();
        self.usage = reports.usage();
        let known = lost.union(&self.lost).map(|node| (Controller::NodeLifecycle, Key::new("nodes", "", node)));
        self.queue.extend(known);
        self.lost = lost;
    }
}

/// The node that a VolumeAttachment is for.
fn node_of(attachment: &Entry) -> Option<String> {
    Some(attachment.record.field("spec")?["nodeName"].as_str()?.to_string())
}
