//! Takes down what happens, and asks the invariants about it at once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skein_invariant::{Answer, Checker, Observation, Violation};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{Report, Scheduled};

#[derive(Clone)]
pub(crate) struct Recorder(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    violated: watch::Sender<bool>,
}

struct State {
    begin: Instant,
    checker: Checker,
    violation: Option<Violation>,
    fingerprint: DefaultHasher,
    operations: u64,
    acknowledged: u64,
    elections: u64,
    events: u64,
    revision: u64,
}

// === impl Recorder ===

impl Recorder {
    pub(crate) fn new() -> Self {
        let state = State {
            begin: Instant::now(),
            checker: Checker::default(),
            violation: None,
            fingerprint: DefaultHasher::new(),
            operations: 0,
            acknowledged: 0,
            elections: 0,
            events: 0,
            revision: 0,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), violated: watch::Sender::new(false) }))
    }

    pub(crate) fn observe(&self, observation: &Observation) {
        let mut state = self.state();
        if state.violation.is_some() {
            return;
        }
        let at = state.begin.elapsed();
        (at, observation).hash(&mut state.fingerprint);
        state.events += 1;
        match observation {
            Observation::Asked { .. } => state.operations += 1,
            Observation::Answered { answer, .. } if *answer != Answer::Unknown => state.acknowledged += 1,
            Observation::Leads { .. } => state.elections += 1,
            Observation::Applied { revision, .. } => state.revision = state.revision.max(*revision),
            _ => {}
        }
        tracing::debug!(?at, ?observation);
        if let Err(violation) = state.checker.observe(at, observation) {
            state.violation = Some(violation);
            self.0.violated.send_replace(true);
        }
    }

    /// The cluster did not come to rest in time.
    pub(crate) fn fail(&self, why: String) {
        let mut state = self.state();
        let at = state.begin.elapsed();
        let violation = Violation { invariant: "healing", from: "ARCHITECTURE.md", at, why };
        state.violation.get_or_insert(violation);
        self.0.violated.send_replace(true);
    }

    pub(crate) async fn violated(&self) {
        let _ = self.0.violated.subscribe().wait_for(|violated| *violated).await;
    }

    pub(crate) fn finish(&self) {
        let mut state = self.state();
        let at = state.begin.elapsed();
        if state.violation.is_none() {
            state.violation = state.checker.finish(at).err();
        }
    }

    pub(crate) fn report(&self, seed: u64, faults: Vec<Scheduled>) -> Report {
        let mut state = self.state();
        Report {
            seed,
            faults,
            operations: state.operations,
            acknowledged: state.acknowledged,
            revision: state.revision,
            elections: state.elections,
            events: state.events,
            fingerprint: state.fingerprint.finish(),
            verdict: state.violation.take().map_or(Ok(()), Err),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
