//! Events as they go to watchers: each is encoded once on a node, however many watch.
//!
//! The last ones are kept in slots by their revision. Watchers wake together, so that most find what the first of them
//! has made.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use skein_object::Resource;

use crate::negotiate::{Form, Media};

const SLOTS: usize = 256;
/// What is larger is encoded anew for each: the slots hold 16 MiB at most.
const BYTES_MAX: usize = 64 << 10;

pub(crate) struct Encoded(Vec<Slot>);

/// An event's line, as long as no later one takes its place.
type Slot = Mutex<Option<(Key, Bytes)>>;

/// A revision is one change of one object; what watchers see of it depends on what they asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Key {
    revision: u64,
    event: &'static str,
    version: (&'static str, &'static str, &'static str),
    form: Form,
    media: Media,
}

// === impl Key ===

impl Key {
    /// `None` for what is not the same at all times: tables tell ages.
    pub(super) fn of(revision: u64, event: &'static str, resource: &Resource, (form, media): (Form, Media)) -> Option<Self> {
        let version = (resource.group, resource.version, resource.plural);
        (!matches!(form, Form::Table(_))).then_some(Self { revision, event, version, form, media })
    }
}

// === impl Encoded ===

impl Default for Encoded {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| Mutex::new(None)).collect())
    }
}

impl Encoded {
    pub(super) fn get(&self, key: &Key) -> Option<Bytes> {
        let slot = self.slot(key).lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().filter(|(known, _)| known == key).map(|(_, line)| line.clone())
    }

    pub(super) fn put(&self, key: Key, line: &Bytes) {
        if line.len() <= BYTES_MAX {
            *self.slot(&key).lock().unwrap_or_else(PoisonError::into_inner) = Some((key, line.clone()));
        }
    }

    fn slot(&self, key: &Key) -> &Slot {
        &self.0[usize::try_from(key.revision % SLOTS as u64).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_what_is_found() {
        let encoded = Encoded::default();
        let find = |plural: &str| skein_object::registry::find("", "v1", plural).expect("a resource");
        let key = |revision: u64, event: &'static str, plural: &str, form: Form| {
            Key::of(revision, event, find(plural), (form, Media::Json)).expect("a key")
        };
        let line = Bytes::from_static(b"one");
        encoded.put(key(5, "ADDED", "pods", Form::Object), &line);
        assert_eq!(encoded.get(&key(5, "ADDED", "pods", Form::Object)), Some(line));
        for other in [
            key(5, "MODIFIED", "pods", Form::Object),
            key(5, "ADDED", "services", Form::Object),
            key(5, "ADDED", "pods", Form::Metadata),
            key(5 + SLOTS as u64, "ADDED", "pods", Form::Object),
        ] {
            assert_eq!(encoded.get(&other), None);
        }
        let in_protobuf = Key::of(5, "ADDED", find("pods"), (Form::Object, Media::Protobuf)).expect("a key");
        assert_eq!(encoded.get(&in_protobuf), None);
        encoded.put(key(6, "ADDED", "pods", Form::Object), &Bytes::from(vec![0; BYTES_MAX + 1]));
        assert_eq!(encoded.get(&key(6, "ADDED", "pods", Form::Object)), None, "too large to keep");
        let table = Form::Table(skein_object::table::Include::None);
        assert!(Key::of(5, "ADDED", find("pods"), (table, Media::Json)).is_none());
    }
}
