//! What a node runs: it outlives the daemon, as containers do that have a monitor, but not a loss of power.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use skein_invariant::Observation;
use skein_log::NodeId;

use crate::recorder::Recorder;

pub(crate) struct Machine {
    node: NodeId,
    recorder: Recorder,
    /// The uids of Pods whose containers run.
    running: Mutex<BTreeSet<String>>,
}

// === impl Machine ===

impl Machine {
    pub(crate) fn new(node: NodeId, recorder: Recorder) -> Self {
        Self { node, recorder, running: Mutex::default() }
    }

    pub(crate) fn start(&self, pod: String, uid: &str, is_unique: bool) {
        if self.running_now().insert(uid.into()) {
            self.recorder.observe(&Observation::Runs { node: self.node, pod, uid: uid.into(), is_unique });
        }
    }

    pub(crate) fn stop(&self, uid: &str) {
        if self.running_now().remove(uid) {
            self.recorder.observe(&Observation::Ended { node: self.node, uid: uid.into() });
        }
    }

    pub(crate) fn power_off(&self) {
        self.running().iter().for_each(|uid| self.stop(uid));
    }

    pub(crate) fn running(&self) -> BTreeSet<String> {
        self.running_now().clone()
    }

    fn running_now(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
