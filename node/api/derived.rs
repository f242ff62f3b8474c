//! What follows from some resources of the state, kept until one of them changes.

use std::sync::{Arc, PoisonError, RwLock};

use skein_state::State;
use skein_store::Handle;

pub(crate) struct Derived<T> {
    resources: &'static [&'static str],
    known: RwLock<Made<T>>,
}

/// What was made, with the revision of the state that it was made from.
type Made<T> = (u64, Arc<T>);

// === impl Derived ===

impl<T: Default> Derived<T> {
    pub(crate) fn of(resources: &'static [&'static str]) -> Self {
        Self { resources, known: RwLock::default() }
    }

    /// What follows from the state as it is now; `make` is asked only where it may be something else.
    pub(crate) fn current(&self, store: &Handle, make: impl FnOnce(&State) -> T) -> Arc<T> {
        let (revision, known) = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        let state = store.local().state;
        let is_same = |resource: &&str| store.events_since(resource, revision, 1).is_ok_and(|events| events.is_empty());
        if revision > 0 && (revision == state.revision() || self.resources.iter().all(is_same)) {
            return known;
        }
        let fresh = Arc::new(make(&state));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = (state.revision(), Arc::clone(&fresh));
        fresh
    }
}
