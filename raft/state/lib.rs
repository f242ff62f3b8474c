//! The replicated state: an immutable, persistent, ordered map of objects, and the one function that changes it.
//!
//! ```text
//!   apply(&State, Command, position) ──▶ (State, Reply, Events)
//! ```
//!
//! A `State` is a value. A clone costs nothing and stays what it was, so a consistent paginated LIST, the scheduler's
//! view and a Raft snapshot are all just clones.
//!
//! **Invariant:** `apply` is total and deterministic; it never panics on a command's content, because that panic would
//! replay on every node.

mod apply;
mod digest;
mod history;
mod replies;
mod snapshot;

use std::sync::Arc;

use imbl::OrdMap;
use serde_json::Value;
use skein_object::{Key, Record, registry};

pub use apply::{Position, apply};
pub use history::{Compacted, History};
pub use replies::REPLY_WINDOW;
pub use snapshot::{Chunks, Malformed, Restore};

use replies::Replies;

/// All objects at one revision.
#[derive(Clone, Debug, Default)]
pub struct State {
    objects: OrdMap<Key, Entry>,
    /// Grows by one for every changed object; the resourceVersion.
    revision: u64,
    /// Of all objects (`digest.rs`).
    digest: u64,
    replies: Replies,
}

/// An object at rest and the revision of its last change.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub revision: u64,
    pub record: Arc<Record>,
}

/// One change of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub revision: u64,
    pub key: Key,
    /// `None` when it was created by this change.
    pub before: Option<Entry>,
    /// `None` when it was deleted by this change.
    pub after: Option<Entry>,
}

// === impl State ===

impl State {
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.objects.get(key)
    }

    /// An object of a built-in resource, as a client reads it.
    pub fn show(&self, key: &Key) -> Option<Value> {
        let entry = self.get(key)?;
        Some(registry::by_key(key.resource())?.show(&entry.record, entry.revision))
    }

    /// All objects of a built-in resource, in every namespace.
    pub fn show_all(&self, resource: &str) -> Vec<Value> {
        let prefix = Key::prefix(resource, "");
        self.range(&prefix, None).filter_map(|(key, _)| self.show(key)).collect()
    }

    /// Objects whose key starts with `prefix` and is greater than `after`, in key order.
    pub fn range<'a>(&'a self, prefix: &'a str, after: Option<&str>) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
        use std::ops::Bound;
        let start = match after {
            Some(key) => Bound::Excluded(key.to_string()),
            None => Bound::Included(prefix.to_string()),
        };
        let range: (Bound<&str>, Bound<&str>) = (start.as_ref().map(String::as_str), Bound::Unbounded);
        let iter = self.objects.range::<_, str>(range);
        iter.take_while(move |(key, _)| key.as_str().starts_with(prefix))
    }

    /// The objects for which `keep` says so, at the same revision; no replies are remembered.
    pub fn retained(&self, keep: impl Fn(&Key, &Entry) -> bool) -> Self {
        let mut kept = Self { revision: self.revision, ..Self::default() };
        for (key, entry) in self.objects.iter().filter(|(key, entry)| keep(key, entry)) {
            kept.set(key.clone(), Some(entry.clone()));
        }
        kept
    }

    /// Puts back an object as it was stored, without a new revision: for loading from disk.
    pub fn restore(&mut self, key: Key, entry: Entry) {
        self.revision = self.revision.max(entry.revision);
        self.set(key, Some(entry));
    }

    /// The objects as they were before some changes, the last that happened to them.
    #[must_use]
    pub fn before<'a>(&self, changes: impl DoubleEndedIterator<Item = &'a Event>) -> Self {
        let mut state = self.clone();
        changes.rev().for_each(|change| state.set(change.key.clone(), change.before.clone()));
        state
    }

    /// The only way in which an object comes, changes or goes.
    fn set(&mut self, key: Key, entry: Option<Entry>) {
        let after = entry.as_ref().map_or(0, |entry| digest::of(&key, entry));
        let before = match entry {
            Some(entry) => self.objects.insert(key.clone(), entry),
            None => self.objects.remove(&key),
        };
        self.digest ^= after ^ before.map_or(0, |entry| digest::of(&key, &entry));
    }

    /// A number that two states share only if they hold the same objects.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Puts back the reply of a proposal that was applied at a log index: for loading from disk.
    pub fn restore_reply(&mut self, index: u64, id: skein_command::ProposalId, reply: skein_command::Reply) {
        self.replies.remember(index, id, reply);
    }

    /// The remembered replies with the log index of each.
    pub fn replies(&self) -> impl Iterator<Item = (u64, skein_command::ProposalId, &skein_command::Reply)> {
        self.replies.iter()
    }

    /// Deletions raise the revision without leaving an object, so the counter is stored beside the objects.
    pub fn restore_revision(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }
}

// === impl Event ===

impl Event {
    /// The object that the event is about: as it is, or as it last was.
    pub fn subject(&self) -> Option<&Entry> {
        self.after.as_ref().or(self.before.as_ref())
    }
}
