//! What a node runs: it outlives the daemon, as containers do that have a monitor, but not a loss of power; and what must
//! not run twice ends with the node's lease, whether the daemon lives or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use skein_invariant::Observation;
use skein_log::NodeId;
use skein_object::fence::LEASE_MS;
use tokio::time::{Instant, sleep};

use crate::recorder::Recorder;

/// How soon after its end a lease is noticed to have ended.
const NOTICE: Duration = Duration::from_millis(100);

pub(crate) struct Machine {
    node: NodeId,
    recorder: Recorder,
    /// The uids of Pods whose containers run, and whether they must not run twice.
    running: Mutex<BTreeMap<String, bool>>,
    /// Until when, and which one.
    lease: Mutex<Option<(Instant, u64)>>,
}

// === impl Machine ===

impl Machine {
    pub(crate) fn new(node: NodeId, recorder: Recorder) -> Self {
        Self { node, recorder, running: Mutex::default(), lease: Mutex::default() }
    }

    /// As the monitors do: for as long as there is the machine.
    pub(crate) async fn fence(machine: Weak<Self>) {
        while let Some(machine) = machine.upgrade() {
            if machine.term().is_none() {
                let running = machine.running_now().clone();
                running.iter().filter(|(_, is_unique)| **is_unique).for_each(|(uid, _)| machine.stop(uid));
            }
            drop(machine);
            sleep(NOTICE).await;
        }
    }

    /// A leader had a majority behind it at this time.
    pub(crate) fn prolong(&self, since: Instant) {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, until) = (Instant::now(), since + Duration::from_millis(LEASE_MS));
        if until <= now {
            return;
        }
        *lease = match *lease {
            Some((end, term)) if end > now => Some((end.max(until), term)),
            Some((_, term)) => Some((until, term + 1)),
            None => Some((until, 0)),
        };
    }

    /// Of the lease that holds.
    pub(crate) fn term(&self) -> Option<u64> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).filter(|(until, _)| *until > Instant::now()).map(|(_, term)| term)
    }

    /// What must not run twice begins under the lease that it was to begin under. False where that has ended.
    pub(crate) fn start(&self, pod: String, uid: &str, unique_in: Option<u64>) -> bool {
        let is_unique = unique_in.is_some();
        if is_unique && self.term() != unique_in {
            return false;
        }
        if self.running_now().insert(uid.into(), is_unique).is_none() {
            self.recorder.observe(&Observation::Runs { node: self.node, pod, uid: uid.into(), is_unique });
        }
        true
    }

    pub(crate) fn stop(&self, uid: &str) {
        if self.running_now().remove(uid).is_some() {
            self.recorder.observe(&Observation::Ended { node: self.node, uid: uid.into() });
        }
    }

    pub(crate) fn power_off(&self) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.running().iter().for_each(|uid| self.stop(uid));
    }

    pub(crate) fn running(&self) -> BTreeSet<String> {
        self.running_now().keys().cloned().collect()
    }

    fn running_now(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
