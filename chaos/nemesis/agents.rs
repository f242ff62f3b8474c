//! A cluster's own nodes as the ground of an experiment: their agents make the faults that objects of the API order.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::experiment::{Fault, Kind};
use crate::ground::Ground;
use crate::machine::Order;
use crate::resource::{FAULTS, Resources};

/// By then an agent has begun a fault, or there is none.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(50);

/// The faults of one experiment.
pub(crate) struct Agents<'a> {
    resources: &'a Resources,
    /// The experiment; what it ordered goes with it.
    experiment: &'a Value,
    begun: Mutex<Begun>,
}

#[derive(Default)]
struct Begun {
    count: usize,
    /// The objects of those that last.
    names: BTreeMap<(String, Kind), String>,
}

// === impl Agents ===

impl<'a> Agents<'a> {
    pub(crate) fn new(resources: &'a Resources, experiment: &'a Value) -> Self {
        Self { resources, experiment, begun: Mutex::default() }
    }

    fn object(&self, name: &str, order: &Order) -> Value {
        let (of, uid) = (&self.experiment["metadata"]["name"], &self.experiment["metadata"]["uid"]);
        json!({
            "apiVersion": self.experiment["apiVersion"], "kind": "ChaosFault",
            "metadata": {"name": name, "ownerReferences": [
                {"apiVersion": self.experiment["apiVersion"], "kind": self.experiment["kind"], "name": of, "uid": uid, "controller": true},
            ]},
            "spec": order,
        })
    }

    fn begun(&self) -> std::sync::MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where those nodes and their Pods are.
    fn addresses(&self, nodes: &[String]) -> Result<Vec<String>, String> {
        let list = self.resources.demand("GET", "/api/v1/nodes", None)?;
        let those =
            list["items"].as_array().into_iter().flatten().filter(|node| nodes.iter().any(|name| node["metadata"]["name"] == **name));
        let text = |value: &Value| value.as_str().map(String::from);
        let of = |node: &Value| {
            let own = node["status"]["addresses"].as_array().into_iter().flatten().filter(|a| a["type"] == "InternalIP");
            let own: Vec<String> = own.filter_map(|address| text(&address["address"])).collect();
            own.into_iter().chain(node["spec"]["podCIDRs"].as_array().into_iter().flatten().filter_map(text)).collect::<Vec<_>>()
        };
        Ok(those.flat_map(of).collect())
    }

    /// Waits until the agent says how it stands with a fault.
    fn settled(&self, node: &str, name: &str) -> Result<(), String> {
        let begin = Instant::now();
        while begin.elapsed() < BEGIN_TIMEOUT {
            if let Ok((200, fault)) = self.resources.get(FAULTS, name) {
                match fault["status"]["phase"].as_str() {
                    Some("Failed") => return Err(fault["status"]["message"].as_str().unwrap_or_default().into()),
                    Some(_) => return Ok(()),
                    None => {}
                }
            }
            std::thread::sleep(TICK);
        }
        Err(format!("the agent of {node} does not answer: was the node started with --chaos?"))
    }
}

impl Ground for Agents<'_> {
    fn begin(&self, node: &str, fault: &Fault, others: &[String]) -> Result<(), String> {
        let name = {
            let mut begun = self.begun();
            begun.count += 1;
            format!("{}-{}", self.experiment["metadata"]["name"].as_str().unwrap_or_default(), begun.count)
        };
        let shape = fault.shape();
        let order = Order {
            node: node.into(),
            kind: fault.kind,
            duration_ms: u64::try_from(fault.duration.as_millis()).unwrap_or(u64::MAX),
            delay_ms: shape.delay_ms,
            lost_permille: shape.lost_permille,
            writes_per_second: fault.writes_per_second,
            time_offset_seconds: fault.time_offset,
            apart_from: if fault.kind.is_of_network() { self.addresses(others)? } else { Vec::new() },
        };
        self.resources.create(FAULTS, &self.object(&name, &order))?;
        let settled = self.settled(node, &name);
        if settled.is_err() {
            // Nobody begins it later.
            let _ = self.resources.delete(FAULTS, &name);
        } else {
            self.begun().names.insert((node.into(), fault.kind), name);
        }
        settled
    }

    /// It ends by itself: an agent keeps the time, and may not hear of this.
    fn undo(&self, node: &str, kind: Kind) -> Result<(), String> {
        let Some(name) = self.begun().names.remove(&(node.to_string(), kind)) else { return Ok(()) };
        let failed = match self.resources.get(FAULTS, &name) {
            Ok((200, fault)) if fault["status"]["phase"] == "Failed" => fault["status"]["message"].as_str().map(String::from),
            _ => None,
        };
        let _ = self.resources.delete(FAULTS, &name);
        failed.map_or(Ok(()), Err)
    }
}
