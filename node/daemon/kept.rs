//! Objects of one kind, decoded and kept up to date from the history of this node's replica.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use skein_object::Key;
use skein_store::{Handle, View};

/// Events taken from the history at once.
const EVENTS_MAX: usize = 4096;

pub(crate) struct Kept<T> {
    resource: &'static str,
    pub(crate) objects: BTreeMap<Key, T>,
    cursor: u64,
}

// === impl Kept ===

impl<T: k8s_openapi::Resource + DeserializeOwned> Kept<T> {
    pub(crate) fn new(resource: &'static str, view: &View) -> Self {
        let mut kept = Self { resource, objects: BTreeMap::new(), cursor: 0 };
        kept.reload(view);
        kept
    }

    fn reload(&mut self, view: &View) {
        let prefix = format!("{}/", self.resource);
        let all = view.state.range(&prefix, None);
        self.objects = all.filter_map(|(key, entry)| Some((key.clone(), entry.record.typed(entry.revision)?))).collect();
        self.cursor = view.state.revision();
    }

    /// Whether anything has changed.
    pub(crate) fn observe(&mut self, store: &Handle) -> bool {
        let mut changed = false;
        loop {
            let Ok(events) = store.events_since(self.resource, self.cursor, EVENTS_MAX) else {
                self.reload(&store.local());
                return true;
            };
            let Some(last) = events.last().map(|e| e.revision) else { return changed };
            for event in &events {
                changed = true;
                match event.after.as_ref().and_then(|entry| entry.record.typed(entry.revision)) {
                    Some(object) => drop(self.objects.insert(event.key.clone(), object)),
                    None => drop(self.objects.remove(&event.key)),
                }
            }
            self.cursor = last;
        }
    }
}
