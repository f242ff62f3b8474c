//! A number by which two states are told apart: the same on every node for the same objects, whatever order they came in.
//!
//! Each object has a digest of its key, its revision and its bytes; that of the state is all of them by exclusive or, so
//! a change costs two of them. It protects against mistakes and rot, not against people.

use skein_object::Key;
use xxhash_rust::xxh3::Xxh3;

use crate::Entry;

pub(crate) fn of(key: &Key, entry: &Entry) -> u64 {
    let mut digest = Xxh3::new();
    // Every part is preceded by its length, so that no two objects have the same parts in a row.
    let mut part = |bytes: &[u8]| {
        digest.update(&(bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    part(key.as_str().as_bytes());
    part(&entry.revision.to_le_bytes());
    for segment in &entry.record.segments {
        part(segment.field.as_bytes());
        part(&segment.json);
    }
    digest.digest()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use skein_object::Record;

    use crate::State;

    use super::*;

    fn entry(revision: u64, value: u64) -> Entry {
        Entry { revision, record: Arc::new(Record::from_value(&json!({"data": {"value": value}}))) }
    }

    #[test]
    fn states_share_a_digest_only_with_the_same_objects() {
        let key = |name: &str| Key::new("configmaps", "n", name);
        let state = |objects: &[(&str, Entry)]| {
            let mut state = State::default();
            objects.iter().for_each(|(name, entry)| state.restore(key(name), entry.clone()));
            state.digest()
        };
        let both = state(&[("a", entry(1, 1)), ("b", entry(2, 2))]);
        assert_eq!(state(&[("b", entry(2, 2)), ("a", entry(1, 1))]), both, "in any order");
        assert_eq!(state(&[("a", entry(1, 9)), ("a", entry(1, 1)), ("b", entry(2, 2))]), both, "whatever was there before");
        for other in [
            state(&[("a", entry(1, 1))]),
            state(&[("a", entry(1, 1)), ("b", entry(3, 2))]),
            state(&[("a", entry(1, 1)), ("b", entry(2, 3))]),
            state(&[("a", entry(2, 2)), ("b", entry(1, 1))]),
            state(&[]),
        ] {
            assert_ne!(other, both);
        }
    }
}
