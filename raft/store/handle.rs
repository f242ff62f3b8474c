//! What the rest of the node holds of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use openraft::Instant as _;
use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use skein_command::ProposalId;
use skein_log::{Digests, LogStore, Machine, Member, NodeId, Recent, Topic, Types, View};
use skein_peer::{AddMember, Call, Channel, Request, Response};
use skein_state::{Compacted, Event};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::follow::Following;
use crate::leadership::{Leadership, Standing};
use crate::network::{call, exchange};
use crate::patience::Patience;
use crate::propose::Waiting;
use crate::read::Reader;
use crate::relay::{FOLLOWERS_MAX, Places};
use crate::writers::Writers;
use crate::{Duplex, Error, Peers, replicas};

pub(crate) type Raft = openraft::Raft<Types, Machine>;

/// How long a proposal or a consistent read may take before the caller hears that there is no quorum.
pub(crate) const QUORUM_TIMEOUT: Duration = Duration::from_millis(2700);

/// Between two attempts where there is no news of a leader. Who has just been elected takes no proposals before a majority has
/// answered it, which is no news to anybody and takes a millisecond or two; an election takes several of the longest.
const RETRY_MIN: Duration = Duration::from_millis(1);
const RETRY_MAX: Duration = Duration::from_millis(16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    Voter,
    /// It has the log from the leader, and may be given a vote.
    Standby,
    /// It follows other nodes, outside Raft's membership.
    Replica,
    /// It votes, and keeps no state.
    Witness,
    /// A witness whose vote is not needed.
    Spare,
}

impl Role {
    pub fn votes(self) -> bool {
        matches!(self, Self::Leader | Self::Voter | Self::Witness)
    }
}

/// One member as the leader sees it, or as this node knows it.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    pub id: NodeId,
    pub member: Member,
    pub role: Role,
    /// The last log index known to be there; only the leader knows it of others.
    pub matched: Option<u64>,
}

// === impl MemberStatus ===

impl MemberStatus {
    pub fn is_witness(&self) -> bool {
        self.member.witness.is_some()
    }

    /// Whether it votes and keeps the state and what belongs to it, the cluster's keys too.
    pub fn is_full_voter(&self) -> bool {
        self.role.votes() && !self.is_witness()
    }
}

/// A cheap clone.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    id: NodeId,
    raft: Raft,
    peers: Arc<dyn Peers>,
    view: watch::Receiver<View>,
    recent: Arc<Recent>,
    parts: Parts,
    incarnation: u64,
    sequence: AtomicU64,
    /// When the leader was last heard of, by itself or through others, in milliseconds since this node's start.
    leader_heard_ms: AtomicU64,
    /// When the leader itself last sent something.
    leader_sent_ms: AtomicU64,
    /// Snapshots that are being sent by a leader at the moment.
    receiving: AtomicUsize,
    following: watch::Sender<Following>,
    places: Places,
    begin: Instant,
    /// Whether this node's state is known to be wrong, and what was done about it.
    differs: AtomicBool,
    replaced: watch::Sender<Option<String>>,
}

/// What the store is made of, beside Raft.
pub(crate) struct Parts {
    pub(crate) reads: mpsc::Sender<Reader>,
    pub(crate) proposals: mpsc::Sender<Waiting>,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) log: LogStore,
    pub(crate) patience: Patience,
    pub(crate) writers: Writers,
    pub(crate) digests: Arc<Digests>,
    pub(crate) is_witness: bool,
}

/// Kept while a leader sends a snapshot.
pub(crate) struct Receiving(Handle);

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.heard_of_leader();
        self.0.inner.receiving.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What to do after an attempt that did not succeed.
pub(crate) enum Attempt {
    Retry,
    Fail(Error),
}

// === impl Handle ===

impl Handle {
    pub(crate) fn new(
        id: NodeId,
        raft: Raft,
        peers: Arc<dyn Peers>,
        view: watch::Receiver<View>,
        recent: Arc<Recent>,
        parts: Parts,
    ) -> Self {
        let incarnation = skein_log::random();
        Self {
            inner: Arc::new(Inner {
                id,
                raft,
                peers,
                view,
                recent,
                parts,
                incarnation,
                sequence: AtomicU64::new(1),
                leader_heard_ms: AtomicU64::new(0),
                leader_sent_ms: AtomicU64::new(0),
                receiving: AtomicUsize::new(0),
                following: watch::Sender::default(),
                places: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
                begin: Instant::now(),
                differs: AtomicBool::new(false),
                replaced: watch::Sender::new(None),
            }),
        }
    }

    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// Whether this node votes and keeps no state.
    pub fn is_witness(&self) -> bool {
        self.inner.parts.is_witness
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    pub(crate) fn proposals(&self) -> &mpsc::Sender<Waiting> {
        &self.inner.parts.proposals
    }

    /// A name that no proposal has had.
    pub(crate) fn next_proposal(&self) -> ProposalId {
        ProposalId { incarnation: self.inner.incarnation, sequence: self.inner.sequence.fetch_add(1, Ordering::Relaxed) }
    }

    /// The local replica, as it is now.
    pub fn local(&self) -> View {
        self.inner.view.borrow().clone()
    }

    /// Wakes whenever the local replica has moved.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.inner.view.clone()
    }

