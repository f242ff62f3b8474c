//! The nodes: each a disk that stays and a process that comes and goes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use skein_invariant::{Change, Observation};
use skein_lead::Reports;
use skein_log::{Clock, Host, Member, NodeId, Storage, hosted};
use skein_state::Event;
use skein_store::{Absences, Handle, MemberStatus, Options, Standing};
use tokio::time::{Instant, sleep};

use crate::disk::Disk;
use crate::host::{Life, Process, time_since};
use crate::kubelet::{Kubelet, placed};
use crate::leading;
use crate::machine::Machine;
use crate::network::{Network, Port, Running};
use crate::recorder::{Recorder, digest};

/// How often a leader looks whether other nodes should vote.
const INTERVAL: Duration = Duration::from_millis(500);
/// How often whole logs are compared; a leader's also when it is elected.
const LOG_INTERVAL: Duration = Duration::from_secs(4);

/// A voter that is away for so long is replaced: less than the daemon waits, so that it happens.
const GRACE_MS: u64 = 3_000;
const ZONES: u64 = 3;

/// A full disk lasts less than this many intervals.
const STARTS_MAX: usize = 100;

#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) network: Network,
    pub(crate) recorder: Recorder,
    nodes: Arc<Vec<Node>>,
    random: Arc<Mutex<SmallRng>>,
    begin: Instant,
    witness: Option<NodeId>,
}

struct Node {
    id: NodeId,
    log: Disk,
    state: Disk,
    machine: Arc<Machine>,
    process: Mutex<Option<Running>>,
    /// Held while the node starts: of two that want to start it, the second finds it running.
    starting: tokio::sync::Mutex<()>,
}

// === impl Cluster ===

