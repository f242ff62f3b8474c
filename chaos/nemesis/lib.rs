//! Experiments on real nodes: faults by a plan, and what must hold meanwhile.
//!
//! ```text
//!   FILE ──▶ Experiment ──▶ plan(seed) ──▶ run: fault, undo, fault, …  ──▶ heal ──▶ Verdict
//!                                            │                             ▲
//!                                            └── probes: load, Pods, HTTP ─┘
//! ```
//!
//! [`experiment`] and [`plan`] are pure: one seed is one plan. Whom a fault hits is chosen when its time has come, for
//! the leader is another by then. Every fault is undone, also when the experiment is broken off.

mod experiment;
mod history;
mod load;
mod plan;
mod probe;
mod run;

use std::time::Duration;

pub use experiment::{Experiment, Rejection};
pub use run::{Report, heal, run};

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
}
