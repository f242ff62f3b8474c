//! openraft's network over [`Peers`]: one long-lived stream for appends, short ones for everything else.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use skein_log::{Member, NodeId, Types};
use skein_peer::{Answer, Call, Channel, Request, Response};
use skein_state::State;

use crate::Peers;
use crate::pipeline::{Answered, Pipeline};
use crate::wire::{Frames, from_json, to_json};

/// A snapshot of any size may take long; a chunk of it may not.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a peer that does not answer is given up after this long.
const OPEN_TIMEOUT: Duration = Duration::from_millis(1000);

/// Between two attempts to reach a follower.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(320);

#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) id: NodeId,
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

    async fn call_raft<T: DeserializeOwned>(&self, request: Request) -> io::Result<T> {
        match call(&*self.network.peers, &self.member, request).await? {
            Response::Raft(json) => from_json(&json),
            other => Err(io::Error::other(format!("unexpected answer: {other:?}"))),
        }
    }

    async fn vote_with(
        &self,
        request: impl FnOnce(bytes::Bytes) -> Request,
        rpc: &impl Serialize,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answered = tokio::time::timeout(option.hard_ttl(), self.call_raft(request(to_json(rpc)))).await;
        self.settle(answered, RPCTypes::Vote, option)
    }

    fn settle<T>(
        &self,
        answered: Result<io::Result<T>, tokio::time::error::Elapsed>,
        action: RPCTypes,
        option: &RPCOption,
    ) -> Result<T, RPCError<Types>> {
        match answered {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(why)) => Err(RPCError::Unreachable(Unreachable::new(&why))),
            Err(_) => Err(RPCError::Timeout(Timeout { action, id: self.network.id, target: self.target, timeout: option.hard_ttl() })),
        }
    }

    async fn send_snapshot(&self, header: SnapshotHeader, state: State) -> io::Result<SnapshotResponse<Types>> {
        let slow = |_| io::Error::from(io::ErrorKind::TimedOut);
        let mut frames = Frames::new(self.network.peers.open(&self.member, Channel::Snapshot).await?);
        frames.send_bytes(to_json(&header)).await?;
        for chunk in state.chunks() {
            tokio::time::timeout(CHUNK_TIMEOUT, frames.send_bytes(chunk.into())).await.map_err(slow)??;
        }
        frames.send_bytes(bytes::Bytes::new()).await?;
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
        let unanswered = || Unreachable::new(&io::Error::from(io::ErrorKind::UnexpectedEof));
        answers.next().await.ok_or_else(unanswered)?.map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(&'s mut self, input: S, option: RPCOption) -> BoxFuture<'s, Result<BoxStream<'s, Answered>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let opened = tokio::time::timeout(OPEN_TIMEOUT, self.append_stream()).await;
            let frames = self.settle(opened, RPCTypes::AppendEntries, &option)?;
            Ok(Pipeline::new(&mut self.appends, frames, input).answers().boxed())
        })
    }

    /// A follower that comes back is noticed soon; one that is gone for long is not asked all the time.
    fn backoff(&self) -> Option<Backoff> {
        let doubled = std::iter::successors(Some(BACKOFF_MIN), |last| Some((*last * 2).min(BACKOFF_MAX)));
        Some(Backoff::new(doubled))
    }

    async fn vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.vote_with(Request::Vote, &rpc, &option).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.vote_with(Request::PreVote, &rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, State>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let header = SnapshotHeader { vote, meta: snapshot.meta };
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(header, snapshot.snapshot) => sent.map_err(|why| Unreachable::new(&why).into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<Types>, RPCError<Types>> {
        let answered = tokio::time::timeout(option.hard_ttl(), self.call_raft::<()>(Request::TransferLeader(to_json(&rpc)))).await;
        self.settle(answered, RPCTypes::TransferLeader, &option).map(Ok)
    }
}

/// One request and its answer, on a stream of its own.
pub(crate) async fn call(peers: &dyn Peers, member: &Member, request: Request) -> io::Result<Response> {
    let mut frames = Frames::new(peers.open(member, Channel::Call).await?);
    frames.send(&Call { request: Some(request) }).await?;
    let answer: Answer = frames.expect().await?;
    answer.response.ok_or_else(|| io::Error::other("empty answer"))
}
