//! What is made of the texts in objects, patterns and expressions, made once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Beyond this many, all are made anew: a bound, not a limit on use.
const KEPT_MAX: usize = 1024;

pub(crate) struct Kept<T>(Mutex<BTreeMap<String, T>>);

impl<T: Clone> Kept<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// What was made of a text, or what `make` makes of it now; nobody else waits meanwhile.
    pub(crate) fn get(&self, text: &str, make: impl FnOnce() -> T) -> T {
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(text) {
            return known.clone();
        }
        let made = make();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(text.into(), made.clone());
        made
    }
}
