//! What a node has that its cluster has lost: the state with all that its log holds, and who voted.
//!
//! The log may end in entries that were never committed. They are taken too: what was acknowledged is among them, and
//! nobody is left who could say which of them were not.

use std::collections::BTreeMap;

use openraft::RaftLogReader;
use skein_state::State;

use crate::medium::Batch;
use crate::{Error, LogStore, Machine, Member, NodeId, Storage};

/// The whole of what a node knows.
pub struct Survivor {
    pub state: State,
    /// Where its log ends.
    pub term: u64,
    pub index: u64,
    /// All who voted, as far as this node has heard.
    pub voters: BTreeMap<NodeId, Member>,
}

/// Entries that are read at once.
const ENTRIES: u64 = 1024;

/// Reads a node's databases, which nobody else may have open; nothing is written.
pub async fn survivor(storage: &Storage) -> Result<Survivor, Error> {
    let (mut machine, ..) = Machine::open(storage.state.clone(), true)?;
    let mut log = LogStore::new(storage.log.clone());
    loop {
        let next = machine.applied().map_or(0, |id| id.index + 1);
        let entries = log.try_get_log_entries(next..next + ENTRIES).await?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            machine.step(entry, &mut Batch::default(), &mut Vec::new());
        }
    }
    let (term, index) = machine.applied().map_or((0, 0), |id| (*id.leader_id, id.index));
    let membership = machine.membership().membership();
    let voters = membership.voter_ids().filter_map(|id| Some((id, membership.get_node(&id)?.clone()))).collect();
    Ok(Survivor { state: machine.state().clone(), term, index, voters })
}
