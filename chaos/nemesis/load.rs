//! Clients that write and read through all nodes, and the record of what they asked and heard.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skein_invariant::{Answer, Checker, Observation, Request};

use crate::history::{self, History, Listed};
use crate::plan::Random;
use crate::{Api, PATIENCE, ask_in_turn};

/// Between two requests of a client: this is no benchmark.
const PAUSE: Duration = Duration::from_millis(15);

/// A running load.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    api: Arc<dyn Api>,
    namespace: String,
    keys: usize,
    stop: AtomicBool,
    operation: AtomicU64,
    record: Mutex<Record>,
}

struct Record {
    /// In the order in which they happened.
    observations: Vec<Observation>,
    acknowledged: u64,
    unknown: u64,
    last_write: Instant,
    /// The longest time in which no write succeeded.
    silence: Duration,
}

/// What a load came to.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) silence_ms: u64,
    pub(crate) violation: Option<String>,
}

/// Where the clients of an experiment write.
pub(crate) fn namespace(experiment: &str) -> String {
    format!("chaos-{experiment}")
}

// === impl Load ===

impl Load {
    /// Makes the namespace and the keys, and starts the clients.
    pub(crate) fn start(api: &Arc<dyn Api>, name: &str, clients: usize, keys: usize, seed: u64) -> Result<Self, String> {
        let namespace = namespace(name);
        let shared = Arc::new(Shared {
            api: Arc::clone(api),
            namespace,
            keys,
            stop: AtomicBool::new(false),
            operation: AtomicU64::new(0),
            record: Mutex::new(Record {
                observations: Vec::new(),
                acknowledged: 0,
                unknown: 0,
                last_write: Instant::now(),
                silence: Duration::ZERO,
            }),
        });
        let made = shared.any("POST", "/api/v1/namespaces", Some(&json!({"metadata": {"name": shared.namespace}})))?;
        if made.0 != 201 && made.0 != 409 {
            return Err(format!("cannot make namespace {}: {}", shared.namespace, String::from_utf8_lossy(&made.1)));
        }
        for key in 0..keys {
            shared.create(key)?;
        }
        let start = |client: usize| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.run(&mut Random(seed ^ (client as u64 + 1))))
        };
        let clients = (0..clients).map(start).collect();
        Ok(Self { shared, clients })
    }

    /// For how long no write has succeeded.
    pub(crate) fn silent_for(&self) -> Duration {
        self.shared.record().last_write.elapsed()
    }

    /// Stops the clients and judges what they heard by what every node says has happened.
    pub(crate) fn finish(self) -> Outcome {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let _ = client.join();
        }
        let silence = {
            let record = self.shared.record();
            record.silence.max(record.last_write.elapsed())
        };
        let violation = self.shared.judge().err();
        let _ = self.shared.any("DELETE", &format!("/api/v1/namespaces/{}", self.shared.namespace), None);
        let record = self.shared.record();
        Outcome {
            acknowledged: record.acknowledged,
            unknown: record.unknown,
            silence_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
            violation,
        }
    }
}

