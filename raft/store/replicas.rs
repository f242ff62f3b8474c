//! The nodes outside Raft's membership: the state knows them, beside the objects of the API.

use serde::{Deserialize, Serialize};
use skein_command::Write;
use skein_log::{Member, NodeId};
use skein_object::{Key, Record};
use skein_state::State;

/// Where they are kept.
pub const REPLICAS: &str = "replicas.skein.dev";

/// One of them, at a revision.
pub(crate) struct Replica {
    pub(crate) id: NodeId,
    pub(crate) member: Member,
    revision: u64,
}

/// What is kept of it; its name is the record's.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: NodeId,
    address: String,
}

// === impl Replica ===

impl Replica {
    /// The write after which the state knows it no more.
    pub(crate) fn forgotten(&self) -> Write {
        Write::delete(&key(&self.member.name), self.revision)
    }
}

pub(crate) fn all(state: &State) -> Vec<Replica> {
    let replica = |(key, entry): (&Key, &skein_state::Entry)| {
        let Kept { id, address } = serde_json::from_value(entry.record.field("replica")?).ok()?;
        Some(Replica { id, member: Member { name: key.name().into(), address, witness: None }, revision: entry.revision })
    };
    state.range(&format!("{REPLICAS}/"), None).filter_map(replica).collect()
}

pub(crate) fn find(state: &State, id: NodeId) -> Option<Replica> {
    all(state).into_iter().find(|replica| replica.id == id)
}

/// The write after which the state knows it.
pub(crate) fn known(id: NodeId, member: &Member) -> Write {
    let kept = Kept { id, address: member.address.clone() };
    let record = Record::from_value(&serde_json::json!({"metadata": {"name": member.name}, "replica": kept}));
    Write::create(&key(&member.name), record)
}

fn key(name: &str) -> Key {
    Key::new(REPLICAS, "", name)
}
