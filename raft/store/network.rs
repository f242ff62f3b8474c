//! openraft's network over [`Peers`]: one long-lived stream for appends, short ones for everything else.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use openraft::type_config::alias::{LogIdOf, SnapshotOf, VoteOf};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use skein_log::{Member, NodeId, Types};
use skein_peer::{Answer, Call, Channel, Request, Response};
use skein_state::State;
use tokio::time::{Instant, timeout};

use crate::Peers;
use crate::ends::Ends;
use crate::patience::Patience;
use crate::pipeline::{Answered, Pipeline};
use crate::wire::{Frames, from_json, send_state, to_json};

/// A connection to a peer that does not answer is given up after this long.
const OPEN_TIMEOUT: Duration = Duration::from_millis(1000);

/// A vote that is answered later than this says nothing about the way to the peer.
const LATE_MAX: Duration = Duration::from_secs(10);

/// Between two attempts to reach a follower.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(320);

/// Turns that openraft's core has to take up what its replication tells it, and all else that waits there.
const YIELDS: u32 = 16;

#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) patience: Patience,
    pub(crate) ends: Ends,
    pub(crate) is_witness: bool,
}

pub(crate) struct Connection {
    network: Network,
    target: NodeId,
    member: Member,
    /// Open while appends succeed and nobody uses it; any error closes it, and the next append opens another.
    appends: Option<Frames>,
}

/// The header of a snapshot stream.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct SnapshotHeader {
    pub(crate) vote: VoteOf<Types>,
    pub(crate) meta: openraft::type_config::alias::SnapshotMetaOf<Types>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> Connection {
        Connection { network: self.clone(), target, member: member.clone(), appends: None }
    }
}

// === impl Connection ===

impl Connection {
    /// The stream that appends go over: the one that there is, or another.
    async fn append_stream(&mut self) -> io::Result<Frames> {
        match self.appends.take() {
            Some(frames) => Ok(frames),
            None => Ok(Frames::new(self.network.peers.open(&self.member, Channel::Append).await?)),
        }
    }

    async fn vote_with(
        &self,
        request: impl FnOnce(bytes::Bytes) -> Request,
        rpc: &impl Serialize,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let Self { network, target, member, .. } = self;
        let call = Call { request: Some(request(to_json(rpc))), pace: network.patience.pace(), ..Call::default() };
        let (peers, member, target, patience) = (Arc::clone(&network.peers), member.clone(), *target, network.patience.clone());
        // openraft gives up after its time-out; how long the answer really takes is worth knowing all the same.
        let answered = skein_log::spawn(async move {
            let sent = Instant::now();
            let answered = timeout(LATE_MAX, exchange(&*peers, &member, call)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
            answered.is_ok().then(|| patience.voted(target, sent));
            answered
        });
        answered.await.map_err(io::Error::other).flatten().and_then(expect_raft).map_err(unreachable)
    }

    async fn send_snapshot(&self, header: SnapshotHeader, state: State) -> io::Result<SnapshotResponse<Types>> {
        let mut frames = Frames::new(self.network.peers.open(&self.member, Channel::Snapshot).await?);
        frames.send_bytes(to_json(&header)).await?;
        send_state(&mut frames, &state).await?;
        let answer = frames.next_bytes().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        from_json(&answer)
    }
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = State;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let alone = Box::pin(stream::once(std::future::ready(rpc)));
        let mut answers = self.stream_append(alone, option).await?;
        answers.next().await.ok_or_else(|| unreachable(io::ErrorKind::UnexpectedEof.into()))?.map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Answered>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
            if let Some(known) = self.network.ends.has(self.target, &first).await {
                return Ok(answered_here(known).boxed());
            }
            let input = stream::once(std::future::ready(first)).chain(input);
            let opened = timeout(OPEN_TIMEOUT, self.append_stream()).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
            let frames = opened.map_err(unreachable)?;
            let watched = (self.target, self.network.patience.clone());
            Ok(Pipeline::new(&mut self.appends, frames, input, watched).answers().boxed())
        })
    }

    /// A follower that comes back is noticed soon; one that is gone for long is not asked all the time.
    fn backoff(&self) -> Option<Backoff> {
        let doubled = std::iter::successors(Some(BACKOFF_MIN), |last| Some((*last * 2).min(BACKOFF_MAX)));
        // Once at once: openraft waits after an answer of `Ends`, too, which has taken nothing.
        Some(Backoff::new(std::iter::once(Duration::ZERO).chain(doubled)))
    }

    async fn vote(&mut self, rpc: VoteRequest<Types>, _option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.vote_with(Request::Vote, &rpc).await?;
        self.network.ends.voted(self.target, &rpc, &answer);
        Ok(answer)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Types>, _option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.vote_with(Request::PreVote, &rpc).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, State>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        if self.network.is_witness {
            return Err(Unreachable::new(&io::Error::other("a witness has no state that it could send")).into());
        }
        let header = SnapshotHeader { vote, meta: snapshot.meta };
        let state = if self.member.witness.is_some() { State::default() } else { snapshot.snapshot };
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(header, state) => sent.map_err(|why| Unreachable::new(&why).into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<Types>, RPCError<Types>> {
        let answered = call(&*self.network.peers, &self.member, Request::TransferLeader(to_json(&rpc))).await;
        answered.and_then(expect_raft::<()>).map_err(unreachable).map(Ok)
    }
}

/// An answer without an exchange. It ends when openraft has had time to hear of it: with the stream's end it would send the
/// same append again otherwise.
fn answered_here(known: LogIdOf<Types>) -> impl Stream<Item = Answered> + Send {
    let heard = stream::once(async {
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
    });
    stream::once(std::future::ready(Ok(Ok(Some(known))))).chain(heard.filter_map(|()| std::future::ready(None)))
}

/// One request and its answer, on a stream of its own.
pub(crate) async fn call(peers: &dyn Peers, member: &Member, request: Request) -> io::Result<Response> {
    exchange(peers, member, Call { request: Some(request), ..Call::default() }).await
}

fn unreachable(why: io::Error) -> RPCError<Types> {
    Unreachable::new(&why).into()
}

fn expect_raft<T: DeserializeOwned>(response: Response) -> io::Result<T> {
    match response {
        Response::Raft(json) => from_json(&json),
        other => Err(io::Error::other(format!("unexpected answer: {other:?}"))),
    }
}

pub(crate) async fn exchange(peers: &dyn Peers, member: &Member, call: Call) -> io::Result<Response> {
    let mut frames = Frames::new(peers.open(member, Channel::Call).await?);
    frames.send(&call).await?;
    let answer: Answer = frames.expect().await?;
    answer.response.ok_or_else(|| io::Error::other("empty answer"))
}
