//! A new cluster that begins with a state: what a backup is restored into.

use std::collections::{BTreeMap, BTreeSet};

use openraft::Membership;
use openraft::storage::RaftLogStorage;
use openraft::type_config::alias::{StoredMembershipOf, VoteOf};
use skein_state::State;

use crate::disk::Disk;
use crate::entry::log_id;
use crate::{Error, LogStore, Member, NodeId, Storage, Types, io_error};

/// Makes empty databases those of a cluster of one voter that has this state.
///
/// Whoever joins must be given the state: the log begins behind it, so a snapshot is sent first.
pub async fn found_with(storage: &Storage, id: NodeId, member: Member, state: &State) -> Result<(), Error> {
    let disk = Disk::new(storage.state.clone());
    let mut log = LogStore::new(storage.log.clone());
    let loaded = disk.load()?;
    if loaded.applied.is_some() || !loaded.state.is_empty() || log.get_log_state().await?.last_log_id.is_some() {
        return Err(Error::Medium(io_error("there is a cluster's state here already")));
    }
    let at = log_id(1, 1);
    let membership =
        Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, member)])).map_err(|_| io_error("one voter is a membership"))?;
    disk.replace(state, Some(at), &StoredMembershipOf::<Types>::new(Some(at), membership)).await?;
    log.save_vote(&VoteOf::<Types>::new(1, id)).await?;
    log.purge(at).await?;
    Ok(())
}
