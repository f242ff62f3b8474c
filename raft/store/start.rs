//! Opens the store of one node.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use skein_log::{LogStore, Machine, NodeId, Storage};

use crate::ends::Ends;
use crate::handle::{Handle, Parts, Raft};
use crate::network::Network;
use crate::patience::{self, Patience};
use crate::writers::Writers;
use crate::{Error, Peers, agreement, follow, leadership, propose, read, witness};

pub struct Options {
    pub id: NodeId,
    pub storage: Storage,
    pub peers: Arc<dyn Peers>,
    /// It votes, and keeps no state.
    pub is_witness: bool,
}

/// Heartbeats of a LAN. Where links are longer or disks slower, the clock that counts them goes slower (`patience.rs`).
const HEARTBEAT_MS: u64 = 40;
const ELECTION_MS_MIN: u64 = patience::VOTE_TIMEOUT.as_millis() as u64;
pub(crate) const ELECTION_MS_MAX: u64 = 80;

/// Log entries that are kept behind the snapshot, so that a node that was away for a while needs no snapshot.
pub(crate) const LOG_ENTRIES_KEPT: u64 = 20_000;

/// How often the log is checked against [`LOG_ENTRIES_KEPT`].
pub(crate) const RETENTION_INTERVAL: Duration = Duration::from_secs(10);

/// Opens log and state and starts Raft. A node that is new takes part in nothing until it founds a cluster
/// ([`Handle::found`]) or is added to one.
pub async fn start(options: Options) -> Result<Handle, Error> {
    let log = LogStore::new(options.storage.log);
    let is_witness = options.is_witness;
    let (machine, view, recent) = Machine::open(options.storage.state, !is_witness)?;
    let patience = Patience::new(options.id, skein_log::clock());
    let digests = machine.digests();
    let network = Network { peers: Arc::clone(&options.peers), patience: patience.clone(), ends: Ends::new(log.clone()), is_witness };
    let config = config(is_witness).validate().map_err(|e| Error::Stopped(e.to_string()))?;
    let raft = Raft::new(options.id, Arc::new(config), network, log.clone(), machine).await.map_err(|e| Error::Stopped(e.to_string()))?;
    if !is_witness {
        skein_log::spawn(retain(raft.clone(), log.clone()));
    }
    skein_log::spawn(patience::keep(patience.clone(), raft.clone()));
    let (reads, requests) = read::channel();
    let (proposals, proposed) = propose::channel();
    let (standings, standing) = leadership::channel();
    skein_log::spawn(leadership::follow(options.id, raft.clone(), standings));
    let handle = Handle::new(
        options.id,
        raft,
        options.peers,
        view,
        recent,
        Parts { reads, proposals, standing, log, patience, writers: Writers::default(), digests, is_witness },
    );
    skein_log::spawn(read::batch_loop(handle.clone(), requests));
    skein_log::spawn(propose::batch_loop(handle.clone(), proposed));
    if is_witness {
        skein_log::spawn(witness::step_back(handle.clone()));
        skein_log::spawn(witness::retain(handle.clone()));
    } else {
        skein_log::spawn(agreement::compare_loop(handle.clone()));
        skein_log::spawn(follow::follow_loop(handle.clone()));
    }
    Ok(handle)
}

fn config(is_witness: bool) -> Config {
    let (kept, lag) = if is_witness { (u64::MAX, u64::MAX) } else { (LOG_ENTRIES_KEPT, 4 * LOG_ENTRIES_KEPT) };
    Config {
        cluster_name: "skein".into(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS_MIN,
        election_timeout_max: ELECTION_MS_MAX,
        // A leader without a quorum keeps silent for this long, so that its followers can elect another.
        quorum_loss_probe_interval: Some(4 * ELECTION_MS_MAX),
        enable_pre_vote: Some(true),
        // Whoever led before a restart may have forgotten what it committed last, and must be elected to know again;
        // its reads would be stale.
        enable_leader_restore: Some(false),
        // The state decides when to snapshot, not a count of entries: openraft's policy loops when installs are slow.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: kept,
        replication_lag_threshold: lag,
        // A witness stands for election where nobody else can win one (`witness.rs`).
        enable_elect: !is_witness,
        max_payload_entries: 1024,
        ..Config::default()
    }
}

/// Purges the log behind the flushed state when it has grown to twice what is kept.
async fn retain(raft: Raft, log: LogStore) {
    loop {
        tokio::time::sleep(RETENTION_INTERVAL).await;
        if log.entries() > 2 * LOG_ENTRIES_KEPT && raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}
