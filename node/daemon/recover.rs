//! A majority of the voters is gone for good: a new epoch of the cluster begins with what one of them has.
//!
//! ```text
//!   DIR/node.json, log/, state/ ─▶ survivor ─▶ DIR/epoch-1/{log,state} ─▶ node.json names epoch 1
//! ```
//!
//! The file that names the epoch changes in one step, so whatever breaks off, the node is as it was, or it is recovered.
//! Nodes of an older epoch that come back learn of it from the handshake, and stop.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use skein_peer::Channel;
use skein_quic::{Endpoint, Identity};
use skein_store::{Member, NodeId, REPLICAS, Storage, Survivor, survivor};

use crate::backup::REVISION_STEP;
use crate::directory::{Directory, NodeFile};
use crate::{Error, found};

/// A voter that does not answer so many times is not there.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// How a voter stands, seen from the survivor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    pub name: String,
    pub address: String,
    pub standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    This,
    Reachable,
    Gone,
}

/// What a node has, and who else is there.
pub struct Remains {
    pub name: String,
    pub epoch: u64,
    pub term: u64,
    pub index: u64,
    pub revision: u64,
    pub objects: usize,
    pub voters: Vec<Voter>,
    directory: Directory,
    node: NodeFile,
    survivor: Survivor,
}

// === impl Remains ===

impl Remains {
    /// Looks at a node whose daemon does not run, and tries to reach the other voters. Changes nothing.
    pub async fn look(path: &Path) -> Result<Self, Error> {
        let directory = Directory::open(path)?;
        let node = directory.node()?.ok_or_else(|| Error::Recover(format!("{} has no node", path.display())))?;
        if node.witness {
            return Err(Error::Recover("this node is a witness, which keeps no state: recover from one of the others".into()));
        }
        let identity = directory.identity()?.ok_or_else(|| Error::Recover("the directory has no identity".into()))?;
        let storage = Storage::open(&directory.store(&node)).map_err(|why| {
            let is_locked = why.to_string().contains("lock");
            let hint = if is_locked { "is its daemon still running? Stop it first: " } else { "" };
            Error::Recover(format!("{hint}{why}"))
        })?;
        let survivor = survivor(&storage).await.map_err(skein_store::Error::from)?;
        let voters = reach(&survivor, &node, identity).await?;
        Ok(Self {
            name: node.name.clone(),
            epoch: node.epoch,
            term: survivor.term,
            index: survivor.index,
            revision: survivor.state.revision(),
            objects: survivor.state.len(),
            voters,
            directory,
            node,
            survivor,
        })
    }

    /// Whether those who are there could go on without this.
    pub fn has_majority(&self) -> bool {
        let there = self.voters.iter().filter(|voter| voter.standing != Standing::Gone).count();
        2 * there > self.voters.len()
    }

    /// Makes this node the only voter of a new epoch, with all that it has.
    pub async fn force_quorum(&self) -> Result<(), Error> {
        if self.has_majority() {
            return Err(Error::Recover("a majority of the voters is there: start this node's daemon, and the cluster works".into()));
        }
        if self.directory.authority()?.is_none() {
            let why = "this node never voted, so it lacks the cluster's keys: recover from one that did, or restore a backup";
            return Err(Error::Recover(why.into()));
        }
        let address = self.survivor.voters.get(&self.node.id).map(|member| member.address.clone());
        let address = address.ok_or_else(|| Error::Recover("this node was no voter when its cluster was lost".into()))?;
        let node = NodeFile { id: found::draw_id(), epoch: self.epoch + 1, founder: true, ..self.node.clone() };
        let store = self.directory.store(&node);
        let failed = |source| Error::Directory { path: store.clone(), source };
        // What an attempt that broke off has left.
        if store.exists() {
            std::fs::remove_dir_all(&store).map_err(failed)?;
        }
        std::fs::create_dir_all(&store).map_err(failed)?;
        let storage = Storage::open(&store).map_err(skein_store::Error::from)?;
        // The replies that are remembered belong to the old log, and the replicas to the old epoch.
        let mut state = self.survivor.state.retained(|key, _| key.resource() != REPLICAS);
        state.restore_revision(self.revision + REVISION_STEP);
        let member = Member { name: node.name.clone(), address, witness: None };
        skein_store::found_with(&storage, node.id, member, &state).await.map_err(skein_store::Error::from)?;
        self.directory.save_node(&node)
    }
}

/// Tries to reach each of the voters.
async fn reach(survivor: &Survivor, node: &NodeFile, identity: Identity) -> Result<Vec<Voter>, Error> {
    let bind = SocketAddr::new(node.address, 0);
    let (endpoint, _incoming) = Endpoint::start(skein_quic::Options { bind, identity, epoch: node.epoch })?;
    let attempts = survivor.voters.iter().map(|(id, member)| standing(&endpoint, *id, member, node));
    let voters = futures::future::join_all(attempts).await;
    endpoint.close();
    match endpoint.superseded() {
        Some(epoch) => Err(Error::Superseded(epoch)),
        None => Ok(voters),
    }
}

async fn standing(endpoint: &Endpoint, id: NodeId, member: &Member, node: &NodeFile) -> Voter {
    let voter = |standing| Voter { name: member.name.clone(), address: member.address.clone(), standing };
    if id == node.id {
        return voter(Standing::This);
    }
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        if endpoint.open(&member.name, &member.address, Channel::Call).await.is_ok() {
            return voter(Standing::Reachable);
        }
    }
    voter(Standing::Gone)
}