impl Cluster {
    pub(crate) fn new(seed: u64, options: crate::Options) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let network = Network::new(random.next_u64(), options);
        let recorder = Recorder::new();
        let witness = options.witness.then_some(options.nodes);
        let sync = Duration::from_millis(options.sync_ms);
        let node = |id| Node {
            id,
            log: Disk::new(random.next_u64(), sync, Some((id, recorder.clone()))),
            state: Disk::new(random.next_u64(), sync, None),
            machine: Arc::new(Machine::new(id, recorder.clone())),
            process: Mutex::new(None),
            starting: tokio::sync::Mutex::default(),
        };
        let nodes: Arc<Vec<Node>> = Arc::new((1..=options.nodes).map(node).collect());
        nodes.iter().for_each(|node| drop(tokio::spawn(Machine::fence(Arc::downgrade(&node.machine)))));
        Self { network, recorder, nodes, random: Arc::new(Mutex::new(random)), begin: Instant::now(), witness }
    }

    /// Virtual time of day.
    pub(crate) fn now(&self) -> Timestamp {
        time_since(self.begin)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().map(|node| node.id)
    }

    /// Those that keep the state: all but a witness.
    pub(crate) fn full_ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.ids().filter(|id| Some(*id) != self.witness)
    }

    pub(crate) fn random(&self) -> MutexGuard<'_, SmallRng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process and the handle of a node that is not dead.
    pub(crate) fn at(&self, id: NodeId) -> Option<Running> {
        let node = self.node(id)?;
        let found = node.process().clone();
        found.filter(Running::is_up)
    }

    /// A node that is not dead and keeps the state.
    pub(crate) fn pick(&self, random: &mut SmallRng) -> Option<Running> {
        let full = self.nodes.len() - usize::from(self.witness.is_some());
        self.at(self.nodes[random.random_range(0..full)].id)
    }

    /// The node that leads, in its own eyes.
    pub(crate) fn leader(&self) -> Option<Running> {
        self.ids().filter_map(|id| self.at(id)).find(|running| running.store.leadership().is_self)
    }

    /// The uids of all Pods that run anywhere.
    pub(crate) fn running(&self) -> std::collections::BTreeSet<String> {
        self.nodes.iter().flat_map(|node| node.machine.running()).collect()
    }

    fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(usize::try_from(id).ok()?.checked_sub(1)?)
    }

    /// Starts every node, founds the cluster on the first and lets the others join.
    pub(crate) async fn found(&self) {
        for id in self.ids().collect::<Vec<_>>() {
            self.start(id).await;
        }
        let Some(Running { store: first, .. }) = self.at(1) else { return };
        let _ = first.found(member(1)).await;
        for id in self.ids().skip(1) {
            let witness = (Some(id) == self.witness).then(String::new);
            while first.add_member(id, Member { witness: witness.clone(), ..member(id) }).await.is_err() {
                sleep(INTERVAL).await;
            }
        }
    }

    /// Starts a node on what its disk has; again and again while the disk is full, as the daemon does.
    pub(crate) async fn start(&self, id: NodeId) {
        let Some(node) = self.node(id) else { return };
        let _starting = node.starting.lock().await;
        for _ in 0..STARTS_MAX {
            if self.at(id).is_some() || self.try_start(node).await {
                return;
            }
            self.crash(id);
            sleep(INTERVAL).await;
        }
        self.recorder.fail(format!("node {id} does not start"));
    }

    async fn try_start(&self, node: &Node) -> bool {
        let id = node.id;
        let process = Arc::new(Process::new(self.random().next_u64(), self.begin));
        let host: Arc<dyn Host> = process.clone();
        let peers = Arc::new(Port { network: self.network.clone(), node: id, process: Arc::clone(&process) });
        let storage = Storage { log: node.log.open(), state: node.state.open() };
        let is_witness = Some(id) == self.witness;
        let started = hosted(Arc::clone(&host), skein_store::start(Options { id, storage, peers, is_witness })).await;
        let Ok(handle) = started else { return false };
        let reports = leading::start(&host, (id, member(id).name), &handle, (&self.network, &node.machine));
        let running = Running { process, store: handle.clone(), reports: reports.clone(), machine: Arc::clone(&node.machine) };
        *node.process() = Some(running.clone());
        self.network.attach(id, Some(running));
        if !is_witness {
            tokio::spawn(hosted(Arc::clone(&host), keep_members(handle.clone(), reports)));
            tokio::spawn(hosted(Arc::clone(&host), step_aside(handle.clone())));
            let kubelet = Kubelet::new(id, member(id).name, handle.clone(), Arc::clone(&node.machine));
            tokio::spawn(hosted(host, kubelet.run()));
        }
        self.follow(id, &handle);
        true
    }

    /// Stops a process as `kill -9` and a loss of power together do.
    pub(crate) fn crash(&self, id: NodeId) {
        let Some(node) = self.node(id) else { return };
        self.end(node);
        node.log.crash();
        node.state.crash();
        node.machine.power_off();
    }

    /// Stops a process as `kill -9` does: what it has written is there, and its containers run on.
    pub(crate) fn kill(&self, id: NodeId) {
        let Some(node) = self.node(id) else { return };
        self.end(node);
        node.log.close();
        node.state.close();
    }

    /// Ends every process: nodes and network hold each other.
    pub(crate) fn dissolve(&self) {
        self.nodes.iter().for_each(|node| self.end(node));
    }

    fn end(&self, node: &Node) {
        self.network.attach(node.id, None);
        if let Some(running) = node.process().take() {
            running.process.set(Life::Dead);
        }
    }

    pub(crate) fn set_life(&self, id: NodeId, life: Life) {
        if let Some(Running { process, .. }) = self.at(id) {
            process.set(life);
        }
    }

    /// A clock goes wrong with its process, and not for longer than that.
    pub(crate) fn set_clock(&self, id: NodeId, change: impl Fn(&Clock)) {
        if let Some(Running { process, .. }) = self.at(id) {
            change(&process.clock());
        }
    }

    pub(crate) fn set_disk(&self, id: NodeId, change: impl Fn(&Disk)) {
        if let Some(node) = self.node(id) {
            change(&node.log);
            change(&node.state);
        }
    }

    /// Reports what a node shows, for as long as it lives.
    fn follow(&self, id: NodeId, handle: &Handle) {
        let Some(Running { process, .. }) = self.at(id) else { return };
        let changes = (!handle.is_witness()).then(|| tokio::spawn(changes(self.recorder.clone(), id, handle.clone())));
        let tasks = [tokio::spawn(leadership(self.clone(), id, handle.clone())), tokio::spawn(logs(self.clone(), id, handle.clone()))];
        let tasks: Vec<_> = tasks.into_iter().chain(changes).collect();
        tokio::spawn(async move {
            process.died().await;
            tasks.iter().for_each(tokio::task::JoinHandle::abort);
        });
    }

    fn log(&self, id: NodeId) -> Vec<skein_invariant::Entry> {
        self.node(id).map(|node| node.log.log()).unwrap_or_default()
    }
}