    /// Wakes whenever something has happened to one of these resources here.
    pub fn subscribe(&self, resources: &[&str]) -> Topic {
        self.inner.recent.subscribe(resources)
    }

    /// How often this node has synced its log.
    pub fn log_syncs(&self) -> u64 {
        self.inner.parts.log.syncs()
    }

    /// How many times as long as on a fast network elections and heartbeats take here, as measured.
    pub fn pace(&self) -> u32 {
        self.patience().pace()
    }

    pub(crate) fn digests(&self) -> &Digests {
        &self.inner.parts.digests
    }

    pub(crate) fn log(&self) -> &LogStore {
        &self.inner.parts.log
    }

    pub(crate) async fn open(&self, member: &Member, channel: Channel) -> std::io::Result<Box<dyn Duplex>> {
        self.inner.peers.open(member, channel).await
    }

    pub(crate) fn set_differs(&self, differs: bool) {
        self.inner.differs.store(differs, Ordering::Relaxed);
    }

    pub(crate) fn tell_replaced(&self, what: String) {
        self.inner.replaced.send_replace(Some(what));
    }

    /// Hears of it when this node's state was wrong and has been replaced.
    pub fn watch_replaced(&self) -> watch::Receiver<Option<String>> {
        self.inner.replaced.subscribe()
    }

    pub(crate) fn writers(&self) -> &Writers {
        &self.inner.parts.writers
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.inner.parts.patience
    }

    /// The revision of the local replica.
    pub fn revision(&self) -> u64 {
        self.inner.view.borrow().state.revision()
    }

    /// Events of a resource after a revision, from the local history.
    pub fn events_since(&self, resource: &str, revision: u64, limit: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        self.inner.recent.since(resource, revision, limit)
    }

    /// Events of all resources after a revision, from the local history.
    pub fn all_events_since(&self, revision: u64, limit: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        self.inner.recent.all_since(revision, limit)
    }

    /// The state as of now or later: everything acknowledged anywhere before this call is in it.
    pub async fn read(&self) -> Result<View, Error> {
        self.works()?;
        let deadline = Instant::now() + QUORUM_TIMEOUT;
        let (sender, receiver) = oneshot::channel();
        let gone = || Error::Stopped("the read loop has ended".into());
        self.inner.parts.reads.send(sender).await.map_err(|_| gone())?;
        let index = timeout_at(deadline, receiver).await.map_err(|_| Error::Timeout(QUORUM_TIMEOUT))?.map_err(|_| gone())??;
        self.wait_applied(index, deadline).await
    }

    /// Waits until the local replica has reached a revision.
    pub async fn wait_revision(&self, revision: u64, patience: Duration) -> Option<View> {
        let mut view = self.inner.view.clone();
        let reached = view.wait_for(|view| view.state.revision() >= revision);
        tokio::time::timeout(patience, reached).await.ok()?.ok().map(|view| view.clone())
    }

    pub fn leadership(&self) -> Leadership {
        Leadership::of(self.inner.id, &self.inner.raft.metrics().borrow_watched())
    }

    /// Follows leadership until `changed` returns false.
    pub async fn watch_leadership(&self, mut changed: impl FnMut(Leadership) -> bool) {
        let mut standing = self.standing();
        let mut last = None;
        loop {
            let now = standing.borrow_and_update().leadership.clone();
            if last.as_ref() != Some(&now) {
                if !changed(now.clone()) {
                    return;
                }
                last = Some(now);
            }
            if standing.changed().await.is_err() {
                return;
            }
        }
    }

    /// The leader has sent something: an append or a heartbeat.
    pub(crate) fn heard_of_leader(&self) {
        self.heard_of_leader_through(Duration::ZERO);
        self.inner.leader_sent_ms.store(self.since_begin_ms(), Ordering::Relaxed);
    }

    /// Another node says that it has heard of the leader so long ago.
    pub(crate) fn heard_of_leader_through(&self, silence: Duration) {
        let silence_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        self.inner.leader_heard_ms.fetch_max(self.since_begin_ms().saturating_sub(silence_ms), Ordering::Relaxed);
    }

