//! Asks adapters what controllers want to know, one question at a time each, beside the controllers' work.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skein_reconcile::{Adapters, Answer, Question, values_of};

use crate::Servers;

const USER: &str = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";
/// An adapter that has not answered by then has not.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The newest answers, and what is being asked. A cheap clone.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    answers: Adapters,
    pending: BTreeSet<Question>,
}

// === impl Asked ===

impl Asked {
    pub(crate) fn answers(&self) -> Adapters {
        self.look(|state| state.answers.clone())
    }

    /// Asks, unless that is being done already.
    pub(crate) fn ask(&self, question: Question, servers: &Arc<dyn Servers>) {
        if !self.look(|state| state.pending.insert(question.clone())) {
            return;
        }
        let (asked, servers) = (self.clone(), Arc::clone(servers));
        skein_log::spawn(async move {
            let group = (question.group.name(), question.group.versions());
            let answer = tokio::time::timeout(TIMEOUT, servers.get(USER, group, &question.path)).await;
            let values = answer.unwrap_or_else(|_| Err("context deadline exceeded".into())).and_then(|list| values_of(&list));
            let at_ms = skein_log::now().as_millisecond();
            asked.look(|state| {
                state.pending.remove(&question);
                state.answers.hear(question, Answer { at_ms, values });
            });
        });
    }

    fn look<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
