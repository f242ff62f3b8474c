//! Clients that write, read and watch a few keys, each through a node of its choice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::json;
use skein_command::{Action, Expect, Outcome, Write};
use skein_invariant::{Answer, Observation, Request};
use skein_object::{Key, Record};
use skein_store::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cluster::{Cluster, change, digest_of};
use crate::network::Running;

/// A resource that no registry knows: the store takes any.
const RESOURCE: &str = "registers.sim";
const KEYS: u64 = 12;
/// What each watcher watches.
const WATCHED: [&str; 3] = [RESOURCE, RESOURCE, "pods"];
const THINK_MS_MAX: u64 = 400;

pub(crate) struct Load {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Client {
    cluster: Cluster,
    operations: Arc<AtomicU64>,
    stop: watch::Receiver<bool>,
}

pub(crate) fn start(cluster: &Cluster, random: &mut SmallRng, clients: u64) -> Load {
    let (stop, stopped) = watch::channel(false);
    let client = Client { cluster: cluster.clone(), operations: Arc::default(), stop: stopped };
    let mut tasks = Vec::new();
    for _ in 0..clients {
        tasks.push(tokio::spawn(client.clone().work(SmallRng::seed_from_u64(random.next_u64()))));
    }
    for (watcher, resource) in (0..).zip(WATCHED) {
        tasks.push(tokio::spawn(client.clone().watch((watcher, resource), SmallRng::seed_from_u64(random.next_u64()))));
    }
    Load { stop, tasks }
}

// === impl Load ===

impl Load {
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

// === impl Client ===

impl Client {
    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    async fn work(self, mut random: SmallRng) {
        while !self.stopped() {
            sleep(Duration::from_millis(random.random_range(1..THINK_MS_MAX))).await;
            let Some(Running { process, store: handle, .. }) = self.cluster.pick(&mut random) else { continue };
            let operation = self.operations.fetch_add(1, Ordering::Relaxed);
            let key = Key::new(RESOURCE, "", &format!("k{}", random.random_range(0..KEYS)));
            let record = Record::from_value(&json!({"spec": {"operation": operation}}));
            let known = handle.local().state.get(&key).map_or(0, |entry| entry.revision);
            let request = draw(&mut random, digest_of(&record), known);
            self.cluster.recorder.observe(&Observation::Asked { operation, key: key.to_string(), request: request.clone() });
            let answer = tokio::select! {
                biased;
                () = process.died() => Answer::Unknown,
                answer = ask(&handle, &key, record, &request) => answer,
            };
            self.cluster.recorder.observe(&Observation::Answered { operation, answer });
        }
    }

    /// Watches at one node, goes on at another when it dies, is bored, or has forgotten too much.
    async fn watch(self, watch: (u64, &'static str), mut random: SmallRng) {
        let mut cursor = None;
        while !self.stopped() {
            let Some(Running { process, store: handle, .. }) = self.cluster.pick(&mut random) else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let patience = Duration::from_millis(random.random_range(100..8000));
            tokio::select! {
                biased;
                () = process.died() => {}
                () = sleep(patience) => {}
                () = self.follow(watch, &handle, &mut cursor) => {}
            }
        }
    }

    async fn follow(&self, (watcher, resource): (u64, &'static str), handle: &Handle, cursor: &mut Option<u64>) {
        let mut view = handle.watch();
        let mut stop = self.stop.clone();
        let recorder = &self.cluster.recorder;
        let mut at = *cursor.get_or_insert_with(|| {
            let revision = handle.local().state.revision();
            recorder.observe(&Observation::Listed { watcher, resource, revision });
            revision
        });
        loop {
            view.borrow_and_update();
            let Ok(events) = handle.events_since(resource, at, usize::MAX) else {
                // 410 Gone: the client lists again.
                *cursor = None;
                return;
            };
            for event in events {
                at = event.revision;
                *cursor = Some(at);
                recorder.observe(&Observation::Watched { watcher, change: change(&event) });
            }
            tokio::select! {
                biased;
                _ = stop.changed() => return,
                changed = view.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn draw(random: &mut SmallRng, digest: u64, known: u64) -> Request {
    match random.random_range(0..10) {
        0..3 => Request::Put { digest },
        3..5 => Request::Create { digest },
        5..7 if known > 0 => Request::Update { digest, expected: known },
        7 if known > 0 => Request::Delete { expected: known },
        _ => Request::Read,
    }
}

async fn ask(handle: &Handle, key: &Key, record: Record, request: &Request) -> Answer {
    let put = Some(Action::Put(record));
    let (expect, action) = match request {
        Request::Read => return read(handle, key).await,
        Request::Put { .. } => (None, put),
        Request::Create { .. } => (Some(Expect::Absent(true)), put),
        Request::Update { expected, .. } => (Some(Expect::Revision(*expected)), put),
        Request::Delete { expected } => (Some(Expect::Revision(*expected)), Some(Action::Delete(true))),
    };
    let write = Write { key: key.to_string(), expect, in_active_namespace: false, action };
    match handle.propose(write.into()).await.map(Outcome::result) {
        Ok(Ok(revision)) => Answer::Done { revision },
        Ok(Err(refusal)) => Answer::Refused { found: refusal.found },
        Err(_) => Answer::Unknown,
    }
}

async fn read(handle: &Handle, key: &Key) -> Answer {
    match handle.read().await {
        Ok(view) => {
            let found = view.state.get(key).map(|entry| (entry.revision, digest_of(&entry.record)));
            Answer::Seen { revision: view.state.revision(), found }
        }
        Err(_) => Answer::Unknown,
    }
}
