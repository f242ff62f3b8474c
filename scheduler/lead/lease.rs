//! Which nodes' leases go on. A node's fenced Pods run for as long as its lease (`skein_object::fence`); the leader grants
//! it anew with each report.
//!
//! - **Invariant:** a lease ends a lease's length after a majority last answered the leader that granted it, at the latest.
//!   Who leads next has been elected after that, and counts from there.
//! - **Invariant:** a node that is taken for lost is granted nothing until the state says that it is not, and then goes on
//!   only with a replica that knows so: it has seen which of its Pods were removed, for removing them asks that the node is
//!   lost.

use std::time::Duration;

use skein_object::Key;
use skein_object::fence::UNREACHABLE;
use skein_store::Handle;

/// The lease goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Once the node has applied this entry.
    pub applied: u64,
    /// So long before now a majority last answered the leader.
    pub age: Duration,
}

/// What this node, if it leads, answers to a node that has just reported.
pub fn granted(store: &Handle, node: &str) -> Option<Granted> {
    // The age first: what is read later is at least as new.
    let age = store.quorum_age()?;
    let view = store.local();
    let spec = view.state.get(&Key::new("nodes", "", node))?.record.field("spec").unwrap_or_default();
    let is_lost = spec["taints"].as_array().into_iter().flatten().any(|taint| taint["key"] == UNREACHABLE);
    (!is_lost).then_some(Granted { applied: view.applied, age })
}
