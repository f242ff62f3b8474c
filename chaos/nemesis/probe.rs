//! What must hold while faults come, besides what the load's clients see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::Api;
use crate::experiment::Probe;

const PATIENCE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_secs(1);

/// All probes, looked at in a thread of their own: a node that does not answer must not hold up the faults.
pub(crate) struct Probes {
    api: Arc<dyn Api>,
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Vec<Running>>,
}

/// A probe as it goes.
enum Running {
    Pods { path: String, first: BTreeMap<String, String> },
    Api { path: String, allowed: u64, asked: u64, failed: u64, last: String },
}

// === impl Probes ===

impl Probes {
    /// Starts those probes that are looked at here.
    pub(crate) fn start(api: &Arc<dyn Api>, wanted: &[Probe]) -> Result<Self, String> {
        let started = wanted.iter().map(|wanted| start(api, wanted)).collect::<Result<Vec<_>, _>>()?;
        let mut running: Vec<Running> = started.into_iter().flatten().collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (looking_until, own) = (Arc::clone(&stop), Arc::clone(api));
        let looking = std::thread::spawn(move || {
            while !looking_until.load(Ordering::Relaxed) {
                running.iter_mut().for_each(|probe| probe.look(&own));
                std::thread::sleep(INTERVAL);
            }
            running
        });
        Ok(Self { api: Arc::clone(api), stop, looking })
    }

    /// Why some of them did not hold.
    pub(crate) fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let Ok(running) = self.looking.join() else { return vec!["a probe has panicked".into()] };
        running.into_iter().filter_map(|probe| probe.finish(&self.api).err()).collect()
    }
}

fn start(api: &Arc<dyn Api>, probe: &Probe) -> Result<Option<Running>, String> {
    match probe {
        Probe::PodsRunOn(pods) => {
            let path = pods.path();
            let first = containers(api, &path)?;
            if first.is_empty() {
                return Err(format!("no container runs in {} that the selector names: nothing could run on", pods.namespace));
            }
            Ok(Some(Running::Pods { path, first }))
        }
        Probe::Api { path, failures } => {
            Ok(Some(Running::Api { path: path.clone(), allowed: *failures, asked: 0, failed: 0, last: String::new() }))
        }
        Probe::Linearizability { .. } | Probe::Available { .. } => Ok(None),
    }
}

// === impl Running ===

impl Running {
    /// Looks once.
    fn look(&mut self, api: &Arc<dyn Api>) {
        let Self::Api { path, asked, failed, last, .. } = self else { return };
        *asked += 1;
        let answered = api.nodes().iter().map(|node| api.ask(node, "GET", path, None, PATIENCE)).find(|a| matches!(a, Ok((200..=299, _))));
        if answered.is_none() {
            *failed += 1;
            *last = format!("no node answers {path} with success");
        }
    }

    /// Why it did not hold.
    fn finish(self, api: &Arc<dyn Api>) -> Result<(), String> {
        match self {
            Self::Api { allowed, failed, asked, last, .. } if failed > allowed => {
                Err(format!("{last}: {failed} of {asked} times, {allowed} are allowed"))
            }
            Self::Api { .. } => Ok(()),
            Self::Pods { path, first } => {
                let now = containers(api, &path)?;
                match first.iter().find(|(name, id)| now.get(*name) != Some(*id)) {
                    None => Ok(()),
                    Some((name, _)) => Err(format!("container {name} has not run on")),
                }
            }
        }
    }
}

/// The containers that run, by Pod and name, with their ids.
fn containers(api: &Arc<dyn Api>, path: &str) -> Result<BTreeMap<String, String>, String> {
    let mut last = String::from("there is no node");
    for node in api.nodes() {
        match api.ask(&node, "GET", path, None, PATIENCE) {
            Ok((200, body)) => return Ok(running(&serde_json::from_slice(&body).unwrap_or_default())),
            Ok((code, body)) => last = format!("{code}: {}", String::from_utf8_lossy(&body)),
            Err(why) => last = why,
        }
    }
    Err(format!("cannot list Pods: {last}"))
}

fn running(list: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        for status in statuses.filter(|status| status["state"]["running"].is_object()) {
            let name = format!("{}/{}", pod["metadata"]["name"].as_str().unwrap_or_default(), status["name"].as_str().unwrap_or_default());
            found.insert(name, status["containerID"].as_str().unwrap_or_default().into());
        }
    }
    found
}