    fn since_begin_ms(&self) -> u64 {
        u64::try_from(self.inner.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn silence_since(&self, heard_ms: &AtomicU64) -> Duration {
        Duration::from_millis(self.since_begin_ms().saturating_sub(heard_ms.load(Ordering::Relaxed)))
    }

    pub(crate) fn has_heard(&self) -> bool {
        self.inner.leader_heard_ms.load(Ordering::Relaxed) > 0
    }

    /// How long ago the leader was heard of; since this node's start, if it never was.
    pub(crate) fn leader_silence(&self) -> Duration {
        self.silence_since(&self.inner.leader_heard_ms)
    }

    /// How long ago the leader itself has sent something.
    pub(crate) fn direct_silence(&self) -> Duration {
        self.silence_since(&self.inner.leader_sent_ms)
    }

    /// A leader sends a snapshot, for as long as this is kept.
    pub(crate) fn receive(&self) -> Receiving {
        self.inner.receiving.fetch_add(1, Ordering::Relaxed);
        Receiving(self.clone())
    }

    pub(crate) fn is_receiving(&self) -> bool {
        self.inner.receiving.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn following(&self) -> &watch::Sender<Following> {
        &self.inner.following
    }

    pub(crate) fn places(&self) -> &Places {
        &self.inner.places
    }

    /// Wakes at the news of a leader.
    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.inner.parts.standing.clone()
    }

    /// Whether a quorum of voters has answered the leader lately, as far as this node can tell: a leader without a
    /// quorum falls silent, so whoever hears of it has one behind it.
    pub fn has_quorum(&self) -> bool {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        match (metrics.current_leader, metrics.last_quorum_acked) {
            (Some(leader), Some(acked)) if leader == self.inner.id => self.patience().real(acked.elapsed()) < QUORUM_TIMEOUT,
            (leader, _) => leader.is_some() && self.leader_silence() < QUORUM_TIMEOUT,
        }
    }

    /// How long ago a majority answered this node as their leader; `None` where it does not lead, has not applied yet what
    /// its predecessors committed, or knows nothing of that.
    pub fn quorum_age(&self) -> Option<Duration> {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let leads = metrics.current_leader == Some(self.inner.id) && self.local().term == metrics.current_term;
        let age = metrics.last_quorum_acked.map(|acked| self.patience().real(acked.elapsed()));
        age.filter(|_| leads && !self.is_witness())
    }

    /// All nodes: those of Raft's membership, and the replicas that the state knows.
    pub fn members(&self) -> Vec<MemberStatus> {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let mut members = crate::membership::statuses(&metrics);
        let known: BTreeSet<NodeId> = members.iter().map(|member| member.id).collect();
        let replicas = replicas::all(&self.local().state).into_iter().filter(|replica| !known.contains(&replica.id));
        let own = |id| (id == self.inner.id).then_some(metrics.last_log_index).flatten();
        members.extend(replicas.map(|r| MemberStatus { id: r.id, member: r.member, role: Role::Replica, matched: own(r.id) }));
        members
    }

    pub fn member(&self, id: NodeId) -> Option<Member> {
        let of_raft = self.inner.raft.metrics().borrow_watched().membership_config.get_node(&id).cloned();
        of_raft.or_else(|| replicas::find(&self.local().state, id).map(|replica| replica.member))
    }

    /// Makes this node the only voter of a new cluster.
    pub async fn found(&self, member: Member) -> Result<(), Error> {
        let members = BTreeMap::from([(self.inner.id, member)]);
        self.inner.raft.initialize(members).await.map_err(|e| Error::Refused(e.to_string()))
    }

    /// Lets a node follow the log, as a standby; called on any node.
    pub async fn add_member(&self, id: NodeId, member: Member) -> Result<(), Error> {
        let deadline = Instant::now() + 4 * QUORUM_TIMEOUT;
        self.until(deadline, || async {
            if self.leadership().is_self {
                return self.inner.raft.add_learner(id, member.clone(), false).await.map(|_| ()).map_err(|e| match e {
                    RaftError::APIError(_) => Attempt::Retry,
                    RaftError::Fatal(why) => Attempt::Fail(Error::Stopped(why.to_string())),
                });
            }
            let Member { name, address, witness } = member.clone();
            let is_witness = witness.is_some();
            let add = AddMember { id, name, address, witness };
            match self.ask_leader(if is_witness { Request::AddWitness(add) } else { Request::AddMember(add) }).await? {
                Response::Proposed(_) => Ok(()),
                Response::Failed(_) if is_witness => {
                    let why = "the leader is of a version that knows no witnesses: upgrade it first";
                    Err(Attempt::Fail(Error::Refused(why.into())))
                }
                _ => Err(Attempt::Retry),
            }
        })
        .await
    }

    /// Sends a request to a member and waits for its answer.
    pub async fn call(&self, member: &Member, request: Request) -> std::io::Result<Response> {
        call(&*self.inner.peers, member, request).await
    }

    /// Why this node's store has stopped by itself, if it has: its disk takes nothing more, or is damaged.
    pub fn failure(&self) -> Option<String> {
        self.inner.raft.metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    pub(crate) fn works(&self) -> Result<(), Error> {
        if self.inner.differs.load(Ordering::Relaxed) {
            return Err(Error::Stopped("its state is not that of the majority, and is being replaced".into()));
        }
        self.failure().map_or(Ok(()), |why| Err(Error::Stopped(why)))
    }

    /// Waits until the store stops by itself; what is here can still be read.
    pub async fn failed(&self) -> String {
        let mut standing = self.standing();
        let failed = standing.wait_for(|standing| standing.failure.is_some()).await.ok().and_then(|standing| standing.failure.clone());
        failed.unwrap_or_else(|| "Raft has ended".into())
    }

    pub async fn stop(&self) {
        let _ = self.inner.raft.shutdown().await;
    }

    /// The leader's part of a consistent read: the index to wait for, confirmed by a quorum.
    pub(crate) async fn read_index_here(&self) -> Result<u64, Option<Error>> {
        match self.inner.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _)) => Ok(read.index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_))) => Err(None),
            Err(RaftError::Fatal(why)) => Err(Some(Error::Stopped(why.to_string()))),
        }
    }

    pub(crate) async fn read_index(&self) -> Result<u64, Error> {
        let deadline = Instant::now() + QUORUM_TIMEOUT;
        self.until(deadline, || async {
            if self.leadership().is_self {
                return self.read_index_here().await.map_err(Attempt::from);
            }
            match self.ask_leader(Request::ReadIndex(true)).await? {
                Response::ReadIndex(index) => Ok(index),
                _ => Err(Attempt::Retry),
            }
        })
        .await
    }

    pub(crate) async fn ask_leader(&self, request: Request) -> Result<Response, Attempt> {
        self.send_leader(Call { request: Some(request), ..Call::default() }).await
    }

    pub(crate) async fn send_leader(&self, call: Call) -> Result<Response, Attempt> {
        let leadership = self.leadership();
        let leader = leadership.leader.filter(|_| !leadership.is_self).and_then(|id| self.member(id));
        let Some(leader) = leader else { return Err(Attempt::Retry) };
        // A leader that dies answers nothing; the news of another one ends the wait.
        let moved = self.watch_leadership(|now| now.leader.is_none() || now.leader == leadership.leader);
        tokio::select! {
            answer = exchange(&*self.inner.peers, &leader, call) => answer.map_err(|_| Attempt::Retry),
            () = moved => Err(Attempt::Retry),
        }
    }

    /// Attempts until one succeeds, one fails for good, or the deadline passes.
    pub(crate) async fn until<T, F>(&self, deadline: Instant, mut attempt: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Attempt>>,
    {
        let mut standing = self.standing();
        let attempts = async {
            let mut wait = RETRY_MIN;
            loop {
                standing.mark_unchanged();
                match attempt().await {
                    Ok(done) => return Ok(done),
                    Err(Attempt::Fail(error)) => return Err(error),
                    // The news of a leader ends the wait; where there is no more news, the deadline does.
                    Err(Attempt::Retry) => {
                        wait = match timeout(wait, standing.changed()).await {
                            Ok(Ok(())) => RETRY_MIN,
                            Err(_) => (wait * 2).min(RETRY_MAX),
                            Ok(Err(_)) => {
                                tokio::time::sleep(RETRY_MAX).await;
                                RETRY_MAX
                            }
                        };
                    }
                }
            }
        };
        self.works()?;
        timeout_at(deadline, attempts).await.unwrap_or_else(|_| self.works().and(Err(Error::Timeout(QUORUM_TIMEOUT))))
    }

    pub(crate) async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<View, Error> {
        let mut view = self.inner.view.clone();
        let reached = timeout_at(deadline, view.wait_for(|view| view.applied >= index)).await;
        match reached {
            Ok(Ok(view)) => Ok(view.clone()),
            Ok(Err(_)) => Err(Error::Stopped("the state machine has ended".into())),
            Err(_) => Err(Error::Timeout(QUORUM_TIMEOUT)),
        }
    }
}

impl From<Option<Error>> for Attempt {
    fn from(error: Option<Error>) -> Self {
        error.map_or(Self::Retry, Self::Fail)
    }
}