#[cfg(test)]
impl Cluster {
    /// Puts an object on the disk of a node that is down, so that it reads as if it were right: no check of the disk's own
    /// finds that.
    pub(crate) async fn falsify(&self, id: NodeId) -> bool {
        let Some(node) = self.node(id) else { return false };
        let disk = skein_log::Disk::new(node.state.open());
        let Ok(skein_log::Loaded { mut state, applied, membership }) = disk.load() else { return false };
        let record = skein_object::Record::from_value(&serde_json::json!({"spec": {"node": "none that there was"}}));
        let entry = skein_state::Entry { revision: 1, record: Arc::new(record) };
        state.restore(skein_object::Key::new("rests.sim", "", "false"), entry);
        disk.replace(&state, applied, &membership).await.is_ok()
    }
}

impl Node {
    fn process(&self) -> MutexGuard<'_, Option<Running>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address of a simulated node is its number.
fn member(id: NodeId) -> Member {
    Member { name: format!("node-{id}"), address: id.to_string(), witness: None }
}

/// What the daemon's keeper does, without its keys.
async fn keep_members(handle: Handle, reports: Reports) {
    let mut absences = Absences::with_grace(GRACE_MS);
    loop {
        sleep(INTERVAL).await;
        if !handle.leadership().is_self {
            absences = Absences::with_grace(GRACE_MS);
            continue;
        }
        let silent_ms = reports.silent_ms();
        absences.observe(&silent_ms, Instant::now());
        let standing = |member: MemberStatus| {
            let name = member.member.name;
            let health = absences.health(&name, silent_ms.get(&name).copied().unwrap_or(0));
            (name, Standing { health, zone: format!("region/{}", member.id % ZONES) })
        };
        let standing = handle.members().into_iter().map(standing).collect();
        if let Some(change) = handle.planned_change(&standing) {
            let _ = handle.change(&change).await;
        }
    }
}

/// What the daemon does where its disk is slow.
async fn step_aside(handle: Handle) {
    loop {
        handle.until_slow().await;
        handle.hand_over().await;
    }
}

pub(crate) fn change(event: &Event) -> Change {
    let digest = event.after.as_ref().map(|entry| digest_of(&entry.record));
    Change { revision: event.revision, key: event.key.to_string(), digest }
}

pub(crate) fn digest_of(record: &skein_object::Record) -> u64 {
    digest(&record.to_json("v1", "Register", 0))
}

async fn changes(recorder: Recorder, node: NodeId, handle: Handle) {
    let mut cursor = match handle.all_events_since(0, 0) {
        Ok(_) => 0,
        Err(compacted) => compacted.oldest,
    };
    recorder.observe(&Observation::Started { node, revision: cursor });
    let mut view = handle.watch();
    loop {
        match handle.all_events_since(cursor, usize::MAX) {
            Ok(events) => {
                for event in events {
                    cursor = event.revision;
                    if let Some((uid, share)) = placed(&event) {
                        recorder.observe(&Observation::Placed { revision: cursor, uid, share });
                    }
                    recorder.observe(&Observation::Changed { node, change: change(&event) });
                }
            }
            // A snapshot was installed.
            Err(compacted) => {
                cursor = compacted.oldest;
                recorder.observe(&Observation::Started { node, revision: cursor });
            }
        }
        let now = view.borrow_and_update().clone();
        if now.applied > 0 {
            let revision = now.state.revision();
            recorder.observe(&Observation::Applied { node, index: now.applied, term: now.term, revision });
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

async fn leadership(cluster: Cluster, node: NodeId, handle: Handle) {
    let report = |now: skein_store::Leadership| {
        if now.is_self {
            cluster.recorder.observe(&Observation::Leads { node, term: now.term, log: cluster.log(node) });
        }
        true
    };
    handle.watch_leadership(report).await;
}

async fn logs(cluster: Cluster, node: NodeId, handle: Handle) {
    loop {
        sleep(LOG_INTERVAL).await;
        cluster.recorder.observe(&Observation::Log { node, log: cluster.log(node) });
        for voters in handle.voter_sets() {
            cluster.recorder.observe(&Observation::Voters { node, voters: voters.into_iter().collect() });
        }
    }
}