// === impl Shared ===

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, key: usize) -> String {
        format!("/api/v1/namespaces/{}/configmaps/key-{key}", self.namespace)
    }

    fn any(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Vec<u8>), String> {
        ask_in_turn(&*self.api, self.api.nodes(), method, path, body)
    }

    fn create(&self, key: usize) -> Result<(), String> {
        let value = format!("first-{key}");
        let operation = self.asked(key, Request::Create { digest: digest(&value) });
        let path = format!("/api/v1/namespaces/{}/configmaps", self.namespace);
        let (code, body) = self.any("POST", &path, Some(&self.object(key, &value)))?;
        let answer = if code == 201 { done(&body) } else { Answer::Unknown };
        self.answered(operation, answer.clone());
        match answer {
            Answer::Done { .. } => Ok(()),
            _ => Err(format!("cannot make key {key}: is an experiment of this name running? ({code})")),
        }
    }

    fn object(&self, key: usize, value: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("key-{key}"), "namespace": self.namespace},
            "data": {"value": value}})
    }

    fn run(&self, random: &mut Random) {
        let nodes = self.api.nodes();
        while !self.stop.load(Ordering::Relaxed) {
            let node = &nodes[usize::try_from(random.below(nodes.len() as u64)).unwrap_or(0)];
            let key = usize::try_from(random.below(self.keys as u64)).unwrap_or(0);
            if random.below(2) == 0 {
                self.write(node, key, &format!("{:016x}", random.next()));
            } else {
                self.read(node, key);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn write(&self, node: &str, key: usize, value: &str) {
        let operation = self.asked(key, Request::Put { digest: digest(value) });
        let answer = match self.api.ask(node, "PUT", &self.path(key), Some(&self.object(key, value)), PATIENCE) {
            Ok((200, body)) => done(&body),
            _ => Answer::Unknown,
        };
        self.answered(operation, answer);
    }

    /// A list of one, for it says at which revision it was read.
    fn read(&self, node: &str, key: usize) {
        let operation = self.asked(key, Request::Read);
        let path = format!("/api/v1/namespaces/{}/configmaps?fieldSelector=metadata.name%3Dkey-{key}", self.namespace);
        let answer = match self.api.ask(node, "GET", &path, None, PATIENCE) {
            Ok((200, body)) => seen(&body),
            _ => Answer::Unknown,
        };
        self.answered(operation, answer);
    }

    fn asked(&self, key: usize, request: Request) -> u64 {
        let operation = self.operation.fetch_add(1, Ordering::Relaxed);
        self.record().observations.push(Observation::Asked { operation, key: format!("key-{key}"), request });
        operation
    }

    fn answered(&self, operation: u64, answer: Answer) {
        let mut record = self.record();
        match answer {
            Answer::Done { .. } => {
                let silence = record.last_write.elapsed();
                record.silence = record.silence.max(silence);
                record.last_write = Instant::now();
                record.acknowledged += 1;
            }
            Answer::Unknown => record.unknown += 1,
            Answer::Seen { .. } | Answer::Refused { .. } => {}
        }
        record.observations.push(Observation::Answered { operation, answer });
    }

    /// Every node's history of the keys must be one, and contradict no client.
    fn judge(&self) -> Result<(), String> {
        let mut checker = Checker::of_clients();
        let said = |violation: skein_invariant::Violation| format!("{} ({}): {}", violation.invariant, violation.from, violation.why);
        let observations = std::mem::take(&mut self.record().observations);
        for observation in &observations {
            checker.observe(Duration::ZERO, observation).map_err(said)?;
        }
        let first = observations.iter().find_map(|observation| match observation {
            Observation::Answered { answer: Answer::Done { revision }, .. } => Some(*revision),
            _ => None,
        });
        let Some(first) = first else { return Ok(()) };
        let told = self.api.nodes().iter().map(|node| self.history(node, first - 1)).collect::<Result<Vec<_>, _>>()?;
        let whole = history::whole(&told, first - 1)?;
        for (index, (node, told)) in self.api.nodes().iter().zip(&told).enumerate() {
            told.is_part_of(whole).map_err(|why| format!("{node} {why}"))?;
            for change in &told.changes {
                checker.observe(Duration::ZERO, &Observation::Changed { node: index as u64, change: change.clone() }).map_err(said)?;
            }
        }
        checker.finish(Duration::ZERO).map_err(said)
    }

    /// All changes of the keys since a revision, as one node's watch tells them. A node that was away and took a
    /// snapshot has none older than that.
    fn history(&self, node: &str, since: u64) -> Result<History, String> {
        let body = match self.watch(node, since)? {
            Ok(body) => body,
            Err(oldest) => {
                let listed = self.state(node)?;
                let changes = self.watch(node, oldest)?.map_err(|_| format!("{node} has no history at all"))?;
                return Ok(History { since: oldest, listed: Some(listed), changes: history::parse(node, &changes)? });
            }
        };
        Ok(History { since, listed: None, changes: history::parse(node, &body)? })
    }

    /// The events since a revision, or the revision at which the node's history begins.
    fn watch(&self, node: &str, since: u64) -> Result<Result<String, u64>, String> {
        let path = format!("/api/v1/namespaces/{}/configmaps?watch=1&timeoutSeconds=3&resourceVersion={since}", self.namespace);
        let (code, body) = self.api.ask(node, "GET", &path, None, 4 * PATIENCE)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let first: Value = body.lines().next().map(serde_json::from_str).transpose().unwrap_or_default().unwrap_or_default();
        let status = if first["type"] == "ERROR" { &first["object"] } else { &first };
        match status["code"].as_u64() {
            Some(410) => history::oldest(status["message"].as_str().unwrap_or_default()).map(Err).ok_or(format!("{node} answers {body}")),
            None if code == 200 => Ok(Ok(body)),
            _ => Err(format!("{node} cannot tell what happened since revision {since}: {code}: {body}")),
        }
    }

    /// What a node's own copy holds.
    fn state(&self, node: &str) -> Result<Listed, String> {
        let path = format!("/api/v1/namespaces/{}/configmaps?resourceVersion=0", self.namespace);
        let (code, body) = self.api.ask(node, "GET", &path, None, PATIENCE)?;
        let list: Value = serde_json::from_slice(&body).map_err(|why| format!("{node}: {code}: {why}"))?;
        let at = revision(&list["metadata"]).ok_or_else(|| format!("{node} cannot list its keys: {list}"))?;
        let keys = list["items"].as_array().into_iter().flatten().filter_map(|item| {
            let (metadata, value) = (&item["metadata"], item["data"]["value"].as_str()?);
            Some((metadata["name"].as_str()?.to_string(), (revision(metadata)?, digest(value))))
        });
        Ok(Listed { at, keys: keys.collect() })
    }
}

pub(crate) fn digest(value: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

pub(crate) fn revision(metadata: &Value) -> Option<u64> {
    metadata["resourceVersion"].as_str()?.parse().ok()
}

fn done(body: &[u8]) -> Answer {
    let object: Value = serde_json::from_slice(body).unwrap_or_default();
    revision(&object["metadata"]).map_or(Answer::Unknown, |revision| Answer::Done { revision })
}

fn seen(body: &[u8]) -> Answer {
    let list: Value = serde_json::from_slice(body).unwrap_or_default();
    let found = list["items"].as_array().and_then(|items| items.first());
    let found = found.and_then(|item| Some((revision(&item["metadata"])?, digest(item["data"]["value"].as_str().unwrap_or_default()))));
    revision(&list["metadata"]).map_or(Answer::Unknown, |revision| Answer::Seen { revision, found })
}
