//! Experiments on real nodes: faults by a plan, and what must hold meanwhile.
//!
//! ```text
//!   Experiment ──▶ plan(seed) ──▶ run: fault, undo, fault, …  ──▶ heal ──▶ Verdict
//!      ▲                           │ │                             ▲
//!      │                           │ └── probes: load, Pods, HTTP ─┘
//!      │                           ▼
//!      │                        Ground ─┬─▶ Lab                      faults from outside of the nodes
//!      ├── a file: skein chaos run      └─▶ Agents ─▶ ChaosFault ─▶ a node's agent ─▶ a process for each fault
//!      └── a ChaosExperiment: coordinate, by one of the agents
//! ```
//!
//! [`experiment`] and [`plan`] are pure: one seed is one plan. Whom a fault hits is chosen when its time has come, for
//! the leader is another by then. Every fault is undone, also when the experiment is broken off, and by the node that it
//! hits where whoever asked for it is gone.

mod agent;
mod agents;
mod coordinate;
mod experiment;
mod ground;
mod history;
mod load;
mod machine;
mod plan;
mod probe;
mod resource;
mod run;

use std::time::Duration;

pub use agent::{Options, serve};
pub use experiment::{Experiment, Fault, Kind, Rejection};
pub use ground::{Ground, heal};
pub use machine::{MARK, endure};
pub use resource::definitions;
pub use run::{Entry, Report, run};

/// Longer than a node takes to say that there is no quorum.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way to the API of each node.
pub trait Api: Send + Sync {
    /// The names by which nodes can be asked.
    fn nodes(&self) -> Vec<String>;

    /// Code and body of an answer; why there is none.
    fn ask(
        &self,
        node: &str,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
        patience: Duration,
    ) -> Result<(u16, Vec<u8>), String>;

    /// Waits for the beginning of an answer's body, its end, or for so long; why there is no answer.
    fn first_line(&self, node: &str, path: &str, patience: Duration) -> Result<(), String>;
}

/// Asks one node after the other until one answers that has a quorum.
fn ask_in_turn(
    api: &dyn Api,
    nodes: Vec<String>,
    method: &str,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<(u16, Vec<u8>), String> {
    let mut last = String::from("there is no node");
    for node in nodes {
        match api.ask(&node, method, path, body, PATIENCE) {
            Ok((504, _)) => last = format!("{node} has no quorum"),
            Ok(answer) => return Ok(answer),
            Err(why) => last = format!("{node}: {why}"),
        }
    }
    Err(last)
}
