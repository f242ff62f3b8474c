//! A state as a snapshot, which is what a node gets that joins, and what a backup holds.

use std::sync::Arc;

use serde_json::json;
use skein_command::ProposalId;
use skein_object::{Key, Record};
use skein_state::{Entry, Restore, State};

use crate::command::{record, reply};
use crate::golden::{check_bytes, read};

pub(crate) fn state() -> State {
    let mut state = State::default();
    let namespace = Record::from_value(&json!({"metadata": {"name": "north"}, "status": {"phase": "Active"}}));
    state.restore(Key::new("namespaces", "", "north"), Entry { revision: 7, record: Arc::new(namespace) });
    state.restore(Key::new("configmaps", "north", "flock"), Entry { revision: 9, record: Arc::new(record()) });
    state.restore_reply(4, ProposalId { incarnation: 1, sequence: 2 }, reply());
    state.restore_revision(11);
    state
}

/// Objects, replies and revision.
pub(crate) fn check_same(found: &State, expected: &State) {
    let objects = |state: &State| {
        state.range("", None).map(|(key, entry)| (key.clone(), entry.revision, Record::clone(&entry.record))).collect::<Vec<_>>()
    };
    let replies = |state: &State| state.replies().map(|(index, id, reply)| (index, id, reply.clone())).collect::<Vec<_>>();
    assert_eq!(objects(found), objects(expected));
    assert_eq!(replies(found), replies(expected));
    assert_eq!(found.revision(), expected.revision());
}

#[test]
fn snapshots_are_of_format_1() {
    let chunks: Vec<Vec<u8>> = state().chunks().collect();
    assert_eq!(chunks.len(), 1, "a small state is one chunk");
    check_bytes("snapshot-1", &chunks[0]);
    let mut restore = Restore::default();
    restore.push(&read("snapshot-1", b"")).expect("it is a snapshot");
    check_same(&restore.finish().expect("it is whole"), &state());
}
