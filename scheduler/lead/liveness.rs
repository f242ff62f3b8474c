//! What nodes report: that they live, in ticks of the leader, and what they use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skein_object::usage::NodeUsage;
use skein_reconcile::{Liveness, Usage};

/// The leader's tick. A stalled leader has no ticks, so its own stall makes nobody silent.
pub(crate) const TICK_MS: u64 = 100;

/// The reports of nodes as they arrive; shared between the receiver and the leader. A cheap clone.
#[derive(Clone, Default)]
pub struct Reports(Arc<Mutex<Heard>>);

/// What was heard last.
#[derive(Default)]
struct Heard {
    silent_ticks: BTreeMap<String, u64>,
    usage: Usage,
    logs: BTreeMap<String, Log>,
}

/// What a node has of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The last entry that it has applied.
    pub applied: u64,
    /// The node that it has it from, where that is not the leader.
    pub follows: String,
}

// === impl Reports ===

impl Reports {
    pub fn heard(&self, node: &str) {
        self.lock().silent_ticks.insert(node.into(), 0);
    }

    /// What a node and its Pods use.
    pub fn used(&self, node: &str, usage: NodeUsage) {
        self.lock().usage.observe(node, usage);
    }

    /// What a node has of the log.
    pub fn has(&self, node: &str, log: Log) {
        self.lock().logs.insert(node.into(), log);
    }

    /// What each node had of the log when it last reported, while this node leads.
    pub fn logs(&self) -> BTreeMap<String, Log> {
        self.lock().logs.clone()
    }

    pub(crate) fn usage(&self) -> Usage {
        self.lock().usage.clone()
    }

    /// A new leader knows nothing yet: every node is given time from now on. What they use is not forgotten.
    pub(crate) fn begin(&self) {
        let mut heard = self.lock();
        heard.silent_ticks.clear();
        heard.logs.clear();
    }

    /// A node that should report is counted from now on, if it is not already.
    pub(crate) fn expect(&self, node: &str) {
        self.lock().silent_ticks.entry(node.into()).or_insert(0);
    }

    pub(crate) fn tick(&self) {
        self.lock().silent_ticks.values_mut().for_each(|ticks| *ticks += 1);
    }

    /// For how long nothing has been heard of each node that should report, while this node leads.
    pub fn silent_ms(&self) -> BTreeMap<String, u64> {
        self.lock().silent_ticks.iter().map(|(node, ticks)| (node.clone(), ticks * TICK_MS)).collect()
    }

    pub(crate) fn liveness(&self) -> Liveness {
        Liveness { silent_ms: self.silent_ms() }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
