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

/// Keys, each with what stood there before.
pub(crate) type Former<T> = Vec<(Key, Option<T>)>;

// === impl Kept ===

impl<T: k8s_openapi::Resource + DeserializeOwned> Kept<T> {
    pub(crate) fn new(resource: &'static str, view: &View) -> Self {
        let mut kept = Self { resource, objects: BTreeMap::new(), cursor: 0 };
        kept.reload(view);
        kept
    }

    fn reload(&mut self, view: &View) -> Former<T> {
        let prefix = format!("{}/", self.resource);
        let all = view.state.range(&prefix, None);
        let now = all.filter_map(|(key, entry)| Some((key.clone(), entry.record.typed(entry.revision)?))).collect();
        self.cursor = view.state.revision();
        let before = std::mem::replace(&mut self.objects, now);
        let new = self.objects.keys().map(|key| (key.clone(), None)).collect::<Vec<_>>();
        before.into_iter().map(|(key, object)| (key, Some(object))).chain(new).collect()
    }

    /// What has changed, or may have; empty when nothing has.
    pub(crate) fn observe(&mut self, store: &Handle) -> Former<T> {
        let mut former = Vec::new();
        loop {
            let Ok(events) = store.events_since(self.resource, self.cursor, EVENTS_MAX) else {
                former.extend(self.reload(&store.local()));
                return former;
            };
            let Some(last) = events.last().map(|e| e.revision) else { return former };
            for event in &events {
                let before = match event.after.as_ref().and_then(|entry| entry.record.typed(entry.revision)) {
                    Some(object) => self.objects.insert(event.key.clone(), object),
                    None => self.objects.remove(&event.key),
                };
                former.push((event.key.clone(), before));
            }
            self.cursor = last;
        }
    }
}
